"""Table of swaps. To add one, add a file here and a line in the table (docs/architecture.md)."""

from torch import nn

from codecswap.swaps.gdn1 import GDN1_SWAP
from codecswap.swaps.masked import MASKED
from codecswap.swaps.pointwise import NONE, RELU
from codecswap.swaps.ramps import RAMPS
from codecswap.swaps.rsqrt import RSQRT
from codecswap.swaps.subpixel import SUBPIXEL
from codecswap.swaps.swap import Swap
from codecswap.swaps.upsample import UPSAMPLE

SWAPS: dict[str, Swap] = {
    SUBPIXEL.name: SUBPIXEL,
    MASKED.name: MASKED,
    UPSAMPLE.name: UPSAMPLE,
}
"""Swaps of transposed convolutions, by name."""
GDN_SWAPS: dict[str, Swap] = {
    RSQRT.name: RSQRT,
    RAMPS.name: RAMPS,
    GDN1_SWAP.name: GDN1_SWAP,
    RELU.name: RELU,
    NONE.name: NONE,
}
"""Swaps of GDNs, by name."""
UNCHANGED = "sqrt"
"""Value of ``--gdn`` that does not replace GDNs."""


def replacing(kind: type[nn.Module]) -> list[Swap]:
    """The swaps that replace layers of this type, in the table's order."""
    return [swap for swap in SWAPS.values() if swap.replaces is kind]


def swap_of(layer: nn.Module) -> Swap | None:
    """The swap that built a layer; None if the layer is not from a swap."""
    return next((swap for swap in (*SWAPS.values(), *GDN_SWAPS.values()) if swap.recognizes(layer)), None)
