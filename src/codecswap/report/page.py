"""One self-contained page from what was found and measured."""

import base64
import hashlib
import json
import math
import os
import platform
import shlex
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from codecswap.codecs.source import ZOO
from codecswap.metrics import SMALLEST_SIDE
from codecswap.report import curves, plots
from codecswap.report.advice import Advice, advise
from codecswap.report.bench import LARGEST, REGION, WORST, Bench, Verdict
from codecswap.report.pictures import ROOM, Gallery, gallery
from codecswap.report.run import Run
from codecswap.report.words import LANGUAGES, WORDS, Text, attributes, text

REFRESH = 15
"""Seconds after which the page of a watched run reads its file again."""
SAME_RATE = 0.0005
"""Bits per pixel that count as no difference."""

_START: dict[str, Any] = {
    "time": "", "epoch": None, "batch": None, "resumed": None, "forced": [], "versions": {}, "hardware": {}
}  # fmt: skip
"""What the page shows of a process that trained, where the run says it."""


@dataclass(frozen=True)
class Judgement:
    """The verdict as the page says it."""

    headline: list[Text]
    cards: list[tuple[Text, str | Text, Text]]
    """What, the figure, and what it is made of."""
    rows: list[tuple[Text, list[str]]]
    """Teacher, student, student against teacher: PSNR, MS-SSIM, bits per pixel, encoding and decoding time."""
    basis: list[Text]
    """What was measured, on what."""
    good: bool | None
    """The promise: bitstreams of the teacher decode. None where that is not proved."""
    advice: Advice | None = None
    """What to ship instead, where the student loses and something else does not."""


def write_page(runs: list[Run], bench: Bench, known: dict[str, str], *, watched: bool = False) -> str:
    """The whole page.

    Args:
        runs: of one student, in their order.
        bench: finds and measures; keeps both for the next page.
        known: pictures encoded for the page before; added to.
        watched: the page reads its file again every few seconds.

    Raises:
        UserError: the best checkpoint is damaged.
    """
    bench.notes = []
    last = runs[-1]
    verdict = bench.verdict(last)
    shown = gallery(runs, bench, verdict.worst if verdict else [], known, ROOM)
    rows, borders = curves.time_line(runs)
    script = _asset("report.js")
    return _template().render(
        runs=runs,
        title=", ".join(run.folder.resolve().name for run in runs),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        states=[_state(run) for run in runs],
        watched=watched,
        refresh=REFRESH,
        verdict=verdict,
        judgement=judge(last, verdict, bench),
        rows=rows,
        columns=_columns(rows),
        plots=curves.training_plots(rows, borders),
        wall=[(text(f"stage_{run.stage.name}"), run.done, _duration(run.seconds)) for run in runs if run.done],
        rate_plots=curves.rate_plots(verdict) if verdict else [],
        equal_quality=curves.equal_quality(verdict) if verdict else [],
        gallery=shown,
        notes=[*bench.notes, *shown.notes],
        options=_options(runs),
        repeat=_commands(runs),
        identities=_identities(runs, verdict),
        here=_here(),
        worst_count=WORST,
        region=REGION,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(_asset("report.css")),
        data=_embed(_data(runs, shown)),
    )


def judge(run: Run, verdict: Verdict | None, bench: Bench) -> Judgement | None:
    """The verdict from what was measured, or else from what the run noted itself; None where there is neither."""
    if verdict is None:
        return _from_training(run, bench)
    teacher, student = verdict.teacher.mean(), verdict.student.mean()
    rows = [
        (
            text(name),
            [
                _decibels(mean["psnr"]),
                _similarity(mean["ms_ssim"]),
                f"{mean['bpp']:.4f}",
                _milliseconds(mean["encoding_time"]),
                _milliseconds(mean["decoding_time"]),
            ],
        )
        for name, mean in (
            ("teacher", teacher),
            ("student", student),
            *((f"untrained_{name}", result.mean()) for name, result in verdict.exact.items()),
        )
    ]
    against = [_decibels(student["psnr_to_teacher"]), _similarity(student["ms_ssim_to_teacher"]), "", "", ""]
    rows.append((text("student_to_teacher"), against))
    count, all_of = str(len(verdict.teacher.coded)), str(verdict.held_out)
    basis = [text("basis_measured", count=count, all=all_of, checkpoint=str(verdict.checkpoint.path))]
    changes = [s.scores.psnr - t.scores.psnr for t, s in zip(verdict.teacher.coded, verdict.student.coded, strict=True)]
    basis.append(text("basis_range", least=_signed(min(changes), 2), most=_signed(max(changes), 2)))
    if verdict.cropped:
        basis.append(text("basis_cropped", count=str(verdict.cropped), side=str(LARGEST)))
    defined = int(student["ms_ssim_pictures"])
    if defined < len(verdict.student.coded):
        basis.append(text("basis_ms_ssim", count=str(defined), side=str(SMALLEST_SIDE)))
    kept = bool(verdict.student.same_latents)
    proof = text("promise_kept" if kept else "promise_broken")
    judgement = _judgement(teacher, student, kept, proof, rows, basis)
    return replace(judgement, advice=advise(verdict, run.codec or run.config))


