"""Ranges and integers of a quantized graph: ONNX Runtime's quantizer finds the same; any operator has a rule."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from residual import Residual
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.export.backends.onnx import to_onnx
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.export.codec import quantize
from codecswap.graph.lower import LoweredGDN, lower
from codecswap.graph.trace import trace
from codecswap.inference.runtime import OnnxCodec
from codecswap.layers.gdn import PlainActivation
from codecswap.quantize.ranges import HEADROOM, LARGEST_BIAS, inner_tensors, quantize_graph
from codecswap.quantized.compute import compute
from codecswap.quantized.precision import PRECISIONS, Precision
from codecswap.quantized.representation import Operation, TransformGraph
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.swaps.calibrate import calibrate as fit

OPERATORS = [
    "Abs",
    "Add",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "Div",
    "Mul",
    "Reciprocal",
    "Relu",
    "Resize",
    "Sqrt",
]
TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8, "uint16": QuantType.QUInt16, "int16": QuantType.QInt16}


class Feeds(CalibrationDataReader):
    def __init__(self, name: str, feeds: Sequence[np.ndarray]) -> None:
        self.left: Iterator[dict[str, np.ndarray]] = iter([{name: feed} for feed in feeds])

    def get_next(self) -> Any:
        return next(self.left, None)


def traced(module: nn.Module, x: Tensor) -> TransformGraph:
    return trace(module.eval(), input="split_inputs", shape=tuple(x.shape), output="picture", prefix="g_s")


@pytest.mark.parametrize("replacement", ["none", "masked", "subpixel"])
@pytest.mark.parametrize(
    ("name", "activations"), [("w8a8", "uint8"), ("w8a8", "int8"), ("mixed", "uint8"), ("w8a16", "int8")]
)
def test_onnx_runtimes_quantizer_finds_the_same(tmp_path: Path, replacement: str, name: str, activations: str) -> None:
    codec = load_codec("tiny")
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    torch.manual_seed(0)
    tree, feeds = lower(codec.g_s), [encode(codec, torch.rand(1, 3, 64, 48)) for _ in range(2)]
    graph, precision = traced(tree, feeds[0]), Precision.of(name, activations, 8)
    gdns = [f"g_s.{path}" for path, layer in tree.named_modules() if isinstance(layer, PlainActivation)]
    arrays = [feed.numpy() for feed in feeds]
    found = quantize_graph(graph, arrays, precision, gdns=gdns)
    onnx.save(to_onnx(graph, 13), tmp_path / "float.onnx")
    inner = {tensor: [{"quant_type": TYPES[precision.inside]}] for tensor in inner_tensors(graph, gdns)}
    quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "quantized.onnx",
        Feeds("split_inputs", arrays),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OPERATORS,
        per_channel=True,
        activation_type=TYPES[precision.between],
        weight_type=QuantType.QInt8,
        extra_options={
            "TensorQuantOverrides": inner,
            "ActivationSymmetric": precision.between == "int16",
            "QDQDisableWeightAdjustForInt32Bias": True,
        },
    )
    oracle = read_qdq(onnx.load(tmp_path / "quantized.onnx"))
    # ONNX Runtime does not round an input that is resized first
    read = found.activations.keys() - ({"split_inputs"} if found.operations[0].operator == "Resize" else set())
    assert read == oracle.activations.keys()
    for tensor in read:
        rounding = found.activations[tensor]
        other, wide = oracle.activations[tensor], rounding.zero_point.dtype.itemsize == 2
        np.testing.assert_allclose(rounding.scale, (HEADROOM if wide else 1) * other.scale, rtol=1e-5)
        assert rounding.zero_point.dtype == other.zero_point.dtype
        assert abs(int(rounding.zero_point) - int(other.zero_point)) <= wide  # one of 65,536 by rounding in float32
    assert found.constants.keys() == oracle.constants.keys()
    for step in found.operations:
        if step.operator in ("Conv", "ConvTranspose"):
            one, by_oracle = (transform.constants[step.inputs[1]].quantization for transform in (found, oracle))
            assert one and by_oracle and one.axis == by_oracle.axis
            wider = abs(found.constants[step.inputs[2]].values.astype(int)) > 0.9 * LARGEST_BIAS  # for the bias
            np.testing.assert_allclose(one.scale[~wider], by_oracle.scale[~wider], rtol=1e-5)
            assert not wider.all()


@pytest.mark.parametrize("name", PRECISIONS)
def test_rows_of_gamma_near_zero_leave_the_bias_in_int32(name: str) -> None:
    torch.manual_seed(0)
    gamma = torch.rand(6, 6) * 0.3 + 0.7 * torch.eye(6)
    gamma[2] *= 1e-12
    gamma[4] = 0
    module, x = nn.Sequential(LoweredGDN(torch.rand(6) + 0.5, gamma, inverse=True)), torch.randn(1, 6, 8, 8)
    graph = traced(module, x)
    transform = quantize_graph(graph, [x.numpy()], Precision.of(name, "uint8", 8), gdns=["g_s.0"])
    step = next(step for step in transform.operations if step.operator == "Conv")
    weight, bias = (transform.constants[name] for name in step.inputs[1:])
    assert weight.quantization and bias.quantization
    exact = graph.constants[step.inputs[2]].values
    ideal = np.abs(exact.astype(np.float64) / bias.quantization.scale)
    assert ideal.max() <= LARGEST_BIAS * (1 + 1e-6)
    # worst case of what a device adds up, with 8 bits: products of all inputs, and the bias
    if name != "w8a16":
        sums = np.abs(weight.values.astype(np.int64)).sum((1, 2, 3)) * 255 + np.abs(bias.values.astype(np.int64))
        assert sums.max() < 1 << 31
    unit = transform.activations[step.inputs[0]].scale
    assert np.allclose(bias.quantization.scale, unit * weight.quantization.scale, rtol=1e-6)
    assert np.abs(bias.real - exact).max() < 1e-3  # and still says what it said
    rows = [0, 1, 3, 5]
    assert np.abs(weight.real[rows] - gamma.numpy()[rows, :, None, None]).max() < 1 / 127  # others stay fine


@pytest.mark.parametrize(("name", "clips"), [("w8a8", True), ("w8a16", False)])
@torch.no_grad()
def test_16_bits_have_room_for_other_pictures(name: str, clips: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(LoweredGDN(torch.rand(6) + 0.5, 0.1 * torch.rand(6, 6), inverse=True))
    x = torch.randn(1, 6, 8, 8)
    transform = quantize_graph(traced(module, x), [x.numpy()], Precision.of(name), gdns=["g_s.0"])
    louder = 1.3 * x  # 1.7 times the square, and its root's input
    wanted = module(louder)
    assert ((compute(transform, louder) - wanted).abs().max() > 0.2 * wanted.abs().max()) == clips


def swapped(gdn: str, samples: Sequence[np.ndarray]) -> Codec:
    """`tiny` without a transposed convolution, and with ``gdn`` fitted to pictures."""
    teacher = load_codec("tiny")
    codec = swap_gdn(swap(teacher, "subpixel")[0], gdn)[0].requires_grad_(False)
    fit(teacher, codec, teacher.quantize(teacher.g_a(torch.from_numpy(np.stack(samples)))))
    return codec


@pytest.mark.parametrize(
    "gdn", [pytest.param("gdn1", marks=pytest.mark.slow), "relu", pytest.param("none", marks=pytest.mark.slow)]
)
def test_every_form_of_gdn_has_an_8_bit_file(tmp_path: Path, gdn: str) -> None:
    samples = list(islice(sample_pictures(None, "", "train", (128, 128)), 8))
    codec = swapped(gdn, samples)
    quantize(codec, tmp_path, calibration_images=samples, width=128, height=128)
    torch_codec = TorchCodec(codec)
    symbols = torch_codec.tables.to_symbols(torch_codec.analyze(samples[0]))
    wanted, found = torch_codec.synthesize(symbols), OnnxCodec(tmp_path, threads=1).synthesize(symbols)
    assert np.square(np.clip(wanted, 0, 1) - found).mean() < 0.01 * np.square(wanted - wanted.mean()).mean()


class Blocks(nn.Module):
    """Operators with rules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.mask = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.relu, self.shuffle, self.last = nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.first(x), 10 * self.second(x)
        both = self.relu(first + second) * torch.sigmoid(self.mask(first))
        return self.last(self.shuffle(self.relu(torch.cat([both, first], 1))))


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", PRECISIONS)
@torch.no_grad()
def test_operators_share_scales_where_values_only_move(name: str, activations: str) -> None:
    torch.manual_seed(0)
    module, x = Blocks(), torch.randn(1, 4, 8, 8)
    transform = quantize_graph(traced(module, x), [x.numpy()], Precision.of(name, activations, 8))
    scales = {(step.operator, step.layer): transform.activations[step.output] for step in transform.operations}
    given = {step.operator: [transform.activations.get(one) for one in step.inputs] for step in transform.operations}
    first, second = given["Add"]
    assert first and second and first.scale < 0.5 * second.scale
    concat, shuffled = given["Concat"], given["DepthToSpace"]
    assert concat[0] is concat[1] is shuffled[0] is scales["DepthToSpace", "g_s.shuffle"]
    signed = scales["Add", "g_s"].zero_point.dtype == np.int16
    # the rounding is the Relu, where it has no level below 0; the other reads the first convolution's negative values, too
    assert len([step for step in transform.operations if step.operator == "Relu"]) == 1 + signed
    assert scales["Add", "g_s"].range[0] < 0 if signed else scales["Add", "g_s"].range[0] == 0
    low, high = scales["Sigmoid", "g_s"].range
    assert (0 if scales["Sigmoid", "g_s"].zero_point.dtype != np.int16 else -1) == pytest.approx(low, abs=1e-4)
    assert high == pytest.approx(1, rel=0.01)
    exact, error = module(x), compute(transform, x) - module(x)
    assert error.square().mean() < (1e-3 if name == "w8a8" else 1e-4) * exact.square().mean()


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("part", ["g_a", "g_s"])
@torch.no_grad()
def test_residual_and_attention_blocks(part: str, name: str) -> None:
    torch.manual_seed(0)
    codec = Residual(6, 6).eval()
    x = torch.rand(1, 3, 96, 64) if part == "g_a" else torch.randn(1, 6, 6, 4)
    tree = lower(getattr(codec, part), prefix=part)
    transform = quantize_graph(traced(tree, x), [x.numpy()], Precision.of(name, "int8"))
    assert all(step.output in transform.activations for step in transform.operations)
    exact = tree(x)
    assert (compute(transform, x) - exact).var() < (0.02 if name == "w8a8" else 0.001) * exact.var()


