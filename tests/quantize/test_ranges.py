"""No bias leaves int32, however small the weights of its row are; and none need be there."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.export.backends.onnx import write_onnx
from codecswap.export.backends.onnx_qdq import write_qdq
from codecswap.export.codec import quantize
from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import LoweredGDN
from codecswap.graph.trace import trace
from codecswap.inference.runtime import OnnxCodec, open_session
from codecswap.quantize.ranges import LARGEST_BIAS, calibrate, inner_tensors
from codecswap.quantized.precision import Precision
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.swaps.calibrate import calibrate as fit


@pytest.mark.parametrize("name", ["w8a8", "mixed", "w8a16"])
def test_rows_of_gamma_near_zero_leave_the_bias_in_int32(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    gamma = torch.rand(6, 6) * 0.3 + 0.7 * torch.eye(6)
    gamma[2] *= 1e-12
    gamma[4] = 0
    module = nn.Sequential(LoweredGDN(torch.rand(6) + 0.5, gamma, inverse=True))
    path = tmp_path / "float.onnx"
    write_onnx(trace(module, input="split_inputs", shape=(1, 6, 8, 8), output="picture", prefix="g_s"), path, 13)
    model, feed = onnx.load(path), torch.randn(1, 6, 8, 8).numpy()
    transform = calibrate(
        model,
        [feed],
        method="minmax",
        percentile=100,
        precision=Precision.of(name, "uint8", 8),
        known={},
        gdns=["g_s.0"],
        keep=[],
    )
    step = next(step for step in transform.operations if step.operator == "Conv")
    weight, bias = (transform.constants[name] for name in step.inputs[1:])
    exact = graph.weights(model)[step.inputs[2]]
    ideal = np.abs(exact.astype(np.float64) / bias.quantization.scale)
    assert ideal.max() <= LARGEST_BIAS * (1 + 1e-6)
    # worst case of what a device adds up, with 8 bits: products of all inputs, and the bias
    if name != "w8a16":
        sums = np.abs(weight.values.astype(np.int64)).sum((1, 2, 3)) * 255 + np.abs(bias.values.astype(np.int64))
        assert sums.max() < 1 << 31
    unit = transform.activations[step.inputs[0]].scale
    assert np.allclose(bias.quantization.scale, unit * weight.quantization.scale, rtol=1e-6)
    assert np.abs(bias.real - exact).max() < 1e-3  # and still says what it said
    assert (
        np.abs(weight.real[[0, 1, 3, 5]] - gamma.numpy()[[0, 1, 3, 5], :, None, None]).max() < 1 / 127
    )  # others stay fine


@pytest.mark.parametrize(("name", "clips"), [("w8a8", True), ("w8a16", False)])
def test_16_bits_have_room_for_other_pictures(tmp_path: Path, name: str, clips: bool) -> None:
    torch.manual_seed(0)
    module, path = nn.Sequential(LoweredGDN(torch.rand(6) + 0.5, 0.1 * torch.rand(6, 6), inverse=True)), tmp_path / "f"
    write_onnx(trace(module, input="split_inputs", shape=(1, 6, 8, 8), output="picture", prefix="g_s"), path, 13)
    feed = torch.randn(1, 6, 8, 8)
    precision = Precision.of(name, "uint8", 8)
    how: dict[str, Any] = {"method": "minmax", "percentile": 100, "gdns": ["g_s.0"], "keep": []}
    transform = calibrate(onnx.load(path), [feed.numpy()], precision=precision, known={}, **how)
    write_qdq(transform, tmp_path / "q", 13)
    louder = 1.3 * feed  # 1.7 times the square, and its root's input
    (found,) = open_session(str(tmp_path / "q"), exact=True).run(None, {"split_inputs": louder.numpy()})
    wanted = module(louder).detach().numpy()
    assert (np.abs(found - wanted).max() > 0.2 * np.abs(wanted).max()) == clips


def swapped(gdn: str, samples: Sequence[np.ndarray]) -> Codec:
    """`tiny` without a transposed convolution, and with ``gdn`` fitted to pictures."""
    teacher = load_codec("tiny")
    codec = swap_gdn(swap(teacher, "subpixel")[0], gdn)[0].requires_grad_(False)
    fit(teacher, codec, teacher.quantize(teacher.g_a(torch.from_numpy(np.stack(samples)))))
    return codec


@pytest.mark.parametrize("gdn", ["gdn1", "gdnish", "relu", "none"])
def test_every_form_of_gdn_has_an_8_bit_file(tmp_path: Path, gdn: str) -> None:
    """``gdnish`` has convolutions without a bias, and several layers with the same weights."""
    samples = list(islice(sample_pictures(None, "", "train", (128, 128)), 8))
    codec = swapped(gdn, samples)
    quantize(codec, tmp_path, calibration_images=samples, width=128, height=128, weight_bits=8)
    torch_codec = TorchCodec(codec)
    symbols = torch_codec.tables.to_symbols(torch_codec.analyze(samples[0]))
    wanted, found = torch_codec.synthesize(symbols), OnnxCodec(tmp_path, threads=1).synthesize(symbols)
    assert np.square(np.clip(wanted, 0, 1) - found).mean() < 0.01 * np.square(wanted - wanted.mean()).mean()


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("precision", ["w8a8", "mixed", "w8a16"])
def test_a_gain_stays_between_its_ends(tmp_path: Path, precision: str, activations: str) -> None:
    """What a Clip reads and what it puts out have one rounding, whose last level is the upper end."""
    samples = list(islice(sample_pictures(None, "", "train", (128, 128)), 8))
    codec = swapped("gdnish", samples)
    kinds: dict[str, Any] = {"precision": precision, "activations": activations}
    made, _ = quantize(codec, calibration_images=samples, width=128, height=128, weight_bits=8, **kinds)
    transform = made.networks["decoder"].transform
    clips = [step for step in transform.operations if step.operator == "Clip"]
    assert len(clips) == 3
    for step in clips:
        given, low, high = step.inputs
        before, after = transform.activations[given], transform.activations[step.output]
        assert before == after
        assert (transform.constants[low].real, transform.constants[high].real) == (0.5, 2)
        assert before.range[1] == pytest.approx(2, rel=1e-6)
        assert before.range[0] == pytest.approx(-2 if before.zero_point.dtype == np.int16 else 0, rel=1e-4)


def test_inner_tensors_are_those_that_only_their_layer_reads() -> None:
    nodes = [
        helper.make_node("Conv", ["split_inputs", "w"], ["x"], "g_s.0/Conv"),
        helper.make_node("Mul", ["x", "x"], ["square"], "g_s.1/Mul"),
        helper.make_node("Relu", ["square"], ["ramp"], "g_s.1/Relu"),
        helper.make_node("Mul", ["x", "ramp"], ["product"], "g_s.1/Mul_1"),
        helper.make_node("Conv", ["product", "w"], ["y"], "g_s.2/Conv"),
        helper.make_node("Mul", ["y", "y"], ["picture"], "g_s.3/Mul"),
    ]
    given, put_out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("split_inputs", "picture")
    )
    model = helper.make_model(helper.make_graph(nodes, "", [given], [put_out]))
    assert inner_tensors(model, ["g_s.1", "g_s.3"]) == ["square", "ramp"]
