"""Folders of `codecswap benchmark` as a page."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from chromium import SIZES, luminance, visits

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
    "energy": {},
    "files": None,
    "memory": 90_000_000,
}
SLOW = {**ROW, "form": "<masked>", "times": {"64x64": {**TIMES, "median": 50.0}}, "to_here": 150.0}
NONE = {**ROW, "runtime": "openvino", "status": "Not installed: pip install openvino.", "times": {}, "lost": None}
HEAD = {"format": "codecswap benchmark", "version": 1, "command": "codecswap benchmark", "codecswap": "0.1.0"}
HEAD |= {
    "commit": "abc",
    "date": "2026-01-01",
    "machine": "a board, 4 cores",
    "threads": 2,
    "rounds": 3,
    "runs": 9,
    "sensor": None,
    "estimates": [],
}


def folder(path: Path, *rows: dict[str, Any]) -> str:
    path.mkdir()
    (path / "benchmark.json").write_text(json.dumps({**HEAD, "rows": rows}), "utf-8")
    return str(path)


def rows_of(text: str) -> list[tuple[str, str]]:
    """Names and cells of the tables' rows."""
    found = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", text, re.DOTALL)
    return [(re.sub(r"<.*?>", "", name), cells) for name, cells in found]


def test_rows_stand_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    folders = [folder(tmp_path / "a", ROW, SLOW, NONE), folder(tmp_path / "b", {**ROW, "lost": None})]
    assert main(["report", *folders, "--output", str(page)]) == 0
    text = page.read_text("utf-8")
    first, second = text.split('id="benchmark-2"')
    cells = rows_of(first)
    assert [name for name, _ in cells] == ["native, w8a8, onnxruntime", "&lt;masked&gt;, w8a8, onnxruntime"]
    assert "346.9 kB" in cells[0][1] and "<td>0.064</td>" in cells[0][1] and "12.5 (12.0–13.0)" in cells[0][1]
    assert re.findall(r"width: ([\d.]+)%\"></span>", first) == ["25.0", "100.0", "100.0"]
    assert cells[1][1].count("<td>–</td>") == 1 and "<td>=</td>" in cells[1][1]
    assert "Not installed: pip install openvino." in first and "44.000" in second
    assert "デコーダーの比較" in text and "a board, 4 cores" in text and "<script>alert" not in text


def test_real_files_are_a_column(tmp_path: Path) -> None:
    page, files = (
        tmp_path / "page.html",
        {"count": 5, "same_inputs": 5, "read_ms": 1.5, "rgb_ms": 0.75, "to_here": 150.0},
    )
    near, other = files | {"to_here": 61.24}, files | {"same_inputs": 3}
    rows = [ROW | {"files": one} for one in (files, near, other, None)]
    assert main(["report", folder(tmp_path / "a", *rows), "--output", str(page)]) == 0
    text = page.read_text("utf-8")
    cells = [re.findall(r"<td>(.*?)</td>", cells, re.DOTALL)[4] for _, cells in rows_of(text)]
    assert cells == ["2.2, =", "2.2, 61.2\u00a0dB", "2.2, 3/5 ≠", "–"]
    assert "its .csw files in the C library" in text