def conclusion(run: Run, bench: Bench) -> list[str]:
    """The verdict's headline and advice in English, for the terminal; empty where nothing is known."""
    judgement = judge(run, bench.verdict(run), bench)
    if judgement is None:
        return []
    lines = [" ".join(sentence.to("en") for sentence in judgement.headline)]
    if judgement.advice:
        lines += [
            " ".join(sentence.to("en") for sentence in judgement.advice.sentences),
            f"  {judgement.advice.command}",
        ]
    return lines


def _from_training(run: Run, bench: Bench) -> Judgement | None:
    target = run.stage.target
    known = [row for row in run.rows if not math.isnan(row.get(f"msssim_{target}", math.nan))]
    if not known:
        return None
    best = max(known, key=lambda row: row[f"msssim_{target}"])

    def mean(of: str) -> dict[str, float]:
        names = {"psnr": f"{of}psnr_picture", "ms_ssim": f"{of}msssim_picture", "bpp": f"{of}bpp"}
        return {name: best.get(column, math.nan) for name, column in names.items()}

    teacher, student = mean("teacher_"), mean("")
    rows = [
        (text(name), [_decibels(m["psnr"]), _similarity(m["ms_ssim"]), _number(m["bpp"], 4), "", ""])
        for name, m in (("teacher", teacher), ("student", student))
    ]
    against = [_decibels(best.get("psnr_teacher", math.nan)), _similarity(best.get("msssim_teacher", math.nan))]
    rows.append((text("student_to_teacher"), [*against, "", "", ""]))
    basis = [text("basis_training", epoch=f"{best['epoch']:.0f}", folder=str(run.folder))]
    kept = bench.promise(run)
    proof = text("promise_kept" if kept else "promise_broken" if kept is False else "promise_unproved")
    return _judgement(teacher, student, kept, proof, rows, basis)


def _judgement(
    teacher: dict[str, float],
    student: dict[str, float],
    kept: bool | None,
    proof: Text,
    rows: list[tuple[Text, list[str]]],
    basis: list[Text],
) -> Judgement:
    lost, below = teacher["psnr"] - student["psnr"], teacher["ms_ssim"] - student["ms_ssim"]
    how = "loses" if lost >= 0.005 else "gains" if lost <= -0.005 else "equals"
    headline = [text(f"headline_{how}", decibels=f"{abs(lost):.2f}")]
    rate = student["bpp"] - teacher["bpp"]
    if not math.isnan(rate):
        same = abs(rate) < SAME_RATE
        change = {"teacher": f"{teacher['bpp']:.3f}", "student": f"{student['bpp']:.3f}"}
        headline.append(text("headline_same_rate" if same else "headline_other_rate", **change))
    words = {True: "promise_yes", False: "promise_no", None: "promise_unknown"}
    cards: list[tuple[Text, str | Text, Text]] = [
        (
            text("card_psnr"),
            _signed(-lost, 2, "\u00a0dB"),
            text("card_pair", teacher=rows[0][1][0], student=rows[1][1][0]),
        ),
        (text("card_msssim"), _signed(-below, 4), text("card_pair", teacher=rows[0][1][1], student=rows[1][1][1])),
        (
            text("card_bpp"),
            _number(student["bpp"], 3),
            text("card_bpp_pair", teacher=_number(teacher["bpp"], 3), change=_change(teacher["bpp"], student["bpp"])),
        ),
        (text("card_promise"), text(words[kept]), proof),
    ]
    return Judgement(headline, cards, rows, basis, kept)


