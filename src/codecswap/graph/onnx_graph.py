"""Inspect an ONNX file: its operators, the layers they belong to, and their cost."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

Shape = tuple[int, ...]


@dataclass(frozen=True)
class GraphFacts:
    """Contents of an ONNX file."""

    opset: int
    """Version of the default operator set."""
    operators: dict[str, int]
    """Number of nodes of each operator, by name."""
    parameters: int
    """Number of stored values: weights, biases, masks."""
    multiply_adds: int
    """Multiply-adds of all convolutions, for the input shape asked for."""
    size: int
    """Size of the file in bytes."""


def facts(path: Path, shape: Shape) -> GraphFacts:
    """Read the file ``path``, of one input and one output.

    Args:
        shape: input shape for which multiply-adds are counted; a static graph must have this shape.
    """
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return GraphFacts(
        opset=opset(model),
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in stored.values()),
        multiply_adds=sum(multiply_adds(model, shape).values()),
        size=path.stat().st_size,
    )


def opset(model: ModelProto) -> int:
    """Version of the default operator set that a model declares."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def layer_of(node: NodeProto) -> str:
    """The codec's layer that a node belongs to, e.g. ``g_s.1.conv1``: its name begins with it (`codecswap.graph.trace`)."""
    return layer_in(node.name) or node.name or node.op_type


def layer_in(name: str) -> str:
    """The codec's layer in the name of a node or tensor: ``g_s.1`` for ``g_s.1/norm/Conv``; empty if there is none."""
    found = re.findall(r"\b[gh]_[as](?:\.\w+)*(?=/)", name)
    return found[-1] if found else ""


def dead(model: ModelProto) -> list[str]:
    """Nodes and stored tensors that no output depends on, by name."""
    needed = {output.name for output in model.graph.output}
    unused = []
    for node in reversed(model.graph.node):  # in topological order, so users come first here
        if needed & set(node.output):
            needed.update(node.input)
        else:
            unused.append(node.name)
    return unused + [tensor.name for tensor in model.graph.initializer if tensor.name not in needed]


def shapes(model: ModelProto, shape: Shape) -> dict[str, Shape]:
    """The shape of every tensor in a graph of one input, when that has ``shape``."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    _in_onnx(fixed)
    for dim, length in zip(fixed.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dim.dim_value = length
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    known = [*graph.value_info, *graph.input, *graph.output]
    found = {v.name: tuple(dim.dim_value for dim in v.type.tensor_type.shape.dim) for v in known}
    return found | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def _in_onnx(model: ModelProto) -> None:
    """Replace ONNX Runtime's QuantizeLinear and DequantizeLinear by ONNX's own, in place, for shape inference."""
    foreign = [node for node in model.graph.node if node.domain]
    for node in foreign:
        node.domain = ""
    for entry in model.opset_import:
        if foreign and not entry.domain:
            entry.version = max(entry.version, 21)  # the first opset that has them for 16 bits


def multiply_adds(model: ModelProto, shape: Shape) -> dict[str, int]:
    """Multiply-adds of each convolution, by its node's name, when the input has ``shape``."""
    known = shapes(model, shape)
    result = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        # each weight is used once per output position (per input position if transposed)
        places = known[node.output[0] if node.op_type == "Conv" else node.input[0]]
        result[node.name] = int(places[0] * np.prod(places[2:]) * np.prod(known[node.input[1]]))
    return result


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    """Every stored tensor, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
