"""Folders of `codecswap benchmark` as a page."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from codecswap.cli import main

TIMES = {"median": 12.5, "lower": 12.0, "upper": 13.0, "cpu": 12.4}
ROW = {
    "source": "tiny",
    "form": "native",
    "precision": "w8a8",
    "runtime": "onnxruntime",
    "status": "ok",
    "version": "onnxruntime 1.0",
    "bytes": 346_900,
    "lost": 0.0642,
    "to_reference": 44.0,
    "to_here": None,
    "times": {"64x64": TIMES, "768x512": {**TIMES, "median": 100.0}},
    "memory": 90_000_000,
}
SLOW = {**ROW, "form": "<masked>", "times": {"64x64": {**TIMES, "median": 50.0}}, "to_here": 150.0}
NONE = {**ROW, "runtime": "openvino", "status": "Not installed: pip install openvino.", "times": {}, "lost": None}
HEAD = {"format": "codecswap benchmark", "version": 1, "command": "codecswap benchmark", "codecswap": "0.1.0"}
HEAD |= {"commit": "abc", "date": "2026-01-01", "machine": "a board, 4 cores", "threads": 2, "rounds": 3, "runs": 9}


def folder(path: Path, *rows: dict[str, Any]) -> str:
    path.mkdir()
    (path / "benchmark.json").write_text(json.dumps({**HEAD, "rows": rows}), "utf-8")
    return str(path)


def test_rows_stand_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    folders = [folder(tmp_path / "a", ROW, SLOW, NONE), folder(tmp_path / "b", {**ROW, "lost": None})]
    assert main(["report", *folders, "--output", str(page)]) == 0
    text = page.read_text("utf-8")
    first, second = text.split('id="benchmark-2"')
    cells = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", first)
    assert [name for name, _ in cells] == ["native, w8a8, onnxruntime", "&lt;masked&gt;, w8a8, onnxruntime"]
    assert "346.9 kB" in cells[0][1] and "<td>0.064</td>" in cells[0][1] and "12.5 (12.0–13.0)" in cells[0][1]
    assert re.findall(r"width: ([\d.]+)%\"></span>", first) == ["25.0", "100.0", "100.0"]
    assert cells[1][1].count("<td>–</td>") == 1 and "<td>=</td>" in cells[1][1]
    assert "Not installed: pip install openvino." in first and "44.000" in second
    assert "デコーダーの比較" in text and "a board, 4 cores" in text and "<script>alert" not in text


@pytest.mark.parametrize("damage", ["rows", "machine", "format"])
def test_a_damaged_file_is_one_sentence(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = Path(folder(tmp_path / "a", ROW)) / "benchmark.json"
    content = copy.deepcopy(json.loads(given.read_text("utf-8")))
    content[damage] = None
    if damage == "machine":
        del content[damage]
    given.write_text(json.dumps(content), "utf-8")
    assert main(["report", str(given.parent), "--output", str(tmp_path / "page.html")]) == 2
    captured = capsys.readouterr().err
    assert "is damaged" in captured and captured.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_benchmarks_and_runs_are_pages_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    words = ["report", folder(tmp_path / "a", ROW), str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]
    assert main(words) == 2
    assert main(["report", str(tmp_path / "a"), "--watch", "--output", str(tmp_path / "page.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