def _state(run: Run) -> Text:
    """How far a run got."""
    values = {"folder": str(run.folder), "done": str(run.done), "time": run.changed.strftime("%Y-%m-%d %H:%M:%S UTC")}
    stage = text(f"stage_{run.stage.name}")
    if run.complete:
        return text("state_exact" if run.epochs == 0 else "state_complete", stage=stage, **values)
    wanted = "?" if run.epochs is None else str(run.epochs)
    return text("state_unfinished" if run.done else "state_first_epoch", stage=stage, wanted=wanted, **values)


def _columns(rows: list[curves.Row]) -> list[tuple[Text, str, int]]:
    """The columns of the table of epochs that have figures: heading, name and decimals."""
    names = {
        "train_loss": 5,
        "psnr_picture": 3,
        "teacher_psnr_picture": 3,
        "psnr_teacher": 3,
        "msssim_picture": 5,
        "teacher_msssim_picture": 5,
        "msssim_teacher": 5,
        "bpp": 4,
        "teacher_bpp": 4,
        "learning_rate": 8,
        "pictures_per_second": 1,
        "minutes": 1,
    }
    there = {name for _, row in rows for name, value in row.items() if not math.isnan(value)}
    return [(text(f"column_{name}"), name, digits) for name, digits in names.items() if name in there]


def _options(runs: list[Run]) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Every option: its value in each run, and whether that is not the default."""
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


def _identities(runs: list[Run], verdict: Verdict | None) -> list[tuple[Text, str, str]]:
    """What was used, where it lay, and its SHA-256."""
    found: list[tuple[Text, str, str]] = []
    codec = next((run.codec for run in runs if run.codec), {})
    if codec.get("teacher_sha256"):
        name = codec.get("teacher") or f"{ZOO} {codec.get('quality')} {codec.get('metric')}"
        found.append((text("hash_teacher"), str(name), codec["teacher_sha256"]))
    for run in runs:
        if origin := run.record.get("origin"):
            found.append((text("hash_origin"), str(origin.get("path", "")), str(origin.get("student_sha256", ""))))
        if run.best:
            found.append((text("hash_checkpoint"), str(run.best), _sha256(run.best)))
        if pictures := run.record.get("pictures"):
            found.append((text("hash_pictures"), str(pictures.get("folder", "")), str(pictures.get("sha256", ""))))
    if verdict and verdict.checkpoint.content.get("student_sha256"):
        found.append(
            (text("hash_student"), str(verdict.checkpoint.path), str(verdict.checkpoint.content["student_sha256"]))
        )
    return [entry for index, entry in enumerate(found) if entry not in found[:index]]


def _here() -> dict[str, str]:
    """What wrote the report."""
    names = ("codecswap", "torch", "compressai", "pillow")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return {"versions": versions, "system": f"{platform.platform()}, {os.cpu_count()} cores"}


def _data(runs: list[Run], shown: Gallery) -> dict[str, Any]:
    """What the page's script reads."""
    return {
        "uris": shown.uris,
        "pictures": shown.pictures,
        "stages": [run.stage.name for run in runs],
        "words": {
            language: {
                key.removeprefix("js_"): words[language] for key, words in WORDS.items() if key.startswith("js_")
            }
            for language in LANGUAGES
        },
    }


def _embed(data: Any) -> Markup:
    """JSON that cannot end its script element."""
    return Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(t=text, attributes=attributes, swatch=plots.swatch, number=_number, signed=_signed)
    return environment.from_string(_asset("template.html.j2"))


def _asset(name: str) -> str:
    return (files("codecswap.report") / name).read_text("utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _decibels(value: float) -> str:
    return "∞" if math.isinf(value) else _number(value, 2, "\u00a0dB")


def _similarity(value: float) -> str:
    return _number(value, 4)


def _milliseconds(seconds: float) -> str:
    return _number(1000 * seconds, 0, "\u00a0ms")


def _number(value: float | None, digits: int, unit: str = "") -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}{unit}"


def _signed(value: float, digits: int, unit: str = "") -> str:
    """A difference with its sign, a real minus sign among them; zero has none."""
    if math.isnan(value):
        return "–"
    shown = f"{abs(value):.{digits}f}"
    sign = "" if float(shown) == 0 else "−" if value < 0 else "+"
    return f"{sign}{shown}{unit}"


def _change(before: float, after: float) -> str:
    return "–" if math.isnan(before) or math.isnan(after) else _signed(100 * (after / before - 1), 1, "\u00a0%")


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