@torch.no_grad()
def test_layers_kept_in_float() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    module, x = nn.Sequential(nn.Conv2d(4, 4, 3), block, nn.Conv2d(4, 3, 3)), torch.randn(1, 4, 12, 12)
    transform = quantize_graph(traced(module, x), [x.numpy()], Precision.of("w8a8"), keep=["g_s.1"])
    rounded = {step.layer: step.output in transform.activations for step in transform.operations}
    assert rounded == {"g_s.0": True, "g_s.1.0": False, "g_s.1.1": False, "g_s.1.2": True, "g_s.2": True}
    kept = {name for name, constant in transform.constants.items() if constant.quantization is None}
    assert kept == {"g_s.1.0.weight", "g_s.1.0.bias", "g_s.1.2.weight", "g_s.1.2.bias"}


@torch.no_grad()
def test_a_layer_that_is_called_twice_has_two_biases() -> None:
    torch.manual_seed(0)
    twice = nn.Conv2d(4, 4, 1)
    module, x = nn.Sequential(twice, nn.Conv2d(4, 4, 1), twice), torch.randn(1, 4, 8, 8)
    transform = quantize_graph(traced(module, 10 * x), [10 * x.numpy()], Precision.of("w8a8", "uint8", 8))
    exact = module(10 * x)
    assert (compute(transform, 10 * x) - exact).square().mean() < 1e-3 * exact.square().mean()


def test_inner_tensors_are_those_that_only_their_layer_reads() -> None:
    steps = [
        ("g_s.0", "Conv", ("split_inputs", "w"), "x"),
        ("g_s.1", "Mul", ("x", "x"), "square"),
        ("g_s.1", "Relu", ("square",), "ramp"),
        ("g_s.1", "Mul", ("x", "ramp"), "product"),
        ("g_s.2", "Conv", ("product", "w"), "y"),
        ("g_s.3", "Mul", ("y", "y"), "picture"),
    ]
    operations = tuple(Operation(output, layer, kind, {}, inputs, output) for layer, kind, inputs, output in steps)
    graph = TransformGraph("split_inputs", (1, 3, 4, 4), "picture", (1, 3, 4, 4), operations, {}, {})
    assert inner_tensors(graph, ["g_s.1", "g_s.3"]) == {"square", "ramp"}
