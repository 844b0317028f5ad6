"""What the closed-form fits of GDN swaps share: a layer, the GDN it replaces, and samples of their inputs."""

from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from codecswap.layers.gdn import GDN
from codecswap.least_squares import Places, patches

EVERY = 8
"""One in so many of the positions that calibration draws is used: there are few unknowns."""

Layer = TypeVar("Layer", bound=nn.Module)


class ActivationFit(Generic[Layer]):
    """The samples that one layer is fitted to, point by point.

    An error of the root is multiplied by x on its way to the next layer: squared errors are weighted by x squared. How much
    the picture, or the bits, suffer from a channel's error multiplies all weights of that channel, and changes no fit.
    """

    def __init__(self, layer: Layer, original: GDN) -> None:
        self.layer, self.original = layer, original
        self.inputs: list[Tensor] = []

    def add(self, inputs: Tensor, theirs: Tensor, places: Places) -> None:
        """Take in positions of the student's input ``(B, C, h, w)``."""
        picture, row, column = places
        self.inputs.append(patches(inputs, (picture[::EVERY], row[::EVERY], column[::EVERY]), 1))

    @property
    def samples(self) -> Tensor:
        """The inputs taken in, ``(P, C)``."""
        return torch.cat(self.inputs)

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the layer. Returns: relative errors in dB, before and after."""
        raise NotImplementedError
