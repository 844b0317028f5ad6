"""Codecs with a context model exported and quantized: the networks run anywhere, and files need PyTorch, which is said."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_codecs import small_codec

from codecswap import cli
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.export.folder import write_float
from codecswap.inference.runtime import OnnxCodec
from codecswap.students.checkpoint import save_student

NAMES = ["elic2022_chandelier", "cheng2020_attn", "cheng2020_anchor_checkerboard", "mbt2018", "mbt2018_vbr"]
FILES = {"codec.json", "entropy.json", "entropy.bin", "decoder.onnx", "encoder.onnx", "hyper_encoder.onnx"}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    root = tmp_path_factory.mktemp("images")
    for path in photos[:2]:
        with Image.open(path) as photo:
            photo.crop((100, 100, 228, 228)).save(root / f"{path.stem}.png")
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Callable[[str], tuple[HyperCodec, Path]]:
    """Makes a codec, and its folder by ``codecswap export`` beside its checkpoint, once."""
    root = tmp_path_factory.mktemp("exported")

    def make(name: str) -> tuple[HyperCodec, Path]:
        codec = small_codec(name)
        if not (root / name).exists():
            torch.save(codec.state_dict(), root / f"{name}.pth")
            given = ["--teacher", str(root / f"{name}.pth"), "--images", str(images)]
            assert cli.main(["export", *given, "--output", str(root / name)]) == 0
        assert isinstance(codec, HyperCodec)
        return codec, root / name

    return make


def arrays(images: Path) -> list[np.ndarray]:
    found = []
    for path in sorted(images.iterdir()):
        with Image.open(path) as picture:
            found.append(to_array(picture.convert("RGB")))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_decode_what_pytorch_codes(name: str, exported: Callable, images: Path) -> None:
    codec, folder = exported(name)
    assert {path.name for path in folder.iterdir()} == FILES
    in_torch = TorchCodec(codec)
    opened = OnnxCodec(folder).with_entropy(in_torch.entropy)
    picture = to_picture(arrays(images)[0], (121, 110))
    data = bitstream.encode(in_torch, picture)
    wanted, found = (np.asarray(bitstream.decode(one, data), int) for one in (in_torch, opened))
    assert np.abs(wanted - found).max() <= 1
    bitstream.read(bitstream.encode(opened, picture), in_torch.entropy, codec.factor)
    x = arrays(images)[0]
    latents, theirs = opened.analyze(x), in_torch.analyze(x)
    assert np.abs(latents - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert np.abs(opened.hyper_analyze(theirs) - in_torch.hyper_analyze(theirs)).max() < 0.01


@pytest.mark.parametrize("command", ["encode", "decode", "page"])
def test_without_pytorch_the_folder_says_what_to_do(
    command: str, exported: Callable, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, folder = exported("elic2022_chandelier")
    checkpoint = ["--codec", f"{folder}.pth"]
    picture = str(next(images.iterdir()))
    assert cli.main(["encode", picture, "-o", str(tmp_path / "a.csw"), *checkpoint]) == 0
    given = {"encode": [picture], "decode": [str(tmp_path / "a.csw")], "page": []}[command]
    capsys.readouterr()
    assert cli.main([command, *given, "--codec", str(folder), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "encode and decode with the checkpoint that it was made from (elic2022_chandelier.pth)" in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="name the one that it was made from"):
        OnnxCodec(folder).with_entropy(TorchCodec(small_codec("elic2022_official")).entropy)


def test_a_folder_is_evaluated_with_its_teacher(
    exported: Callable, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    _, folder = exported("cheng2020_anchor_checkerboard")
    given = ["--images", str(images), "--num_workers", "0", "--anchors", "none", "--accelerator", "cpu"]
    given += ["--codec", str(folder), "--output", str(tmp_path / "eval")]
    assert cli.main(["eval", *given, "--teacher", f"{folder}.pth"]) == 0
    teacher, measured = json.loads((tmp_path / "eval" / "summary.json").read_text())["codecs"]
    assert measured["mean"]["bpp"] == pytest.approx(teacher["mean"]["bpp"], rel=0.02)
    assert measured["mean"]["psnr"] == pytest.approx(teacher["mean"]["psnr"], abs=0.05)
    exported("elic2022_chandelier")
    for more in ([], ["--teacher", f"{folder.parent / 'elic2022_chandelier'}.pth"]):
        capsys.readouterr()
        assert cli.main(["eval", *given, *more]) == 2
        assert "(cheng2020_anchor_checkerboard.pth) with --teacher" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["elic2022_official", "cheng2020_attn"])
def test_quantized_no_layer_is_in_float_and_means_are_rounded_to_sixteenths(
    name: str, images: Path, tmp_path: Path
) -> None:
    codec, samples = small_codec(name), arrays(images)
    quantize(codec, tmp_path, refit=False, calibration_images=samples)
    opened, in_torch = OnnxCodec(tmp_path), TorchCodec(codec)
    layout = opened.manifest.split_inputs
    assert layout and layout.fractional_bits == 4 and opened.manifest.checks is None
    quantized = in_torch.entropy.quantize(in_torch.analyze(samples[0]), in_torch.hyper_analyze)
    latents = quantized.symbols + quantized.means.astype(np.float64)
    given, added = opened.decoder_input(quantized.symbols, quantized.means), np.zeros_like(latents)
    np.add.at(added, layout.channels, given[:-1].astype(np.float64) / 16)
    assert np.abs(added - latents).max() <= 1 / 32 and (added != latents).any()
    wanted = in_torch.synthesize(quantized.symbols, quantized.means)
    shown = opened.synthesize(quantized.symbols, quantized.means)
    inside = (wanted > 0) & (wanted < 1)  # an integer decoder's picture is clipped
    assert inside.any() and -10 * np.log10(np.square(shown - wanted)[inside].mean()) > 18  # of random weights


def test_where_there_is_nothing_to_swap(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save(small_codec("cheng2020_anchor").state_dict(), tmp_path / "a.pth")
    given = ["--teacher", str(tmp_path / "a.pth"), "--replacement", "subpixel"]
    for command in (["export"], ["quantize"], ["compile", "--target", "ethos-u55"]):
        assert cli.main([*command, *given, "--output", str(tmp_path / "out")]) == 2
        assert capsys.readouterr().err.endswith("there is nothing to swap.\n") and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_decoder_without_anything_to_swap_trains_in_integers(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save(small_codec("cheng2020_anchor_checkerboard").state_dict(), tmp_path / "a.pth")
    codec = load_codec(str(tmp_path / "a.pth"))
    save_student(codec, tmp_path / "start.pt", codec)
    given = ["--coco_dir", str(pictures), "--batch_size", "4", "--num_workers", "0", "--accelerator", "cpu"]
    given += ["--epochs", "1", "--recon_every", "0", "--quantized", "w8a8", "--save_dir", str(tmp_path / "f")]
    assert cli.main(["finetune", "--resume_student", str(tmp_path / "start.pt"), *given]) == 0
    trained = ["--checkpoint", str(tmp_path / "f" / "ft_last.pt"), "--images", str(pictures / "val")]
    assert cli.main(["quantize", *trained, "--output", str(tmp_path / "q")]) == 0
    opened = OnnxCodec(tmp_path / "q").with_entropy(TorchCodec(codec).entropy)
    assert opened.manifest.replacement == "none, w8a8" and opened.manifest.split_inputs
    picture = to_picture(arrays(pictures / "val")[0], (240, 240))
    assert opened.decompress(codec.compress(picture)).size == (240, 240)


def test_a_folder_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    write_float(small_codec("elic2022_chandelier"), tmp_path / "a", part="encoder")
    content = json.loads((tmp_path / "a" / "codec.json").read_text())
    content["side"] = None
    (tmp_path / "a" / "codec.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"codec\.json is damaged"):
        OnnxCodec(tmp_path / "a")
