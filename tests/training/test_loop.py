"""Training by what it must achieve, in the loop that users run."""

import csv
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compressai import models

from codecswap.cli import run
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.students.checkpoint import read_student
from codecswap.training import callbacks, saving, step
from codecswap.training import loop as training
from codecswap.training import run as runs

FAST = ["--teacher", "tiny", "--batch_size", "4", "--num_workers", "0", "--recon_count", "2"]
FAST += ["--accelerator", "cpu", "--warmup_steps", "0"]


def train(command: str, pictures: Path, folder: Path, *options: str) -> None:
    assert run(command, ["--coco_dir", str(pictures), "--save_dir", str(folder), *FAST, *options]) == 0


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as file:
        return [
            {key: float(value) if value else math.nan for key, value in row.items()} for row in csv.DictReader(file)
        ]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["student_state"]


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_distillation_brings_the_student_closer_and_writes_what_it_says(
    pictures: Path, tmp_path: Path, teacher
) -> None:
    train("distill", pictures, tmp_path, "--epochs", "4", "--recon_every", "2", "--lr", "3e-4", "--init", "weights")
    log = rows(tmp_path)
    assert [row["epoch"] for row in log] == [-1, 0, 1, 2, 3]
    assert log[-1]["msssim_teacher"] > log[0]["msssim_teacher"] + 0.01, "eight steps must show"
    assert log[-1]["learning_rate"] == pytest.approx(1.14e-5, rel=0.01), "that of the last step"
    pngs = {f"recon/{tag}/0000{i}.png" for tag in ("pre_e000", "e001", "e003") for i in range(2)}
    assert files_in(tmp_path) == {"last.pt", "best_msssim.pt", "metrics.csv", "config.yaml", "run.json"} | pngs
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {"student_state", "optimizer_states", "lr_schedulers", "epoch", "best", "random", "config", "codec"} <= set(
        content
    )
    assert content["epoch"] == 3 and content["codec"]["replacement"] == "upsample"
    best = max(row["msssim_teacher"] for row in log)
    assert torch.load(tmp_path / "best_msssim.pt", weights_only=True)["best"] == pytest.approx(best)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["lr"] == 3e-4
    student = read_student(tmp_path / "last.pt").student
    assert student.same_latents(teacher)
    kept = [name for name in weights(tmp_path / "last.pt") if name.startswith("g_s") and ".1." not in name[4:]]
    assert all(torch.equal(student.state_dict()[name], teacher.state_dict()[name]) for name in kept), "IGDN was frozen"


def test_fine_tuning_moves_towards_the_picture_and_keeps_every_bit(pictures: Path, tmp_path: Path, teacher) -> None:
    train("distill", pictures, tmp_path / "d", "--epochs", "0", "--recon_every", "1", "--init", "weights")
    assert files_in(tmp_path / "d") == {
        "last.pt",
        "best_msssim.pt",
        "metrics.csv",
        "config.yaml",
        "run.json",
        "recon/pre_e000/00000.png",
        "recon/pre_e000/00001.png",
    }
    student = ["--resume_student", str(tmp_path / "d" / "best_msssim.pt")]
    train("finetune", pictures, tmp_path / "f", "--epochs", "4", "--lr", "3e-4", *student)
    log = rows(tmp_path / "f")
    assert log[-1]["msssim_picture"] > log[0]["msssim_picture"] + 0.01
    assert {"ft_last.pt", "ft_best.pt", "recon_ft/pre_e000/00000.png"} <= files_in(tmp_path / "f")
    loaded = read_student(tmp_path / "f" / "ft_last.pt")
    assert loaded.record is not None and loaded.record.same_latents and loaded.student.same_latents(teacher)
    assert not torch.equal(loaded.student.g_s[1].gamma, teacher.g_s[1].gamma), "IGDN trains"
    train("finetune", pictures, tmp_path / "g", "--epochs", "1", "--freeze_igdn", *student)
    assert torch.equal(read_student(tmp_path / "g" / "ft_last.pt").student.g_s[1].gamma, teacher.g_s[1].gamma)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra", [["--train_igdn", "--optimizer", "soap"], ["--unfreeze_all", "--lambda_rate", "0.02"]]
)
def test_resuming_continues_as_if_never_stopped(
    pictures: Path, tmp_path: Path, extra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = saving.Checkpoints.keep

    def keep_a_copy(self: saving.Checkpoints, trainer: object, epoch: int, value: float) -> None:
        keep(self, trainer, epoch, value)
        if epoch >= 0:
            shutil.copy(self.folder / self.stage.last, self.folder.parent / f"after{epoch}.pt")

    monkeypatch.setattr(saving.Checkpoints, "keep", keep_a_copy)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train("distill", pictures, whole, "--epochs", "3", "--recon_every", "1", *extra)
    shutil.copytree(whole, resumed)
    assert run("distill", ["--resume", str(tmp_path / "after0.pt"), "--save_dir", str(resumed)]) == 0
    assert largest_difference(weights(whole / "last.pt"), weights(resumed / "last.pt")) == 0
    clock = {"seconds", "pictures_per_second"}
    for mine, oracle in zip(rows(resumed), rows(whole), strict=True):
        assert {k: v for k, v in mine.items() if k not in clock and v == v} == {
            k: v for k, v in oracle.items() if k not in clock and v == v
        }
    contents = [torch.load(folder / "last.pt", weights_only=True) for folder in (whole, resumed)]
    for key in ("epoch", "best", "global_step", "rate_weight"):
        assert contents[0][key] == contents[1][key]
    assert files_in(resumed) - files_in(whole) == {"recon/pre_e001/00000.png", "recon/pre_e001/00001.png"}
    for png in files_in(whole):
        if png.endswith(".png"):
            assert (whole / png).read_bytes() == (resumed / png).read_bytes()


def test_resuming_takes_the_checkpoints_options_and_reports_those_typed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train("distill", pictures, tmp_path, "--epochs", "1", "--lr", "2e-4", "--seed", "7")
    last = str(tmp_path / "last.pt")
    assert run("distill", ["--resume", last, "--epochs", "2"]) == 0
    assert "--epochs 2 (was 1)" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["lr"], config["seed"], config["epochs"], config["batch_size"]) == (2e-4, 7, 2, 4)
    assert [row["epoch"] for row in rows(tmp_path)] == [-1, 0, 1]
    for wrong in (["--replacement", "masked"], ["--train_igdn"], ["--unfreeze_all"]):
        assert run("distill", ["--resume", last, *wrong]) == 2
        assert "cannot change on resuming" in capsys.readouterr().err
    assert run("finetune", ["--resume_ft", last]) == 2
    assert "written by distill" in capsys.readouterr().err


