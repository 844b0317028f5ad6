"""INT8: symbols that fit exactly, weights rounded with compensation, and the command from codec to folder."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture
from codecswap.entropy import bitstream
from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.inference.runtime import OnnxCodec
from codecswap.inference.split_inputs import SplitInputs
from codecswap.quantize import codec as library
from codecswap.quantize.rounding import round_weights
from codecswap.swaps.apply import swap


@pytest.mark.parametrize("replacement", ["none", "masked", "subpixel"])
@torch.no_grad()
def test_split_inputs_are_the_latents_borders_included(teacher: FactorizedPrior, replacement: str) -> None:
    codec = teacher if replacement == "none" else swap(teacher, replacement)[0]
    tables = codec.entropy_tables()
    rng = np.random.default_rng(0)
    wide = np.minimum(tables.lengths - 3, 200)[:, None, None]
    symbols = (tables.offsets[:, None, None] + rng.integers(0, wide + 1, (80, 4, 3))).astype(np.int32)
    taken = take_split_inputs(lower(codec.g_s), SplitInputs.for_tables(tables), tables.medians)
    assert taken
    transform, split_inputs = taken
    given = split_inputs.split(symbols)
    assert len(given) == len(split_inputs.channels) + 1 > 73  # the widest channel needs more than one
    assert (np.rint(given) == given).all() and np.abs(given).max() <= 127
    expected = codec.g_s(torch.from_numpy(tables.to_latents(symbols))[None])
    error = (transform(torch.from_numpy(given)[None]) - expected).abs().max()
    assert error < 1e-5 * expected.abs().max()


def test_a_channel_beyond_8_bits_is_split_into_parts_that_add_up() -> None:
    split_inputs = SplitInputs([0, 1, 1, 1], [0, 5], 1)
    symbols = np.array([-3, 4, 0, 127, -127, -300, 300, 376]).reshape(2, 4, 1).astype(np.int32)
    given = split_inputs.split(symbols)
    assert (given[0] == symbols[0]).all()
    assert (given[1:4].sum(0) == symbols[1] + 5).all()
    assert (given[4] == 1).all()


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_rounding_with_compensation_beats_rounding_to_nearest(stride: int) -> None:
    torch.manual_seed(0)
    mixed = torch.randn(8, 8) / 3 + torch.eye(8)
    samples = [torch.einsum("ij,bjhw->bihw", mixed, torch.randn(1, 8, 24, 24)) for _ in range(4)]
    conv = nn.Conv2d(8, 5, 3, stride=stride, padding=1)
    wanted = [conv(x) for x in samples]
    steps = conv.weight.abs().flatten(1).amax(1) / 7  # coarse, so that there is something to win
    nearest = (conv.weight / steps[:, None, None, None]).round() * steps[:, None, None, None]
    lost = sum(
        (F.conv2d(x, nearest, conv.bias, stride, 1) - y).square().mean() for x, y in zip(samples, wanted, strict=True)
    )
    scales = round_weights(nn.Sequential(conv), samples, exact_input=True, levels=7)
    left = sum((conv(x) - y).square().mean() for x, y in zip(samples, wanted, strict=True))
    assert left < 0.7 * lost
    levels = conv.weight / scales["0.weight"][:, None, None, None]
    assert (levels - levels.round()).abs().max() < 1e-4 and levels.abs().max() < 7.001


@pytest.mark.parametrize(
    ("precision", "least"),
    [
        ("w8a8", 38),
        pytest.param("mixed", 44, marks=pytest.mark.slow),
        pytest.param("w8a16", 46, marks=pytest.mark.slow),
    ],
)
def test_the_command_makes_a_codec_that_decodes_what_the_teacher_wrote(
    teacher: FactorizedPrior,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    precision: str,
    least: float,
) -> None:
    folder = tmp_path / precision
    arguments = [
        "quantize",
        "--teacher",
        "tiny",
        "--precision",
        precision,
        "--output",
        str(folder),
        "--calibration_images",
        str(pictures / "train"),
    ]
    fixed = ["--height", "160", "--width", "240", "--images", str(pictures / "val"), "--calibration_count", "4"]
    assert cli.main([*arguments, *fixed]) == 0
    printed = capsys.readouterr().out
    assert "g_s.5" in printed and precision in printed
    manifest = json.loads((folder / "codec.json").read_text())
    assert (manifest["precision"], manifest["decoder"]["input"], manifest["encoder"]) == (
        precision,
        "split_inputs",
        None,
    )
    weights = graph.weights(onnx.load(folder / "decoder.onnx"))
    assert weights["g_s.2.0.weight_quantized"].dtype == np.int8
    assert (folder / "decoder.onnx").stat().st_size < 0.32 * 4 * 303_132
    picture = load_picture(scan(pictures / "val")[0]).crop((0, 0, 240, 160))
    data = bitstream.encode(TorchCodec(teacher), picture)
    exact = np.asarray(bitstream.decode(TorchCodec(teacher), data), float)
    decoded = np.asarray(bitstream.decode(OnnxCodec(folder, threads=1), data), float)
    assert 10 * np.log10(255**2 / np.square(exact - decoded).mean()) > least


@pytest.mark.slow
def test_an_encoder_of_16_bits_writes_almost_the_same(
    teacher: FactorizedPrior, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last weights are coarse and fine ones; and a layer that is kept in float stays in float."""
    arguments = ["quantize", "--teacher", "tiny", "--part", "encoder", "--calibration_images", str(pictures / "train")]
    common = ["--images", str(pictures / "val"), "--precision", "w8a16"]
    plain = TorchCodec(teacher)

    def error(name: str, *more: str) -> float:
        assert cli.main([*arguments, *common, *more, "--output", str(tmp_path / name)]) == 0
        codec, exact, errors = OnnxCodec(tmp_path / name, threads=1), OnnxCodec(tmp_path / name, reference=True), []
        for path in scan(pictures / "val"):
            picture = np.asarray(load_picture(path).crop((0, 0, 240, 160)), np.float32).transpose(2, 0, 1) / 255
            latents = codec.analyze(picture)
            assert np.abs(latents - exact.analyze(picture)).max() < 0.01
            errors.append(np.square(latents - plain.analyze(picture)).mean())
        return float(np.mean(errors))

    fine, kept = error("fine"), error("kept", "--keep", "[g_a.4]")
    assert graph.weights(onnx.load(tmp_path / "fine" / "encoder.onnx"))["g_a.6.fine.weight_quantized"].dtype == np.int8
    monkeypatch.setattr(library, "split_weights", lambda transform, layers, levels: None)
    coarse = error("coarse")
    assert max(fine, kept) < 0.5 * coarse


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "[g_s.9]"], "g_s.9"),
        (["--opset", "12"], "13 to 20"),
        (["--calibration_count", "0"], "at least 1"),
        (["--calibration_images", "no"], "There is no folder no"),
    ],
)
def test_the_impossible_is_one_sentence(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["quantize", "--teacher", "tiny", "--output", str(tmp_path / "x"), *arguments]) == 2
    assert words in capsys.readouterr().err
