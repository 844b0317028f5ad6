"""Find the layers of a transform that a swap replaces, and replace them by layers that NPUs run."""

import copy
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from codecswap.codecs.protocol import Codec
from codecswap.errors import UserError
from codecswap.layers.gdn import GDN
from codecswap.swaps import GDN_SWAPS, SWAPS, UNCHANGED, swap_of
from codecswap.swaps.order import execution_order
from codecswap.swaps.swap import Swap, describe_convolution
from codecswap.swaps.upsample import UPSAMPLE

SomeCodec = TypeVar("SomeCodec", bound=nn.Module)
PARTS = {"encoder": ("g_a",), "decoder": ("g_s",), "both": ("g_a", "g_s")}
"""Transforms of each ``--part``."""


@dataclass(frozen=True)
class Replaced:
    """Report of one replaced layer."""

    name: str
    """Name of the layer, e.g. ``g_s.0``."""
    before: str
    """The replaced layer, in one line."""
    after: str
    """The new layer, in one line."""
    error_db: float | None
    """Energy of the kernel that the new layer cannot represent, in dB of its total (-inf: exact; None: random start)."""


def swap(
    codec: SomeCodec,
    replacement: str = UPSAMPLE.name,
    *,
    kernel_size: int | None = None,
    init: str = "weights",
    gdn: str = UNCHANGED,
    part: str = "decoder",
    gdn_pieces: int | None = None,
) -> tuple[SomeCodec, list[Replaced]]:
    """Copy a codec and replace all matching layers of its synthesis transform ``g_s``, at any depth.

    A module without ``g_s`` is treated as a transform itself. All other layers keep
    their weights and names; ``g_s.0.weight`` becomes ``g_s.0.1.weight`` (``g_s.0.0.weight`` with ``subpixel``).

    Args:
        codec: a codec with a synthesis transform ``g_s``, or any module; it is not changed.
        replacement: a name in `codecswap.swaps.SWAPS`: ``upsample`` (the closest kernel, not exact), ``masked`` or
            ``subpixel`` (both exact).
        kernel_size: odd kernel size, if the swap has a choice; by default that of the replaced layer.
        init: ``weights`` fits the teacher's kernels, ``random`` uses PyTorch's Kaiming initialization.
        gdn, part, gdn_pieces: replacement of GDNs, as in `swap_gdn`.

    Returns: the student, and the replaced layers in order of execution.

    Raises:
        ValueError: there is no such replacement.
        UserError: a layer cannot be replaced, or ``g_s`` has no layer to replace.
    """
    if replacement not in SWAPS:
        raise ValueError(f"replacement must be one of {', '.join(SWAPS)}, not {replacement!r}")
    chosen = SWAPS[replacement]
    if kernel_size is not None and not chosen.sizes:
        having = " or ".join(other.name for other in SWAPS.values() if other.sizes)
        raise UserError(f"--kernel_size goes with --replacement {having}; {replacement} keeps the kernel it replaces.")
    student = copy.deepcopy(codec)
    student, report = _replaced(student, chosen, "decoder", size=kernel_size, init=init)
    if not report:
        kinds = " or ".join(kind.__name__ for kind in chosen.kinds)
        where = "codec's synthesis transform g_s" if hasattr(codec, "g_s") else "module"
        raise UserError(f"The {where} holds no {kinds}: there is nothing to swap.")
    if gdn == UNCHANGED:
        return student, report
    student, more = swap_gdn(student, gdn, part, pieces=gdn_pieces, init=init)
    return student, report + more


def swap_gdn(
    codec: SomeCodec, gdn: str, part: str = "decoder", *, pieces: int | None = None, init: str = "weights"
) -> tuple[SomeCodec, list[Replaced]]:
    """Copy ``codec`` and replace all GDNs of a part. If the swap is not exact, calibrate the copy afterwards.

    Args:
        codec: it is not changed.
        gdn: a name in `codecswap.swaps.GDN_SWAPS`, or ``sqrt`` for a plain copy.
        part: one of `PARTS`.
        pieces: number of pieces of ``ramps``; by default `codecswap.swaps.ramps.PIECES`.
        init: as in `swap`.

    Raises:
        UserError: these transforms have no GDN.
    """
    if gdn == UNCHANGED:
        return copy.deepcopy(codec), []
    student, chosen = copy.deepcopy(codec), GDN_SWAPS[gdn]
    student, report = _replaced(student, chosen, part, size=pieces if chosen.sizes else None, init=init)
    if not report:
        where = f"codec's {' and '.join(PARTS[part])} hold" if hasattr(codec, "g_s") else "module holds"
        raise UserError(f"The {where} no GDN: there is nothing for --gdn to replace.")
    return student, report


