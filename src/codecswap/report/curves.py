"""Plots of the report: training curves, and rate-distortion curves."""

import math
from typing import Any

import numpy as np

from codecswap.codecs.architectures import name_of
from codecswap.evaluation.published import published
from codecswap.evaluation.result import CodecResult
from codecswap.metrics.table import METRICS, Metric
from codecswap.report.measurements import Comparison
from codecswap.report.plots import Line, Plot
from codecswap.report.run import STAGES, Run
from codecswap.report.texts import Text, text

ANCHORS = {"JPEG": ("jpeg", "s"), "WebP": ("webp", "^"), "AVIF": ("avif", "D")}
"""Color and marker of each anchor."""

Row = tuple[str, dict[str, float]]
"""A stage's name and a row of its metrics, with ``x``: steps since the first stage began, and ``minutes``."""


def time_line(runs: list[Run]) -> tuple[list[Row], list[float]]:
    """The epochs of all runs on one time axis, and the borders between stages.

    If runs of one stage have the same epoch (a run resumed into another folder), the later run counts.
    """
    rows: list[Row] = []
    borders: list[float] = []
    before = seconds = 0.0
    for stage in STAGES:
        epochs = {row["epoch"]: row for run in runs if run.stage.name == stage for row in run.rows}
        if epochs and rows:
            borders.append(before)
        for row in sorted(epochs.values(), key=lambda row: row["epoch"]):
            seconds += 0 if math.isnan(row.get("seconds", math.nan)) else row["seconds"]
            rows.append((stage, row | {"x": before + row["step"], "minutes": seconds / 60}))
        before += max((row["step"] for row in epochs.values()), default=0)
    return rows, borders


def training_plots(rows: list[Row], borders: list[float]) -> list[Plot]:
    """Training's metrics, loss, rate where it was trained, learning rate and wall time, over steps."""

    def line(name: str, column: str, color: str, dash: str = "solid") -> Line:
        return Line(text(name), color, [r["x"] for _, r in rows], [r.get(column, math.nan) for _, r in rows], dash)

    def plot(key: str, unit: str, *lines: Line) -> Plot:
        title, described = text(f"plot_{key}"), text(f"plot_{key}_described")
        return Plot(key, title, described, list(lines), text("steps"), unit, borders=borders)

    def compared(metric: Metric) -> Plot:
        title, described = (text(key, label=metric.label) for key in ("plot_metric", "plot_metric_described"))
        lines = [
            line("teacher_to_picture", f"teacher_{metric.column}_picture", "teacher", "dashed"),
            line("student_to_picture", f"{metric.column}_picture", "student"),
            line("student_to_teacher", f"{metric.column}_teacher", "third", "dotted"),
        ]
        unit = metric.unit or metric.label
        return Plot(str(metric.column), title, described, lines, text("steps"), unit, borders=borders)

    plots = [
        *(compared(metric) for metric in METRICS.values() if metric.column),
        plot("loss", "", line("training_loss", "train_loss", "student")),
        plot("rate", "bpp", line("teacher", "teacher_bpp", "teacher", "dashed"), line("student", "bpp", "student")),
        plot("lr", "", line("learning_rate", "learning_rate", "third")),
        plot("wall", "min", line("wall_time", "minutes", "third")),
    ]
    return [plot for plot in plots if not plot.empty]


def frontier_plots(runs: list[Run]) -> list[Plot]:
    """Loss over cost of the remedies found for quantized decoders."""
    plots = []
    for number, frontier in enumerate(run.frontier for run in runs if run.frontier):
        points, chosen = frontier["points"], frontier["chosen"]
        measured = [point for point in points if point["loss"] is not None]

        def line(name: str, color: str, points: list[dict[str, Any]], key: str, dash: str, marker: str) -> Line:
            return Line(text(name), color, [p["cost"] for p in points], [p[key] for p in points], dash, marker)

        lines = [
            line("predicted_loss", "third", points, "predicted", "dotted", ""),
            line("measured_loss", "student", measured, "loss", "dashed", "o"),
            line("chosen_remedies", "teacher", [chosen], "loss", "solid", "*"),
        ]
        title, described = text("plot_frontier"), text("plot_frontier_described")
        plots.append(Plot(f"frontier{number}", title, described, lines, text("relative_cost"), "dB", 3))
    return plots


def rate_plots(comparison: Comparison) -> list[Plot]:
    """Each metric over bits per pixel: teacher, student, anchors, and the published curve of Kodak."""
    measured = comparison.teacher.mean()
    return [_rate_plot(metric, comparison) for metric in METRICS.values() if metric.name in measured]


def _rate_plot(metric: Metric, comparison: Comparison) -> Plot:
    known = published(name_of(comparison.checkpoint.student) or "")["results"]
    lines = []
    if metric.curve in known:
        lines.append(Line(text("published_kodak"), "published", known["bpp"], known[metric.curve], "dotted", "*"))
    for name, points in _by_format(comparison.anchors):
        color, marker = ANCHORS[name]
        means = [point.mean() for point in points]
        lines.append(Line(name, color, [m["bpp"] for m in means], [m[metric.name] for m in means], "dashed", marker))
    for result, name in ((comparison.teacher, "teacher"), (comparison.student, "student")):
        mean = comparison.beside_anchors(result)
        lines.append(Line(text(name), name, [mean["bpp"]], [mean[metric.name]], marker="o"))
    title, described = (text(key, label=metric.label) for key in ("plot_rate_metric", "plot_rate_metric_described"))
    unit = metric.unit or metric.label
    return Plot(f"rate_{metric.name}", title, described, lines, text("bits_per_pixel"), unit, metric.digits - 1)


def _by_format(results: list[CodecResult]) -> list[tuple[str, list[CodecResult]]]:
    """Measured anchors by format."""
    names = [name for name in ANCHORS if any(result.curve == name for result in results)]
    return [(name, [result for result in results if result.curve == name]) for name in names]


def equal_quality(comparison: Comparison) -> list[Text]:
    """Rates of the anchors at the student's PSNR, interpolated between measured qualities, as sentences."""
    student = comparison.beside_anchors(comparison.student)
    sentences = []
    for name, points in _by_format(comparison.anchors):
        means = sorted((point.mean() for point in points), key=lambda mean: mean["psnr"])
        decibels = [mean["psnr"] for mean in means]
        if student["psnr"] < decibels[0]:
            share = f"{100 * means[0]['bpp'] / student['bpp']:.0f}"
            least = {"bpp": f"{means[0]['bpp']:.3f}", "psnr": f"{decibels[0]:.2f}"}
            sentences.append(text("better_at_least", name=name, share=share, **least))
        elif student["psnr"] <= decibels[-1]:
            bpp = float(np.exp(np.interp(student["psnr"], decibels, [math.log(mean["bpp"]) for mean in means])))
            share = f"{100 * bpp / student['bpp']:.0f}"
            sentences.append(text("equal_quality", name=name, bpp=f"{bpp:.3f}", share=share))
    return sentences
