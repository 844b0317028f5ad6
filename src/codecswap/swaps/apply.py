"""Swapping: find the layers of a synthesis transform that a swap replaces, and put layers in their place that NPUs run."""

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from codecswap.errors import UserError
from codecswap.swaps import SWAPS, maker
from codecswap.swaps.swap import describe_convolution
from codecswap.swaps.upsample import UPSAMPLE

Codec = TypeVar("Codec", bound=nn.Module)


@dataclass(frozen=True)
class Replaced:
    """What one replacement did."""

    name: str
    """Where the layer stands, e.g. ``g_s.0``."""
    before: str
    """The layer that stood there."""
    after: str
    """The layer that stands there now."""
    error_db: float | None
    """Energy of the kernel that the new layer cannot represent, in dB of the whole (-inf: exact; None: random start)."""


def swap(
    codec: Codec, replacement: str = UPSAMPLE.name, *, kernel_size: int | None = None, init: str = "weights"
) -> tuple[Codec, list[Replaced]]:
    """Copy ``codec`` and replace every layer of its synthesis transform ``g_s`` that a swap is for.

    Everything else keeps its weights and its names; ``g_s.0.weight`` becomes ``g_s.0.1.weight`` (``g_s.0.0.weight`` with
    ``subpixel``).

    Args:
        codec: a codec with a synthesis transform ``g_s``; it is left as it is.
        replacement: a name in `codecswap.swaps.SWAPS`: ``upsample`` (the closest kernel, not exact), ``masked`` or
            ``subpixel`` (both exact).
        kernel_size: odd kernel, where the swap has a choice; by default that of the layer replaced.
        init: ``weights`` starts from the teacher's kernels, ``random`` from PyTorch's Kaiming start.

    Raises:
        UserError: a layer that no replacement fits is named; so is a ``g_s`` without any such layer.
    """
    if replacement not in SWAPS:
        raise ValueError(f"replacement must be one of {', '.join(SWAPS)}, not {replacement!r}")
    chosen = SWAPS[replacement]
    if kernel_size is not None and not chosen.sizes:
        having = " or ".join(other.name for other in SWAPS.values() if other.sizes)
        raise UserError(f"--kernel_size goes with --replacement {having}; {replacement} keeps the kernel it replaces.")
    student = copy.deepcopy(codec)
    report = []
    for name, layer in list(student.named_modules()):
        if not (name.startswith("g_s.") and isinstance(layer, chosen.replaces)):
            continue
        if reason := chosen.refusal(layer):
            raise UserError(f"The layer {name} ({layer}) cannot be replaced by {replacement}: {reason}.")
        new, error = chosen.replace(layer, size=kernel_size, init=init)
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, new)
        report.append(Replaced(name, describe(layer), describe(new), error))
    if not report:
        kind = chosen.replaces.__name__
        raise UserError(f"The codec's synthesis transform g_s holds no {kind}: there is nothing to swap.")
    return student, report


def describe(layer: nn.Module) -> str:
    """One line that names a layer, e.g. ``Upsample(x2) + Conv2d(72, 48, 5x5)``."""
    if made_by := maker(layer):
        return made_by.describe(layer)
    return describe_convolution(layer) if isinstance(layer, nn.ConvTranspose2d) else str(layer)
