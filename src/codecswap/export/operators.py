"""Operators of a graph that a target does not support, and their replacements."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import FORMS
from codecswap.quantized.representation import TransformGraph
from codecswap.swaps import GDN_SWAPS, replacing
from codecswap.targets.target import Target

_TRANSPOSED = ("the transposed convolution (--replacement none)", {"ConvTranspose"})
_INSTEAD = {
    "ConvTranspose": [
        (f"--replacement {swap.name} or --form {form}", set(swap.operators)) for form, swap in FORMS.items()
    ],
    "DepthToSpace": [
        *((f"--replacement {swap.name}", set(swap.operators)) for swap in replacing(nn.ConvTranspose2d)),
        _TRANSPOSED,
    ],
    "Resize": [*((f"--form {form}", set(swap.operators)) for form, swap in FORMS.items()), _TRANSPOSED],
    "medians": [("--input latents", {"Conv"})],
    **{
        operator: [
            (f"--gdn {swap.name} (--part encoder in the encoder)", set(swap.operators))
            for swap in GDN_SWAPS.values()
            if operator not in swap.operators and not swap.trained
        ]
        for operator in ("Sqrt", "Div", "Reciprocal")
    },
}
"""For each operator: options of `codecswap export` that avoid it, and the operators used instead.

``medians`` is the Add of --input symbols.
"""

NAMED = 4
"""Most layers named in a line; further ones are counted."""


def complaints(path: Path, target: Target) -> list[str]:
    """What a target does not support in the graph in ``path``: one line per reason, with layers and replacements."""
    model = onnx.load(path)
    opset, found = graph.opset(model), []
    if target.max_opset and opset > target.max_opset:
        found.append(f"opset {opset}: it reads up to {target.max_opset}, use --opset {target.max_opset}")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if target.static_shapes and any(not dim.dim_value for dim in dims):
        found.append("dynamic shapes: it wants fixed ones, use --height and --width")
    nodes = [
        (node.op_type, graph.layer_in(node.name), {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute})
        for node in model.graph.node
    ]
    return found + _refused(nodes, target, opset)


def refused(transform: TransformGraph, target: Target) -> list[str]:
    """What a target does not support in a transform, as lines like those of `complaints`, before anything is written."""
    steps = [(step.operator, step.layer, step.attributes) for step in transform.operations]
    return _refused(steps, target, target.max_opset or 13)


def _refused(steps: Sequence[tuple[str, str, Mapping[str, Any]]], target: Target, opset: int) -> list[str]:
    """Lines about unsupported operators, for tuples of operator, layer (empty: before the first) and attributes."""
    found: dict[tuple[str, str], dict[str, None]] = {}  # layers by operator and reason
    for operator, layer, attributes in steps:
        for reason in _reasons(operator, layer, attributes, target, opset):
            found.setdefault((operator, reason), {})[layer or "the input"] = None
    lines = []
    for (operator, reason), layers in found.items():
        names = ", ".join([*layers][:NAMED])
        more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
        lines.append(f"{operator} at {names}{more}: {reason}")
    return lines


def _reasons(operator: str, layer: str, attributes: Mapping[str, Any], target: Target, opset: int) -> Iterator[str]:
    if operator not in target.operators:
        yield _advice("medians" if operator == "Add" and not layer else operator, target)
        return
    for name, allowed in target.limits.get(operator, {}).items():
        value = attributes.get(name, _default(operator, name, opset))
        value = value.decode() if isinstance(value, bytes) else value
        if value not in allowed:
            yield f"its {name} is {value}, accepted: {', '.join(map(str, allowed))}"


def _advice(operator: str, target: Target) -> str:
    choices = [words for words, needed in _INSTEAD.get(operator, ()) if needed <= target.operators]
    if choices:
        return f"use {', or '.join(choices)}"
    return "nothing of this project's replaces it, so it runs on the CPU"


def _default(operator: str, attribute: str, opset: int) -> Any:
    """Default value of an attribute."""
    declared = onnx.defs.get_schema(operator, opset, "").attributes.get(attribute)
    value = declared and declared.default_value
    return onnx.helper.get_attribute_value(value) if value and value.type else None
