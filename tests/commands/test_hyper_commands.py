"""A codec with a hyperprior through the commands: distill, finetune, eval, report, advise; and what it is refused for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from codecswap import cli
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.source import load_codec
from codecswap.students.checkpoint import read_student


@pytest.fixture(scope="module")
def checkpoints(
    hyper_codec: Callable[[str], HyperCodec], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("teachers")

    def make(name: str) -> str:
        torch.save(hyper_codec(name).state_dict(), root / f"{name}.pth")
        return str(root / f"{name}.pth")

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mbt2018_mean", "mbt2018"])
def test_a_student_is_distilled_fine_tuned_measured_and_reported(
    name: str, checkpoints: Callable[[str], str], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher, first, second = checkpoints(name), tmp_path / "distilled", tmp_path / "tuned"
    shared = [
        "--coco_dir",
        str(pictures),
        "--epochs",
        "1",
        "--batch_size",
        "4",
        "--num_workers",
        "0",
        "--accelerator",
        "cpu",
    ]
    shared += ["--recon_count", "1"]
    calibration = ["--calibration_count", "4"]
    assert cli.main(["distill", "--teacher", teacher, "--save_dir", str(first), *shared, *calibration]) == 0
    student = ["--resume_student", str(first / "last.pt")]
    assert cli.main(["finetune", *student, "--teacher", teacher, "--save_dir", str(second), *shared]) == 0
    loaded = read_student(second / "ft_last.pt")
    assert loaded.record is not None and loaded.record.same_latents
    assert type(loaded.student) is type(load_codec(teacher)) and loaded.student.same_latents(load_codec(teacher))
    capsys.readouterr()
    images = ["--images", str(pictures / "val"), "--num_workers", "0", "--anchors", "none", "--accelerator", "cpu"]
    found = ["--checkpoint", str(second / "ft_last.pt"), "--output", str(tmp_path / "eval")]
    assert cli.main(["eval", "--teacher", teacher, *images, *found]) == 0
    assert "every bitstream of the teacher decodes" in capsys.readouterr().out
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    means = [codec["mean"]["bpp"] for codec in summary["codecs"]]
    assert means[0] == means[1] > 0.05
    if name == "mbt2018_mean":
        page = tmp_path / "report.html"
        assert cli.main(["report", str(first), str(second), "--output", str(page), "--pictures", "1"]) == 0
        assert page.stat().st_size > 100_000
        assert cli.main(["advise", "--teacher", teacher, "--images", str(pictures / "val")]) == 0
        assert "subpixel and masked equal the teacher" in capsys.readouterr().out
