"""A metric that is one entry of the table stands in training's rows and everywhere in the report."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pytorch_msssim import ssim

from codecswap.cli import run
from codecswap.metrics.table import METRICS
from codecswap.report import curves
from codecswap.report.measurements import Measurements
from codecswap.report.page import write_page
from codecswap.report.run import read_runs


@pytest.mark.slow
def test_it_is_trained_on_measured_and_drawn(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(
        METRICS["psnr"],
        name="distance",
        label="1 − SSIM",
        function=lambda x, y: 1 - ssim(x, y, data_range=1, size_average=False),
        unit="",
        digits=6,
        higher_is_better=False,
        curve="distance-rgb",
        column="distance",
    )
    monkeypatch.setitem(METRICS, "distance", entry)
    folder = tmp_path / "run"
    words = [
        "--coco_dir",
        str(hostile),
        "--save_dir",
        str(folder),
        "--teacher",
        "tiny",
        "--epochs",
        "1",
        "--init",
        "weights",
    ]
    words += ["--batch_size", "4", "--num_workers", "0", "--recon_count", "1", "--accelerator", "cpu"]
    assert run("distill", words) == 0
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        start, last = csv.DictReader(file)
    names = ("distance_picture", "distance_teacher", "teacher_distance_picture")
    assert all(0 < float(row[name]) < 1 for row in (start, last) for name in names)
    runs, measurements = read_runs([str(folder)]), Measurements(1)
    comparison = measurements.compare(runs[0])
    assert comparison is not None
    measured, anchors = comparison.student.mean()["distance"], [each.mean()["distance"] for each in comparison.anchors]
    assert 0 < measured < 1 and all(0 < each < 1 for each in anchors)
    plot = next(plot for plot in curves.rate_plots(comparison) if plot.title.to("en") == "1 − SSIM over rate")
    drawn = [y for line in plot.lines for y in line.y]
    assert sorted(drawn) == pytest.approx(sorted([measured, comparison.teacher.mean()["distance"], *anchors]))
    assert not math.isnan(plot.lines[0].x[0]), "no published curve, and no empty line for it"
    page = write_page(runs, measurements, {})
    for words_of in (
        "1 − SSIM (<",
        "1 − SSIM, student − teacher",
        "1 − SSIM over rate",
        "1 − SSIM, student against teacher",
    ):
        assert words_of in page
    assert "less is better" in page and f"{measured:.5f}" in page and f"{float(last['distance_teacher']):.6f}" in page
