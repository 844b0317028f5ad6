"""Plots: SVG that parses, in the page's colors, with text as text."""

import math
import re
import xml.etree.ElementTree as ET

from codecswap.report.curves import time_line, training_plots
from codecswap.report.plots import SIZES, Line, Plot, legend_marker
from codecswap.report.run import Run
from codecswap.report.texts import text

LINES = [
    Line(text("student"), "student", [0, 10, 20], [1.5, math.inf, 2.5]),
    Line("AVIF", "avif", [10.0], [2.0], marker="D"),
    Line("nothing", "jpeg", [1.0], [math.nan]),
]


def a_plot(key: str = "psnr", lines: list[Line] = LINES) -> Plot:
    return Plot(
        key, text("plot_metric", label="PSNR"), text("plot_metric_described", label="PSNR"), lines, text("steps"), "dB"
    )


def test_both_renderings_are_svg_in_the_pages_colors() -> None:
    drawings = re.findall(r"<svg.*?</svg>", str(a_plot().drawings), flags=re.DOTALL)
    assert len(drawings) == len(SIZES)
    for drawing, size in zip(drawings, SIZES.values(), strict=True):
        root = ET.fromstring(drawing.replace("xlink:href", "href"))
        assert root.attrib["viewBox"] == "0 0 {} {}".format(*size) and root.attrib["role"] == "img"
        title, described, *_ = root
        assert title.text == "PSNR" and described.text == text("plot_metric_described", label="PSNR").to("en")
        assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], described.attrib["id"]]
        assert "var(--student)" in drawing and "var(--avif)" in drawing and "var(--jpeg)" not in drawing
        assert not re.search(r"#[0-9a-f]{6}\b", drawing), "no color of its own, which would not follow dark mode"
        assert "font-family" not in drawing, "the page's font"
        assert any(element.text == "dB" for element in root.iter("text")), "text is text"


def test_ids_are_unique_on_a_page() -> None:
    page = str(a_plot().drawings) + str(a_plot("msssim").drawings)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 10
    assert set(re.findall(r"(?:url\(|href=\")#([\w.-]+)", page)) <= set(ids)


def test_the_table_has_the_figures_that_are_drawn() -> None:
    assert a_plot().table == [("0", ["1.50", "", ""]), ("10", ["", "2.00", ""]), ("20", ["2.50", "", ""])]
    assert not a_plot().empty and a_plot(lines=LINES[2:]).empty
    assert "var(--avif)" in legend_marker(LINES[1]) and "<path" in legend_marker(LINES[1])


def row(epoch: int, step: int, **values: float) -> dict[str, float]:
    return {"epoch": epoch, "step": step, "seconds": 30.0, "learning_rate": 1e-4, **values}


def test_stages_follow_each_other_in_one_time_line(runs) -> None:
    from codecswap.report.run import read_runs

    first, tuned = read_runs([str(folder) for folder in runs])

    def with_rows(run: Run, *rows: dict[str, float]) -> Run:
        return Run(run.folder, run.stage, run.record, run.config, list(rows))

    again = with_rows(first, row(1, 20, train_loss=0.5), row(2, 30))
    rows, borders = time_line(
        [
            with_rows(first, row(-1, 0), row(0, 10), row(1, 20, train_loss=0.9)),
            again,
            with_rows(tuned, row(-1, 0), row(0, 5)),
        ]
    )
    assert [(stage, r["epoch"], r["x"], r["minutes"]) for stage, r in rows] == [
        ("distill", -1, 0, 0.5),
        ("distill", 0, 10, 1.0),
        ("distill", 1, 20, 1.5),
        ("distill", 2, 30, 2.0),
        ("finetune", -1, 30, 2.5),
        ("finetune", 0, 35, 3.0),
    ]
    assert borders == [30] and rows[2][1]["train_loss"] == 0.5, "the run that went on counts"
    assert [plot.key for plot in training_plots(rows, borders)] == ["loss", "lr", "wall"], (
        "what has no figures is not drawn"
    )
