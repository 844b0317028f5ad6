"""The definition of a swap: a type of layer, and how to replace it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from codecswap.least_squares import Places


class Calibration(Protocol):
    """Fit of a new layer to the layer it replaces, from the inputs of both in their own decoders."""

    def add(self, inputs: Tensor, theirs: Tensor, places: Places) -> None:
        """Add positions of the new layer's input and of the old layer's input, each ``(B, C, h, w)``."""

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the new layer. Returns: its output's relative error in dB, before and after."""


@dataclass(frozen=True)
class Swap:
    """One way to replace layers of one type. The functions get layers of that type, and layers that ``build`` made."""

    name: str
    """Name in ``--replacement`` or ``--gdn``, and in checkpoints."""
    replaces: type[nn.Module]
    """Type of the layers replaced."""
    exact: bool
    """The new layer equals the old one up to float rounding, and needs no training."""
    operators: tuple[str, ...]
    """ONNX operators of the new layer."""
    refusal: Callable[[Any], str | None]
    """Why a layer cannot be replaced, as the end of a sentence; None if it can."""
    build: Callable[[Any, int | None], nn.Module]
    """Build the new layer for an old layer and a size (None: the old layer's), with random weights."""
    fit: Callable[[Any, Any], float]
    """Write into a new layer the weights closest to the old one's. Returns: the energy of the old weights that it cannot
    represent, in dB of their total (-inf: exact)."""
    recognizes: Callable[[nn.Module], bool]
    """Whether this swap built a layer."""
    describe: Callable[[Any], str]
    """One line about a new layer."""
    calibration: Callable[[Any, Any], Calibration] | None = None
    """Fit on real latents, for a new layer and its old one; None if ``fit`` cannot be improved."""
    trained: bool = False
    """It approximates the old layer only after training."""
    sizes: tuple[int, ...] = ()
    """Allowed sizes (kernel sizes, or pieces of ``ramps``); empty if the old layer decides."""
    also: tuple[type[nn.Module], ...] = ()
    """Further types of layers that it replaces."""
    size_of: Callable[[Any], int] | None = None
    """Size of a new layer, if there are sizes."""

    @property
    def kinds(self) -> tuple[type[nn.Module], ...]:
        """All types of layers that it replaces."""
        return self.replaces, *self.also

    def replace(
        self, layer: nn.Module, *, size: int | None = None, init: str = "weights"
    ) -> tuple[nn.Module, float | None]:
        """Build the layer that replaces ``layer``, on its device and in its dtype.

        Args:
            size: one of ``sizes``, or None.
            init: ``weights`` fits it to the old layer's weights, ``random`` keeps PyTorch's initialization.

        Returns: the new layer, and what ``fit`` returns (None with a random start).
        """
        new = self.build(layer, size).to(next(layer.parameters()))
        return new, None if init == "random" else self.fit(new, layer)


def describe_convolution(layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d) -> str:
    """Describe a convolution in one line, e.g. ``Conv2d(72, 48, 5x5)``."""
    kernel = "x".join(str(side) for side in layer.kernel_size)
    return f"{type(layer).__name__}({layer.in_channels}, {layer.out_channels}, {kernel})"


def copy_convolution(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    """Set the weight and the bias (or None) of ``conv``, in place."""
    conv.weight.data.copy_(weight)
    if bias is None:
        conv.bias = None
    elif conv.bias is not None:
        conv.bias.data.copy_(bias.detach())


def decibels(ratio: Tensor) -> float:
    """A ratio of energies in dB, not below -300."""
    return 10 * math.log10(max(ratio.item(), 1e-30))
