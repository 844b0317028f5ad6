"""``mbt2018``: a mean-scale hyperprior with a context model, so that latents are decoded position by position.

Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression", 2018.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.factorized import encoder_sizes
from codecswap.codecs.hyperprior import MeanScaleHyperprior, refuse_unless, wide_hyper_synthesis
from codecswap.entropy.passes import LATENTS, RASTER, Pass, Region, hyperprior
from codecswap.layers.compressai import models, zoo

KERNEL = 5
"""Kernel size of the context model."""


class JointAutoregressive(MeanScaleHyperprior, models.JointAutoregressiveHierarchicalPriors):
    """Predicts means and scales of latents from hyper-latents and from latents decoded before; any N and M."""

    predictors: ClassVar[tuple[str, ...]] = ("h_s", "context_prediction", "entropy_parameters")
    bit_exact = (*MeanScaleHyperprior.bit_exact, "context_prediction", "entropy_parameters")
    zoo = zoo.image.model_urls["mbt2018"]

    context_shift: Any = 0.0
    """Added to the context."""
    context_prediction: Any
    entropy_parameters: Any

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "JointAutoregressive":  # noqa: D102 (see Codec, so below)
        n, m = encoder_sizes(state)
        shapes = {"context_prediction": (2 * m, m, KERNEL, KERNEL), "entropy_parameters.0": (m * 10 // 3, 4 * m, 1, 1)}
        refuse_unless(state, wide_hyper_synthesis(n, m) | shapes)
        return cls(n, m)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Hyper-latents, then the latents position by position."""
        return hyperprior(self.N, Pass(LATENTS, (0, self.M), RASTER))

    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:
        """Scales and means of one position, from the context window around it, or of all positions at once."""
        kernel, edge = self.context_prediction.weight * self.context_prediction.mask, KERNEL // 2
        _, row, column = region
        if isinstance(row, slice):
            context = F.conv2d(y_hat, kernel, self.context_prediction.bias, padding=edge) + self.context_shift
            scales, means = self.entropy_parameters(torch.cat((side, context), 1)).chunk(2, 1)
            return scales, means
        top, left, right = row - edge, column - edge, column + edge + 1  # the mask hides the rows below
        seen = y_hat[..., max(top, 0) : row + 1, max(left, 0) : right]
        seen = F.pad(seen, (max(-left, 0), max(right - y_hat.shape[-1], 0), max(-top, 0), edge))
        context = F.conv2d(seen, kernel, self.context_prediction.bias) + self.context_shift
        here = side[:, :, row : row + 1, column : column + 1]
        scales, means = self.entropy_parameters(torch.cat((here, context), 1))[..., 0, 0].chunk(2, 1)
        return scales, means