@pytest.mark.slow
def test_training_everything_says_so_and_holds_the_rate(pictures: Path, tmp_path: Path, capsys, teacher) -> None:
    train("distill", pictures, tmp_path, "--epochs", "2", "--unfreeze_all")
    said = capsys.readouterr()
    assert "bitstreams change" in said.err
    last = rows(tmp_path)[-1]
    assert last["bpp"] == pytest.approx(last["teacher_bpp"], rel=0.15) and last["lambda_rate"] > 0
    loaded = read_student(tmp_path / "last.pt")
    assert loaded.record is not None and not loaded.record.same_latents and not loaded.student.same_latents(teacher)
    x = torch.rand(1, 3, 64, 64)
    strings = models.FactorizedPrior.compress(loaded.student, x)
    fresh = loaded.student.entropy_bottleneck
    tables = fresh.quantized_cdf.clone()
    fresh.update(force=True)
    assert torch.equal(tables, fresh.quantized_cdf), "the tables were saved before the last update()"
    assert models.FactorizedPrior.decompress(loaded.student, **strings)["x_hat"].shape == x.shape
    assert run("eval", ["--coco_dir", str(pictures), "--checkpoint", str(tmp_path / "last.pt")]) == 0
    assert "do not decode" in capsys.readouterr().err


def test_frozen_gdn_stays_although_everything_else_trains(pictures: Path, tmp_path: Path, teacher) -> None:
    from codecswap.swaps.apply import swap

    torch.save({"epoch": 4, "student_state": swap(teacher)[0].state_dict()}, tmp_path / "d.pt")
    options = ["--resume_student", str(tmp_path / "d.pt"), "--unfreeze_all", "--freeze_igdn", "--epochs", "1"]
    train("finetune", pictures, tmp_path, *options)
    before, after = weights(tmp_path / "d.pt"), weights(tmp_path / "ft_last.pt")
    gdn = [name for name in before if name.endswith(("beta", "gamma"))]
    assert len(gdn) == 12 and all(torch.equal(before[name], after[name]) for name in gdn)
    assert not torch.equal(before["g_a.0.weight"], after["g_a.0.weight"])


def test_the_epochs_line_shows_the_score(pictures: Path, tmp_path: Path, capsys) -> None:
    train("distill", pictures, tmp_path / "d", "--epochs", "1", "--init", "weights")
    train("finetune", pictures, tmp_path / "f", "--epochs", "1", "--resume_student", str(tmp_path / "d" / "last.pt"))
    said = capsys.readouterr().out
    for folder, target in (("d", "teacher"), ("f", "picture")):
        log = rows(tmp_path / folder)
        shown = [float(value) for value in re.findall(rf"MS-SSIM against the {target} ([\d.]+)", said)]
        scores = [row[f"msssim_{target}"] for row in log]
        assert shown == pytest.approx([*scores, max(scores)], abs=6e-5), "start, epoch 1, the best"
        assert ("start" in said) and said.count("the best so far") == 2 + sum(
            rows(tmp_path / f)[1][f"msssim_{t}"] > rows(tmp_path / f)[0][f"msssim_{t}"]
            for f, t in (("d", "teacher"), ("f", "picture"))
        )


