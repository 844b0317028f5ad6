"""What of a graph a target would not accept, and what would replace it."""

from collections.abc import Iterator, Mapping
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
"""Per operator: what to ask `codecswap export` for, and the operators that come instead.

``medians`` is the Add of --input symbols.
"""


def complaints(path: Path, target: Target) -> list[str]:
    """What of the graph in ``path`` a target does not accept, a line each: the layer, and what would replace it."""
    model = onnx.load(path)
    opset, found = graph.opset(model), []
    if target.max_opset and opset > target.max_opset:
        found.append(f"opset {opset}: it reads up to {target.max_opset}, use --opset {target.max_opset}")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if target.static_shapes and any(not dim.dim_value for dim in dims):
        found.append("dynamic shapes: it wants fixed ones, use --height and --width")
    for node in model.graph.node:
        values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        found += _refused(node.op_type, graph.layer_in(node.name), values, target, opset)
    return list(dict.fromkeys(found))


def refused(transform: TransformGraph, target: Target) -> list[str]:
    """What of a transform a target does not accept, as `complaints` says it, before anything is written."""
    steps = transform.operations
    lines = (_refused(step.operator, step.layer, step.attributes, target, target.max_opset or 13) for step in steps)
    return list(dict.fromkeys(line for found in lines for line in found))


def _refused(operator: str, layer: str, attributes: Mapping[str, Any], target: Target, opset: int) -> Iterator[str]:
    """What a target does not accept of an operator in a layer; empty: before the first one."""
    place = f"{operator} at {layer or 'the input'}"
    if operator not in target.operators:
        yield f"{place}: {_advice('medians' if operator == 'Add' and not layer else operator, target)}"
        return
    for name, allowed in target.limits.get(operator, {}).items():
        value = attributes.get(name, _default(operator, name, opset))
        value = value.decode() if isinstance(value, bytes) else value
        if value not in allowed:
            yield f"{place}: its {name} is {value}, accepted: {', '.join(map(str, allowed))}"


def _advice(operator: str, target: Target) -> str:
    choices = [words for words, needed in _INSTEAD.get(operator, ()) if needed <= target.operators]
    if choices:
        return f"use {', or '.join(choices)}"
    return "nothing of this project's replaces it, so this layer runs on the CPU"


def _default(operator: str, attribute: str, opset: int) -> Any:
    """The value an attribute has where a node leaves it out."""
    declared = onnx.defs.get_schema(operator, opset, "").attributes.get(attribute)
    value = declared and declared.default_value
    return onnx.helper.get_attribute_value(value) if value and value.type else None
