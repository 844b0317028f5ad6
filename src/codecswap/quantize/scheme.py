"""Quantization schemes, from the options of `codecswap quantize` or from a target's file."""

from collections.abc import Iterable
from dataclasses import dataclass

SPLIT, WIDE, FLOAT = "split", "wide", "float"
REMEDIES = {
    SPLIT: "coarse and fine weights",
    WIDE: "16-bit activations",
    FLOAT: "float",
}
"""What a layer may get that loses too much: weights in two parts (`codecswap.quantize.rounding.SplitConv2d`), outputs of
16 bits, or no quantization."""

PRICES = {SPLIT: 2.0, FLOAT: 3.0}
"""Cost of a multiply-add with each remedy that a CPU has, in shares of an 8-bit one's."""

COPIES = 0.03
"""`Scheme.copies` where no target pads channels to a multiple of 16 or 32, so that a copy costs what it says."""


@dataclass(frozen=True)
class Scheme:
    """How to quantize weights and activations of a transform."""

    precision: str = "w8a8"
    """A name in `codecswap.quantized.precision.PRECISIONS`."""
    activations: str = "uint8"
    """Type of 8-bit activations, ``uint8`` or ``int8``; 16-bit ones are uint16, or symmetric int16."""
    weight_bits: int = 8
    """7 or 8."""
    equalize: bool = True
    """Equalize the ranges of channels around GDN layers first, without changing the function."""
    refit: bool = True
    """Refit the weights to quantized inputs, then round them with GPTQ-style error compensation."""
    keep: tuple[str, ...] = ()
    """Layers that stay in float, by their names in the codec, e.g. ``g_s.6``."""
    float_results: tuple[str, ...] = ()
    """ONNX operators whose results stay in float."""
    copies: float = 0.0
    """Multiply-adds that copies of costly channels may add to an 8-bit decoder, as a share (`codecswap.quantize.copies`)."""
    reduced_range: bool = False
    """Activations except input and output use 7 of 8 bits."""
    largest_weight: int = 127
    """Largest magnitude of 8-bit weights."""
    remedies: tuple[tuple[str, str], ...] = ()
    """Layers that are not quantized as the others, and the name in `REMEDIES` of what they get instead."""

    def layers(self, remedy: str) -> list[str]:
        """Layers with this remedy."""
        return [layer for layer, name in self.remedies if name == remedy]


@dataclass(frozen=True)
class Point:
    """A set of remedies, its cost and its loss (`codecswap.quantize.budget`)."""

    remedies: tuple[tuple[str, str], ...]
    """As in `Scheme`."""
    cost: float
    """Cost in shares of the scheme's without remedies."""
    predicted: float
    """Loss in dB by the linear model."""
    loss: float | None = None
    """Loss in dB, measured on held-out pictures; None: it was not quantized."""


@dataclass(frozen=True)
class Frontier:
    """The best sets of remedies, and the one that was chosen."""

    points: tuple[Point, ...]
    """From the cheapest to the dearest; the first has no remedies."""
    chosen: Point
    held: bool
    """Whether the budget holds; if not, ``chosen`` is the best that was found."""
    asked: str
    """The budget, in words."""
    shares: tuple[tuple[str, str, float], ...]
    """Loss in dB of each tensor without remedies: its layer, `codecswap.quantize.sensitivity.Cost.tensor`, and the loss."""
    pictures: int
    """Number of held-out pictures."""


DEFAULT = Scheme()
"""Default scheme of `codecswap quantize`."""


def words(remedies: Iterable[tuple[str, str]]) -> str:
    """Remedies with their layers, e.g. ``float: g_s.1, g_s.3``."""
    found: dict[str, list[str]] = {}
    for layer, remedy in remedies:
        found.setdefault(remedy, []).append(layer)
    return "; ".join(f"{remedy}: {', '.join(layers)}" for remedy, layers in found.items()) or "none"
