"""The swap: find the transposed convolutions of a synthesis transform and put layers in their place that NPUs run."""

import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from codecswap.errors import UserError
from codecswap.layers.upsampling import (
    REPLACEMENTS,
    SubpixelConv2d,
    UpsampleConv2d,
    to_subpixel,
    transposed_phase_kernels,
)
from codecswap.swaps.calibrate import fit_weights

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


def refusal(layer: nn.ConvTranspose2d, replacement: str) -> str | None:
    """Why ``layer`` cannot be replaced, as the end of a sentence; None where it can."""
    kernel, stride = layer.kernel_size, layer.stride
    padding = layer.padding if isinstance(layer.padding, tuple) else (-1, -1)
    doubled = all(k + op - 2 * p == 2 for k, op, p in zip(kernel, layer.output_padding, padding, strict=True))
    if tuple(stride) != (2, 2):
        return f"its stride is {tuple(stride)}, not 2"
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if tuple(layer.dilation) != (1, 1):
        return f"its dilation is {tuple(layer.dilation)}"
    if kernel[0] != kernel[1]:
        return f"its kernel {tuple(kernel)} is not square"
    if not doubled:
        return f"its output is not twice its input (padding {layer.padding}, output_padding {layer.output_padding})"
    if replacement != "subpixel" and kernel[0] % 2 == 0:
        return f"its kernel of {kernel[0]} is even (only the subpixel replacement takes that)"
    return None


def replace_layer(
    layer: nn.ConvTranspose2d, replacement: str, *, kernel_size: int | None = None, init: str = "weights"
) -> tuple[nn.Module, float | None]:
    """Build the layer that takes the place of ``layer``.

    Returns: the new layer, and the energy of the kernel that it cannot represent in dB (None with a random start).
    """
    inputs, outputs, kernel = layer.in_channels, layer.out_channels, kernel_size or layer.kernel_size[0]
    target = transposed_phase_kernels(layer)
    new: UpsampleConv2d | SubpixelConv2d
    error: float | None = float("-inf")
    if replacement == "subpixel":
        new = SubpixelConv2d(inputs, outputs, target.shape[-1])
        weight: Tensor = to_subpixel(target)
        bias = layer.bias.detach().repeat_interleave(4) if layer.bias is not None else None
    else:
        new = UpsampleConv2d(inputs, outputs, kernel, masked=replacement == "masked")
        if replacement == "masked":
            weight = layer.weight.detach().transpose(0, 1).flip(-1, -2)
        else:
            weight, error = fit_weights(target, kernel)
        bias = layer.bias.detach() if layer.bias is not None else None
    new = new.to(layer.weight)
    if init == "random":
        return new, None
    new.conv.weight.data.copy_(weight)
    if bias is None:
        new.conv.bias = None
    elif new.conv.bias is not None:
        new.conv.bias.data.copy_(bias)
    return new, error


def swap(
    codec: Codec, replacement: str = "upsample", *, kernel_size: int | None = None, init: str = "weights"
) -> tuple[Codec, list[Replaced]]:
    """Copy ``codec`` and replace every ``ConvTranspose2d`` of its synthesis transform ``g_s``.

    Everything else keeps its weights and its names; ``g_s.0.weight`` becomes ``g_s.0.1.weight`` (``g_s.0.0.weight`` with
    ``subpixel``).

    Args:
        codec: a codec with a synthesis transform ``g_s``; it is left as it is.
        replacement: ``upsample`` (the closest kernel, not exact), ``masked`` or ``subpixel`` (both exact).
        kernel_size: odd kernel of the ``upsample`` replacement; by default that of the layer replaced.
        init: ``weights`` starts from the teacher's kernels, ``random`` from PyTorch's Kaiming start.

    Raises:
        UserError: a layer that no replacement fits is named; so is a ``g_s`` without transposed convolutions.
    """
    if replacement not in REPLACEMENTS:
        raise ValueError(f"replacement must be one of {', '.join(REPLACEMENTS)}, not {replacement!r}")
    if kernel_size is not None and replacement != "upsample":
        raise UserError(f"--kernel_size goes with --replacement upsample; {replacement} keeps the kernel it replaces.")
    student = copy.deepcopy(codec)
    report = []
    for name, layer in list(student.named_modules()):
        if not (name.startswith("g_s.") and isinstance(layer, nn.ConvTranspose2d)):
            continue
        if reason := refusal(layer, replacement):
            raise UserError(f"The layer {name} ({layer}) cannot be replaced by {replacement}: {reason}.")
        new, error = replace_layer(layer, replacement, kernel_size=kernel_size, init=init)
        parent, _, child = name.rpartition(".")
        setattr(student.get_submodule(parent), child, new)
        report.append(Replaced(name, describe(layer), describe(new), error))
    if not report:
        raise UserError("The codec's synthesis transform g_s holds no ConvTranspose2d: there is nothing to swap.")
    return student, report


def describe(layer: nn.Module) -> str:
    """One line that names a layer, e.g. ``Upsample(x2) + Conv2d(72, 48, 5x5)``."""
    if isinstance(layer, UpsampleConv2d):
        return f"Upsample(x2) + {'Mask + ' if layer.masked else ''}{describe(layer.conv)}"
    if isinstance(layer, SubpixelConv2d):
        return f"{describe(layer.conv)} + PixelShuffle(2)"
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    kernel = "x".join(str(side) for side in layer.kernel_size)
    return f"{type(layer).__name__}({layer.in_channels}, {layer.out_channels}, {kernel})"
