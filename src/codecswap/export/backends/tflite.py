"""TFLite format of a transform: integer operators in NHWC that an Arm Ethos-U runs, written without TensorFlow.

Operators that an Ethos-U does not run are replaced:

- ``Sqrt`` of n is ``n * rsqrt(n)``; ``Div`` by it is a product with ``rsqrt(n)``.
- ``Conv`` and ``DepthToSpace``: a convolution for the even and one for the odd rows of the result, whose channels are ordered
  (column, channel). In NHWC a row of such a result is already a row of the picture, so reshape and concat put them in turn.
- ``ConvTranspose`` and a strided ``Conv``: zeros are added to the kernel until TFLite's padding ``SAME`` places it as ONNX's
  pads do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.schema_py_generated import Padding

from codecswap.errors import UserError
from codecswap.export.backends.tflite_file import TfliteFile
from codecswap.files import atomic_write
from codecswap.quantized.representation import Operation, Quantization, TransformGraph

Table = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps the scales of a 16-bit RSQRT's input and output to its results for 0 to 32767, ``(32768,)``, int16."""


def write_tflite(transform: TransformGraph, path: Path) -> None:
    """Write `tflite` to a file atomically."""
    content = tflite(transform)
    with atomic_write(path) as beside:
        beside.write_bytes(content)


def tflite(transform: TransformGraph, rsqrt: Table | None = None) -> bytes:
    """Convert a transform of a fixed size to a TFLite file, whose input and output are ``(1, H, W, C)``.

    Args:
        transform: with activations that are all of 8 bits (uint8 becomes int8, shifted by 128), all int16 with zero point 0
            (TFLite's INT16x8), or all float32.
        rsqrt: table for 16-bit RSQRT, to simulate an NPU that uses one.

    Raises:
        UserError: an operator cannot be converted, the size is dynamic, or the activations are none of these.
    """
    for step in transform.operations:
        if step.operator not in OPERATORS:
            instead = "--gdn sqrt or ramps" if step.operator == "Reciprocal" else "a target that reads ONNX"
            raise _refusal(step, f"operators that can are {', '.join(OPERATORS)}; use {instead}")
    if not all(isinstance(side, int) for side in transform.input_shape):
        raise UserError("A TFLite file has one size: fix it with --height and --width.")
    outputs = {step.output: step.layer for step in transform.operations}
    if kept := [layer for name, layer in outputs.items() if name not in transform.activations]:
        if transform.activations:
            raise UserError(
                f"A TFLite file for an NPU is all integers, and {kept[0]} is in float: leave out --keep, or take --precision "
                "w8a16, which leaves no layer in float."
            )
    else:
        types = {rounding.zero_point.dtype.name for rounding in transform.activations.values()}
        centered = not any(rounding.zero_point for rounding in transform.activations.values())
        if not types <= {"uint8", "int8"} and (types != {"int16"} or not centered):
            raise UserError(
                f"A TFLite file has activations of 8 bits, or int16 around 0, and this has {', '.join(sorted(types))}: "
                "quantize with --precision w8a8, or w8a16 and --activations int8."
            )
    return _Translation(transform, rsqrt).file.content(transform.input, transform.output)


@dataclass(frozen=True)
class _Kernel:
    """A convolution's parameters."""

    weight: np.ndarray
    """``(O, k, k, I)``, int8 or float32."""
    bias: np.ndarray
    """``(O,)``, int32 or float32."""
    scale: np.ndarray | None
    """Scale of the weight, ``(O,)``; None in float."""

    def rows(self, order: np.ndarray) -> "_Kernel":
        """The outputs ``order``, in this order."""
        return _Kernel(self.weight[order], self.bias[order], None if self.scale is None else self.scale[order])

    def extended(self, size: int) -> "_Kernel":
        """The kernel padded with zeros at its end."""
        after = (0, size - self.weight.shape[1])
        return replace(self, weight=np.pad(self.weight, ((0, 0), after, after, (0, 0))))


