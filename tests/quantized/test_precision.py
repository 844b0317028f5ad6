"""Which activations are 16 bits wide, and that integers' ends fit pictures and symbols."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from codecswap.quantized.precision import Precision, inner_tensors, weight_levels


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("name", ["w8a8", "mixed", "w8a16"])
def test_a_picture_files_levels_and_symbols_lose_nothing(name: str, activations: str) -> None:
    precision = Precision.of(name, activations)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    rounded = precision.picture.dequantize(precision.picture.quantize(levels))
    assert np.abs(rounded - levels).max() < 1e-6
    symbols = np.arange(-127, 128, dtype=np.float32)
    assert (precision.split_inputs.dequantize(precision.split_inputs.quantize(symbols)) == symbols).all()


def test_int16_is_symmetric() -> None:
    precision = Precision.of("w8a16", "int8")
    assert precision.picture.zero_point == precision.split_inputs.zero_point == 0


def test_weights_have_7_bits_only_where_a_runtime_computes_in_integers() -> None:
    assert weight_levels(None, "uint8", "uint8") == 64
    assert weight_levels(None, "uint8", "uint16") == weight_levels(None, "uint16", "uint16") == 127
    assert (weight_levels(8, "uint8", "uint8"), weight_levels(7, "uint16", "uint16")) == (127, 64)


def test_inner_tensors_are_those_that_only_their_layer_reads() -> None:
    nodes = [
        helper.make_node("Conv", ["split_inputs", "w"], ["x"], "/g_s/g_s.0/Conv"),
        helper.make_node("Mul", ["x", "x"], ["square"], "/g_s/g_s.1/Mul"),
        helper.make_node("Relu", ["square"], ["ramp"], "/g_s/g_s.1/Relu"),
        helper.make_node("Mul", ["x", "ramp"], ["product"], "/g_s/g_s.1/Mul_1"),
        helper.make_node("Conv", ["product", "w"], ["y"], "/g_s/g_s.2/Conv"),
        helper.make_node("Mul", ["y", "y"], ["picture"], "/g_s/g_s.3/Mul"),
    ]
    given, put_out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("split_inputs", "picture")
    )
    model = helper.make_model(helper.make_graph(nodes, "", [given], [put_out]))
    assert inner_tensors(model, ["g_s.1", "g_s.3"]) == ["square", "ramp"]
