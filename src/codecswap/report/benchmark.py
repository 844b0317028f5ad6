"""Results of `codecswap benchmark` as one page: a table for each machine or codec, and what compilers estimate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from codecswap.errors import UserError
from codecswap.report.formats import number
from codecswap.report.page import render

FILE = "benchmark.json"
COMPILED = "report.json"
"""File of a folder of `codecswap compile`."""
FORMAT = "codecswap benchmark"
CPU = "CPU"
"""Chip of targets whose files are run here, so that nothing is estimated."""
HIGHEST = 150.0
"""Decibels that stand for equal results."""
FACTS = ("machine", "command", "date", "commit", "codecswap", "threads", "runs")


@dataclass(frozen=True)
class Time:
    """Time of one picture."""

    ms: str
    """Milliseconds, with quartiles where they were measured; empty: unknown."""
    share: float | None = None
    """Share of the slowest decoder's; None: it was not measured."""
    cycles: str = ""
    """Millions of cycles as estimated; empty: unknown."""
    joules: tuple[str, str] | None = None
    """Joules, and those above idle; None: not measured."""


@dataclass(frozen=True)
class Line:
    """One measured decoder, or what a compiler estimates."""

    name: str
    size: str
    loss: str
    """dB lost against the float teacher; without pictures dB to the reference."""
    times: dict[str, Time]
    """By size of pictures."""
    near: str | None
    """Comparison of a board with the machine that asked; None: there was none."""
    memory: str
    version: str
    files: str | None = None
    """Real .csw files: milliseconds of the C library, and the comparison of their pictures; None: none were decoded."""
    on_cpu: int | None = None
    """Number of operators that the NPU does not run; None: it was measured."""


@dataclass(frozen=True)
class Benchmark:
    """One file."""

    sources: str
    facts: dict[str, str]
    sizes: tuple[str, ...]
    has_pictures: bool
    compared: bool
    has_files: bool
    sensor: str | None
    """What joules are of; None: there are none."""
    lines: tuple[Line, ...]
    estimates: tuple[Line, ...]
    """What compilers say."""
    others: tuple[tuple[str, str], ...]
    """Rows without figures: name and reason."""


def is_benchmark(folder: str) -> bool:
    """Whether a folder holds results of `codecswap benchmark`."""
    return (Path(folder) / FILE).is_file()


def write_benchmarks(folders: Sequence[str]) -> str:
    """The whole page.

    Args:
        folders: each with a benchmark.json, or of `codecswap compile`: those stand below every benchmark's rows.

    Raises:
        UserError: one of them is neither, or has a damaged file.
    """
    paths = [Path(folder) for folder in folders]
    compiled = [read_compiled(path) for path in paths if not is_benchmark(str(path)) and (path / COMPILED).is_file()]
    measured = [path for path in paths if is_benchmark(str(path)) or not (path / COMPILED).is_file()]
    found = [read_benchmark(path, compiled) for path in measured]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = ", ".join(path.resolve().name for path in paths)
    return render("benchmark.html.j2", {}, benchmarks=found, title=title, written=written, watched=False)