def test_joules_stand_below_the_times(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    row = ROW | {"energy": {"64x64": {"joules": 0.51234, "above_idle": 0.2}}}
    path = Path(folder(tmp_path / "a", row, SLOW)) / "benchmark.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"sensor": "a rail"}), "utf-8")
    assert main(["report", str(path.parent), "--output", str(page)]) == 0
    text = page.read_text("utf-8")
    assert text.count("0.512 J, 0.2 above idle") == 1 and "待機時との差 0.2 J" in text and "a rail" in text


ESTIMATE = {"source": "tiny", "form": "native", "precision": "w8a8", "chip": "ethos-u55-128", "size": "64x64"}
ESTIMATE |= {"cycles": 2.5e6, "milliseconds": 5.04, "memory": 2_000_000, "on_cpu": 0, "compiler": "vela 1"}
COMPILED = {
    "codec": "tiny",
    "part": "decoder",
    "form": "subpixel",
    "precision": "w8a8",
    "chip": "rk3588",
    "height": 256,
}
COMPILED |= {"width": 256, "cycles": 3_470_000, "milliseconds": None, "memory": None, "compiler": "rknn-toolkit2 2.5.0"}
COMPILED |= {
    "operators": [{"on_npu": True}, {"on_npu": False}],
    "quality": {"float32": 30.0, "file": 29.9, "compiled": 29.75},
}


def compiled(path: Path, **changes: Any) -> str:
    path.mkdir()
    (path / "report.json").write_text(json.dumps(COMPILED | changes), "utf-8")
    return str(path)


def test_estimates_stand_below_what_was_measured(tmp_path: Path) -> None:
    page, measured = tmp_path / "page.html", folder(tmp_path / "a", ROW)
    content = json.loads((tmp_path / "a" / "benchmark.json").read_text("utf-8"))
    content["estimates"] = [ESTIMATE, ESTIMATE | {"size": "768x512", "milliseconds": 120.0, "cycles": 6e7}]
    (tmp_path / "a" / "benchmark.json").write_text(json.dumps(content), "utf-8")
    assert main(["report", measured, compiled(tmp_path / "b"), "--output", str(page)]) == 0
    text = page.read_text("utf-8")
    assert re.findall(r'<th scope="col">.*?(\d+x\d+)', text) == ["64x64", "768x512", "256x256"]
    rows = dict(rows_of(text))
    assert list(rows) == ["native, w8a8, onnxruntime", "native, w8a8, ethos-u55-128", "subpixel, w8a8, rk3588"]
    vela, rockchip = (re.findall(r"<td>(.*?)</td>", rows[name], re.DOTALL) for name in list(rows)[1:])
    assert (
        vela[2].startswith("5.0<") and "2.50·10⁶ cycles" in vela[2] and vela[3].startswith("120.0<") and vela[4] == "–"
    )
    assert "2.0 MB" in vela[5] and "vela 1" in vela[6] and "bar" not in rows["native, w8a8, ethos-u55-128"]
    assert rockchip[1] == "0.250" and rockchip[2:4] == ["–", "–"] and "3.47·10⁶ cycles" in rockchip[4]
    assert "operators on the CPU: 1" in rockchip[6] and "実機での測定ではありません" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chip": "CPU"}, "measure it with `codecswap benchmark --codec"),
        ({"part": "encoder"}, "an encoder only"),
        ({"operators": 1}, "is damaged"),
    ],
)
def test_a_folder_without_estimates_is_one_sentence(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folders = [folder(tmp_path / "a", ROW), compiled(tmp_path / "b", **changes)]
    assert main(["report", *folders, "--output", str(tmp_path / "page.html")]) == 2
    captured = capsys.readouterr().err
    assert said in captured and captured.count("\n") == 1 and not (tmp_path / "page.html").exists()


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


@pytest.mark.parametrize("size", SIZES)
def test_names_stay_in_view_where_a_table_is_wider_than_the_screen(browser: Any, tmp_path: Path, size: str) -> None:
    page = tmp_path / "page.html"
    rows = [ROW, SLOW, {**NONE, "status": "Not installed: " + "a" * 200}]
    assert main(["report", folder(tmp_path / "a", *rows), compiled(tmp_path / "b"), "--output", str(page)]) == 0
    with visits(browser, "table.pinned", 30) as visit:
        for scheme in ("light", "dark"):
            shown = visit(page, size, color_scheme=scheme)
            shown.click("summary")
            assert shown.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
            wider = shown.evaluate("(box => box.scrollWidth > box.clientWidth)(document.querySelector('.scroll'))")
            assert wider == (size == "phone")
            shown.evaluate("document.querySelector('.scroll').scrollLeft = 200")
            left = shown.locator(".scroll").bounding_box()["x"]
            for name in ("thead th >> nth=0", "th[scope=row] >> nth=0", "th[scope=rowgroup] > span"):
                place = shown.locator(name).bounding_box()
                assert place["x"] == pytest.approx(left, abs=1) and place["x"] + place["width"] <= SIZES[size][0]
            color, paper = (
                shown.eval_on_selector(name, f"element => getComputedStyle(element).{property}")
                for name, property in ((".under", "color"), ("th[scope=row]", "backgroundColor"))
            )
            lighter, darker = sorted((luminance(color), luminance(paper)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5
