"""Base of the closed-form fits of GDN swaps: collects samples of the inputs of a layer and of the GDN it replaces."""

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from codecswap.layers.gdn import GDN
from codecswap.least_squares import Places, patches

EVERY = 8
"""Every n-th drawn position is used, since there are few unknowns."""

Layer = TypeVar("Layer", bound=nn.Module)


class ActivationFit(Generic[Layer]):
    """Input samples that one layer is fitted to.

    The square root is multiplied by x, so squared errors are weighted by x squared. The sensitivity of
    the picture, or of the bits, to a channel scales all weights of that channel, and so does not change the fit.
    """

    def __init__(self, layer: Layer, original: GDN) -> None:
        self.layer, self.original = layer, original
        self.inputs: list[Tensor] = []

    def add(self, inputs: Tensor, theirs: Tensor, places: Places) -> None:
        """Add positions of the student's input ``(B, C, h, w)``."""
        picture, row, column = places
        self.inputs.append(patches(inputs, (picture[::EVERY], row[::EVERY], column[::EVERY]), 1))

    @property
    def samples(self) -> Tensor:
        """All samples, ``(P, C)``."""
        return torch.cat(self.inputs)

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the layer. Returns: relative errors in dB, before and after."""
        raise NotImplementedError
