"""``masked``: zero insertion, written as nearest upsampling times a constant mask, and the flipped kernel. Exact."""

from typing import Any

from torch import nn

from codecswap.layers.upsampling import MaskedConv, UpsampleConv2d, axes_of, why_not_stride_2
from codecswap.swaps.swap import Swap, copy_convolution, describe_convolution

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d


def why_not_odd(layer: nn.ConvTranspose2d) -> str | None:
    """Why a convolution after upsampling cannot replace ``layer``, as the end of a sentence; None if it can."""
    if (reason := why_not_stride_2(layer)) or layer.kernel_size[0] % 2:
        return reason
    return f"its kernel of {layer.kernel_size[0]} is even (only the subpixel replacement takes that)"


def _build(layer: Transposed, size: int | None) -> UpsampleConv2d | MaskedConv:
    if isinstance(layer, nn.ConvTranspose2d) and not why_not_odd(layer):  # its training is faster
        new = UpsampleConv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0], masked=True)
        new.conv.bias = None if layer.bias is None else new.conv.bias
        return new
    return MaskedConv(layer.in_channels, layer.out_channels, axes_of(layer), layer.groups, layer.bias is not None)


def _fit(new: UpsampleConv2d | MaskedConv, layer: Transposed) -> float:
    weight = layer.weight.detach().unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    copy_convolution(new.conv, weight.flip(*range(2, weight.ndim)), layer.bias)
    return float("-inf")


def _describe(new: UpsampleConv2d | MaskedConv) -> str:
    resize: Any = new.get_submodule("0.0")
    factor = resize.scale_factor
    factor = "x".join(f"{one:g}" for one in (factor if isinstance(factor, tuple) else (factor,)))
    return f"Upsample(x{factor}) + Mask + {describe_convolution(new.conv)}" + (" + Crop" if len(new) > 2 else "")


MASKED = Swap(
    name="masked",
    replaces=nn.ConvTranspose2d,
    also=(nn.ConvTranspose1d,),
    exact=True,
    operators=("Resize", "Mul", "Conv"),
    refusal=lambda layer: None,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, MaskedConv) or (isinstance(layer, UpsampleConv2d) and layer.masked),
    describe=_describe,
)
