"""Evaluation against CompressAI's own compress() and decompress()."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from codecswap.cli import run
from codecswap.codecs import FactorizedPrior
from codecswap.data.coco import whole_picture
from codecswap.evaluation import Scores, code, evaluate, summarise
from codecswap.surgery import swap


def test_rate_and_picture_are_compressais(teacher: FactorizedPrior, photos: list[Path]) -> None:
    x = whole_picture(photos[0])[None, :, :192, :208]
    packed = teacher.compress(x)
    bpp, latents = code(teacher, x)
    assert bpp == 8 * len(packed["strings"][0][0]) / (192 * 208)
    wanted = teacher.decompress(**packed)["x_hat"]
    torch.testing.assert_close(teacher.g_s(latents).clamp(0, 1), wanted)
    (result,) = evaluate(teacher, None, [("a", x[0])])
    error = ((wanted * 255).round() / 255 - x).square().mean().item()
    assert result.teacher.psnr == pytest.approx(-10 * math.log10(error), abs=1e-4)
    assert result.student is None and result.teacher_bpp == bpp


def test_any_size_is_padded_and_cropped(teacher: FactorizedPrior, photos: list[Path]) -> None:
    x = whole_picture(photos[1])[:, :201, :170]
    (result,) = evaluate(teacher, swap(teacher, "subpixel")[0], [("odd", x)])
    assert result.teacher.psnr > 20
    assert result.against_teacher is not None and result.against_teacher.psnr > 80, "a level here and there at most"
    assert result.student_bpp == result.teacher_bpp
    small = Scores.of(x[None, :, :40, :40], x[None, :, :40, :40])
    assert math.isnan(small.ms_ssim), "not defined, not a crash"


def test_the_mean_is_per_picture(teacher: FactorizedPrior, photos: list[Path]) -> None:
    pictures = [(path.name, whole_picture(path)[:, :176, :176]) for path in photos[:3]]
    results = evaluate(teacher, None, pictures)
    summary = summarise(results)
    assert summary["pictures"] == 3
    assert summary["teacher"]["psnr"] == pytest.approx(sum(r.teacher.psnr for r in results) / 3)


def test_the_command_writes_what_it_prints(teacher, tmp_path: Path, photos: list[Path], capsys) -> None:
    student, _ = swap(teacher)
    torch.save({"student_state": student.state_dict()}, tmp_path / "recipe.pt")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in photos[:2]:
        Image.open(path).crop((0, 0, 200, 180)).save(folder / f"{path.stem}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    command = ["--images", str(folder), "--checkpoint", str(tmp_path / "recipe.pt"), "--teacher", "tiny"]
    assert run("eval", [*command, "--output", str(tmp_path / "out"), "--accelerator", "cpu"]) == 0
    said = capsys.readouterr()
    assert "broken.jpg cannot be read" in said.err and "every bitstream of the teacher decodes" in said.out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert f"{summary['student']['psnr']:.3f}" in said.out and summary["same_latents"] is True
    with (tmp_path / "out" / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    mean = sum(float(row["student_psnr"]) for row in rows) / 2
    assert summary["student"]["psnr"] == pytest.approx(mean)
    assert summary["student"]["psnr"] < summary["teacher"]["psnr"]


def test_wrong_teachers_are_refused(teacher, tmp_path: Path, pictures: Path, capsys) -> None:
    torch.save(FactorizedPrior(6, 10).state_dict(), tmp_path / "other.pth")
    torch.save({"student_state": swap(teacher)[0].state_dict()}, tmp_path / "student.pt")
    folder = ["--coco_dir", str(pictures), "--checkpoint", str(tmp_path / "student.pt")]
    assert run("eval", [*folder, "--teacher", str(tmp_path / "other.pth")]) == 2
    assert "name its own with --teacher" in capsys.readouterr().err
    assert (
        run(
            "distill",
            [
                "--coco_dir",
                str(pictures),
                "--teacher",
                "tiny",
                "--epochs",
                "0",
                "--batch_size",
                "4",
                "--save_dir",
                str(tmp_path / "run"),
                "--num_workers",
                "0",
            ],
        )
        == 0
    )
    with torch.no_grad():
        teacher.g_a[0].bias += 1
    torch.save(teacher.state_dict(), tmp_path / "retrained.pth")
    mine = ["--coco_dir", str(pictures), "--checkpoint", str(tmp_path / "run" / "last.pt")]
    assert run("eval", [*mine, "--teacher", str(tmp_path / "retrained.pth")]) == 2
    assert "is not the one that" in capsys.readouterr().err
