"""A quantized transform says all that a file of it computes: it is computed here with NumPy alone."""

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.export.backends.onnx_qdq import read_qdq, write_qdq
from codecswap.export.codec import quantize
from codecswap.inference.check import agreement
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantize.ranges import LARGEST_BIAS
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph
from codecswap.swaps.apply import swap

SIZE = (64, 48)
CASES = {
    "subpixel": {"part": "both"},
    "none": {"activations": "int8", "keep": ["g_s.6"]},
    "masked": {"refit": False},
    "subpixel w8a16": {"part": "both", "precision": "w8a16"},
    "subpixel mixed": {"part": "both", "precision": "mixed"},
    "none w8a16": {"activations": "int8", "precision": "w8a16", "refit": False},
}
"""By the replacement, and what tells two of one replacement apart: options of a folder."""


def compute(transform: TransformGraph, x: np.ndarray) -> np.ndarray:
    """What a transform means, in float64 between roundings."""
    values = {name: constant.real.astype(np.float64) for name, constant in transform.constants.items()}

    def put(name: str, value: np.ndarray) -> None:
        rounding = transform.activations.get(name)
        single = value.astype(np.float32)
        values[name] = (rounding.dequantize(rounding.quantize(single)) if rounding else single).astype(np.float64)

    put(transform.input, x)
    for step in transform.operations:
        inputs = [values[name] if name else np.zeros(0) for name in step.inputs]
        put(step.output, OPERATORS[step.operator](step, *inputs))
    return values[transform.output]


def conv(step: Operation, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    top, left, bottom, right = step.attributes["pads"]
    (kernel, _), (stride, _) = step.attributes["kernel_shape"], step.attributes["strides"]
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True) + bias[:, None, None]


def conv_transpose(step: Operation, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    (kernel, _), (stride, _) = step.attributes["kernel_shape"], step.attributes["strides"]
    before, extra = step.attributes["pads"][0], step.attributes["output_padding"][0]
    batch, channels, height, width = x.shape
    apart = np.zeros((batch, channels, stride * (height - 1) + 1, stride * (width - 1) + 1))
    apart[:, :, ::stride, ::stride] = x
    sides = (kernel - 1 - before, kernel - 1 - before + extra)
    windows = sliding_window_view(np.pad(apart, ((0, 0), (0, 0), sides, sides)), (kernel, kernel), (2, 3))
    flipped = weight[:, :, ::-1, ::-1]
    return np.einsum("bchwij,coij->bohw", windows, flipped, optimize=True) + bias[:, None, None]


def depth_to_space(step: Operation, x: np.ndarray) -> np.ndarray:
    assert (step.attributes["mode"], step.attributes["blocksize"]) == ("CRD", 2)
    batch, channels, height, width = x.shape
    parts = x.reshape(batch, channels // 4, 2, 2, height, width).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(batch, channels // 4, 2 * height, 2 * width)


def resize(step: Operation, x: np.ndarray, roi: np.ndarray, scales: np.ndarray) -> np.ndarray:
    assert step.attributes["mode"] == "nearest" and scales.tolist() == [1, 1, 2, 2]
    return x.repeat(2, 2).repeat(2, 3)


OPERATORS = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Resize": resize,
    "Add": lambda step, a, b: a + b,
    "Mul": lambda step, a, b: a * b,
    "Div": lambda step, a, b: a / b,
    "Sqrt": lambda step, x: np.sqrt(x),
}


@pytest.fixture(scope="module")
def pictures_and_symbols() -> tuple[list[np.ndarray], list[np.ndarray]]:
    samples = list(islice(sample_pictures(None, "", "train", SIZE), 2))
    codec = TorchCodec(load_codec("tiny"))
    return samples, [codec.tables.to_symbols(codec.analyze(sample)) for sample in samples]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, pictures_and_symbols: tuple) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("representation")
    for name, values in CASES.items():
        codec, replacement = load_codec("tiny"), name.split()[0]
        codec = codec if replacement == "none" else swap(codec, replacement)[0]
        values |= {"width": SIZE[0], "height": SIZE[1], "calibration_images": pictures_and_symbols[0]}
        quantize(codec.requires_grad_(False), root / name, **values)
    return {name: root / name for name in CASES}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (name, part)
        for name, case in CASES.items()
        for part in ("decoder", "encoder")
        if case.get("part", "decoder") in ("both", part)
    ],
)
def test_numpy_and_onnx_runtime_compute_the_same(
    folders: dict[str, Path], pictures_and_symbols: tuple, name: str, part: str
) -> None:
    folder = OnnxCodec(folders[name], threads=1, reference=True)
    transform = read_qdq(onnx.load(folders[name] / f"{part}.onnx"))
    for picture, symbols in zip(*pictures_and_symbols, strict=True):
        if part == "decoder":
            expected, given = folder.synthesize(symbols), folder.manifest.split_inputs.split(symbols)
        else:
            expected, given = folder.analyze(picture), picture
        found = compute(transform, given[None])[0]
        assert agreement(part, found, expected) > 65  # sums in another order: few roundings fall the other way


