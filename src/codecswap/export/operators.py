"""What an NPU's converter accepts, and what of a graph it would not.

A target is a small TOML file: those in ``targets/`` were each read from the public document they name; anybody can write
one for an NPU of their own::

    name = "My NPU"
    source = "where the list was read"
    operators = ["Conv", "Mul", "Resize"]     # ONNX names
    max_opset = 13                            # optional
    static_shapes = true                      # optional: no dimension may be left open
    notes = ["said to whoever checks"]        # optional
    toolchain = "rknn"                        # optional, as the following: what `codecswap compile` calls
    form = "subpixel"                         # how upsampling layers are written for it
    precisions = ["float16", "w8a8"]          # that it takes, best first
    compiler = "rknn-toolkit2 2.5.0"          # the one that was run to find out, and when
    compiled = 2026-11-25
    [chips]                                   # names for --target, and the compiler's name for each; the first is the default
    my-npu = "mynpu-256"
    [limits.Resize]                           # optional: attributes and the values they may have
    mode = ["nearest"]
"""

import datetime
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import onnx
from torch import nn

from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.graph import onnx_graph as graph
from codecswap.graph.lower import FORMS
from codecswap.quantized.representation import TransformGraph
from codecswap.swaps import GDN_SWAPS, replacing

TARGETS = ("rknn", "qnn", "ethos-u", "ethos-u85", "openvino", "drp-ai", "pack", "opset13")
"""The targets that come with the package."""

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


@dataclass(frozen=True)
class Target:
    """What one NPU's converter accepts."""

    name: str
    """The converter and its version."""
    source: str
    """The public document that the list was read from."""
    operators: frozenset[str]
    """ONNX names."""
    limits: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Per operator: attributes and the values accepted."""
    max_opset: int | None = None
    static_shapes: bool = False
    """No dimension may be left open."""
    notes: tuple[str, ...] = ()
    toolchain: str | None = None
    """Name in `codecswap.compile.TOOLCHAINS`; None: no compiler is called."""
    chip: str = ""
    """The compiler's name for the NPU."""
    form: Form = "native"
    """How upsampling layers are best written for it."""
    precisions: tuple[str, ...] = ()
    """Names of `codecswap compile --precision`, best first."""
    compiler: str | None = None
    """The compiler, with its version, that was run to find out about the target."""
    compiled: datetime.date | None = None
    """When it was run."""


def chips() -> dict[str, str]:
    """The names of single NPUs, and the one of `TARGETS` that each belongs to."""
    return {chip: name for name in TARGETS for chip in _read(name).get("chips", {})}


def load_target(name: str) -> Target:
    """One of `TARGETS`, one of their `chips`, or a TOML file of the user's.

    Raises:
        UserError: there is no such target or file, or the file is not of the form above.
    """
    try:
        file = name if name in TARGETS else chips().get(name, name)
        content = _read(file)
        operators = content["operators"]
        limits = content.get("limits", {})
        if not all(isinstance(operator, str) for operator in operators):
            raise TypeError("operators")
        if not isinstance(content.get("max_opset", 0), int):
            raise TypeError("max_opset")
        if not all(isinstance(values, list) for allowed in limits.values() for values in allowed.values()):
            raise TypeError("limits")
        if content.get("form", "native") not in get_args(Form):
            raise ValueError(f"form is {', '.join(get_args(Form))}")
        names = content.get("chips", {})
        words = [content.get(key, "") for key in ("toolchain", "compiler")]
        if not all(isinstance(word, str) for word in [*words, *names.values(), *content.get("precisions", ())]):
            raise TypeError("toolchain, compiler, chips and precisions are text")
        if content.get("toolchain") and not (names and content.get("precisions")):
            raise ValueError("a toolchain needs chips and precisions")
        if not isinstance(content.get("compiled", datetime.date.min), datetime.date):
            raise TypeError("compiled")
        return Target(
            name=str(content.get("name", name)),
            source=str(content.get("source", name)),
            operators=frozenset(operators),
            limits=limits,
            max_opset=content.get("max_opset"),
            static_shapes=bool(content.get("static_shapes", False)),
            notes=tuple(content.get("notes", ())),
            toolchain=content.get("toolchain"),
            chip=names.get(name) or next(iter(names.values()), ""),
            form=content.get("form", "native"),
            precisions=tuple(content.get("precisions", ())),
            compiler=content.get("compiler"),
            compiled=content.get("compiled"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{name} is no target file ({error}): it is TOML with a line like operators = ["Conv", "Mul", "Resize"].'
        ) from None


def _read(name: str) -> dict[str, Any]:
    path = files("codecswap.export") / "targets" / f"{name}.toml" if name in TARGETS else Path(name)
    if not path.is_file():
        known = ", ".join(sorted({*TARGETS, *chips()}))
        raise UserError(f"There is no target {name}: --target is {known} or a TOML file.")
    return tomllib.loads(path.read_text(encoding="utf-8"))


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
