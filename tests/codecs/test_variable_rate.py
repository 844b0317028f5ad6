"""Codecs with variable rate: CompressAI's strings and pictures at every level, files at any gain, sizes on request."""

import json
import math
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressai import models
from PIL import Image

from codecswap.cli import main
from codecswap.codecs.architectures import ARCHITECTURES, untrained
from codecswap.codecs.bottleneck import quantize_with_likelihoods
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.codecs.variable_rate import VariableRate
from codecswap.data.pictures import pad, to_array
from codecswap.entropy import bitstream
from codecswap.entropy.rate_control import CLOSE, ENCODINGS, encode_to_size
from codecswap.entropy.rates import Rates
from codecswap.errors import UserError
from codecswap.evaluation.evaluate import evaluate
from codecswap.evaluation.measure import compress
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap
from codecswap.training.student import TeacherStudent

KINDS = {
    "bmshj2018_hyperprior_vbr": (models.ScaleHyperpriorVbr, {"vr_entbttlnck": True}),
    "mbt2018_mean_vbr": (models.MeanScaleHyperpriorVbr, {"vr_entbttlnck": True}),
    "mbt2018_mean_vbr, one step": (models.MeanScaleHyperpriorVbr, {}),
    "mbt2018_vbr": (models.JointAutoregressiveHierarchicalPriorsVbr, {}),
}


def theirs(kind: str) -> Any:
    """CompressAI's codec of random weights that give latents, scales and means of many sizes."""
    build, options = KINDS[kind]
    torch.manual_seed(0)
    codec = build(8, 12, **options)
    with torch.no_grad():
        codec.g_a[6].weight *= 100
        codec.h_a[4].weight *= 20
        last = codec.entropy_parameters[4] if kind == "mbt2018_vbr" else codec.h_s[4]
        last.weight *= 6
        last.bias[:12] += torch.linspace(1, 16, 12)
        if kind == "mbt2018_vbr":
            codec.context_prediction.weight *= codec.context_prediction.mask
    codec.update(force=True)
    return codec.eval().requires_grad_(False)


def ours(codec: Any) -> VariableRate:
    made = untrained(codec.state_dict())
    made.load_state_dict(codec.state_dict())
    made.make_tables()
    assert isinstance(made, VariableRate)
    return made.eval().requires_grad_(False)


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    return Image.fromarray(noise).resize((205, 140), Image.Resampling.BICUBIC)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save({"state_dict": theirs("mbt2018_mean_vbr").state_dict()}, tmp_path / "vbr.pth")
    return tmp_path / "vbr.pth"


@pytest.mark.parametrize("kind", KINDS)
def test_strings_and_pictures_of_each_level_are_those_of_compressai(kind: str) -> None:
    reference = theirs(kind)
    codec = ours(reference)
    assert type(codec) is ARCHITECTURES[kind.split(",")[0]] and codec.gain == 1
    x = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    sizes = []
    for level in (7, 3, 0):
        codec.gain = codec.gains[level]
        if codec.vr_entbttlnck:
            reference.update(force=True, scale=reference.Gain[level])
        wanted = reference.compress(x, s=level)
        strings, sides = compress(codec, x)
        assert strings == [wanted["strings"][0][0], wanted["strings"][1][0]]
        latents = codec.decompress_latents(strings, sides)
        shown = reference.decompress(**wanted, s=level)["x_hat"]
        assert (codec.g_s(latents).clamp(0, 1) - shown).abs().max() < 0.01
        assert (encode(codec, x) - latents).abs().max() < 1e-3 and latents.unique().numel() > 20
        sizes.append(sum(map(len, strings)))
        assert 8 * sizes[-1] == pytest.approx(codec.bits(codec.g_a(x)).item(), rel=0.25)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("level", [0, 7])
def test_likelihoods_of_hyper_latents_are_those_of_their_step(level: int) -> None:
    codec = ours(theirs("mbt2018_mean_vbr"))
    step, bottleneck = codec.step(codec.gains[level]), codec.entropy_bottleneck
    assert step is not None and step != 1
    medians = bottleneck.quantiles[:, 0, 1]
    every = medians[None, :, None] + step * torch.arange(-400, 401)  # (1, N, 801): what rounding can give
    bottleneck.requires_grad_(True)
    rounded, likelihoods = quantize_with_likelihoods(bottleneck, every[..., None] + step / 3, noisy=False, step=step)
    torch.testing.assert_close(rounded, every[..., None])
    torch.testing.assert_close(likelihoods.sum((0, 2, 3)), torch.ones(len(medians)), rtol=0, atol=1e-3)
    likelihoods.log().mean().backward()
    assert bottleneck._matrix0.grad.any(), "the step trains the bottleneck, too"


