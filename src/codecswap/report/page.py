"""The report as one self-contained HTML page."""

import base64
import hashlib
import json
import math
import os
import platform
import shlex
from dataclasses import fields
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from codecswap.config import ZOO
from codecswap.metrics.table import METRICS
from codecswap.report import curves, plots
from codecswap.report.formats import duration, number, signed
from codecswap.report.measurements import REGION, Comparison, Measurements
from codecswap.report.pictures import Gallery, make_gallery
from codecswap.report.run import Run
from codecswap.report.texts import LANGUAGES, TEXTS, Text, attributes, text
from codecswap.report.verdict import make_verdict

REFRESH = 15
"""Seconds after which the page of a watched run reads its file again."""
_START: dict[str, Any] = {
    "time": "", "epoch": None, "batch": None, "resumed": None, "forced": [], "versions": {}, "hardware": {}
}  # fmt: skip
"""Facts about a training process that the page shows, if recorded."""


def write_page(runs: list[Run], measurements: Measurements, encoded: dict[str, str], *, watched: bool = False) -> str:
    """The whole page.

    Args:
        runs: runs of one student, in order.
        measurements: measurements of these runs, cached for the next page.
        encoded: pictures encoded for earlier pages; added to.
        watched: the page reads its file again every few seconds.

    Raises:
        UserError: the best checkpoint is damaged.
    """
    measurements.notes = []
    last = runs[-1]
    comparison = measurements.compare(last)
    gallery = make_gallery(runs, measurements, comparison.errors if comparison else [], encoded)
    rows, borders = curves.time_line(runs)
    return render(
        "template.html.j2",
        _data(runs, gallery),
        runs=runs,
        title=", ".join(run.folder.resolve().name for run in runs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        states=[_state(run) for run in runs],
        watched=watched,
        refresh=REFRESH,
        comparison=comparison,
        verdict=make_verdict(last, comparison, measurements),
        rows=rows,
        columns=_columns(rows),
        plots=curves.training_plots(rows, borders) + curves.frontier_plots(runs),
        times=[(text(f"stage_{run.stage.name}"), run.done, duration(run.seconds)) for run in runs if run.done],
        rate_intro=text("rate_intro", count=str(len(comparison.on_anchors))) if comparison else "",
        rate_plots=curves.rate_plots(comparison) if comparison else [],
        equal_quality=curves.equal_quality(comparison) if comparison else [],
        gallery=gallery,
        notes=[*measurements.notes, *gallery.notes],
        options=_options(runs),
        repeat=_commands(runs),
        identities=_identities(runs, comparison),
        here=_here(),
        region=REGION,
    )


def render(template: str, data: dict[str, Any], **values: Any) -> str:
    """A page of a template in this folder, with the report's style, its script and what that needs.

    Args:
        template: its name.
        data: data for the script, besides its texts.
        values: what the template shows.
    """
    script = _asset("report.js")
    texts = {
        language: {key[3:]: texts[language] for key, texts in TEXTS.items() if key.startswith("js_")}
        for language in LANGUAGES
    }
    return _template(template).render(
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_asset("report.css")),
        data=_embed({**data, "texts": texts}),
        **values,
    )


def _state(run: Run) -> Text:
    """The progress of a run."""
    values = {"folder": str(run.folder), "done": str(run.done), "time": run.changed.strftime("%Y-%m-%d %H:%M:%S UTC")}
    stage = text(f"stage_{run.stage.name}")
    if run.complete:
        return text("state_exact" if run.epochs == 0 else "state_complete", stage=stage, **values)
    wanted = "?" if run.epochs is None else str(run.epochs)
    return text("state_unfinished" if run.done else "state_first_epoch", stage=stage, wanted=wanted, **values)


def _columns(rows: list[curves.Row]) -> list[tuple[Text, str, int]]:
    """Non-empty columns of the table of epochs: heading, name and decimals."""
    columns = [(text("column_train_loss"), "train_loss", 5)]
    for metric in METRICS.values():
        kinds = {"picture": "{}_picture", "teacher_picture": "teacher_{}_picture", "to_teacher": "{}_teacher"}
        for kind, name in kinds.items() if metric.column else ():
            columns.append((text(f"column_{kind}", label=metric.label), name.format(metric.column), metric.digits))
    others = {"bpp": 4, "teacher_bpp": 4, "learning_rate": 8, "pictures_per_second": 1, "minutes": 1}
    columns += [(text(f"column_{name}"), name, digits) for name, digits in others.items()]
    there = {name for _, row in rows for name, value in row.items() if not math.isnan(value)}
    return [column for column in columns if column[1] in there]


def _options(runs: list[Run]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """All options: the value in each run, and whether it differs from the default."""
    defaults = [{f.name: f.default for f in fields(run.stage.options)} for run in runs]
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    return [
        (
            name,
            [
                (str(run.config[name]), run.config[name] != default.get(name)) if name in run.config else ("", False)
                for run, default in zip(runs, defaults, strict=True)
            ],
        )
        for name in names
    ]


def _commands(runs: list[Run]) -> list[tuple[Run, list[dict[str, Any]]]]:
    """The command lines of each run, ready for a shell, with where and when they ran."""
    result = []
    for run in runs:
        starts = run.starts
        if not starts and run.config:  # an older run kept its options, which repeat it as well
            starts = [{"command": ["codecswap", run.stage.name, "--config", str(run.folder / "config.yaml")]}]
        lines = [_START | start | {"command": shlex.join(map(str, start.get("command") or []))} for start in starts]
        result.append((run, lines))
    return result


def _identities(runs: list[Run], comparison: Comparison | None) -> list[tuple[Text, str, str]]:
    """Name, place and SHA-256 of what was used."""
    found: list[tuple[Text, str, str]] = []
    codec = next((run.codec for run in runs if run.codec), {})
    if codec.get("teacher_sha256"):
        name = codec.get("teacher") or f"{codec.get('model', ZOO)} {codec.get('quality')} {codec.get('metric')}"
        found.append((text("hash_teacher"), str(name), codec["teacher_sha256"]))
    for run in runs:
        if origin := run.record.get("origin"):
            found.append((text("hash_origin"), str(origin.get("path", "")), str(origin.get("student_sha256", ""))))
        if run.best:
            found.append((text("hash_checkpoint"), str(run.best), _sha256(run.best)))
        if pictures := run.record.get("pictures"):
            found.append((text("hash_pictures"), str(pictures.get("folder", "")), str(pictures.get("sha256", ""))))
    if comparison and (digest := comparison.checkpoint.content.get("student_sha256")):
        found.append((text("hash_student"), str(comparison.checkpoint.path), str(digest)))
    return [entry for index, entry in enumerate(found) if entry not in found[:index]]


def _here() -> dict[str, str]:
    """Versions and system that wrote the report."""
    names = ("codecswap", "torch", "compressai", "pillow")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return {"versions": versions, "system": f"{platform.platform()}, {os.cpu_count()} cores"}


def _data(runs: list[Run], gallery: Gallery) -> dict[str, Any]:
    """Data for the page's script."""
    return {
        "uris": gallery.uris,
        "pictures": gallery.pictures,
        "stages": [run.stage.name for run in runs],
    }


def _embed(data: Any) -> Markup:
    """JSON that cannot end its script element."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        t=text, attributes=attributes, legend_marker=plots.legend_marker, number=number, signed=signed
    )
    return environment.from_string(_asset(name))


def _asset(name: str) -> str:
    return (files("codecswap.report") / name).read_text("utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
