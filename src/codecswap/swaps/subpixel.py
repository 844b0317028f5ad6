"""``subpixel``: the transposed convolution itself, folded into a small convolution and PixelShuffle. Exact."""

from torch import nn

from codecswap.layers.upsampling import SubpixelConv2d, to_subpixel, transposed_phase_kernels, why_not_doubling
from codecswap.swaps.swap import Swap, copy_convolution, describe_convolution


def _build(layer: nn.ConvTranspose2d, size: int | None) -> SubpixelConv2d:
    return SubpixelConv2d(layer.in_channels, layer.out_channels, transposed_phase_kernels(layer).shape[-1])


def _fit(new: SubpixelConv2d, layer: nn.ConvTranspose2d) -> float:
    bias = None if layer.bias is None else layer.bias.repeat_interleave(4)
    copy_convolution(new.conv, to_subpixel(transposed_phase_kernels(layer)), bias)
    return float("-inf")


SUBPIXEL = Swap(
    name="subpixel",
    replaces=nn.ConvTranspose2d,
    exact=True,
    operators=("Conv", "DepthToSpace"),
    refusal=why_not_doubling,
    build=_build,
    fit=_fit,
    made=lambda layer: isinstance(layer, SubpixelConv2d),
    describe=lambda new: f"{describe_convolution(new.conv)} + PixelShuffle(2)",
)
