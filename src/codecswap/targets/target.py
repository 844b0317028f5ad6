"""A target: operators that an NPU's converter supports, its quantization scheme, and its compiler.

A target is a small TOML file: those in this folder were each read from the public document they name; anybody can write
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
    [scheme]                                  # how decoders are quantized: fields of `codecswap.quantize.scheme.Scheme`
    weight_bits = 8
    [prices]                                  # optional: remedies that it has for layers that lose too much, and the cost
    float = 2.0                               # of a multiply-add with each; coarse and fine weights (split) are always 2.0
    [chips]                                   # names for --target, and the compiler's name for each; the first is the default
    my-npu = "mynpu-256"
    [limits.Resize]                           # optional: attributes and the values they may have
    mode = ["nearest"]
"""

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from codecswap.config import Form
from codecswap.errors import UserError
from codecswap.quantize.scheme import DEFAULT, REMEDIES, SPLIT, Scheme
from codecswap.quantized.precision import PRECISIONS

FOLDER = files("codecswap.targets")
TARGETS = tuple(sorted(path.name.removesuffix(".toml") for path in FOLDER.iterdir() if path.name.endswith(".toml")))
"""Names of the targets in the package."""


@dataclass(frozen=True)
class Target:
    """One target, read from its TOML file."""

    name: str
    """Name of the converter, and its version."""
    asked: str
    """Value of ``--target``: one of `chips` or `TARGETS`, or a file."""
    source: str
    """The public document that the list was read from."""
    operators: frozenset[str]
    """Names of supported ONNX operators."""
    limits: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Allowed values of attributes, by operator."""
    max_opset: int | None = None
    static_shapes: bool = False
    """Dynamic dimensions are not allowed."""
    notes: tuple[str, ...] = ()
    toolchain: str | None = None
    """Name in `codecswap.compile.TOOLCHAINS`; None: no compiler is called."""
    chip: str = ""
    """The compiler's name for the NPU."""
    form: Form = "native"
    """Best lowering of upsampling layers."""
    precisions: tuple[str, ...] = ()
    """Names of `codecswap compile --precision`, best first."""
    base: Scheme = DEFAULT
    """Quantization scheme of decoders, without the precision."""
    prices: Mapping[str, float] = field(default_factory=lambda: {SPLIT: 2.0})
    """Remedies of layers that lose too much (`codecswap.quantize.scheme.REMEDIES`), and the cost of a multiply-add with each,
    in shares of the precision's own."""
    compiler: str | None = None
    """Compiler and version that this file was tested with."""
    compiled: datetime.date | None = None
    """Date of that test."""

    @property
    def quantized(self) -> tuple[str, ...]:
        """Its integer precisions."""
        return tuple(name for name in self.precisions if name in PRECISIONS)

    def scheme(self, precision: str) -> Scheme:
        """Quantization scheme for one of the integer precisions."""
        return replace(self.base, precision=precision)


def chips() -> dict[str, str]:
    """Names of single NPUs, and the name in `TARGETS` that each belongs to."""
    return {chip: name for name in TARGETS for chip in _read(name).get("chips", {})}


def load_target(name: str) -> Target:
    """Load one of `TARGETS`, one of their `chips`, or a TOML file.

    Raises:
        UserError: there is no such target or file, or the file does not have the format above.
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
            asked=name,
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
            base=_scheme(content.get("scheme", {})),
            prices={SPLIT: 2.0} | _prices(content.get("prices", {})),
            compiler=content.get("compiler"),
            compiled=content.get("compiled"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f'{name} is no target file ({error}): it is TOML with a line like operators = ["Conv", "Mul", "Resize"].'
        ) from None


def _scheme(content: dict[str, Any]) -> Scheme:
    """Read the scheme; raises ValueError if a value has the wrong type."""
    default = Scheme()
    known = {
        entry.name: getattr(default, entry.name)
        for entry in fields(Scheme)
        if entry.name not in ("precision", "remedies")
    }
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    for name, value in values.items():
        if (
            name not in known
            or type(value) is not type(known[name])
            or (isinstance(value, tuple) and not all(isinstance(one, str) for one in value))
        ):
            raise ValueError(f"[scheme] has no such {name}: it has {', '.join(known)}")
    if values.get("weight_bits", 8) not in (7, 8) or values.get("activations", "int8") not in ("uint8", "int8"):
        raise ValueError("[scheme] has weight_bits 7 or 8 and activations uint8 or int8")
    if not 1 <= values.get("largest_weight", 127) <= 127:
        raise ValueError("[scheme] has a largest_weight of 1 to 127")
    return Scheme(**values)


def _prices(content: dict[str, Any]) -> dict[str, float]:
    """Read the prices; raises ValueError if a remedy is unknown or a price is none."""
    if not all(name in REMEDIES and isinstance(price, float) and price >= 1 for name, price in content.items()):
        raise ValueError(f"[prices] has a number like 2.0 for {', '.join(REMEDIES)}")
    return content


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.toml" if name in TARGETS else Path(name)
    if not path.is_file():
        known = ", ".join(sorted({*TARGETS, *chips()}))
        raise UserError(f"There is no target {name}: --target is {known} or a TOML file.")
    return tomllib.loads(path.read_text(encoding="utf-8"))
