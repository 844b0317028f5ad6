"""A metric is one entry of the table: nothing else is told about it."""

import csv
import json
from pathlib import Path

import pytest
from pytorch_msssim import ssim

from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.data.transforms import whole_picture
from codecswap.errors import UserError
from codecswap.evaluation.measure import code, show
from codecswap.metrics.table import METRICS, Metric, choose_metrics

SSIM = Metric(
    name="ssim",
    label="SSIM",
    function=lambda x, y: ssim(x, y, data_range=1, size_average=False),
    digits=6,
    smallest_side=11,
    curve="ssim-rgb",
)


def test_it_is_in_the_table_and_in_every_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student_of, capsys
) -> None:
    monkeypatch.setitem(METRICS, "ssim", SSIM)
    command = ["--images", str(folder), "--num_workers", "0", "--anchors", "50", "--output", str(tmp_path / "out")]
    assert run("eval", [*command, "--checkpoint", str(student_of("tiny", "upsample", "run/last.pt"))]) == 0
    said = capsys.readouterr().out
    with (tmp_path / "out" / "pictures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    codec, (first, second) = load_codec("tiny"), [row for row in rows if row["codec"] == "teacher"]
    x = whole_picture(folder / "a.png")[None]
    wanted = ssim(show(codec, code(codec, x)[1], x), x, data_range=1).item()
    assert float(first["ssim"]) == pytest.approx(wanted, abs=1e-6) and first["ssim_to_teacher"] == ""
    assert all(0 < float(row["ssim_to_teacher"]) < 1 for row in rows if row["codec"] == "student")
    for entry in summary["codecs"]:
        assert f" {entry['mean']['ssim']:.6f} " in said
        curve = json.loads((tmp_path / "out" / summary["curves"][entry["curve"]]).read_text("utf-8"))
        assert curve["results"]["ssim-rgb"] == [entry["mean"]["ssim"]]
    assert summary["codecs"][0]["mean"]["ssim"] == pytest.approx((float(first["ssim"]) + float(second["ssim"])) / 2)
    assert "SSIM" in said and summary["codecs"][1]["mean"]["ssim_to_teacher"] < 1


def test_columns_stay_what_they_are(folder: Path, tmp_path: Path) -> None:
    command = ["--images", str(folder), "--num_workers", "0", "--anchors", "none", "--output", str(tmp_path)]
    assert run("eval", [*command, "--teacher", "tiny"]) == 0
    assert (tmp_path / "pictures.csv").read_text("utf-8").splitlines()[0] == (
        "codec,kind,picture,bpp,psnr,ms_ssim,lpips,encoding_time,decoding_time,psnr_to_teacher,ms_ssim_to_teacher"
    )


def test_unknown_metrics_are_refused_with_those_there_are(folder: Path, capsys) -> None:
    assert run("eval", ["--images", str(folder), "--teacher", "tiny", "--metrics", "vmaf"]) == 2
    assert "no metric 'vmaf': those measured on request are lpips" in capsys.readouterr().err
    assert [metric.name for metric in choose_metrics()] == ["psnr", "ms_ssim"]
    assert [metric.name for metric in choose_metrics(["lpips"])] == ["psnr", "ms_ssim", "lpips"]
    with pytest.raises(UserError, match="no metric"):
        choose_metrics(["x"])
