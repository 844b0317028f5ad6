"""Models of a single transposed convolution, to verify and time it separately."""

from copy import deepcopy

import numpy as np
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from codecswap.layers.phase_grid import arrange, output_channels
from codecswap.rewrite.constants import Constants
from codecswap.rewrite.plans import BIAS, WEIGHT, Plan, X, Y

REAL = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Types in which ONNX Runtime's CPU has no ConvTranspose, or whose rounding would hide an error."""
IR_VERSION = 8


def extract(model: ModelProto, x: str, last: str, constants: Constants) -> ModelProto:
    """Extract the nodes that compute ``last`` from ``x``, converted to float32.

    Args:
        model: where it stands.
        x: becomes the input.
        last: becomes the output.
        constants: of the graph or function it is in.
    """
    root = constants.root
    imports = root.opset_import if isinstance(root, FunctionProto) else model.opset_import
    nodes: list[NodeProto] = []
    tensors: dict[str, TensorProto] = {}
    todo, seen = [last], {x, ""}
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if tensor := constants.stored(name):
            tensors[name] = _in_float32(tensor)
            continue
        node = constants.producer(name)
        if node is None:
            raise ValueError(f"{last} needs {name}, which is computed at run time")
        nodes.append(_node_in_float32(node))
        seen.update(node.output)
        todo.extend(node.input)
    graph = helper.make_graph(
        _sorted(nodes),
        "alone",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        [helper.make_empty_tensor_value_info(last)],
        list(tensors.values()),
    )
    return helper.make_model(graph, opset_imports=list(imports), ir_version=max(IR_VERSION, model.ir_version))


def standalone(plan: Plan, weight: np.ndarray, bias: np.ndarray | None) -> ModelProto:
    """A plan as a model with input `X` and output `Y`, for a weight ``(I, O / groups, k, ...)`` and a bias ``(O,)``."""
    layer = plan.layer
    given: dict[str, np.ndarray] = dict(plan.tensors)
    if plan.form == "native":
        given[WEIGHT] = weight
        given |= {BIAS: bias} if bias is not None else {}
    for number, kernel in plan.kernels.items():
        given[WEIGHT + number] = arrange(weight, kernel.windows, layer.groups, phases_first=kernel.phases_first)
        if bias is not None:
            order = output_channels(layer.outputs, kernel.phases, phases_first=kernel.phases_first)
            given[BIAS + number] = bias[order]
    nodes = []
    for planned in plan.nodes:
        node = deepcopy(planned)
        node.input[:] = [name for name in planned.input if bias is not None or not name.startswith(BIAS)]
        nodes.append(node)
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    shape = [layer.batch, layer.inputs, *layer.lengths]
    graph = helper.make_graph(
        nodes,
        "alone",
        [helper.make_tensor_value_info(X, element, shape)],
        [helper.make_tensor_value_info(Y, element, [None] * len(shape))],
        [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", plan.opset)], ir_version=IR_VERSION)


def _in_float32(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in REAL:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _node_in_float32(node: NodeProto) -> NodeProto:
    copy = deepcopy(node)
    for attribute in copy.attribute:
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_in_float32(attribute.t))
        if attribute.name in ("to", "output_dtype") and attribute.i in REAL:
            attribute.i = TensorProto.FLOAT
    return copy


def _sorted(nodes: list[NodeProto]) -> list[NodeProto]:
    """Sort nodes topologically."""
    makers = {output: node for node in nodes for output in node.output}
    placed: list[NodeProto] = []
    done: set[int] = set()
    todo = list(nodes)
    while todo:
        node = todo[-1]
        before = [makers[name] for name in node.input if name in makers and id(makers[name]) not in done]
        if id(node) in done or not before:
            todo.pop()
            if id(node) not in done:
                done.add(id(node))
                placed.append(node)
        else:
            todo += before
    return placed
