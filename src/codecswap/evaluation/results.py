"""Output of an evaluation: the table, a JSON file for each curve (CompressAI's format), a CSV of all pictures, a summary."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codecswap.console import show_table
from codecswap.errors import UserError
from codecswap.evaluation.result import CodecResult
from codecswap.files import atomic_write
from codecswap.metrics.table import METRICS, Metric

SUMMARY, PICTURES, CURVES = "summary.json", "pictures.csv", "curves"
FORMAT = "codecswap evaluation"


def show_results(title: str, results: Sequence[CodecResult], metrics: Sequence[Metric]) -> None:
    """Print the table of means; the column of a metric that is not defined on all pictures says on how many.

    Args:
        metrics: the columns; one that could not be measured stays empty.
    """
    means, pictures = [result.mean() for result in results], len(results[0].coded)
    columns = {"codec": [result.name for result in results]}
    for metric in metrics:
        columns[_heading(metric, means[0], pictures)] = [_cell(metric, mean.get(metric.name)) for mean in means]
    columns["bits per\npixel"] = [f"{mean['bpp']:.4f}" for mean in means]
    columns["encode,\nms"] = [f"{1e3 * mean['encoding_time']:.1f}" for mean in means]
    columns["decode,\nms"] = [f"{1e3 * mean['decoding_time']:.1f}" for mean in means]
    first = metrics[0]
    if any(f"{first.name}_to_teacher" in mean for mean in means):
        cells = [_cell(first, mean.get(f"{first.name}_to_teacher")) for mean in means]
        columns[f"{first.unit or first.label} to\nteacher"] = cells
    show_table(title, list(columns), list(zip(*columns.values(), strict=True)))


def _heading(metric: Metric, mean: dict[str, float], pictures: int) -> str:
    """A metric's column: its name, its unit, which way is better where that is not up, and on how many pictures it is."""
    heading = metric.label + (f",\n{metric.unit}" if metric.unit else "")
    heading += "" if metric.higher_is_better else ",\nless is\nbetter"
    defined = mean.get(f"{metric.name}_pictures", pictures)
    return heading if defined in (0, pictures) else f"{heading}\n({defined:.0f} of {pictures})"


def _cell(metric: Metric, value: float | None) -> str:
    if value is None:
        return ""
    return "not defined" if math.isnan(value) else "identical" if math.isinf(value) else f"{value:.{metric.digits}f}"


def curve_json(name: str, points: Sequence[CodecResult], description: str) -> dict[str, Any]:
    """A curve in CompressAI's results format; what is not defined or infinite is null."""
    means = [point.mean() for point in points]
    keys = {metric.name: metric.curve for metric in METRICS.values()}
    keys |= {name: name for name in ("bpp", "encoding_time", "decoding_time")}
    results = {
        theirs: [_finite(mean.get(ours)) for mean in means]
        for ours, theirs in keys.items()
        if any(ours in mean for mean in means)
    }
    sentences = [description, f"Points: {', '.join(point.name for point in points)}"]
    pictures = len(points[0].coded)
    for metric in METRICS.values():
        if (defined := means[0].get(f"{metric.name}_pictures", pictures)) < pictures:
            sentences.append(f"{metric.label} is defined on {defined:.0f} of the {pictures} pictures")
    return {"name": name, "description": ". ".join(sentences) + ".", "results": results}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def prepare_folder(folder: Path) -> None:
    """Create the folder for results, and check that it is writable, before slow steps.

    Raises:
        UserError: it cannot be written to.
    """
    try:
        (folder / CURVES).mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / CURVES / "try") as beside:
            beside.touch()
        (folder / CURVES / "try").unlink()
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written to ({error.strerror}): name another folder.") from error


def write_results(
    folder: Path, summary: dict[str, Any], results: Sequence[CodecResult], curves: Sequence[dict[str, Any]]
) -> None:
    """Write ``pictures.csv``, ``curves/*.json`` and ``summary.json``; curves of an earlier evaluation are deleted.

    Args:
        summary: gets ``curves``, the files by the curves' names; an infinite figure is written as ``"inf"``, NaN as null.
        curves: in CompressAI's results format.
    """
    names: dict[str, str] = {}
    for curve in curves:
        stem = re.sub(r"[^\w.]+", "-", curve["name"]).strip("-") or "curve"
        while f"{stem}.json" in names.values():
            stem += "-2"
        names[curve["name"]] = f"{stem}.json"
    stale = _written_before(folder) - set(names.values())
    _write(folder / PICTURES, _table(results))
    for curve in curves:
        _write(folder / CURVES / names[curve["name"]], _json(curve))
    summary = summary | {"curves": {name: f"{CURVES}/{file}" for name, file in names.items()}}
    _write(folder / SUMMARY, _json(summary))
    for name in stale:
        (folder / CURVES / name).unlink(missing_ok=True)


def _written_before(folder: Path) -> set[str]:
    """Names of an earlier evaluation's curve files in a folder."""
    try:
        before = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return {Path(file).name for file in before["curves"].values()} if before["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def _json(content: dict[str, Any]) -> str:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [clean(inner) for inner in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else "inf"
        return value

    return json.dumps(clean(content), indent=2, allow_nan=False) + "\n"


def _table(results: Sequence[CodecResult]) -> str:
    """A row for each codec and picture; what is not defined or was not measured is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    always = [metric.name for metric in METRICS.values() if metric.load is None]
    columns = ["bpp", *METRICS, "encoding_time", "decoding_time", *(f"{name}_to_teacher" for name in always)]
    writer.writerow(["codec", "kind", "picture", *columns])
    for result in results:
        for one in result.coded:
            against = one.against_teacher or {}
            cells = [one.bpp, *(one.scores.get(name) for name in METRICS), one.encoding_time, one.decoding_time]
            cells += [against.get(name) for name in always]
            empty = ["" if cell is None or math.isnan(cell) else cell for cell in cells]
            writer.writerow([result.name, result.kind, one.picture, *empty])
    return file.getvalue()
