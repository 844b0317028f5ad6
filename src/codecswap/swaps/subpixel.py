"""``subpixel``: the transposed convolution as a small convolution and PixelShuffle. Exact."""

from torch import nn

from codecswap.layers.upsampling import SubpixelConv, axes_of, phase_kernels, to_subpixel
from codecswap.swaps.swap import Swap, copy_convolution, describe_convolution

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d


def _build(layer: Transposed, size: int | None) -> SubpixelConv:
    return SubpixelConv(layer.in_channels, layer.out_channels, axes_of(layer), layer.groups, layer.bias is not None)


def _fit(new: SubpixelConv, layer: Transposed) -> float:
    kernels = phase_kernels(layer.weight.detach(), new.windows, layer.groups)
    phases = new.conv.out_channels // layer.out_channels
    bias = None if layer.bias is None else layer.bias.repeat_interleave(phases)
    copy_convolution(new.conv, to_subpixel(kernels), bias)
    return float("-inf")


def _describe(new: SubpixelConv) -> str:
    factor = "x".join(map(str, getattr(new[1], "strides", (getattr(new[1], "upscale_factor", 1),))))
    return f"{describe_convolution(new.conv)} + PixelShuffle({factor})" + (" + Crop" if len(new) > 2 else "")


SUBPIXEL = Swap(
    name="subpixel",
    replaces=nn.ConvTranspose2d,
    also=(nn.ConvTranspose1d,),
    exact=True,
    operators=("Conv", "DepthToSpace"),
    refusal=lambda layer: None,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, SubpixelConv),
    describe=_describe,
)
