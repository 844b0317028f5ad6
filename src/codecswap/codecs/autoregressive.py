"""``mbt2018``: a mean-scale hyperprior with a context model, so that latents are decoded one position after the other.

Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression", 2018.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.factorized import encoder_sizes
from codecswap.codecs.hyperprior import MeanScaleHyperprior, refuse_unless, wide_hyper_synthesis

with warnings.catch_warnings():  # of deprecations in what CompressAI imports, not our user's to mend
    warnings.simplefilter("ignore")
    from compressai import models
    from compressai.zoo.image import model_urls

KERNEL = 5
"""Of the context model."""


class JointAutoregressive(MeanScaleHyperprior, models.JointAutoregressiveHierarchicalPriors):
    """Latents whose means and scales the hyper-latents and the latents before them tell; of any N and M."""

    serial = True
    bit_exact = (*MeanScaleHyperprior.bit_exact, "context_prediction", "entropy_parameters")
    zoo = model_urls["mbt2018"]

    context_prediction: Any
    entropy_parameters: Any
    _compress_ar: Any
    _decompress_ar: Any

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "JointAutoregressive":  # noqa: D102 (see Codec, so below)
        n, m = encoder_sizes(state)
        shapes = {"context_prediction": (2 * m, m, KERNEL, KERNEL), "entropy_parameters.0": (m * 10 // 3, 4 * m, 1, 1)}
        refuse_unless(state, wide_hyper_synthesis(n, m) | shapes)
        return cls(n, m)

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights; what the context model's mask hides is 0 from here on, as its first use would make it."""
        result = super().load_state_dict(state_dict, strict)
        self.context_prediction.weight *= self.context_prediction.mask
        return result

    @torch.no_grad()
    def quantize(self, y: Tensor) -> Tensor:
        """Round latents one position after the other, as the encoder does, all pictures of a batch at once."""
        z_hat, _ = self.entropy_bottleneck(self._hyper_latents(y), training=False)
        params = self.h_s(z_hat)
        edge = KERNEL // 2
        y_hat = F.pad(y, (edge,) * 4)
        kernel = self.context_prediction.weight * self.context_prediction.mask
        for row in range(y.shape[-2]):
            for column in range(y.shape[-1]):
                seen = y_hat[:, :, row : row + KERNEL, column : column + KERNEL]
                context = F.conv2d(seen, kernel, self.context_prediction.bias)
                here = params[:, :, row : row + 1, column : column + 1]
                mean = self.entropy_parameters(torch.cat((here, context), 1)).chunk(2, 1)[1][..., 0, 0]
                y_hat[:, :, row + edge, column + edge] = torch.round(seen[:, :, edge, edge] - mean) + mean
        return y_hat[:, :, edge:-edge, edge:-edge]

    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:  # noqa: D102
        z_hat, z_likelihoods = self.entropy_bottleneck(self._hyper_latents(y), training=noisy)
        params = self.h_s(z_hat)[..., : y.shape[-2], : y.shape[-1]]
        y_hat = self.gaussian_conditional.quantize(y, "noise") if noisy else self.quantize(y)
        both = torch.cat((params, self.context_prediction(y_hat)), 1)
        scales, means = self.entropy_parameters(both).chunk(2, 1)
        _, likelihoods = self.gaussian_conditional(y, scales, means=means, training=noisy)
        return -likelihoods.log2().sum() - z_likelihoods.log2().sum()

    def compress_latents(self, y: Tensor) -> list[bytes]:  # noqa: D102
        z = self.hyper_latents(y)
        strings = self.entropy_bottleneck.compress(z)
        params = self.h_s(self.entropy_bottleneck.decompress(strings, z.shape[-2:]))
        padded = F.pad(y, (KERNEL // 2,) * 4)
        return [self._compress_ar(padded, params, *y.shape[-2:], KERNEL, KERNEL // 2), *strings]

    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:  # noqa: D102
        params = self.h_s(self._read_hyper_latents(strings[1], size))
        edge = KERNEL // 2
        y_hat = params.new_zeros(1, self.M, size[0] + 2 * edge, size[1] + 2 * edge)
        self._decompress_ar(strings[0], y_hat, params, *size, KERNEL, edge)
        return y_hat[:, :, edge:-edge, edge:-edge]