def has_gdn(codec: nn.Module, part: str = "decoder") -> bool:
    """Whether the transforms of a part have a GDN, at any depth, that a swap could replace."""
    return any(
        isinstance(layer, GDN) and not swap_of(layer)
        for transform in PARTS[part]
        for layer in codec.get_submodule(transform).modules()
    )


def can_swap(codec: nn.Module, replacement: str) -> bool:
    """Whether a codec's synthesis transform has a layer, at any depth, that a replacement is for."""
    kinds = SWAPS[replacement].kinds
    return any(isinstance(layer, kinds) and not swap_of(layer) for layer in codec.get_submodule("g_s").modules())


def _replaced(
    student: SomeCodec, chosen: Swap, part: str, *, size: int | None, init: str
) -> tuple[SomeCodec, list[Replaced]]:
    """Replace matching layers, in place: in the transforms of a part, or in a module that has no such transforms."""
    if hasattr(student, "g_s"):
        return student, _replace(student, chosen, PARTS[part], size=size, init=init)
    around = nn.Sequential(OrderedDict(module=student))
    report = _replace(around, chosen, ("module",), size=size, init=init)
    named = [replace(one, name=one.name.removeprefix("module").lstrip(".")) for one in report]
    return around.get_submodule("module"), named  # type: ignore[return-value]


def _replace(
    student: nn.Module, chosen: Swap, transforms: tuple[str, ...], *, size: int | None, init: str
) -> list[Replaced]:
    """Replace matching layers of some transforms, in place; layers that a swap built are skipped."""
    report = []
    for transform in transforms:
        found = {  # a layer with several names is replaced under each of them
            f"{transform}.{name}".rstrip("."): layer
            for name, layer in student.get_submodule(transform).named_modules(remove_duplicate=False)
            if isinstance(layer, chosen.kinds) and not swap_of(layer)
        }
        for name, layer in found.items():
            if reason := chosen.refusal(layer):
                raise UserError(f"The layer {name} ({layer}) cannot be replaced by {chosen.name}: {reason}.")
        made: dict[nn.Module, nn.Module] = {}
        for name in _in_execution_order(student, transform, found, chosen):
            layer = found[name]
            if layer not in made:
                new, error = chosen.replace(layer, size=size, init=init)
                made[layer] = new.train(layer.training)
                report.append(Replaced(name, describe(layer), describe(new), error))
            parent, _, child = name.rpartition(".")
            setattr(student.get_submodule(parent), child, made[layer])
    return report


def _in_execution_order(student: nn.Module, transform: str, found: dict[str, nn.Module], chosen: Swap) -> list[str]:
    """Names of layers in order of execution.

    Raises:
        UserError: a layer is not called as a module with one input, so it cannot be replaced.
    """
    if not found or not isinstance(student, Codec):
        return list(found)  # the input shape of a single transform is unknown
    size = (student.M, 4, 4) if transform == "g_s" else (3, 4 * student.factor, 4 * student.factor)
    x = next(student.parameters()).new_zeros(1, *size)
    runs = list(execution_order(student.get_submodule(transform), x))
    first = {layer: name for name, layer in reversed(list(found.items()))}
    for name, layer in found.items():
        if first[layer].removeprefix(f"{transform}.") not in runs:
            raise UserError(
                f"The layer {name} ({layer}) cannot be replaced by {chosen.name}: the codec does not call it as a module "
                "with one input; let its forward pass do that."
            )
    return sorted(found, key=lambda name: runs.index(first[found[name]].removeprefix(f"{transform}.")))


def describe(layer: nn.Module) -> str:
    """Describe a layer in one line, e.g. ``Upsample(x2) + Conv2d(72, 48, 5x5)``."""
    if made_by := swap_of(layer):
        return made_by.describe(layer)
    if isinstance(layer, GDN):
        return f"{'I' if layer.inverse else ''}GDN({len(layer.beta)})"
    return describe_convolution(layer) if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else str(layer)
