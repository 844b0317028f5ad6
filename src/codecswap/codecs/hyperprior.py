"""CompressAI's two hyperprior models: one predicts the scales of latents, the other scales and means.

``bmshj2018_hyperprior`` is that of Balle et al., "Variational image compression with a scale hyperprior", 2018;
``mbt2018_mean`` that of Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression", 2018,
without its context model.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from codecswap.codecs.factorized import encoder_sizes
from codecswap.codecs.protocol import HyperCodec
from codecswap.entropy.passes import Pass, Region
from codecswap.layers.compressai import models, zoo


class ScaleHyperprior(HyperCodec, models.ScaleHyperprior):
    """Predicts scales of zero-mean latents from hyper-latents; any N and M."""

    factor = 16
    margin = 2
    bit_exact: ClassVar[tuple[str, ...]] = ("g_a", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")
    zoo = zoo.image.model_urls["bmshj2018-hyperprior"]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "ScaleHyperprior":  # noqa: D102 (see Codec, so below)
        n, m = encoder_sizes(state)
        refuse_unless(
            state, {"h_a.0": (n, m, 3, 3), "h_s.0": (n, n, 5, 5), "h_s.2": (n, n, 5, 5), "h_s.4": (m, n, 3, 3)}
        )
        return cls(n, m)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights, with the parameter names of any version of CompressAI."""
        return super().load_state_dict(zoo.pretrained.load_pretrained(dict(state_dict)), strict=strict)

    def hyper_latents(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.h_a(y.abs())

    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:  # noqa: D102
        scales = side[..., *region]
        return scales, torch.zeros_like(scales)


class MeanScaleHyperprior(ScaleHyperprior, models.MeanScaleHyperprior):
    """Predicts means and scales of latents from hyper-latents; any N and M."""

    zoo = zoo.image.model_urls["mbt2018-mean"]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "MeanScaleHyperprior":  # noqa: D102
        n, m = encoder_sizes(state)
        if any(name.startswith("context_prediction.") for name in state):
            raise ValueError("these weights have a context model")
        refuse_unless(state, wide_hyper_synthesis(n, m))
        return cls(n, m)

    def hyper_latents(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.h_a(y)

    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:  # noqa: D102
        scales, means = side.chunk(2, 1)
        return scales[..., *region], means[..., *region]


def wide_hyper_synthesis(n: int, m: int) -> dict[str, tuple[int, ...]]:
    """Kernel shapes of a hyperprior that predicts means and scales."""
    wide = m * 3 // 2
    return {"h_a.0": (n, m, 3, 3), "h_s.0": (n, m, 5, 5), "h_s.2": (m, wide, 5, 5), "h_s.4": (2 * m, wide, 3, 3)}


def refuse_unless(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights whose kernels do not have these shapes.

    Raises:
        KeyError, ValueError: a kernel is missing or has another shape.
    """
    found = {name: tuple(state[f"{name}.weight"].shape) for name in shapes}
    if found != shapes:
        raise ValueError(f"the hyperprior's kernels are {found}")
