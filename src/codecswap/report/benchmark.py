"""Results of `codecswap benchmark` as one page: a table for each machine or codec, with bars."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from codecswap.errors import UserError
from codecswap.report.formats import number
from codecswap.report.page import render

FILE = "benchmark.json"
FORMAT = "codecswap benchmark"
HIGHEST = 150.0
"""Decibels that stand for equal results."""
FACTS = ("machine", "command", "date", "commit", "codecswap", "threads", "runs")


@dataclass(frozen=True)
class Line:
    """One measured decoder."""

    name: str
    size: str
    loss: str
    """dB lost against the float teacher; without pictures dB to the reference."""
    times: tuple[tuple[str, float] | None, ...]
    """For each size of pictures, the time as text, and its share of the slowest decoder's."""
    near: str | None
    """Comparison of a board with the machine that asked; None: there was none."""
    memory: str
    version: str


@dataclass(frozen=True)
class Benchmark:
    """One file."""

    sources: str
    facts: dict[str, str]
    sizes: tuple[str, ...]
    has_pictures: bool
    compared: bool
    lines: tuple[Line, ...]
    others: tuple[tuple[str, str], ...]
    """Rows without figures: name and reason."""


def is_benchmark(folder: str) -> bool:
    """Whether a folder holds results of `codecswap benchmark`."""
    return (Path(folder) / FILE).is_file()


def write_benchmarks(folders: Sequence[str]) -> str:
    """The whole page.

    Args:
        folders: each with a benchmark.json.

    Raises:
        UserError: one of them has none, or a damaged one.
    """
    found = [read_benchmark(Path(folder)) for folder in folders]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = ", ".join(Path(folder).resolve().name for folder in folders)
    return render("benchmark.html.j2", {}, benchmarks=found, title=title, written=written, watched=False)


def read_benchmark(folder: Path) -> Benchmark:
    """Read benchmark.json.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {FILE}: a page is of benchmarks or of runs, not of both.")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        return _benchmark(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another program: run `codecswap benchmark` again.") from error


def _benchmark(content: dict[str, Any]) -> Benchmark:
    done = [row for row in content["rows"] if row["status"] == "ok"]
    sizes = tuple(dict.fromkeys(size for row in done for size in row["times"]))
    slowest = {size: max(row["times"][size]["median"] for row in done if size in row["times"]) for size in sizes}
    has_pictures = any(row["lost"] is not None for row in done)
    sources = dict.fromkeys(str(row["source"]) for row in content["rows"])

    def name(row: dict[str, Any]) -> str:
        words = [row["form"], row["precision"], row["runtime"]]
        return ", ".join(filter(None, [row["source"] if len(sources) > 1 else "", *words]))

    lines = []
    for row in done:
        near, loss = row["to_here"], row["lost"] if has_pictures else row["to_reference"]
        lines.append(
            Line(
                name(row),
                decimal(row["bytes"]),
                number(None if loss is None else round(loss, 3) + 0.0, 3),
                tuple(_time(row["times"].get(size), slowest[size]) for size in sizes),
                None if near is None else "=" if near >= HIGHEST else number(near, 1, "\u00a0dB"),
                decimal(row["memory"]) if row["memory"] else number(None, 0),
                str(row["version"]),
            )
        )
    return Benchmark(
        ", ".join(sources),
        {fact: str(content[fact]) for fact in FACTS},
        sizes,
        has_pictures,
        any(line.near is not None for line in lines),
        tuple(lines),
        tuple((name(row), str(row["status"])) for row in content["rows"] if row["status"] != "ok"),
    )


def _time(times: dict[str, float] | None, slowest: float) -> tuple[str, float] | None:
    if times is None:
        return None
    median, lower, upper = (float(times[key]) for key in ("median", "lower", "upper"))
    digits = 1 if median >= 1 else 3
    return f"{median:.{digits}f} ({lower:.{digits}f}–{upper:.{digits}f})", median / max(slowest, 1e-9)
