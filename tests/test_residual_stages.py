"""A codec of residual and attention blocks goes through every stage, or is refused in a sentence before any work is done."""

import json
import re
from pathlib import Path

import pytest
import torch

from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile import TOOLCHAINS
from codecswap.data.pictures import load_picture, to_array
from codecswap.inference.runtime import OnnxCodec
from codecswap.metrics import psnr, to_8_bits
from codecswap.students.checkpoint import read_student
from codecswap.targets.target import load_target

SIZE = ["--height", "256", "--width", "256"]
"""The least that is more than two margins, 224: one tile for a picture of these tests."""
FAST = ["--batch_size", "4", "--num_workers", "0", "--recon_every", "0", "--accelerator", "cpu"]
LOST = {"float32": 1e-3, "w8a8": 0.2, "mixed": 0.01, "w8a16": 0.01}
"""dB against the float codec, at most."""


def quality(decoder: OnnxCodec | TorchCodec, encoder: OnnxCodec | TorchCodec, pictures: Path) -> float:
    """Mean PSNR in dB of what is decoded against the pictures held out."""
    found = []
    for path in sorted((pictures / "val").iterdir()):
        picture = to_array(load_picture(path))
        shown = decoder.synthesize(encoder.tables.to_symbols(encoder.analyze(picture)))
        found.append(psnr(to_8_bits(torch.from_numpy(shown)[None]), torch.from_numpy(picture)[None]).item())
    return sum(found) / len(found)


@pytest.mark.parametrize("words", [["subpixel"], ["masked", *SIZE], ["none", "--input", "symbols"], ["upsample"]])
def test_export(
    residual: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str]
) -> None:
    given = ["--teacher", str(residual), "--output", str(tmp_path / "e"), "--images", str(pictures / "val")]
    assert run("export", [*given, "--replacement", *words]) == 0
    said = capsys.readouterr().out
    assert " 0 of " in said and float(re.search(r"PSNR ([\d.]+) dB", said)[1]) > 120


@pytest.mark.parametrize(
    ("precision", "part"),
    [
        ("w8a8", "decoder"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (("w8a8", "both"), ("mixed", "decoder"), ("w8a16", "both"))
        ),
    ],
)
def test_quantize(
    residual: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture, precision: str, part: str
) -> None:
    folder = tmp_path / "q"
    given = ["--teacher", str(residual), "--output", str(folder), "--images", str(pictures / "val")]
    assert run("quantize", [*given, "--precision", precision, "--part", part, "--calibration_count", "4"]) == 0
    said = capsys.readouterr().out
    assert "Not equalized, because add joins two scales: what g_s.0.conv_a.0.conv.4" in said
    ours, plain = OnnxCodec(folder, threads=1), TorchCodec(load_codec(str(residual)))
    lost = quality(plain, plain, pictures) - quality(ours, ours if part == "both" else plain, pictures)
    assert lost < LOST[precision] and ours.manifest.split_inputs