@pytest.mark.parametrize("replacement", ["masked", "subpixel"])
def test_exact_students_are_proved_and_done(pictures: Path, tmp_path: Path, capsys, replacement: str) -> None:
    train("distill", pictures, tmp_path, "--replacement", replacement, "--recon_every", "1")
    said = capsys.readouterr().out
    assert "needs no training" in said and float(re.search(r"PSNR ([\d.]+) dB", said)[1]) > 110  # type: ignore[index]
    assert {"last.pt", "best_msssim.pt", "recon/pre_e000/00000.png"} <= files_in(tmp_path)
    assert read_student(tmp_path / "best_msssim.pt").record.replacement == replacement  # type: ignore[union-attr]


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(pictures: Path, tmp_path: Path) -> None:
    for devices in ("1", "2"):
        command = [
            sys.executable,
            "-m",
            "codecswap",
            "distill",
            "--coco_dir",
            str(pictures),
            *FAST,
            "--epochs",
            "3",
            "--save_dir",
            str(tmp_path / devices),
            "--devices",
            devices,
            "--lr",
            "3e-4",
            "--train_igdn",
            "--save_every_steps",
            "1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Teacher: tiny") == 1, "only the first process speaks"
    for one, two in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        for key in set(one) - {"seconds", "pictures_per_second"}:
            if one[key] == one[key]:
                assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-5), key