def test_a_file_says_its_gain_and_a_damaged_or_foreign_one_is_refused(checkpoint: Path, picture: Image.Image) -> None:
    codec = TorchCodec(load_codec(str(checkpoint)))
    files = {gain: bitstream.encode(codec, picture, gain=gain) for gain in (0.1, 0.33, 1.0)}
    assert [len(data) for data in files.values()] == sorted(len(data) for data in files.values())
    assert bitstream.encode(codec, picture) == files[1.0] and files[1.0][4] == 3
    for gain, data in files.items():
        quantized, size = bitstream.read(data, codec.entropy, 16)
        wanted = codec.entropy.at(gain).quantize(codec.analyze(_padded(picture)), codec.hyper_analyze)
        assert size == (140, 205) and (quantized.symbols == wanted.symbols).all()
        np.testing.assert_array_equal(quantized.means, wanted.means)
    one_rate = TorchCodec(load_codec("tiny_hyper"))
    with pytest.raises(
        bitstream.BadFile, match="a codec with variable rate, and this one is with a hyperprior and one"
    ):
        bitstream.read(files[1.0], one_rate.entropy, 16)
    with pytest.raises(bitstream.BadFile, match="is truncated or altered"):
        bitstream.read(files[1.0][:-9], codec.entropy, 16)
    for gain in (7.0, math.nan, 0.0, -1.0):
        with pytest.raises((bitstream.BadFile, UserError)):
            bitstream.read(_with_gain(files[1.0], gain), codec.entropy, 16)


def _padded(picture: Image.Image) -> np.ndarray:
    return pad(to_array(picture), 64)


def _with_gain(data: bytes, gain: float) -> bytes:
    """The same file with another gain and a right checksum."""
    place = bitstream.overhead(data) - 8
    content = data[:place] + struct.pack("<f", gain) + data[place + 4 : -4]
    return content + struct.pack("<I", zlib.crc32(content))


def test_an_exported_folder_codes_at_any_gain(checkpoint: Path, picture: Image.Image, tmp_path: Path) -> None:
    names = ["--teacher", str(checkpoint), "--output", str(tmp_path / "e"), "--replacement", "subpixel"]
    assert main(["export", *names]) == 0
    folder, in_torch = OnnxCodec(tmp_path / "e", threads=1), TorchCodec(load_codec(str(checkpoint)))
    assert folder.manifest.rates and folder.manifest.rates.gains == in_torch.entropy.rates.gains
    for gain in (1.0, 0.5, 0.1):
        data = bitstream.encode(folder, picture, gain=gain)
        assert abs(len(data) / len(bitstream.encode(in_torch, picture, gain=gain)) - 1) < 0.1
        quantized, _ = bitstream.read(data, folder.entropy, 16)
        x = in_torch.entropy.at(gain).quantize(in_torch.analyze(_padded(picture)), in_torch.hyper_analyze)
        same = (quantized.symbols == x.symbols) & (np.abs(quantized.means - x.means) < 0.05 / gain)
        assert same.mean() > 0.9, "h_s in integers predicts nearly the same, and offsets go with CDF indexes"
        assert bitstream.decode(folder, data).size == picture.size
    for name in ("entropy_2.json", "codec.json", "rates.bin"):
        content = (tmp_path / "e" / name).read_bytes()
        (tmp_path / "e" / name).write_bytes(
            content.replace(b'"step":', b'"stop":').replace(b'"gains": [', b'"gains": [9.0,').replace(b"CSR", b"CSr")
        )
        with pytest.raises(UserError, match=r"damaged|not those|not the one"):
            OnnxCodec(tmp_path / "e")
        (tmp_path / "e" / name).write_bytes(content)


