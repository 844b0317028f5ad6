"""The verdict on a student, as sentences and numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from codecswap.metrics.table import MAIN_METRIC, METRICS, Metric
from codecswap.report.advice import Advice, advise
from codecswap.report.formats import number, signed
from codecswap.report.measurements import MAX_SIDE, NEGLIGIBLE, Comparison, Measurements
from codecswap.report.run import Run
from codecswap.report.texts import Text, text

SAME_RATE = 0.0005
"""Smaller differences in bits per pixel are ignored."""


@dataclass(frozen=True)
class Verdict:
    """Headline, table and advice of a report."""

    headline: list[Text]
    cards: list[tuple[Text, str | Text, Text]]
    """Title, value, and explanation of each card."""
    rows: list[tuple[Text, list[str]]]
    """Teacher, student, student against teacher: the metrics, bits per pixel, encoding and decoding time."""
    metrics: list[Metric]
    """Metrics in the first columns of ``rows``."""
    basis: list[Text]
    """Measured checkpoint and pictures."""
    decodes: bool | None
    """Whether the teacher's bitstreams decode; None if unknown."""
    advice: Advice | None
    """Recommended replacement, if the student loses quality and another one does not."""


def make_verdict(run: Run, comparison: Comparison | None, measurements: Measurements) -> Verdict | None:
    """Verdict from the measured comparison, or else from the run's metrics; None if both are missing."""
    if comparison:
        return _from_comparison(run, comparison)
    column = f"{MAIN_METRIC.column}_{run.stage.target}"
    known = [row for row in run.rows if not math.isnan(row.get(column, math.nan))]
    if not known:
        return None
    best = max(known, key=lambda row: row[column])
    columns = {"bpp": "bpp"}
    for metric in METRICS.values():
        if metric.column:
            columns[metric.name] = f"{metric.column}_picture"
            columns[f"{metric.name}_to_teacher"] = f"{metric.column}_teacher"
    student, teacher = (
        {name: best.get(prefix + column, math.nan) for name, column in columns.items()} for prefix in ("", "teacher_")
    )
    basis = [text("basis_training", epoch=f"{best['epoch']:.0f}", folder=str(run.folder))]
    same = measurements.same_latents(run)
    if same is False and measurements.same_entropy(run):
        return _verdict({"teacher": teacher, "student": student}, True, basis, proof="encoder")
    return _verdict({"teacher": teacher, "student": student}, same, basis)


def _from_comparison(run: Run, comparison: Comparison) -> Verdict:
    by_teacher, by_student = comparison.teacher, comparison.student
    means = {"teacher": by_teacher.mean(), "student": by_student.mean()}
    means |= {f"untrained_{name}": result.mean() for name, result in comparison.exact.items()}
    count, path = len(by_teacher.coded), str(comparison.checkpoint.path)
    basis = [text("basis_measured", count=str(count), all=str(comparison.held_out), checkpoint=path)]
    changes = [s.scores["psnr"] - t.scores["psnr"] for t, s in zip(by_teacher.coded, by_student.coded, strict=True)]
    basis.append(text("basis_range", least=signed(min(changes), 2), most=signed(max(changes), 2)))
    if comparison.cropped:
        basis.append(text("basis_cropped", count=str(comparison.cropped), side=str(MAX_SIDE)))
    for metric in METRICS.values():
        if (defined := int(means["student"].get(f"{metric.name}_pictures", count))) < count:
            values = {"label": metric.label, "count": str(defined), "side": str(metric.smallest_side)}
            basis.append(text("basis_defined", **values))
    advice = advise(comparison, run.codec or run.config)
    if by_student.same_entropy and not by_student.same_latents:
        return _verdict(means, True, basis, advice, proof="encoder")
    return _verdict(means, bool(by_student.same_latents), basis, advice)


def _verdict(
    means: dict[str, dict[str, float]],
    decodes: bool | None,
    basis: list[Text],
    advice: Advice | None = None,
    *,
    proof: str | None = None,
) -> Verdict:
    """Build the sentences and cells.

    Args:
        means: means of ``teacher``, ``student`` and others, as in `CodecResult.mean`; times may be missing.
        decodes: whether the teacher's files decode with the student.
        proof: key of the explanation; by default that of ``decodes``.
    """
    teacher, student = means["teacher"], means["student"]
    metrics = [metric for metric in METRICS.values() if metric.name in student]
    rows = []
    for name, mean in means.items():
        times = [
            number(1000 * mean[key], 0, "\u00a0ms") if key in mean else "" for key in ("encoding_time", "decoding_time")
        ]
        rows.append((text(name), [*_figures(metrics, mean), number(mean["bpp"], 4), *times]))
    rows.append((text("student_to_teacher"), [*_figures(metrics, student, "_to_teacher"), "", "", ""]))
    lost, rate = teacher["psnr"] - student["psnr"], student["bpp"] - teacher["bpp"]
    change = "loses" if lost >= NEGLIGIBLE else "gains" if lost <= -NEGLIGIBLE else "equals"
    headline = [text(f"headline_{change}", decibels=f"{abs(lost):.2f}")]
    relative = math.nan
    if not math.isnan(rate):
        key = "headline_same_rate" if abs(rate) < SAME_RATE else "headline_other_rate"
        headline.append(text(key, teacher=f"{teacher['bpp']:.3f}", student=f"{student['bpp']:.3f}"))
        relative = 100 * (student["bpp"] / teacher["bpp"] - 1)

    def pair(column: int) -> Text:
        return text("card_pair", teacher=rows[0][1][column], student=rows[1][1][column])

    rates = text("card_bpp_pair", teacher=number(teacher["bpp"], 3), change=signed(relative, 1, "\u00a0%"))
    answer, usual = {True: ("yes", "kept"), False: ("no", "broken"), None: ("unknown", "unproved")}[decodes]
    cards: list[tuple[Text, str | Text, Text]] = [
        *(
            (text("card_metric", label=m.label), _shown(m, student[m.name] - teacher[m.name], signed), pair(column))
            for column, m in enumerate(metrics)
        ),
        (text("card_bpp"), number(student["bpp"], 3), rates),
        (text("card_bitstreams"), text(f"bitstreams_{answer}"), text(f"bitstreams_{proof or usual}")),
    ]
    return Verdict(headline, cards, rows, metrics, basis, decodes, advice)


def _figures(metrics: list[Metric], mean: dict[str, float], suffix: str = "") -> list[str]:
    """A row's cells; empty where a metric was not measured."""
    return [_shown(m, mean[m.name + suffix]) if m.name + suffix in mean else "" for m in metrics]


def _shown(metric: Metric, value: float, write: Callable[[float, int, str], str] = number) -> str:
    """A value with one decimal less than in files and tables."""
    return write(value, metric.digits - 1, f"\u00a0{metric.unit}" if metric.unit else "")


def conclusion(run: Run, measurements: Measurements) -> list[str]:
    """Headline and advice of the verdict in English, for the terminal; empty if nothing is known."""
    verdict = make_verdict(run, measurements.compare(run), measurements)
    if verdict is None:
        return []
    lines = [" ".join(sentence.to("en") for sentence in verdict.headline)]
    if verdict.advice:
        lines.append(" ".join(sentence.to("en") for sentence in verdict.advice.sentences))
        lines.append(f"  {verdict.advice.command}")
    return lines
