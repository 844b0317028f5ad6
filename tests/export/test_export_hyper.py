"""Codecs with a hyperprior exported: ONNX for g_a, g_s and h_a, integers for h_s, files that any machine decodes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codecswap import cli
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import to_array
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.inference.folder import read_folder
from codecswap.inference.runtime import OnnxCodec

PARALLEL = ["bmshj2018_hyperprior", "mbt2018_mean"]


@pytest.fixture(scope="module")
def exported(
    hyper_codec: Callable[[str], HyperCodec], tmp_path_factory: pytest.TempPathFactory, photos: list[Path]
) -> Callable[[str], Path]:
    """Makes a folder of each codec, once, as `codecswap export` does."""
    root = tmp_path_factory.mktemp("hyper")
    (root / "pictures").mkdir()
    with Image.open(photos[0]) as photo:
        photo.crop((100, 100, 300, 230)).save(root / "pictures" / "a.png")

    def make(name: str) -> Path:
        if not (root / name).exists():
            torch.save(hyper_codec(name).state_dict(), root / f"{name}.pth")
            teacher = ["--teacher", str(root / f"{name}.pth"), "--replacement", "subpixel"]
            assert cli.main(["export", *teacher, "--images", str(root / "pictures"), "--output", str(root / name)]) == 0
        return root / name

    return make


@pytest.fixture
def picture(exported: Callable[[str], Path]) -> Path:
    return exported("mbt2018_mean").parent / "pictures" / "a.png"


@pytest.mark.parametrize("name", PARALLEL)
def test_the_folder_is_verified_and_says_what_integers_cost(
    name: str, exported: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    folder = exported(name)
    printed = capsys.readouterr().out
    if printed:  # the first test that asks has the folder made
        assert "Hyper-encoder against PyTorch" in printed and "% against floating point" in printed
    names = {"codec.json", "decoder.onnx", "encoder.onnx", "hyper_encoder.onnx", "entropy.bin", "entropy.json"}
    assert {path.name for path in folder.iterdir()} == names | {"gaussians.json", "gaussians.bin", "hyper_decoder.bin"}
    content = json.loads((folder / "codec.json").read_text())
    assert content["side"]["factor"] == 4
    codec = OnnxCodec(folder)
    assert codec.entropy.predictor is not None and codec.entropy.predictor.arithmetic == 1


@pytest.mark.parametrize("name", PARALLEL)
def test_files_come_back_and_cost_what_floating_point_costs(
    name: str, exported: Callable[[str], Path], hyper_codec: Callable[[str], HyperCodec], picture: Path, tmp_path: Path
) -> None:
    folder = ["--codec", str(exported(name))]
    assert cli.main(["encode", str(picture), "-o", str(tmp_path / "a.csw"), *folder]) == 0
    assert cli.main(["decode", str(tmp_path / "a.csw"), "-o", str(tmp_path / "a.png"), *folder]) == 0
    torch_codec = TorchCodec(hyper_codec(name))
    with Image.open(picture) as shown, Image.open(tmp_path / "a.png") as decoded:
        in_float = bitstream.encode(torch_codec, shown)
        theirs = bitstream.decode(torch_codec, in_float)
        apart = np.abs(to_array(decoded) - to_array(theirs)).mean()
    assert apart < 0.01
    size = (tmp_path / "a.csw").stat().st_size
    assert abs(size - len(in_float)) < 0.005 * len(in_float) + 8


def test_each_decoder_says_which_arithmetic_a_file_needs(
    exported: Callable[[str], Path], hyper_codec: Callable[[str], HyperCodec], picture: Path
) -> None:
    codec, torch_codec = OnnxCodec(exported("mbt2018_mean")), TorchCodec(hyper_codec("mbt2018_mean"))
    with Image.open(picture) as shown:
        in_integers, in_float = bitstream.encode(codec, shown), bitstream.encode(torch_codec, shown)
    with pytest.raises(bitstream.BadFile, match="needs the integer arithmetic of the exported folder"):
        bitstream.decode(torch_codec, in_integers)
    with pytest.raises(bitstream.BadFile, match="was written in PyTorch, whose floating point"):
        bitstream.decode(codec, in_float)
    with pytest.raises(bitstream.BadFile, match="was written by another codec"):
        bitstream.decode(OnnxCodec(exported("bmshj2018_hyperprior")), in_integers)


@pytest.mark.slow
def test_a_fixed_size_is_a_multiple_of_64_and_goes_in_tiles(
    exported: Callable[[str], Path], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    teacher = ["--teacher", str(exported("mbt2018_mean").with_suffix(".pth")), "--output", str(tmp_path / "fixed")]
    images = ["--images", str(picture.parent)]
    assert cli.main(["export", *teacher, *images, "--height", "80", "--width", "128"]) == 2
    assert "--height is a multiple of 64 for this codec, not 80: take 128" in capsys.readouterr().err
    assert cli.main(["export", *teacher, *images, "--height", "320", "--width", "320"]) == 0
    fixed, free = OnnxCodec(tmp_path / "fixed"), OnnxCodec(exported("mbt2018_mean"))
    noise = np.random.default_rng(0).random((3, 384, 448), np.float32)
    latents = free.analyze(noise)
    assert np.allclose(fixed.analyze(noise), latents, atol=1e-3)
    assert np.allclose(fixed.hyper_analyze(latents), free.hyper_analyze(latents), atol=1e-3)


@pytest.mark.parametrize("name", ["gaussians.json", "hyper_decoder.bin", "hyper_encoder.onnx", "codec.json"])
def test_damaged_and_mixed_files_are_refused(name: str, exported: Callable[[str], Path], tmp_path: Path) -> None:
    good = exported("mbt2018_mean")
    content = (good / name).read_bytes()
    cases = [None, content[:-3], content[:30], b""]
    if name in ("hyper_decoder.bin", "hyper_encoder.onnx"):
        middle = len(content) // 2
        altered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        cases += [(exported("bmshj2018_hyperprior") / name).read_bytes(), altered]
    elif name == "gaussians.json":  # every codec of CompressAI has the same
        cases.append(content.replace(b'"offsets":[-', b'"offsets":[-1', 1))
    for bad in cases:
        folder = tmp_path / "folder"
        shutil.copytree(good, folder, dirs_exist_ok=True)
        (folder / name).unlink() if bad is None else (folder / name).write_bytes(bad)
        with pytest.raises(UserError):
            OnnxCodec(folder).hyper_analyze(np.zeros((12, 4, 4), np.float32))
    assert read_folder(good)