def test_weights_are_integers_with_scales_and_kept_layers_are_float(folders: dict[str, Path]) -> None:
    transform = read_qdq(onnx.load(folders["none"] / "decoder.onnx"))
    kept = set()
    for step in transform.operations:
        if step.operator not in ("Conv", "ConvTranspose"):
            continue
        weight, bias = (transform.constants[name] for name in step.inputs[1:])
        if step.layer in CASES["none"]["keep"]:
            kept.add(step.layer)
            assert weight.values.dtype == bias.values.dtype == np.float32
            assert weight.quantization is None and step.output not in transform.activations
            continue
        assert weight.values.dtype == np.int8 and np.abs(weight.values.astype(int)).max() == 127
        channels = weight.values.shape[weight.quantization.axis]
        assert weight.quantization.axis == (1 if step.operator == "ConvTranspose" else 0)
        assert weight.quantization.scale.shape == (channels,) and not weight.quantization.zero_point.any()
        assert bias.values.dtype == np.int32
        product = transform.activations[step.inputs[0]].scale * weight.quantization.scale
        assert np.allclose(bias.quantization.scale, product, rtol=1e-6)  # so that a device adds it to its int32 sums
        assert transform.activations[step.output].zero_point.dtype == np.int8
    assert kept == {"g_s.6"}
    assert transform.activations["split_inputs"].range == (-128, 127)


def test_zero_insertion_leaves_the_symbols_exact(folders: dict[str, Path]) -> None:
    transform = read_qdq(onnx.load(folders["masked"] / "decoder.onnx"))
    moved = [step.output for step in transform.operations if step.layer == "g_s.0" and step.operator != "Conv"]
    assert len(moved) == 2 and all(transform.activations[name].range == (-128, 127) for name in moved)


def dtypes(transform: TransformGraph, layer: str) -> list[str]:
    """Types of what a layer's operations put out, in order."""
    steps = [step for step in transform.operations if step.layer == layer]
    return [transform.activations[step.output].zero_point.dtype.name for step in steps]


def test_mixed_has_8_bits_inside_gdns_only(folders: dict[str, Path]) -> None:
    decoder, encoder = (
        read_qdq(onnx.load(folders["subpixel mixed"] / f"{part}.onnx")) for part in ("decoder", "encoder")
    )
    assert (
        decoder.activations["split_inputs"].zero_point.dtype
        == encoder.activations["picture"].zero_point.dtype
        == np.uint16
    )
    assert dtypes(decoder, "g_s.0") == dtypes(decoder, "g_s.2") == ["uint16", "uint16"]
    assert dtypes(decoder, "g_s.1") == ["uint8", "uint8", "uint8", "uint16"]  # square, weighted sum, root, product
    assert dtypes(encoder, "g_a.1") == ["uint8", "uint8", "uint8", "uint16"]
    assert (
        dtypes(decoder, "g_s.6") == ["uint16", "uint16"] and dtypes(encoder, "g_a.6") == ["uint16"] * 3
    )  # coarse, fine, sum
    largest = {
        s.layer: np.abs(decoder.constants[s.inputs[1]].values.astype(int)).max()
        for s in decoder.operations
        if s.operator == "Conv"
    }
    assert largest == {f"g_s.{layer}": 127 for layer in range(7)}


