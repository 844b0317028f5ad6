"""Compute 16-bit activations in float: no runtime for CPUs has kernels for them.

A QDQ file rounds a 16-bit activation with a pair of QuantizeLinear and DequantizeLinear, and ONNX Runtime computes the
pairs one by one, which takes longer than the float network. Here each pair becomes a Clip to the range of its integers,
and integer weights beside it become float32: what is left out is the rounding to 16 bits, which is far below that of the
picture's 8. Pairs of 8 bits stay, with the weights between them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from codecswap.inference.protobuf import LENGTH, VARINT, Field, parse, serialize

_NODE, _INITIALIZER = 1, 5
"""Fields of a graph, which is field `_GRAPH` of a model."""
_GRAPH = 7
_TYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 10: np.float16}
"""NumPy's types by ONNX's numbers of them."""
_WIDE = (np.uint16, np.int16)
_MOVING = ("DepthToSpace", "Reshape", "Resize", "Slice", "Transpose")
"""Operators that only move values: where their input is clipped to the same range, so is their output."""


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, int]
    """Those that are integers."""
    content: bytes


def in_float(content: bytes) -> bytes:
    """An ONNX file without the rounding of its 16-bit activations; the same file if it has none.

    Args:
        content: a file of `codecswap.export.backends.onnx_qdq`.

    Raises:
        ValueError, KeyError, IndexError: it is damaged.
    """
    model = parse(content)
    (graph,) = (parse(value) for number, _, value in model if number == _GRAPH)
    tensors = dict(_tensor(value) for number, _, value in graph if number == _INITIALIZER)
    nodes = [_node(value) for number, _, value in graph if number == _NODE]
    wide = {node.outputs[0]: node for node in nodes if _rounds_to_16_bits(node, tensors)}
    if not wide:
        return content
    narrow = {name for node in nodes if _is_pair(node) and node.outputs[0] not in wide for name in _ends(node, tensors)}
    kept = set[str]()  # constants of convolutions in 8-bit integers
    for node in nodes:
        if node.operator in ("Conv", "ConvTranspose") and {node.inputs[0], node.outputs[0]} <= narrow:
            kept.update(node.inputs[1:])
    made, constants = list[bytes](), dict[str, np.ndarray]()
    makers = {node.outputs[0]: node for node in nodes}
    for node in nodes:
        name = node.outputs[0]
        if node.operator == "DequantizeLinear" and node.inputs[0] in tensors:
            if name in kept:
                made.append(node.content)
            else:
                constants[name] = _dequantized(node, tensors)
        elif node.operator == "DequantizeLinear" and node.inputs[0] in wide:
            rounding = wide[node.inputs[0]]
            if _is_clipped(rounding, makers, tensors):
                made.append(_message("Identity", rounding.inputs[:1], name))
                continue
            limits = [f"{name}_least", f"{name}_greatest"]
            constants |= zip(limits, _range(*(tensors[other] for other in rounding.inputs[1:])), strict=True)
            made.append(_message("Clip", [rounding.inputs[0], *limits], name))
        elif name not in wide:
            made.append(node.content)
    read = {name for one in made for name in _node(one).inputs}
    constants |= {name: values for name, values in tensors.items() if name in read}
    fields: list[Field] = [(_NODE, LENGTH, one) for one in made]
    fields += [(_INITIALIZER, LENGTH, _tensor_message(name, values)) for name, values in constants.items()]
    fields += [field for field in graph if field[0] not in (_NODE, _INITIALIZER)]
    return serialize((_GRAPH, LENGTH, serialize(fields)) if field[0] == _GRAPH else field for field in model)


def _is_pair(node: _Node) -> bool:
    return node.operator in ("QuantizeLinear", "DequantizeLinear")


def _rounds_to_16_bits(node: _Node, tensors: dict[str, np.ndarray]) -> bool:
    return node.operator == "QuantizeLinear" and tensors[node.inputs[2]].dtype in _WIDE


def _ends(node: _Node, tensors: dict[str, np.ndarray]) -> list[str]:
    """The real-valued tensor that an 8-bit QuantizeLinear reads or a DequantizeLinear puts out."""
    if tensors[node.inputs[2]].dtype in _WIDE:
        return []
    return [node.inputs[0] if node.operator == "QuantizeLinear" else node.outputs[0]]


def _is_clipped(rounding: _Node, makers: dict[str, _Node], tensors: dict[str, np.ndarray]) -> bool:
    """Whether what a QuantizeLinear reads was only moved since it was rounded in the same way."""
    moved = makers.get(rounding.inputs[0])
    before = makers.get(moved.inputs[0]) if moved and moved.operator in _MOVING else None
    return (
        before is not None
        and _is_pair(before)
        and all(
            np.array_equal(tensors[one], tensors[other])
            for one, other in zip(before.inputs[1:], rounding.inputs[1:], strict=True)
        )
    )


def _range(scale: np.ndarray, zero_point: np.ndarray) -> list[np.ndarray]:
    limits = np.iinfo(zero_point.dtype)
    return [np.array((limit - int(zero_point)) * float(scale), np.float32) for limit in (limits.min, limits.max)]


def _dequantized(node: _Node, tensors: dict[str, np.ndarray]) -> np.ndarray:
    values, scale, zero_point = (tensors[name] for name in node.inputs)
    if scale.ndim:
        along = [1] * values.ndim
        along[node.attributes.get("axis", 1)] = -1
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    return (values.astype(np.int64) - zero_point).astype(np.float32) * scale


def _node(message: bytes) -> _Node:
    found: dict[int, list[Any]] = {}
    for number, _, value in parse(message):
        found.setdefault(number, []).append(value)
    texts = {number: [one.decode() for one in found.get(number, ())] for number in (1, 2, 4)}
    attributes = {}
    for attribute in found.get(5, ()):
        values = {number: value for number, _, value in parse(attribute)}
        if isinstance(values.get(3), int):
            attributes[values[1].decode()] = values[3]
    return _Node(texts[4][0], texts[1], texts[2], attributes, message)


def _message(operator: str, inputs: list[str], output: str) -> bytes:
    texts = [*((1, name) for name in inputs), (2, output), (3, f"{output}/{operator}"), (4, operator)]
    return serialize((number, LENGTH, text.encode()) for number, text in texts)


def _tensor(message: bytes) -> tuple[str, np.ndarray]:
    shape, kind, name, content = list[int](), 0, "", b""
    for number, wire, value in parse(message):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1:
            raise ValueError("packed dimensions")
        elif number == 2:
            kind = value
        elif number == 8:
            name = value.decode()
        elif number == 9 and wire == LENGTH:
            content = value
    return name, np.frombuffer(content, np.dtype(_TYPES[kind]).newbyteorder("<")).reshape(shape)


def _tensor_message(name: str, values: np.ndarray) -> bytes:
    kind = next(number for number, one in _TYPES.items() if values.dtype == one)
    fields: list[Field] = [(1, VARINT, side) for side in values.shape]
    fields += [(2, VARINT, kind), (8, LENGTH, name.encode())]
    return serialize([*fields, (9, LENGTH, values.astype(values.dtype.newbyteorder("<")).tobytes())])