def read_benchmark(folder: Path, compiled: Sequence[Mapping[str, Any]] = ()) -> Benchmark:
    """Read benchmark.json.

    Args:
        folder: its folder.
        compiled: estimates beside its own, of `read_compiled`.

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
        return _benchmark(content, compiled)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another program: run `codecswap benchmark` again.") from error


def read_compiled(folder: Path) -> dict[str, Any]:
    """What a folder of `codecswap compile` says of its decoder, like an entry of benchmark.json's ``estimates``.

    Raises:
        UserError: report.json is damaged, of an encoder, or for a CPU.
    """
    path = folder / COMPILED
    try:
        content = json.loads(path.read_bytes())
        if content["part"] != "decoder":
            raise UserError(f"{folder} has an encoder only: benchmarks are of decoders.")
        if content["chip"] == CPU:
            raise UserError(f"{folder} is for a CPU: measure it with `codecswap benchmark --codec {folder}`.")
        found = {key: content[key] for key in ("form", "precision", "cycles", "milliseconds", "memory", "compiler")}
        quality = content["quality"]
        after = quality and (quality["file"] if quality["compiled"] is None else quality["compiled"])
        return found | {
            "source": content["codec"],
            "chip": content["chip"],
            "size": f"{content['width']}x{content['height']}",
            "on_cpu": sum(not one["on_npu"] for one in content["operators"]),
            "lost": quality and quality["float32"] - after,
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or of another program: run `codecswap compile` again.") from error


def _benchmark(content: dict[str, Any], compiled: Sequence[Mapping[str, Any]]) -> Benchmark:
    done = [row for row in content["rows"] if row["status"] == "ok"]
    measured = dict.fromkeys(size for row in done for size in row["times"])
    slowest = {size: max(row["times"][size]["median"] for row in done if size in row["times"]) for size in measured}
    has_pictures = any(row["lost"] is not None for row in done)
    sources = dict.fromkeys(str(row["source"]) for row in content["rows"])
    found = [*content["estimates"], *compiled]
    several = len(sources | dict.fromkeys(one["source"] for one in found)) > 1

    def name(row: Mapping[str, Any], where: str = "runtime") -> str:
        return ", ".join(filter(None, [row["source"] if several else "", row["form"], row["precision"], row[where]]))

    estimates: dict[tuple[str, str], Line] = {}
    for one in found:
        key = name(one, "chip"), str(one["compiler"] or "")
        estimates[key] = _estimate(*key, one, estimates[key].times if key in estimates else {})

    lines = []
    for row in done:
        near, loss = row["to_here"], row["lost"] if has_pictures else row["to_reference"]
        lines.append(
            Line(
                name(row),
                decimal(row["bytes"]),
                number(None if loss is None else round(loss, 3) + 0.0, 3),
                {size: _time(times, slowest[size], row["energy"].get(size)) for size, times in row["times"].items()},
                _near(near),
                decimal(row["memory"]) if row["memory"] else number(None, 0),
                str(row["version"]),
                _files(row["files"]),
            )
        )
    return Benchmark(
        ", ".join(sources),
        {fact: str(content[fact]) for fact in FACTS},
        tuple(measured | {size: None for line in estimates.values() for size in line.times}),
        has_pictures,
        any(line.near is not None for line in lines),
        any(line.files is not None for line in lines),
        content["sensor"],
        tuple(lines),
        tuple(estimates.values()),
        tuple((name(row), str(row["status"])) for row in content["rows"] if row["status"] != "ok"),
    )


def _estimate(name: str, compiler: str, one: Mapping[str, Any], others: dict[str, Time]) -> Line:
    """A line for an estimate; ``others``: those of the same decoder and chip for other sizes of pictures."""
    ms, cycles, memory, lost = one["milliseconds"], one["cycles"], one["memory"], one.get("lost")
    time = Time("" if ms is None else _ms(ms), cycles="" if cycles is None else f"{cycles / 1e6:.2f}")
    return Line(
        name,
        number(None, 0),
        number(None if lost is None else round(lost, 3) + 0.0, 3),
        others | {str(one["size"]): time},
        None,
        decimal(memory) if memory else number(None, 0),
        compiler,
        on_cpu=int(one["on_cpu"]),
    )


def _time(times: dict[str, float], slowest: float, energy: dict[str, float] | None) -> Time:
    median, lower, upper = (float(times[key]) for key in ("median", "lower", "upper"))
    digits = 1 if median >= 1 else 3
    joules = energy and (f"{float(energy['joules']):.3g}", f"{float(energy['above_idle']):.3g}")
    ms = f"{median:,.{digits}f} ({lower:,.{digits}f}–{upper:,.{digits}f})"
    return Time(ms, median / max(slowest, 1e-9), joules=joules or None)


def _near(decibels: float | None) -> str | None:
    """A comparison of results, which are equal from `HIGHEST` on."""
    return None if decibels is None else "=" if decibels >= HIGHEST else number(decibels, 1, "\u00a0dB")


def _files(files: dict[str, Any] | None) -> str | None:
    if files is None:
        return None
    same, count = int(files["same_inputs"]), int(files["count"])
    near = _near(files["to_here"]) if same == count else f"{same}/{count} ≠"
    return ", ".join(filter(None, (_ms(float(files["read_ms"]) + float(files["rgb_ms"])), near)))


def _ms(value: float) -> str:
    return f"{value:,.{1 if value >= 1 else 3}f}"