class _Translation:
    """Converts a transform operator by operator; names of tensors are kept."""

    def __init__(self, transform: TransformGraph, rsqrt: Table | None) -> None:
        self.transform, self.rsqrt, self.file = transform, rsqrt, TfliteFile()
        _, channels, height, width = transform.input_shape
        self.file.tensor(transform.input, (1, int(height), int(width), int(channels)), self._input_rounding())
        self.shuffled: set[str] = set()  # outputs of DepthToSpace that were written with the convolution before it
        for step in transform.operations:
            OPERATORS[step.operator](self, step)

    # ONNX's operators

    def conv(self, step: Operation) -> None:
        if shuffle := self._only_user(step.output, "DepthToSpace"):
            self._subpixel(step, shuffle)
        else:
            self._convolve(step, self._kernel(step, 0), step.output, self._rounding(step.output))

    def _subpixel(self, step: Operation, shuffle: Operation) -> None:
        kernel, rounding, name = self._kernel(step, 0), self._rounding(shuffle.output), f"{step.output}/shuffle"
        factor = shuffle.attributes["blocksize"]
        channels = len(kernel.bias) // factor**2
        rows = []
        for row in range(factor):
            order = np.arange(len(kernel.bias)).reshape(channels, factor, factor)[:, row].T.ravel()
            self._convolve(step, kernel.rows(order), f"{step.output}/rows{row}", rounding)
            _, height, width, _ = self.file.shapes[f"{step.output}/rows{row}"]
            flat = (1, 1, height, factor * width * channels)
            rows.append(self._reshape(f"{step.output}/rows{row}", f"{step.output}/flat{row}", flat))
        self.file.tensor(name, (1, 1, height, factor**2 * width * channels), rounding)
        self.file.operator("CONCATENATION", rows, name, axis=3)
        self._reshape(name, shuffle.output, (1, factor * height, factor * width, channels))
        self.shuffled.add(shuffle.output)

    def depth_to_space(self, step: Operation) -> None:
        if step.output not in self.shuffled:
            raise _refusal(step, "it does not follow a convolution that nothing else reads")

    def conv_transpose(self, step: Operation) -> None:
        how, x = step.attributes, step.inputs[0]
        (before, left, *_), (stride, across) = how["pads"], how["strides"]
        kernel, more = self._kernel(step, 1), how.get("output_padding", [0, 0])
        size = kernel.weight.shape[1] + more[0]
        if (
            (before, stride, kernel.weight.shape[1], more[0]) != (left, across, kernel.weight.shape[2], more[1])
            or size != 2 * before + stride
            or how.get("group", 1) != 1
            or set(how.get("dilations", [1])) != {1}
        ):
            raise _refusal(step, "its output is not as many times its input as its stride")
        kernel = kernel.extended(size)
        _, height, width, _ = self.file.shapes[x]
        shape = (1, stride * height, stride * width, len(kernel.bias))
        weight, bias = self._stored(step.output, x, kernel)
        self.file.tensor(step.output, shape, self._rounding(step.output))
        inputs = [self._integers(shape), weight, x, bias]
        self.file.operator("TRANSPOSE_CONV", inputs, step.output, padding=Padding.SAME, strideH=stride, strideW=stride)

    def resize(self, step: Operation) -> None:
        _, height, width, channels = self.file.shapes[step.inputs[0]]
        down, across = self.transform.constants[step.inputs[2]].values[2:]
        size = (int(down * height), int(across * width))
        self.file.tensor(step.output, (1, *size, channels), self.file.roundings[step.inputs[0]])
        self.file.operator("RESIZE_NEAREST_NEIGHBOR", [step.inputs[0], self._integers(size)], step.output)

    def mul(self, step: Operation) -> None:
        self._elementwise("MUL", step.inputs, step.output)

    def add(self, step: Operation) -> None:
        self._elementwise("ADD", step.inputs, step.output)

    def sub(self, step: Operation) -> None:
        self._elementwise("SUB", step.inputs, step.output)

    def sigmoid(self, step: Operation) -> None:
        rounding, made = self._rounding(step.output), step.output
        if rounding:  # the output scale of LOGISTIC must be 1/256, or 1/32768
            fixed = Quantization.fixed(1 / 256, 0, "int8")
            if rounding.zero_point.dtype == np.int16:
                fixed = Quantization.fixed(1 / 32768, -32768, "int16")
            if (fixed.scale, fixed.zero_point) != (rounding.scale, rounding.zero_point):
                made, rounding = f"{step.output}/logistic", fixed
        self.file.tensor(made, self.file.shapes[step.inputs[0]], rounding)
        self.file.operator("LOGISTIC", step.inputs, made)
        if made != step.output:
            self._elementwise("QUANTIZE", [made], step.output)

    def leaky_relu(self, step: Operation) -> None:
        self._elementwise("LEAKY_RELU", step.inputs, step.output, alpha=step.attributes.get("alpha", 0.01))

    def sqrt(self, step: Operation) -> None:
        x, inverse, given = step.inputs[0], f"{step.output}/inverse", self.file.roundings[step.inputs[0]]
        rounding = self._inverse_rounding(step)
        self.file.tensor(inverse, self.file.shapes[x], rounding)
        if self.rsqrt and given and rounding and rounding.zero_point.dtype == np.int16:
            table = self.file.constant(f"{inverse}/table", self.rsqrt(given.scale, rounding.scale), rounding)
            index = self.file.integers(f"{inverse}/index", self.file.shapes[x])
            self.file.operator("CAST", [x], index)
            self.file.operator("GATHER", [table, index], inverse)
        else:
            self.file.operator("RSQRT", [x], inverse)
        if not self._only_user(step.output, "Div"):
            self._elementwise("MUL", [x, inverse], step.output)

    def relu(self, step: Operation) -> None:
        self._elementwise("RELU", step.inputs, step.output)

    def abs(self, step: Operation) -> None:
        self._elementwise("ABS", step.inputs, step.output)

    def div(self, step: Operation) -> None:
        if f"{step.inputs[1]}/inverse" not in self.file.shapes:
            raise _refusal(step, "it divides by something that is no square root")
        self._elementwise("MUL", [step.inputs[0], f"{step.inputs[1]}/inverse"], step.output)

    # TFLite's

    def _convolve(self, step: Operation, kernel: _Kernel, output: str, rounding: Quantization | None) -> None:
        x, how = step.inputs[0], step.attributes
        (before, stride), groups = (how["pads"][0], how["strides"][0]), how.get("group", 1)
        _, height, width, channels = self.file.shapes[x]
        if (
            len({*how["pads"]}) > 1
            or len({*how["strides"]}) > 1
            or {*how.get("dilations", [1])} != {1}
            or max(kernel.weight.shape[1:3]) > 2 * before + stride
            or height % stride
            or width % stride
        ):
            raise _refusal(step, "its padding is none that TFLite has")
        depthwise = groups > 1
        if depthwise and not groups == channels == len(kernel.bias):
            raise _refusal(step, f"it has {groups} groups")
        weight, bias = self._stored(output, x, kernel.extended(2 * before + stride), 3 if depthwise else 0)
        self.file.tensor(output, (1, height // stride, width // stride, len(kernel.bias)), rounding)
        options = {"padding": Padding.SAME, "strideH": stride, "strideW": stride}
        if depthwise:
            self.file.operator("DEPTHWISE_CONV_2D", [x, weight, bias], output, depthMultiplier=1, **options)
        else:
            self.file.operator("CONV_2D", [x, weight, bias], output, **options)

    def _elementwise(self, operator: str, inputs: Sequence[str], output: str, **options: Any) -> None:
        inputs = [self._constant(name) if name in self.transform.constants else name for name in inputs]
        shape = np.broadcast_shapes(*(self.file.shapes[name] for name in inputs))
        self.file.tensor(output, shape, self._rounding(output))
        self.file.operator(operator, inputs, output, **options)

    def _reshape(self, x: str, output: str, shape: tuple[int, ...]) -> str:
        self.file.tensor(output, shape, self.file.roundings[x])
        self.file.operator("RESHAPE", [x, self._integers(shape)], output, newShape=list(shape))
        return output

    # constants and roundings

    def _kernel(self, step: Operation, outputs: int) -> _Kernel:
        """Parameters of a convolution; ``outputs``: axis of the output channels of its weight."""
        weight, bias = (self.transform.constants[name] for name in step.inputs[1:])
        order = (0, 2, 3, 1) if outputs == 0 else (1, 2, 3, 0)
        scale = weight.quantization.scale if weight.quantization else None
        return _Kernel(weight.values.transpose(order), bias.values, scale)

    def _stored(self, output: str, x: str, kernel: _Kernel, axis: int = 0) -> tuple[str, str]:
        """Store weight and bias of a convolution of ``x``; returns their names. ``axis``: output channels of the weight."""
        names, given, bias = (f"{output}/weight", f"{output}/bias"), self.file.roundings[x], kernel.bias
        roundings: tuple[Quantization | None, ...] = (None, None)
        if given and kernel.scale is not None:
            bias = bias.astype(np.int64 if given.zero_point.dtype == np.int16 else np.int32)
            zeros = np.zeros(len(bias), np.int8)
            roundings = (Quantization(kernel.scale, zeros, axis), Quantization(kernel.scale * given.scale, zeros, 0))
        for name, values, rounding in zip(names, (kernel.weight.swapaxes(0, axis), bias), roundings, strict=True):
            self.file.constant(name, values, rounding)
        return names

    def _constant(self, name: str) -> str:
        """A mask of zeros and ones ``(1, 1, H, W)``, or another operand that broadcasts, in TFLite's order."""
        constant, given = self.transform.constants[name], self._input_rounding()
        values = constant.real.reshape((1,) * (4 - constant.values.ndim) + constant.values.shape).transpose(0, 2, 3, 1)
        if given is None:
            return self.file.constant(name, values)
        rounding = Quantization(np.array(1, np.float32), np.zeros_like(given.zero_point))
        if constant.quantization and not np.isin(values, (0, 1)).all():
            rounding = _signed(constant.quantization)
        return self.file.constant(name, rounding.quantize(values), rounding)

    def _integers(self, values: tuple[int, ...]) -> str:
        return self.file.constant(f"size {values}", np.array(values, np.int32))

    def _rounding(self, name: str) -> Quantization | None:
        found = self.transform.activations.get(name)
        return found and _signed(found)

    def _input_rounding(self) -> Quantization | None:
        """Quantization of the input, or if it has none, of its first result (of Resize)."""
        name = self.transform.input
        first = next(step.output for step in self.transform.operations if name in step.inputs)
        return self._rounding(name) or self._rounding(first)

    def _inverse_rounding(self, step: Operation) -> Quantization | None:
        """Quantization of rsqrt(n) such that ``n * rsqrt(n)`` is closest to the square root, on average over n.

        Small norms are more frequent, which matters in 8 bits: their density is modeled as the power -2/3 from 1/16 of
        the largest value on.
        """
        given = self.file.roundings[step.inputs[0]]
        if given is None:
            return None
        norm = next((one for one in self.transform.operations if one.output == step.inputs[0]), step)
        if norm.operator != "Conv":
            raise _refusal(step, "it is not of a GDN's norm")
        beta = self.transform.constants[
            norm.inputs[2]
        ].real.min()  # lower bound of n: gamma and squares are not negative
        values = np.geomspace(max(float(beta), float(given.scale)), given.range[1], 1024)
        lowest, levels, power = (0, 32767, 0) if given.zero_point.dtype == np.int16 else (-128, 255, -2 / 3)
        density = (
            values * (values + values[-1] / 16) ** power
        )  # the first factor: there are as many values in every octave

        def error(largest: float) -> float:
            scale = largest / levels
            inverse = np.rint(np.minimum(values**-0.5, largest) / scale) * scale
            return float((density * np.square(values * inverse - np.sqrt(values))).sum())

        largest = min(np.geomspace(values[-1] ** -0.5, values[0] ** -0.5, 64), key=error)
        return Quantization(np.array(largest / levels, np.float32), np.array(lowest, given.zero_point.dtype))

    def _only_user(self, name: str, operator: str) -> Operation | None:
        """The only operation that reads a tensor, if it is this operator."""
        users = [step for step in self.transform.operations if name in step.inputs]
        return users[0] if len(users) == 1 and users[0].operator == operator else None


def _signed(rounding: Quantization) -> Quantization:
    """Convert uint8 to int8 with the same real values."""
    if rounding.zero_point.dtype != np.uint8:
        return rounding
    return Quantization(rounding.scale, (rounding.zero_point.astype(int) - 128).astype(np.int8))


def _refusal(step: Operation, reason: str) -> UserError:
    return UserError(f"{step.operator} at {step.layer} cannot be written into a TFLite file: {reason}.")


OPERATORS: dict[str, Callable[[_Translation, Operation], None]] = {
    "Abs": _Translation.abs,
    "Add": _Translation.add,
    "Conv": _Translation.conv,
    "ConvTranspose": _Translation.conv_transpose,
    "DepthToSpace": _Translation.depth_to_space,
    "Div": _Translation.div,
    "LeakyRelu": _Translation.leaky_relu,
    "Mul": _Translation.mul,
    "Relu": _Translation.relu,
    "Resize": _Translation.resize,
    "Sigmoid": _Translation.sigmoid,
    "Sqrt": _Translation.sqrt,
    "Sub": _Translation.sub,
}
"""ONNX operators that can be converted."""