@pytest.mark.slow
def test_finetune_in_integers(residual: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    common = ["--coco_dir", str(pictures), *FAST]
    start = ["--teacher", str(residual), "--replacement", "subpixel", "--save_dir", str(tmp_path / "d")]
    assert run("distill", [*common, *start, "--epochs", "0"]) == 0
    student = ["--resume_student", str(tmp_path / "d" / "last.pt"), "--quantized", "w8a8"]
    assert run("finetune", [*common, *student, "--save_dir", str(tmp_path / "f"), "--epochs", "1"]) == 0
    assert "The decoder trains in integers" in capsys.readouterr().out
    checkpoint, folder = tmp_path / "f" / "ft_last.pt", tmp_path / "q"
    given = ["--checkpoint", str(checkpoint), "--output", str(folder), "--images", str(pictures / "val")]
    assert run("quantize", given) == 0
    plain = TorchCodec(load_codec(str(residual)))
    symbols = plain.tables.to_symbols(plain.analyze(to_array(load_picture(next((pictures / "val").iterdir())))))
    with torch.no_grad():
        latents = torch.from_numpy(plain.tables.to_latents(symbols))[None]
        trained = read_student(checkpoint).student.g_s(latents)[0].clamp(0, 1)
    written = torch.from_numpy(OnnxCodec(folder, reference=True).synthesize(symbols)).clamp(0, 1)
    assert (trained - written).abs().max() < 3.5 / 255 and ((trained - written).abs() > 1e-4).float().mean() < 0.01
    assert quality(plain, plain, pictures) - quality(OnnxCodec(folder), plain, pictures) < LOST["w8a8"]


def test_refused_before_any_work(residual: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    teacher, output = ["--teacher", str(residual)], ["--output", str(tmp_path / "x")]
    assert run("compile", [*teacher, *output, "--target", "openvino", "--height", "128", "--width", "256"]) == 2
    assert "--height and --width are more than 224" in capsys.readouterr().err
    for command in ("export", "quantize"):
        assert run(command, [*teacher, *output, "--gdn", "ramps"]) == 2
        assert "hold no GDN: there is nothing for --gdn to replace" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert run("export", [*teacher, "--output", str(tmp_path / "e"), "--images", str(pictures / "val")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision", "replacement"),
    [
        ("ethos-u55", "w8a8", "subpixel"),
        ("ethos-u55", "w8a16", "subpixel"),
        ("ethos-u85", "w8a8", "masked"),
        ("ethos-u55", "w8a8", "none"),
        ("qnn-v73", "w8a16", "subpixel"),
        ("qnn-v73", "w8a8", "subpixel"),
        ("openvino", "float32", "subpixel"),
        ("openvino", "w8a8", "subpixel"),
    ],
)
def test_compile(residual: Path, pictures: Path, tmp_path: Path, target: str, precision: str, replacement: str) -> None:
    if not TOOLCHAINS[load_target(target).toolchain].installed(None):
        pytest.skip(f"the compiler of {target} is not installed (the extra npu)")
    images = ["--images", str(pictures / "val"), "--calibration_images", str(pictures / "train")]
    form = [] if replacement == "subpixel" else ["--form", "native"]
    given = ["--teacher", str(residual), "--replacement", replacement, *form, *SIZE, *images]
    assert run("compile", [*given, "--target", target, "--precision", precision, "--output", str(tmp_path / "c")]) == 0
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["compiler"] and all(one["on_npu"] for one in report["operators"])
    # a transposed convolution has one scale and one bias for all phases of a channel
    most = 1.0 if replacement == "none" else LOST[precision]
    assert report["quality"]["float32"] - report["quality"]["compiled"] < most


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision"), [("ethos-u55", "w8a8"), ("qnn-v73", "w8a16")])
def test_finetune_for_an_npu(residual: Path, pictures: Path, tmp_path: Path, target: str, precision: str) -> None:
    if not TOOLCHAINS[load_target(target).toolchain].installed(None):
        pytest.skip(f"the compiler of {target} is not installed (the extra npu)")
    common = ["--coco_dir", str(pictures), *FAST]
    start = ["--teacher", str(residual), "--replacement", "subpixel", "--save_dir", str(tmp_path / "d")]
    assert run("distill", [*common, *start, "--epochs", "0"]) == 0
    student = ["--resume_student", str(tmp_path / "d" / "last.pt"), "--quantized", precision, "--target", target]
    assert run("finetune", [*common, *student, "--save_dir", str(tmp_path / "f"), "--epochs", "1"]) == 0
    images = ["--images", str(pictures / "val"), "--calibration_images", str(pictures / "train")]
    given = ["--checkpoint", str(tmp_path / "f" / "ft_last.pt"), "--target", target, *SIZE, *images]
    assert run("compile", [*given, "--output", str(tmp_path / "c")]) == 0
    quality = json.loads((tmp_path / "c" / "report.json").read_text())["quality"]
    assert run("report", [str(tmp_path / "f"), "--output", str(tmp_path / "r.html"), "--pictures", "1"]) == 0
    assert quality["to_float"] > 45 and abs(quality["compiled"] - quality["float32"]) < 0.02
