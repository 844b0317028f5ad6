"""`codecswap export`: the folder, its verification, the operator check and its exit code."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import codecswap
from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.errors import UserError
from codecswap.export.folder import write_float
from codecswap.export.verify import verify
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap


def export(*arguments: object) -> int:
    return cli.main(["export", "--teacher", "tiny", *map(str, arguments)])


def test_a_folder_holds_all_and_is_verified(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--images", pictures, "--target", "opset13", "--replacement", "none")
    assert export("--output", tmp_path, *options) == 0
    written = {"codec.json", "decoder.onnx", "encoder.onnx", "entropy.bin", "entropy.json"}
    assert {path.name for path in tmp_path.iterdir()} == written
    manifest = json.loads((tmp_path / "codec.json").read_text())
    assert (manifest["opset"], manifest["precision"], manifest["M"]) == (13, "float32", 80)
    printed = capsys.readouterr().out
    assert (
        "symbols differ" in printed and "largest error" in printed and "ONNX opset 13 accepts decoder.onnx" in printed
    )
    assert "4 ConvTranspose" in printed and "6,531" in printed


def test_a_target_that_refuses_gives_exit_code_3(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    size = ("--height", 96, "--width", 80)
    assert export("--output", tmp_path, "--images", pictures, "--target", "ethos-u", "--part", "decoder", *size) == 3
    assert "Sqrt at g_s.1" in capsys.readouterr().out
    assert not (tmp_path / "encoder.onnx").exists()
    codec = OnnxCodec(tmp_path)
    assert codec.synthesize(np.zeros((80, 6, 5), np.int32)).shape == (3, 96, 80)
    assert codec.synthesize(np.zeros((80, 9, 8), np.int32)).shape == (3, 144, 128)  # in tiles of the fixed size


def test_float16_and_symbols(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    options = ("--replacement", "subpixel", "--fp16", "--input", "symbols", "--images", pictures)
    assert export("--output", tmp_path, *options) == 0
    weight = onnx.load(tmp_path / "decoder.onnx").graph.initializer[1]
    assert weight.data_type == onnx.TensorProto.FLOAT16
    assert (tmp_path / "decoder.onnx").stat().st_size < 0.55 * 4 * 303_132
    assert OnnxCodec(tmp_path).manifest.precision == "float16"


def test_a_checkpoint_is_exported_as_it_is(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    student = swap(load_codec("tiny"), "upsample")[0]
    torch.save({"student_state": student.state_dict()}, tmp_path / "student.pt")
    arguments = ["export", "--checkpoint", str(tmp_path / "student.pt"), "--images", str(pictures)]
    assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "4 Resize" in capsys.readouterr().out
    assert cli.main([*arguments, "--output", str(tmp_path / "out"), "--replacement", "masked"]) == 2
    assert "--replacement upsample" in capsys.readouterr().err


def test_a_fixed_size_of_the_embedded_codec(tmp_path: Path) -> None:
    assert export("--output", tmp_path, "--replacement", "subpixel", "--height", 256, "--width", 256) == 0


@pytest.mark.parametrize(("away", "jump", "accepted"), [(1e-5, 0.01, True), (5e-3, 0.01, False), (1e-5, 2, False)])
def test_a_symbol_may_differ_where_the_latent_lies_on_the_boundary(
    teacher: FactorizedPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: float, jump: float, accepted: bool
) -> None:
    manifest = write_float(teacher, tmp_path)
    shape = (manifest.M, 2, 2)
    medians = teacher.entropy_tables().medians[:, None, None]
    latents = np.zeros(shape, np.float32) + medians
    latents[:9] += 0.5 - away  # 36 of 288, far more than one in 100,000
    exported = latents.copy()
    exported[:9] += jump
    monkeypatch.setattr(TorchCodec, "analyze", lambda self, picture: latents)
    monkeypatch.setattr(OnnxCodec, "analyze", lambda self, picture: exported)
    samples = iter([np.zeros((3, 32, 32), np.float32)])
    if accepted:
        verify(teacher, tmp_path, samples, "float32")
    else:
        with pytest.raises(UserError, match="more than rounding"):
            verify(teacher, tmp_path, samples, "float32")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--replacement", "masked"), "--height and --width"),
        (("--target", "nowhere.toml"), "no target"),
        (("--opset", 5), "11 to 20"),
        (("--height", 96), "go together"),
        (("--height", 100, "--width", 96), "take 112"),
        (("--images", "nowhere"), "There is no folder nowhere"),
        (("--checkpoint", "nowhere.pt"), "nowhere.pt"),
    ],
)
def test_the_impossible_is_one_sentence(
    tmp_path: Path, arguments: tuple, words: str, capsys: pytest.CaptureFixture
) -> None:
    assert export("--output", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and error.count("\n") == 0
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_files_that_differ_from_pytorch_replace_nothing(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert export("--output", tmp_path, "--images", pictures) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    honest = OnnxCodec.synthesize
    monkeypatch.setattr(
        OnnxCodec, "synthesize", lambda self, symbols, means=None: honest(self, symbols) + np.float32(0.01)
    )
    assert export("--output", tmp_path, "--images", pictures, "--replacement", "subpixel") == 2
    assert "more than rounding" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_files_of_the_codec_before_are_removed_and_no_others(tmp_path: Path, pictures: Path) -> None:
    assert export("--output", tmp_path, "--images", pictures) == 0
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".part").mkdir()  # of a run that was killed
    (tmp_path / ".part" / "half.onnx").write_bytes(b"half")
    assert export("--output", tmp_path, "--images", pictures, "--part", "decoder") == 0
    written = {"codec.json", "decoder.onnx", "entropy.bin", "entropy.json"}
    assert {path.name for path in tmp_path.iterdir()} == written | {"notes.txt"}


@pytest.mark.slow
def test_the_functions_of_the_package_are_not_hidden_by_its_folders(tmp_path: Path) -> None:
    codec = codecswap.swap(load_codec("tiny"), "subpixel")
    codec = (codec[0] if isinstance(codec, tuple) else codec).requires_grad_(False)
    manifest, found = codecswap.export(codec, tmp_path / "float", part="decoder")
    assert manifest.replacement == "subpixel" and found.picture < 1e-4
    quantized, agreements = codecswap.quantize(codec, calibration_count=1, height=64, width=64, keep=["g_s.6"])
    transform = quantized.networks["decoder"].transform
    rounded = {step.layer for step in transform.operations if step.output in transform.activations}
    assert "g_s.4" in rounded and not agreements and callable(codecswap.compile)
    with pytest.raises(UserError, match=r"g_s\.9: the codec's layers are g_a\.0"):
        codecswap.quantize(codec, keep=["g_s.9"])
