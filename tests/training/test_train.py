"""Distillation and fine-tuning as functions, and as commands, of codecs of any shape."""

from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from test_loop import FAST, rows

from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.config import DistillOptions, FinetuneOptions
from codecswap.errors import UserError
from codecswap.students.checkpoint import load_student, save_student
from codecswap.swaps.apply import swap
from codecswap.training.train import DistillArguments, FinetuneArguments, distill, finetune

FEW = {"batch_size": 4, "num_workers": 0, "warmup_steps": 0, "accelerator": "cpu"}


def test_functions_train_a_copy_and_write_nothing(
    teacher: FactorizedPrior, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    student, _ = swap(teacher)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    log: list[dict[str, float]] = []
    trained = distill(student, teacher, pictures, epochs=2, lr=3e-4, progress=log.append, **FEW)
    assert [row["epoch"] for row in log] == [-1, 0, 1] and log[2]["msssim_teacher"] > log[0]["msssim_teacher"]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    latents = torch.randn(1, 80, 3, 3).round()
    assert not torch.equal(trained.g_s(latents), student.g_s(latents)) and trained.same_latents(teacher)
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    tuned = finetune(trained, teacher, pictures, epochs=1, progress=log.append, **FEW)
    assert log[3]["psnr_teacher"] == pytest.approx(log[2]["psnr_teacher"], abs=1e-3), (
        "it starts from the best, the last"
    )
    assert log[4]["msssim_picture"] > log[3]["msssim_picture"]
    assert not torch.equal(tuned.g_s[1].gamma, trained.g_s[1].gamma)
    said = capsys.readouterr()
    assert said.out == said.err == "" and not list(tmp_path.iterdir())
    save_student(tuned, "student.pt")
    assert torch.equal(load_student("student.pt").g_s(latents), tuned.g_s(latents))


def test_functions_say_what_is_wrong(teacher: FactorizedPrior, pictures: Path) -> None:
    exact, _ = swap(teacher, "subpixel")
    same = distill(exact, teacher, pictures, **FEW)
    assert same.record.exact and torch.equal(same.g_s[0].conv.weight, exact.g_s[0].conv.weight)
    with pytest.raises(TypeError, match="takes no save_dir"):
        distill(exact, teacher, pictures, save_dir="x")
    with pytest.raises(TypeError, match=r"distill\(\) takes no freeze_igdn"):
        distill(exact, teacher, pictures, freeze_igdn=True)
    with pytest.raises(UserError, match="--epochs is at least 0"):
        finetune(exact, teacher, pictures, epochs=-1)
    with pytest.raises(UserError, match="larger than the 8 training pictures"):
        finetune(exact, teacher, pictures, batch_size=9)


@pytest.mark.parametrize(
    ("arguments", "options"), [(DistillArguments, DistillOptions), (FinetuneArguments, FinetuneOptions)]
)
def test_arguments_are_options_of_the_command(arguments: type, options: type) -> None:
    offered = get_type_hints(options)
    assert get_type_hints(arguments).items() <= offered.items()
    files = {"coco_dir", "save_dir", "recon_subdir", "recon_every", "recon_count", "wandb_project", "resume"}
    assert not files & arguments.__optional_keys__, "the functions write no files"


@pytest.mark.slow
def test_a_residual_codec_through_the_commands(residual: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    common = ["--coco_dir", str(pictures), *FAST[2:], "--batch_size", "2", "--recon_every", "0"]
    first = ["--teacher", str(residual), *common, "--save_dir", str(tmp_path / "d"), "--lr", "2e-4"]
    assert run("distill", [*first, "--epochs", "2"]) == 0
    said = capsys.readouterr().out
    assert "in 8 tensors of" in said and "ConvTranspose2d(24, 16, 5x5)" in said
    assert run("distill", [*first, "--epochs", "3", "--resume", "auto"]) == 0
    log = rows(tmp_path / "d")
    assert [row["epoch"] for row in log] == [-1, 0, 1, 2] and log[-1]["msssim_teacher"] > log[0]["msssim_teacher"]
    start = ["--resume_student", str(tmp_path / "d" / "last.pt"), "--save_dir", str(tmp_path / "f"), "--epochs", "2"]
    assert run("finetune", [*common, *start, "--lr", "2e-4"]) == 0
    assert "in 102 tensors of" in capsys.readouterr().out
    log = rows(tmp_path / "f")
    assert log[-1]["msssim_picture"] > log[0]["msssim_picture"]
    before, after = (load_student(tmp_path / name) for name in ("d/last.pt", "f/ft_last.pt"))
    moved = [name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])]
    assert {name.split(".")[0] for name in moved} == {"g_s"} and "g_s.4.conv_b.3.weight" in moved and len(moved) == 102
    best = str(tmp_path / "f" / "ft_best.pt")
    assert run("eval", ["--checkpoint", best, "--images", str(pictures / "val"), "--anchors", "none"]) == 0
    assert "decode" in capsys.readouterr().out
    assert after.same_latents(load_codec(str(residual)))