def test_wandb_offline_missing_and_disabled(pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    train("distill", pictures, tmp_path / "a", "--epochs", "0", "--wandb_project", "p", "--init", "weights")
    assert capsys.readouterr().err.count("wandb is not installed") == 1
    monkeypatch.setenv("WANDB_DISABLED", "true")
    train("distill", pictures, tmp_path / "b", "--epochs", "0", "--wandb_project", "p", "--init", "weights")
    assert "wandb" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_wandb_run_goes_on_under_its_id(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    asked = []

    class Spy(callbacks.WandbLogger):
        def __init__(self, **arguments: Any) -> None:
            asked.append(arguments["id"])
            super().__init__(**arguments)

    monkeypatch.setattr(callbacks, "WandbLogger", Spy)
    for epochs in ("1", "2"):
        options = ["--epochs", epochs, "--init", "weights", "--wandb_project", "p", "--resume", "auto"]
        train("distill", pictures, tmp_path, *options, "--recon_every", "0")
    first = torch.load(tmp_path / "last.pt", weights_only=True)["wandb_id"]
    assert asked == [None, first] and first


def test_wandb_gets_curves_and_the_pictures_steps(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    class Recorder(callbacks.WandbLogger):
        """Keeps what Lightning and we log, with the steps."""

        def __init__(self) -> None:
            self.calls: list[tuple[dict[str, Any], int | None]] = []

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.calls.append((dict(metrics), step))

        def log_image(self, key: str, images: Any, step: int | None = None, **more: Any) -> None:
            self.log_metrics({key: images}, step)

        def __getattribute__(self, name: str) -> Any:
            if name in ("log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint"):
                return lambda *args, **more: None
            return None if name in ("version", "name", "save_dir", "experiment") else super().__getattribute__(name)

    recorder = Recorder()
    monkeypatch.setattr(runs, "wandb_logger", lambda *args: recorder)
    train("distill", pictures, tmp_path, "--epochs", "3", "--recon_every", "2", "--init", "weights", "--lr", "3e-4")
    steps = [(entry, step) for entry, step in recorder.calls if "loss" in entry]
    assert [step for _, step in steps] == list(range(6)), "three epochs of two steps"
    rates = [entry["learning_rate"] for entry, _ in steps]
    assert rates[0] == pytest.approx(3e-4) and rates == sorted(rates, reverse=True) and rates[-1] > 0
    assert rows(tmp_path)[-1]["learning_rate"] == pytest.approx(rates[-1])
    pictures_at = {key: step for entry, step in recorder.calls for key in entry if key.startswith("recon/")}
    assert pictures_at == {"recon/pre_e000": 0, "recon/e001": 4}


def test_steps_without_a_finite_loss_are_skipped_and_counted(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    loss, calls = step.reconstruction_loss, []

    def sometimes_nan(*args: torch.Tensor, **weights: float) -> torch.Tensor:
        calls.append(None)
        return loss(*args, **weights) * (math.nan if len(calls) in (2, 3) else 1)

    monkeypatch.setattr(step, "reconstruction_loss", sometimes_nan)
    train("distill", pictures, tmp_path, "--epochs", "2", "--init", "weights", "--batch_size", "2", "--unfreeze_all")
    log = rows(tmp_path)
    assert [row["skipped_steps"] for row in log] == [0, 2, 0]
    assert all(math.isfinite(value) for row in log[1:] for value in row.values())
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["global_step"] == 8
    states = content["optimizer_states"][0]["state"].values()
    assert {int(state["step"]) for state in states} == {6}, "Adam knows nothing of the skipped steps"


@pytest.mark.slow
def test_two_runs_are_identical_and_other_thread_counts_nearly(pictures: Path, tmp_path: Path) -> None:
    """On one machine and with one number of threads. Two threads add in another order; a GPU is not tested here."""
    options = ["--epochs", "1", "--lr", "3e-4", "--seed", "5", "--deterministic", "--init", "weights"]
    try:
        for name, threads in (("a", 1), ("b", 1), ("c", 2)):
            torch.set_num_threads(threads)
            train("distill", pictures, tmp_path / name, *options)
    finally:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(False)
    a, b, c = (weights(tmp_path / name / "last.pt") for name in "abc")
    assert largest_difference(a, b) == 0
    assert largest_difference(a, c) < 1e-3


def test_recipe_checkpoints_load(pictures: Path, tmp_path: Path, teacher: FactorizedPrior) -> None:
    from codecswap.swaps.apply import swap

    student, _ = swap(teacher)
    torch.save({"epoch": 4, "student_state": student.state_dict()}, tmp_path / "best_msssim.pt")
    resume = ["--resume_student", str(tmp_path / "best_msssim.pt")]
    train("finetune", pictures, tmp_path / "f", "--epochs", "0", *resume)
    assert largest_difference(weights(tmp_path / "f" / "ft_last.pt"), student.state_dict()) == 0


def test_no_max_images_and_no_epochs_reconstructions(pictures: Path, tmp_path: Path, capsys) -> None:
    train(
        "distill", pictures, tmp_path, "--epochs", "1", "--init", "weights", "--max_images", "0", "--recon_every", "0"
    )
    assert "8 for training, 2 held out" in capsys.readouterr().out
    pngs = {name for name in files_in(tmp_path) if name.endswith(".png")}
    assert pngs == {"recon/pre_e000/00000.png", "recon/pre_e000/00001.png"}
    assert (
        run("eval", ["--coco_dir", str(pictures), "--teacher", "tiny", "--max_images", "0", "--num_workers", "0"]) == 0
    )
    assert run("distill", ["--coco_dir", str(pictures), "--max_images", "-1"]) == 2
    assert "or 0 for all" in capsys.readouterr().err


@pytest.mark.slow
def test_a_stage_keeps_what_it_was_given(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    """An epoch at the full default rate after a calibrated start; plain Adam at the former default threw it away."""
    options = ["--batch_size", "2", "--recon_every", "0"]
    train("distill", pictures, tmp_path / "d", *options, "--epochs", "0", "--calibration_count", "8")
    options += ["--resume_student", str(tmp_path / "d" / "last.pt"), "--epochs", "1"]
    train("finetune", pictures, tmp_path / "f", *options)
    monkeypatch.setattr(training, "brightness_directions", lambda *given: {})
    train("finetune", pictures, tmp_path / "before", *options, "--lr", "1e-4")
    changes = [
        last["psnr_picture"] - first["psnr_picture"] for first, last in map(rows, (tmp_path / "f", tmp_path / "before"))
    ]
    assert changes[0] > -0.05 and changes[1] < changes[0] - 0.1, changes


def test_directions_are_kept_on_resuming(pictures: Path, tmp_path: Path) -> None:
    train("distill", pictures, tmp_path, "--epochs", "1", "--init", "weights", "--recon_every", "0")
    before = torch.load(tmp_path / "last.pt", weights_only=True)["directions"]
    assert sorted(before) == [f"g_s.{layer}.1.weight" for layer in (0, 2, 4, 6)]
    assert run("distill", ["--resume", str(tmp_path / "last.pt"), "--epochs", "2"]) == 0
    after = torch.load(tmp_path / "last.pt", weights_only=True)["directions"]
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such names there")
@pytest.mark.parametrize("name", ["a::b", "file:x", "best"])
def test_a_folder_of_any_name_is_a_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for epochs, resume in (("1", []), ("2", ["--resume", "auto"])):
        train("distill", pictures, Path(name), "--max_images", "4", "--epochs", epochs, *resume)
    assert [path.name for path in tmp_path.iterdir()] == [name] and len(rows(tmp_path / name)) >= 2
    assert run("report", ["--runs", name]) == 0