def test_sizes_on_request(
    checkpoint: Path, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture.save(tmp_path / "a.png")
    given = ["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.csw"), "--codec", str(checkpoint)]
    assert main([*given, "--gain", "0.1"]) == 0
    least = (tmp_path / "a.csw").stat().st_size
    assert main([*given, "--gain", "1"]) == 0
    most = (tmp_path / "a.csw").stat().st_size
    wanted = (2 * least + 3 * most) // 5
    assert main([*given, "--target_size", f"{wanted / 1000}KB"]) == 0
    assert 0.97 * wanted < (tmp_path / "a.csw").stat().st_size <= wanted
    assert main([*given, "--target_bpp", str(8 * wanted / (205 * 140))]) == 0
    assert 0.97 * wanted < (tmp_path / "a.csw").stat().st_size <= wanted
    assert main([*given, "--target_size", "9MB"]) == 0 and (tmp_path / "a.csw").stat().st_size == most
    capsys.readouterr()
    for more, sentence in (
        (["--target_size", "90"], "The smallest file that this codec can make"),
        (["--gain", "1.7"], "The gain of this codec is 0.1 .* to 1, not 1.7"),
        (["--gain", "1", "--target_bpp", "1"], "each choose the rate"),
        (["--target_size", "large"], "--target_size is a size"),
        (["--codec", "tiny", "--target_bpp", "0.5"], "has one rate: .* another quality"),
    ):
        assert main([*given, *more]) == 2
        assert re.search(sentence, capsys.readouterr().err)


def test_the_level_is_the_closest_by_ratio_and_offsets_lie_between_those_of_two(random_tables: Callable) -> None:
    gains = tuple(np.float32([0.1, 0.2, 0.4, 1.0]).tolist())
    tables = tuple(random_tables(np.random.default_rng(seed), 2) for seed in range(4))
    rates = Rates(gains, tables, np.float32([[0, 1], [0.5, 0], [0.25, -1], [0, 0]]))
    for gain in np.geomspace(0.1, 1, 60):
        assert rates.level(gain) == np.abs(np.log(gains) - math.log(gain)).argmin()
        wanted = [np.interp(gain, gains, column) for column in rates.offsets.T]
        np.testing.assert_allclose(rates.offsets_at(gain), wanted, atol=1e-6)
    for gain, row in zip(gains, rates.offsets, strict=True):
        assert (rates.offsets_at(gain) == row).all()


@pytest.mark.parametrize("bend", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize("slope", [0.3, 0.7, 1.2])
def test_rate_control_needs_six_encodings_at_most(slope: float, bend: float, random_tables: Callable) -> None:
    rates = Rates((0.1, 1.0), (random_tables(np.random.default_rng(0), 2),))

    tried: list[float] = []

    def encode_at(gain: float) -> bytes:
        tried.append(gain)
        return bytes(size(gain))

    def size(gain: float) -> int:
        place = math.log(gain)
        return int(math.exp(11 + slope * place + bend * place**2 / 4))

    for share in np.linspace(0.02, 0.98, 9):
        wanted = int(size(0.1) ** (1 - share) * size(1.0) ** share)
        tried.clear()
        data = encode_to_size(encode_at, rates, wanted)
        assert (1 - CLOSE) * wanted <= len(data) <= wanted and len(tried) <= ENCODINGS


def test_training_at_changing_gains_and_a_curve_of_one_checkpoint(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fast = ["--batch_size", "4", "--num_workers", "0", "--recon_every", "0", "--accelerator", "cpu", "--epochs", "1"]
    start = ["--teacher", str(checkpoint), "--replacement", "subpixel", "--save_dir", str(tmp_path / "d")]
    assert main(["distill", "--coco_dir", str(pictures), *fast, *start]) == 0
    student = tmp_path / "d" / "last.pt"
    names = ["--checkpoint", str(student), "--images", str(pictures / "val"), "--anchors", "none"]
    assert main(["eval", *names, "--output", str(tmp_path / "e"), "--accelerator", "cpu"]) == 0
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    rates = {
        kind: [each["mean"]["bpp"] for each in summary["codecs"] if each["kind"] == kind]
        for kind in ("teacher", "student")
    }
    assert rates["teacher"] == rates["student"] == sorted(rates["teacher"]) and len(rates["teacher"]) == 8
    assert {each["curve"] for each in summary["codecs"]} == {"teacher", "student"}
    assert summary["bjontegaard"][0]["curve"] == "student"
    codec = load_codec(str(checkpoint))
    results = evaluate(list((pictures / "val").iterdir())[:1], {"a": codec})
    assert [result.name for result in results] == [f"a, gain {gain:.3g}" for gain in codec.gains]


def test_gains_of_training_follow_seed_and_step() -> None:
    codec = ours(theirs("mbt2018_mean_vbr"))
    pair = TeacherStudent(codec, swap(codec, "subpixel")[0])
    seen = set()
    for step in range(64):
        pair.draw_gain(hash((7, step)))
        assert pair.student.gain == pair.teacher.gain
        seen.add(pair.teacher.gain)
    assert seen == set(codec.gains)
