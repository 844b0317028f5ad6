"""``codecswap finetune --quantized``: what it makes of a student, and the files that come of that."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantize.codec import quantized_decoder
from codecswap.quantize.scheme import Scheme
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.students.checkpoint import read_student
from codecswap.training import saving

FAST = ("--teacher", "tiny", "--batch_size", "4", "--num_workers", "0", "--recon_count", "2", "--accelerator", "cpu")


@pytest.fixture(scope="module")
def student(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `subpixel`, in float."""
    folder = tmp_path_factory.mktemp("student")
    made = ("--replacement", "subpixel", "--epochs", "0", "--calibration_count", "8")
    assert run("distill", ["--coco_dir", str(pictures), "--save_dir", str(folder), *FAST, *made]) == 0
    return folder / "last.pt"


def finetune(student: Path, pictures: Path, folder: Path, *options: str) -> int:
    given = ["--coco_dir", str(pictures), "--save_dir", str(folder), *FAST]
    return run("finetune", [*given, "--resume_student", str(student), *options])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def decoded(checkpoint: Path, folder: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """One picture by the checkpoint in PyTorch, and by the files' reference execution."""
    plain = TorchCodec(load_codec("tiny"))
    symbols = plain.tables.to_symbols(plain.analyze(np.random.default_rng(0).random((3, side, side), np.float32)))
    with torch.no_grad():
        ours = read_student(checkpoint).student.g_s(torch.from_numpy(plain.tables.to_latents(symbols))[None])[0]
    return ours.numpy().clip(0, 1), OnnxCodec(folder, reference=True).synthesize(symbols).clip(0, 1)


@pytest.mark.slow
def test_training_gains_and_its_files_are_what_was_trained(
    student: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ("--quantized", "w8a8", "--epochs", "3", "--lambda_msssim", "0")
    assert finetune(student, pictures, tmp_path / "f", *options) == 0
    log = rows(tmp_path / "f")
    assert [row["epoch"] for row in log] == ["-1", "0", "1", "2"]
    assert float(log[-1]["train_loss"]) < float(log[1]["train_loss"])
    loaded = read_student(tmp_path / "f" / "ft_last.pt")
    start = read_student(tmp_path / "f" / "ft_best.pt")
    assert isinstance(loaded.student.g_s, QuantizedSynthesis) and loaded.label == "subpixel, w8a8" and not loaded.exact
    assert loaded.record and loaded.record.same_latents
    ranges = (loaded.student.g_s.start.activations, start.student.g_s.start.activations)
    assert {name: (float(one.scale), int(one.zero_point)) for name, one in ranges[0].items()} == {
        name: (float(one.scale), int(one.zero_point)) for name, one in ranges[1].items()
    }
    written = ["--checkpoint", str(loaded.path), "--output", str(tmp_path / "q"), "--images", str(pictures)]
    capsys.readouterr()
    assert run("quantize", written) == 0
    assert "w8a8" in capsys.readouterr().out
    ours, meant = decoded(loaded.path, tmp_path / "q", 64)
    assert np.abs(ours - meant).max() < 3.5 / 255 and np.mean(ours != meant) < 0.01
    both = ["--checkpoint", str(loaded.path), "--codec", str(tmp_path / "q"), "--images", str(pictures / "val")]
    assert run("eval", [*both, "--anchors", "none", "--output", str(tmp_path / "eval")]) == 0
    assert run("report", [str(tmp_path / "f"), "--output", str(tmp_path / "r.html"), "--pictures", "1"]) == 0


@pytest.mark.slow
def test_it_goes_on_exactly(
    student: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options, save = ("--quantized", "w8a16", "--epochs", "2"), saving.Checkpoints.save

    def save_and_stop(self: saving.Checkpoints, trainer: object, name: str) -> None:
        save(self, trainer, name)
        raise KeyboardInterrupt

    assert finetune(student, pictures, whole, *options) == 0
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(saving.Checkpoints, "save", save_and_stop)
        finetune(student, pictures, parts, *options, "--save_every_steps", "3")
    capsys.readouterr()
    resumed = ["--coco_dir", str(pictures), "--save_dir", str(parts), "--resume_ft", "auto", *FAST]
    assert run("finetune", [*resumed, "--quantized", "w8a8"]) == 2
    assert "--quantized is w8a16 in" in capsys.readouterr().err
    assert run("finetune", resumed) == 0
    a, b = (read_student(folder / "ft_last.pt").student.state_dict() for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = ("--quantized", "w8a16", "--target", "qnn-v73")
    assert finetune(whole / "ft_last.pt", pictures, tmp_path / "other", *other) == 2
    assert "which --target cannot change" in capsys.readouterr().err
    assert finetune(whole / "ft_last.pt", pictures, tmp_path / "more", "--epochs", "1") == 0
    assert read_student(tmp_path / "more" / "ft_last.pt").label == "subpixel, w8a16"


def test_a_hyperprior_takes_crops_of_any_size() -> None:
    """Its latents are integers in units of its means."""
    codec, crops = load_codec("tiny_hyper"), list(np.random.default_rng(0).random((2, 3, 224, 224), np.float32))
    decoder = quantized_decoder(codec.requires_grad_(False), crops, Scheme("w8a8"))
    latents = codec.g_a(torch.from_numpy(crops[0][None, :, :192, :192])).round()
    close = (decoder(latents) - codec.g_s(latents)).clamp(0, 1).square().mean()
    assert decoder.split_inputs and decoder.split_inputs.fractional_bits == 4 and close < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("target", ["drp-ai", "openvino"])
def test_the_scheme_is_the_targets(
    student: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture, target: str
) -> None:
    options = ("--quantized", "w8a8", "--target", target, "--epochs", "0")
    assert finetune(student, pictures, tmp_path / "f", *options) == 0
    checkpoint = tmp_path / "f" / "ft_last.pt"
    decoder = read_student(checkpoint).student.g_s
    assert isinstance(decoder, QuantizedSynthesis)
    widest = max(np.abs(decoder.start.constants[step.inputs[1]].values).max() for _, step in decoder._convolutions())
    assert (widest > 64) == (target == "drp-ai"), "8 bits there, 7 for CPUs without VNNI"
    compiled = ["--checkpoint", str(checkpoint), "--images", str(pictures), "--height", "96", "--width", "96"]
    assert run("compile", [*compiled, "--output", str(tmp_path / "c"), "--target", target]) == 0
    assert "as it was trained, in PyTorch" in capsys.readouterr().out
    ours, meant = decoded(checkpoint, tmp_path / "c", 96)
    assert np.abs(ours - meant).max() < 3.5 / 255 and np.mean(ours != meant) < 0.01
    assert run("compile", [*compiled, "--output", str(tmp_path / "d"), "--target", "ethos-u55"]) == 2
    assert "was not fine-tuned for ethos-u55" in capsys.readouterr().err
    assert run("export", ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "e")]) == 2
    assert "has no float weights" in capsys.readouterr().err
    assert run("quantize", ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "e"), "--gdn", "ramps"]) == 2
    assert "which fixes --gdn" in capsys.readouterr().err
    assert not (tmp_path / "d").exists() and not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--target", "qnn-v73"), "goes with --quantized"),
        (("--quantized", "w8a8", "--unfreeze_all", "true"), "leave out --unfreeze_all"),
        (("--quantized", "w8a8", "--part", "both"), "leave out --part both"),
        (("--quantized", "w8a16", "--target", "rk3588"), "--target rk3588 takes no w8a16: it takes w8a8"),
        (("--quantized", "w8a8", "--target", "pack"), "takes nothing in integers"),
        (("--quantized", "w8a8", "--target", "toaster"), "toaster"),
    ],
)
def test_what_does_not_go_together(
    student: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    options: tuple[str, ...],
    sentence: str,
) -> None:
    assert finetune(student, pictures, tmp_path / "f", *options) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
