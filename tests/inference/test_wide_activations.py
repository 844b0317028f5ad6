"""16-bit activations are computed in float: the same as the file means up to its rounding, clipping included."""

from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.codec import quantize
from codecswap.inference.protobuf import parse, serialize
from codecswap.inference.runtime import OnnxCodec, open_session
from codecswap.inference.wide_activations import in_float
from codecswap.swaps.apply import swap


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantized")
    codec, _ = swap(load_codec("tiny"), "subpixel")
    samples = list(islice(sample_pictures(None, "", "train", (128, 64)), 2))
    for name in ("w8a8", "mixed", "w8a16"):
        quantize(codec, root / name, precision=name, part="both", refit=False, calibration_images=samples)
    return {path.name: path for path in root.iterdir()}


def rounded_convolution(zero_point: np.ndarray, scale: float) -> bytes:
    """A 1x1 convolution of one channel by -3 whose output has 16 bits."""
    given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 1, None)) for name in "xy")
    stored = {
        "w_quantized": np.full((1, 1, 1, 1), -6, np.int8),
        "w_scale": np.array([0.5], np.float32),
        "w_zero": np.zeros(1, np.int8),
        "scale": np.array(scale, np.float32),
        "zero": zero_point,
    }
    wide = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("DequantizeLinear", ["w_quantized", "w_scale", "w_zero"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[0] * 4, strides=[1, 1], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["q"], **wide),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], **wide),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [result], tensors),
        opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)],
        ir_version=7,
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("zero_point", [np.array(0, np.uint16), np.array(30000, np.uint16), np.array(0, np.int16)])
def test_values_are_clipped_as_the_file_clips(zero_point: np.ndarray) -> None:
    content, scale = rounded_convolution(zero_point, 0.001), 0.001
    x = np.linspace(-50, 50, 999, dtype=np.float32).reshape(1, 1, 1, -1)
    limits = np.iinfo(zero_point.dtype)
    integers = (np.rint(-3 * x.astype(float) / scale) + zero_point).clip(limits.min, limits.max)
    wanted = (integers - int(zero_point)) * scale
    found = open_session(in_float(content), 1).run(["y"], {"x": x})[0]
    assert np.abs(found - wanted).max() < 0.55 * scale
    assert np.abs(open_session(content, 1, reference=True).run(["y"], {"x": x})[0] - wanted).max() < 1.01 * scale


@pytest.mark.parametrize(("name", "least"), [("w8a16", 80), ("mixed", 60)])
def test_a_16_bit_folder_is_computed_to_within_its_rounding(folders: dict[str, Path], name: str, least: float) -> None:
    picture = next(sample_pictures(None, "", "val", (128, 128)))
    native = TorchCodec(load_codec("tiny"))
    symbols = native.tables.to_symbols(native.analyze(picture))
    fast, exact = (OnnxCodec(folders[name], threads=1, reference=reference) for reference in (False, True))
    error = np.square(fast.synthesize(symbols).astype(float) - exact.synthesize(symbols)).mean()
    assert -10 * np.log10(error) > least
    changed = native.tables.to_symbols(fast.analyze(picture)) != native.tables.to_symbols(exact.analyze(picture))
    assert changed.mean() < 0.02


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_no_16_bit_tensor_is_left(folders: dict[str, Path], part: str) -> None:
    for name in ("mixed", "w8a16"):
        before = onnx.load(folders[name] / f"{part}.onnx")
        after = onnx.load_from_string(in_float((folders[name] / f"{part}.onnx").read_bytes()))
        onnx.checker.check_model(after, full_check=True)
        kinds = {tensor.data_type for tensor in after.graph.initializer}
        assert kinds.isdisjoint({TensorProto.UINT16, TensorProto.INT16})
        assert TensorProto.UINT16 in {tensor.data_type for tensor in before.graph.initializer}
        assert (TensorProto.INT8 in kinds) == (name == "mixed")  # inside GDNs
        assert (before.graph.input, before.graph.output) == (after.graph.input, after.graph.output)


def test_other_files_stay_as_they_are(folders: dict[str, Path]) -> None:
    content = (folders["w8a8"] / "decoder.onnx").read_bytes()
    assert in_float(content) is content
    assert serialize(parse(content)) == content


def test_damaged_files_are_one_sentence(folders: dict[str, Path]) -> None:
    content = (folders["w8a16"] / "decoder.onnx").read_bytes()
    for end in range(0, 4000, 97):
        with pytest.raises((ValueError, KeyError, IndexError)):
            in_float(content[: len(content) - 1 - end])
    for damaged in (b"\xff" * 99, b"\x3a\x05ab", b"\x3b", b"\x0a"):
        with pytest.raises((ValueError, IndexError)):
            parse(damaged)
    codec = OnnxCodec(folders["w8a16"], threads=1)
    with pytest.raises(UserError, match="cannot be run"), codec._refusing(codec.manifest.decoder):
        in_float(content[:-1])
