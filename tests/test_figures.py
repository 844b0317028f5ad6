"""Figures of docs/data: each file says how it was made, and what is older than its code is told."""

import warnings
from datetime import date
from pathlib import Path

import pytest
from benchmarks import decoders, figures, npu

FILES = sorted(figures.DATA.glob("*.csv"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_says_how_it_was_made(path: Path) -> None:
    head, rows = figures.read(path)
    assert tuple(head) == figures.HEAD and rows
    date.fromisoformat(head["date"])
    program, *words = head["command"].split()
    if program == "codecswap":
        assert words[0] == "benchmark"
    else:
        assert program == "python" and words[0] == "-m" and words[1].startswith("benchmarks.")
        assert figures.ROOT.joinpath(*words[1].split(".")).with_suffix(".py").is_file()
    assert all((figures.ROOT / place).exists() for place in head["code"].split())


def test_files_older_than_their_code_are_told() -> None:
    for path in FILES:
        if told := figures.older(path):
            warnings.warn(told, stacklevel=1)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"a": "1", "b": 'x, "y"'}, {"a": "# 2", "b": ""}]
    figures.write(tmp_path / "x.csv", rows, command="python -m benchmarks.npu", code="src")
    head, found = figures.read(tmp_path / "x.csv")
    assert found == rows and head["code"] == "src" and head["machine"]


def test_a_family_has_the_fastest_of_its_best_rows() -> None:
    row = dict.fromkeys(("compiles", *npu.KEY, *npu.MEASURED), "") | {"target": "a1", "compiles": "yes", "on_npu": "3"}
    rows = [
        row | {"form": "native", "precision": "w8a16", "psnr": "30.000", "cycles": "9000000"},
        row | {"form": "subpixel", "precision": "w8a16", "psnr": "29.990", "cycles": "4000000"},
        row | {"form": "subpixel", "precision": "w8a8", "psnr": "29.900", "cycles": "1000000"},
        row | {"target": "a2", "compiles": "no", "error": "no memory"},
    ]
    line = npu.family("a", rows, ["a1", "a2"])
    assert "`--form subpixel --precision w8a16` on `a1`" in line and "4.00" in line and "3 of 4" in line


def test_the_tables_of_npus_are_the_files() -> None:
    rows, families = [row for path in npu.ALL_RESULTS for row in figures.read(path)[1]], npu.families()
    text = (figures.DOCS / "npu.md").read_text("utf-8")
    assert all(npu.family(name, rows, of) in text for name, of in families.items())
    for page, names in npu.PAGES.items():
        text = (figures.DOCS / page).read_text("utf-8")
        assert npu.measured(rows, [chip for name in names for chip in families[name]]) in text


def test_the_tables_of_decoders_are_the_file() -> None:
    for page in decoders.PAGES:
        text = (figures.DOCS / page).read_text("utf-8")
        assert f"{decoders.made()}\n{decoders.table(page)}" in text


def test_a_benchmark_becomes_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {size: {"cpu": 1234.56} for size in decoders.SIZES}
    row = {
        "form": "native",
        "precision": "w8a8",
        "runtime": "ncnn",
        "version": "ncnn 1",
        "bytes": 890_000,
        "status": "ok",
    }
    row |= {"memory": 90_000_000, "lost": -1e-7, "to_reference": 44.04, "times": times}
    head = {
        "command": "codecswap benchmark --teacher tiny --output x",
        "commit": "a",
        "date": "2026-01-02",
        "machine": "m",
    }
    monkeypatch.setattr(decoders, "RESULTS", tmp_path / "decoders.csv")
    decoders.write([head | {"rows": [row, row | {"status": "no"}]}, head | {"date": "2026-01-01", "rows": []}])
    assert "| native, w8a8 | ncnn | 0.89 | 0.000 | 1,235 | 1,235 | 90 |" in decoders.table("phones.md")
    assert decoders.table("benchmarks.md") == decoders.TITLES and "2026-01-02" in decoders.made()
    assert figures.read(decoders.RESULTS)[0]["command"] == "; ".join(["codecswap benchmark --teacher tiny"] * 2)