def test_w8a16_has_16_bits_everywhere(folders: dict[str, Path]) -> None:
    for name, kind in (("subpixel w8a16", "uint16"), ("none w8a16", "int16")):
        transform = read_qdq(onnx.load(folders[name] / "decoder.onnx"))
        assert {rounding.zero_point.dtype.name for rounding in transform.activations.values()} == {kind}
        assert kind == "uint16" or not any(rounding.zero_point for rounding in transform.activations.values())
        assert {constant.values.dtype.name for constant in transform.constants.values() if constant.quantization} == {
            "int8",
            "int32",
        }


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_back(folders: dict[str, Path], tmp_path: Path, name: str, opset: int) -> None:
    first = read_qdq(onnx.load(folders[name] / "decoder.onnx"))
    write_qdq(first, tmp_path / "again.onnx", opset)
    written = onnx.load(tmp_path / "again.onnx")
    wide = any(rounding.zero_point.dtype.itemsize == 2 for rounding in first.activations.values())
    assert {node.domain for node in written.graph.node} == ({"", "com.microsoft"} if wide and opset < 21 else {""})
    second = read_qdq(written)
    assert first.operations == second.operations
    assert (first.input, first.input_shape, first.output) == (second.input, second.input_shape, second.output)
    for some, others in ((first.constants, second.constants), (first.activations, second.activations)):
        assert set(some) == set(others)
        for key, value in some.items():
            assert all(map(np.array_equal, numbers(value), numbers(others[key])))


def numbers(value: Constant | Quantization) -> list[np.ndarray]:
    """All that a value holds."""
    if isinstance(value, Constant):
        return [value.values, *(numbers(value.quantization) if value.quantization else [])]
    return [value.scale, value.zero_point, np.array(value.zero_point.dtype.name), np.array(value.axis)]


def test_rounding_is_half_to_even_and_clipped() -> None:
    rounding = Quantization.fixed(0.5, -4, "uint8")
    assert rounding.range == (-2, 125.5)
    real = np.array([-9, -2, 0.25, 0.75, 1.25, 200], np.float32)
    assert rounding.quantize(real).tolist() == [0, 0, 4, 6, 6, 255]
    assert rounding.dequantize(rounding.quantize(real)).tolist() == [-2, -2, 0, 1, 1, 125.5]
    channels = Quantization(np.array([1, 2], np.float32), np.zeros(2, np.int8), axis=1)
    assert channels.dequantize(np.ones((1, 2, 1, 1), np.int8)).flatten().tolist() == [1, 2]


def test_a_graph_that_reads_a_tensor_before_its_rounding_is_refused(folders: dict[str, Path]) -> None:
    model = onnx.load(folders["subpixel"] / "decoder.onnx")
    square = next(node for node in model.graph.node if node.op_type == "Mul")
    square.input[0] = square.input[0].removesuffix("_dequantized")
    with pytest.raises(ValueError, match="before rounding"):
        read_qdq(model)


@pytest.mark.parametrize("name", CASES)
def test_biases_leave_half_of_int32_to_the_products(folders: dict[str, Path], name: str) -> None:
    transform = read_qdq(onnx.load(folders[name] / "decoder.onnx"))
    biases = [constant for constant in transform.constants.values() if constant.values.dtype == np.int32]
    assert len(biases) >= 6
    assert max(np.abs(bias.values.astype(np.int64)).max() for bias in biases) <= LARGEST_BIAS * (1 + 1e-6)
