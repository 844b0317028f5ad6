"""A runtime whose sums overflow, on any processor: what x86 without VNNI does with weights of 8 bits."""

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from codecswap.graph import onnx_graph as graph

Values = dict[str, np.ndarray]


class SaturatingSession:
    """Runs the QDQ graph of a subpixel decoder; each two products of a convolution add up in 16 bits, with saturation.

    That is the instruction vpmaddubsw, on activations that are uint8 and weights that are int8, channels innermost.
    """

    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_from_string(content)
        self._constants = graph.weights(self._model)
        self._sources = {name: node for node in self._model.graph.node for name in node.output}

    def run(self, outputs: list[str], feeds: Values) -> list[np.ndarray]:
        values = self._constants | feeds
        for node in self._model.graph.node:
            values[node.output[0]] = self._computed(node, values)
        return [values[name] for name in outputs]

    def _computed(self, node: NodeProto, values: Values) -> np.ndarray:
        given = [values[name] for name in node.input]
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "QuantizeLinear":
            x, scale, zero = given
            info = np.iinfo(zero.dtype)
            return (np.rint(x / scale) + zero).clip(info.min, info.max).astype(zero.dtype)
        if node.op_type == "DequantizeLinear":
            x, scale, zero = given
            return (x.astype(np.float32) - _along(zero, x, attributes)) * _along(scale, x, attributes)
        if node.op_type == "Conv":
            return self._convolved(node, values, attributes)
        if node.op_type == "DepthToSpace":
            _, channels, height, width = given[0].shape
            blocks = given[0].reshape(channels // 4, 2, 2, height, width).transpose(0, 3, 1, 4, 2)
            return blocks.reshape(1, channels // 4, 2 * height, 2 * width)
        return {"Mul": np.multiply, "Sqrt": np.sqrt}[node.op_type](*given)

    def _convolved(self, node: NodeProto, values: Values, attributes: dict[str, Any]) -> np.ndarray:
        x, scale, zero = (values[name] for name in self._sources[node.input[0]].input)
        weight, steps, _ = (values[name] for name in self._sources[node.input[1]].input)
        assert (x.dtype, weight.dtype, attributes["strides"]) == (np.uint8, np.int8, [1, 1])
        outputs, _, kernel, _ = weight.shape
        side = kernel // 2
        padded = np.pad(x[0].astype(np.int32), ((0, 0), (side, side), (side, side)), constant_values=int(zero))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (1, kernel, kernel))[:, :, :, 0]
        patches = windows.transpose(3, 4, 0, 1, 2).reshape(-1, x.shape[2] * x.shape[3])
        taps = weight.astype(np.int32).transpose(2, 3, 1, 0).reshape(-1, outputs)
        total = np.zeros((outputs, patches.shape[1]), np.int64)
        for first in range(0, len(taps), 2):
            pair = np.einsum("io,ip->op", taps[first : first + 2], patches[first : first + 2])
            total += pair.clip(-(1 << 15), (1 << 15) - 1)
        total -= int(zero) * taps.sum(0)[:, None]
        result = total * (scale * steps)[:, None] + values[node.input[2]][:, None]
        return result.reshape(1, outputs, *x.shape[2:]).astype(np.float32)


def _along(constant: np.ndarray, x: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """A constant, per tensor or per channel, in a shape that goes with ``x``."""
    if not constant.ndim:
        return constant
    return constant.reshape([-1 if axis == attributes.get("axis", 1) else 1 for axis in range(x.ndim)])
