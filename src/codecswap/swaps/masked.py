"""``masked``: zero insertion, written as nearest upsampling times a constant mask, and the flipped kernel. Exact."""

from torch import nn

from codecswap.layers.upsampling import UpsampleConv2d, why_not_doubling
from codecswap.swaps.swap import Swap, copy_convolution, describe_convolution


def why_not_odd(layer: nn.ConvTranspose2d) -> str | None:
    """Why a convolution after upsampling cannot take ``layer``'s place, as the end of a sentence; None where it can."""
    if (reason := why_not_doubling(layer)) or layer.kernel_size[0] % 2:
        return reason
    return f"its kernel of {layer.kernel_size[0]} is even (only the subpixel replacement takes that)"


def _build(layer: nn.ConvTranspose2d, size: int | None) -> UpsampleConv2d:
    return UpsampleConv2d(layer.in_channels, layer.out_channels, layer.kernel_size[0], masked=True)


def _fit(new: UpsampleConv2d, layer: nn.ConvTranspose2d) -> float:
    copy_convolution(new.conv, layer.weight.detach().transpose(0, 1).flip(-1, -2), layer.bias)
    return float("-inf")


MASKED = Swap(
    name="masked",
    replaces=nn.ConvTranspose2d,
    exact=True,
    operators=("Resize", "Mul", "Conv"),
    refusal=why_not_odd,
    build=_build,
    fit=_fit,
    made=lambda layer: isinstance(layer, UpsampleConv2d) and layer.masked,
    describe=lambda new: f"Upsample(x2) + Mask + {describe_convolution(new.conv)}",
)
