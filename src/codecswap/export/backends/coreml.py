"""Core ML's format of a float transform: an ML program, written with coremltools, operator by operator."""

from collections.abc import Callable
from typing import Any

import numpy as np

from codecswap.errors import UserError
from codecswap.quantized.representation import Operation, TransformGraph

TARGET = "iOS16"
"""Oldest system that runs the file; also macOS 13. Older ones take no 16-bit inputs."""


def mlprogram(transform: TransformGraph, half: bool) -> Any:
    """Convert a transform of a fixed size to a `coremltools.models.MLModel`; coremltools checks types and shapes.

    Its input and output are those of the transform, by name, float32 ``(1, C, H, W)``.

    Args:
        transform: in float.
        half: compute in 16-bit floats, which Apple's Neural Engine does only.

    Raises:
        UserError: an operator cannot be converted, or the size is dynamic.
    """
    import coremltools
    from coremltools.converters.mil import Builder, Function, Program

    if not all(isinstance(side, int) for side in transform.input_shape):
        raise UserError("A Core ML file has one size here: fix it with --height and --width.")
    program, target = Program(), getattr(coremltools.target, TARGET)
    given = {transform.input: Builder.placeholder(shape=[int(side) for side in transform.input_shape])}
    with Function(given, opset_version=target) as function:
        values: dict[str, Any] = {name: constant.values for name, constant in transform.constants.items()}
        values[transform.input] = function.inputs[transform.input]
        for step in transform.operations:
            if step.operator not in OPERATORS:
                raise UserError(
                    f"{step.operator} at {step.layer} is not written for Core ML: operators that are, {', '.join(OPERATORS)}."
                )
            inputs = [values[name] if name else None for name in step.inputs]
            values[step.output] = OPERATORS[step.operator](Builder, step, inputs)
        function.set_outputs([Builder.identity(x=values[transform.output], name=transform.output)])
    program.add_function("main", function)
    precision = coremltools.precision.FLOAT16 if half else coremltools.precision.FLOAT32
    return coremltools.convert(
        program, convert_to="mlprogram", compute_precision=precision, minimum_deployment_target=target
    )


_Write = Callable[[Any, Operation, list[Any]], Any]


def _conv(builder: Any, step: Operation, inputs: list[Any]) -> Any:
    x, weight, *bias = inputs
    how = step.attributes
    top, left, bottom, right = how["pads"]
    transposed = step.operator == "ConvTranspose"
    if transposed:  # less padding at the end is the same as padding of the output
        more = how.get("output_padding", [0, 0])
        bottom, right = bottom - more[0], right - more[1]
        if min(bottom, right) < 0:
            raise UserError(f"{step.layer} pads its output by more than it cuts off: take --form subpixel.")
    write = builder.conv_transpose if transposed else builder.conv
    return write(
        x=x,
        weight=weight,
        strides=how["strides"],
        pad_type="custom",
        pad=[top, bottom, left, right],
        dilations=how["dilations"],
        groups=how["group"],
        **({"bias": bias[0]} if bias else {}),
    )


def _shuffle(builder: Any, step: Operation, inputs: list[Any]) -> Any:
    return builder.pixel_shuffle(x=inputs[0], upscale_factor=step.attributes["blocksize"])  # they are all of mode CRD


def _resize(builder: Any, step: Operation, inputs: list[Any]) -> Any:
    _, _, height, width = inputs[2].tolist()
    return builder.upsample_nearest_neighbor(x=inputs[0], scale_factor_height=height, scale_factor_width=width)


def _clip(builder: Any, step: Operation, inputs: list[Any]) -> Any:
    x, low, high = [*inputs, None, None][:3]
    x = x if low is None else builder.maximum(x=x, y=np.float32(low))
    return x if high is None else builder.minimum(x=x, y=np.float32(high))


def _slice(builder: Any, step: Operation, inputs: list[Any]) -> Any:
    x, starts, stops, axes = inputs
    begin, end = [0] * len(x.shape), list(x.shape)
    for start, stop, axis in zip(starts.tolist(), stops.tolist(), axes.tolist(), strict=True):
        begin[axis], end[axis] = start, stop if stop >= 0 else x.shape[axis] + stop
    return builder.slice_by_size(x=x, begin=begin, size=[b - a for a, b in zip(begin, end, strict=True)])


def _binary(name: str) -> _Write:
    return lambda builder, step, inputs: getattr(builder, name)(x=inputs[0], y=inputs[1])


def _unary(name: str) -> _Write:
    return lambda builder, step, inputs: getattr(builder, name)(x=inputs[0])


OPERATORS: dict[str, _Write] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "DepthToSpace": _shuffle,
    "Resize": _resize,
    "Clip": _clip,
    "Slice": _slice,
    "Add": _binary("add"),
    "Sub": _binary("sub"),
    "Mul": _binary("mul"),
    "Div": _binary("real_div"),
    "MatMul": _binary("matmul"),
    "Abs": _unary("abs"),
    "Sqrt": _unary("sqrt"),
    "Relu": _unary("relu"),
    "Sigmoid": _unary("sigmoid"),
    "LeakyRelu": lambda builder, step, inputs: builder.leaky_relu(x=inputs[0], alpha=step.attributes["alpha"]),
    "Reciprocal": lambda builder, step, inputs: builder.real_div(x=np.float32(1), y=inputs[0]),
    "Softmax": lambda builder, step, inputs: builder.softmax(x=inputs[0], axis=step.attributes["axis"]),
    "Concat": lambda builder, step, inputs: builder.concat(values=inputs, axis=step.attributes["axis"]),
    "Transpose": lambda builder, step, inputs: builder.transpose(x=inputs[0], perm=step.attributes["perm"]),
    "Reshape": lambda builder, step, inputs: builder.reshape(x=inputs[0], shape=inputs[1].astype(np.int32)),
}
"""By ONNX's names; each takes the builder, the operation and its inputs."""
