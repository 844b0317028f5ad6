"""ONNX models with transposed convolutions, for tests: any attributes, types and places."""

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

IR_VERSION = 8
NEWEST = onnx.defs.onnx_opset_version()


def value(name: str, shape: list[Any], element: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def model_of(graph: GraphProto, opset: int = 13, **more: Any) -> ModelProto:
    more = {"ir_version": IR_VERSION} | more
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **more)


def one_node(
    weight: np.ndarray,
    lengths: list[Any],
    *,
    bias: np.ndarray | None = None,
    opset: int = 13,
    batch: Any = 1,
    **attributes: Any,
) -> ModelProto:
    """A model that is one ConvTranspose, from ``x`` to ``y``."""
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    given = {"w": weight} | ({} if bias is None else {"b": bias})
    node = helper.make_node("ConvTranspose", ["x", *given], ["y"], name="up", **attributes)
    graph = helper.make_graph(
        [node],
        "test",
        [value("x", [batch, len(weight), *lengths], element)],
        [value("y", [None] * weight.ndim, element)],
        [numpy_helper.from_array(values, name) for name, values in given.items()],
    )
    return model_of(graph, opset, ir_version=IR_VERSION if opset < 24 else 12)


def operators(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@st.composite
def nodes(draw: st.DrawFn) -> tuple[ModelProto, np.ndarray, dict[str, Any]]:
    """A model of one node that ONNX Runtime runs, an input for it, and what it is for the table of what was covered."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    rank = draw(st.sampled_from((1, 2, 2)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    inputs, outputs = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 9 if rank == 1 else 6)) for _ in range(rank)]
    strides = [draw(st.integers(1, 5)) for _ in range(rank)]
    if draw(st.booleans()):
        strides = strides[:1] * rank
    dilations = [draw(st.sampled_from((1, 1, 2, 3))) for _ in range(rank)]
    wide = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    lengths = [draw(st.integers(1, 5)) for _ in range(rank)]
    kind = draw(st.sampled_from(("pads", "pads", "pads", "same", "valid", "output_shape")))
    if kind == "same":
        # what runtimes agree on: no stride above the kernel's width
        attributes["strides"] = strides = [min(s, w) for s, w in zip(strides, wide, strict=True)]
        attributes["auto_pad"] = draw(st.sampled_from(("SAME_UPPER", "SAME_LOWER")))
    elif kind == "valid":
        attributes["auto_pad"] = "VALID"
    elif kind == "output_shape":
        full = [s * (n - 1) + w for s, n, w in zip(strides, lengths, wide, strict=True)]
        attributes["output_shape"] = [
            draw(st.integers(max(1, size - s + 1), size + s - 1)) for size, s in zip(full, strides, strict=True)
        ]
    else:
        pads = [draw(st.integers(0, wide[axis % rank] - 1)) for axis in range(2 * rank)]
        extra = [draw(st.integers(0, s - 1)) for s in strides]
        attributes |= {"pads": pads, "output_padding": extra}
        for axis in range(rank):
            shorter = pads[axis] + pads[axis + rank] - wide[axis] - extra[axis] + 1
            lengths[axis] += max(0, -(-shorter // strides[axis]))
    dynamic = kind != "output_shape" and draw(st.booleans())
    opset = draw(st.sampled_from((7, 9, 10, 11, 13, 18, 21, 22, 24, NEWEST)))
    weight = random.standard_normal((inputs, outputs, *kernel)).astype(np.float32)
    bias = random.standard_normal(groups * outputs).astype(np.float32) if draw(st.booleans()) else None
    batch = draw(st.integers(1, 2))
    shown: list[Any] = ["height", "width"][:rank] if dynamic else lengths
    model = one_node(weight, shown, bias=bias, opset=opset, batch="batch" if dynamic else batch, **attributes)
    x = random.standard_normal((batch, inputs, *lengths)).astype(np.float32)
    facts = {"axes": rank, "groups": groups > 1, "padding": kind, "open size": dynamic, "opset": opset}
    facts |= {"stride": max(strides), "dilated": max(dilations) > 1, "bias": bias is not None, "kernel": max(kernel)}
    return model, x, facts


def quantized(
    values: np.ndarray, axis: int | None, *, signed: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels, scales and zero points of an array, per tensor or along an axis."""
    over = tuple(place for place in range(values.ndim) if place != axis) if axis is not None else None
    most = np.abs(values).max(axis=over)
    scale = np.asarray(np.maximum(most, 1e-3) / 100, np.float32)
    dtype, center = (np.int8, 3) if signed else (np.uint8, 128)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)] if axis is not None else []
    levels = np.rint(values / scale.reshape(shape)) + center
    return levels.astype(dtype), scale, np.full(scale.shape, center, dtype)


def dequantize(name: str, inputs: list[str], axis: int | None) -> NodeProto:
    how = {} if axis is None else {"axis": axis}
    return helper.make_node("DequantizeLinear", inputs, [name], **how)
