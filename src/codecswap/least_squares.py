"""Closed-form least squares for convolutions: patches at drawn positions, their sums, ridge towards given weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

Places = tuple[Tensor, Tensor, Tensor]
"""Indices (picture, row, column), each ``(P,)``."""


def draw(x: Tensor, count: int, generator: torch.Generator) -> Places:
    """At most ``count`` positions of each picture of ``x: (B, C, H, W)``, drawn on the CPU: the same ones on every device."""
    height, width = x.shape[-2:]
    drawn = torch.stack([torch.randperm(height * width, generator=generator)[:count] for _ in x])
    place = drawn.flatten()
    return torch.arange(len(x)).repeat_interleave(drawn.shape[1]), place // width, place % width


def patches(x: Tensor, places: Places, size: int, *, stride: int = 1, padding: int | None = None) -> Tensor:
    """Input patches ``(P, C size^2)`` of a ``size x size`` convolution of ``x: (B, C, H, W)`` at some output positions.

    Args:
        padding: zero padding of ``x``; by default "same" padding.
    """
    picture, row, column = (index.to(x.device) for index in places)
    around = size // 2 if padding is None else padding
    windows = F.pad(x, [around] * 4).unfold(2, size, stride).unfold(3, size, stride)  # a view
    return windows[picture, :, row, column].flatten(1)


class Sums:
    """Normal equations of ``P`` equations with ``unknowns`` inputs and ``outputs`` targets each, in float64."""

    def __init__(self, unknowns: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count = 0
        self.gram, self.cross = zeros(unknowns, unknowns), zeros(unknowns, outputs)
        self.inputs, self.targets = zeros(unknowns), zeros(outputs)
        self.energy = zeros(outputs)
        """Energy of the targets."""

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Add equations: ``(P, unknowns)`` and ``(P, outputs)``."""
        self.count += len(inputs)
        self.gram += inputs.T @ inputs
        self.cross += inputs.T @ targets
        self.inputs += inputs.sum(0, dtype=torch.float64)
        self.targets += targets.sum(0, dtype=torch.float64)
        self.energy += targets.double().square().sum(0)


def ridge_step(gram: Tensor, missing: Tensor, ridge: Tensor) -> tuple[Tensor, Tensor]:
    """The step from given weights to the least-squares solution with ridge regularization towards them.

    Args:
        gram: ``(unknowns, unknowns)``; ``ridge`` is added to its diagonal in place.
        missing: ``(unknowns, outputs)``: ``cross - gram @ weights``, without the ridge.
        ridge: regularization strength, positive, one for all unknowns or one for each.

    Returns: the step ``(unknowns, outputs)``, and the Cholesky factor of the Gram matrix with the ridge.
    """
    gram.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(gram)
    return torch.cholesky_solve(missing, factor), factor
