"""Reading an ONNX file back: which operators it holds, where, and what they cost."""

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
    """What an ONNX file holds."""

    opset: int
    """Version of the default operator set, as the file says."""
    operators: dict[str, int]
    """How many of each, by name."""
    parameters: int
    """Numbers stored in it: weights, biases, masks."""
    multiply_adds: int
    """Of convolutions, for the size that was asked about."""
    size: int
    """Of the file, in bytes."""


def facts(path: Path, shape: Shape) -> GraphFacts:
    """Read the file ``path``, of one input and one output.

    Args:
        shape: of the input, with which multiply-adds are counted; the shape of a static graph must be this one.
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
    """Where a node stands in the codec, e.g. ``g_s.1.conv1``: its name begins with that (`codecswap.graph.trace`)."""
    return layer_in(node.name) or node.name or node.op_type


def layer_in(name: str) -> str:
    """The codec's layer that a node's or a tensor's name speaks of, ``g_s.1`` in ``g_s.1/norm/Conv``; empty: it does not."""
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
    """Let ONNX's own QuantizeLinear and DequantizeLinear, whose shapes it knows, stand for ONNX Runtime's, in place."""
    foreign = [node for node in model.graph.node if node.domain]
    for node in foreign:
        node.domain = ""
    for entry in model.opset_import:
        if foreign and not entry.domain:
            entry.version = max(entry.version, 21)  # the first that has them for 16 bits


def multiply_adds(model: ModelProto, shape: Shape) -> dict[str, int]:
    """Multiply-adds of each convolution, by its node's name, when the input has ``shape``."""
    known = shapes(model, shape)
    result = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose"):
            continue
        # a weight is used once for every place of the output (of the input, where it is transposed)
        places = known[node.output[0] if node.op_type == "Conv" else node.input[0]]
        result[node.name] = int(places[0] * np.prod(places[2:]) * np.prod(known[node.input[1]]))
    return result


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    """Every stored tensor, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
