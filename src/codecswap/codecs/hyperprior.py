"""Two of CompressAI's models with a hyperprior: one predicts the latents' scales, the other their means as well.

``bmshj2018_hyperprior`` is that of Balle et al., "Variational image compression with a scale hyperprior", 2018;
``mbt2018_mean`` that of Minnen et al., "Joint autoregressive and hierarchical priors for learned image compression", 2018,
without its context model.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codecswap.codecs.bottleneck import check_quantiles, tables_of
from codecswap.codecs.factorized import encoder_sizes
from codecswap.codecs.protocol import HyperCodec
from codecswap.entropy.tables import EntropyTables

with warnings.catch_warnings():  # of deprecations in what CompressAI imports, not our user's to mend
    warnings.simplefilter("ignore")
    from compressai import models
    from compressai.zoo.image import model_urls
    from compressai.zoo.pretrained import load_pretrained

SCALES = 256
"""Most rows that a table of scales may have; CompressAI's has 64."""


class ScaleHyperprior(models.ScaleHyperprior, HyperCodec):
    """Latents of mean 0 whose scales the hyper-latents tell; of any N and M."""

    factor = 16
    margin = 2
    hyper_factor = 4
    bit_exact: ClassVar[tuple[str, ...]] = ("g_a", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")
    zoo = model_urls["bmshj2018-hyperprior"]

    entropy_bottleneck: Any
    gaussian_conditional: Any
    update: Any

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "ScaleHyperprior":  # noqa: D102 (see Codec, so below)
        n, m = encoder_sizes(state)
        refuse_unless(
            state, {"h_a.0": (n, m, 3, 3), "h_s.0": (n, n, 5, 5), "h_s.2": (n, n, 5, 5), "h_s.4": (m, n, 3, 3)}
        )
        return cls(n, m)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights, by their names in any version of CompressAI."""
        return super().load_state_dict(load_pretrained(dict(state_dict)), strict=strict)

    def hyper_latents(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.h_a(y.abs())

    def gaussians(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        scales = self.h_s(z_hat)
        return scales, torch.zeros_like(scales)

    def indexes(self, scales: Tensor) -> Tensor:  # noqa: D102
        return self.gaussian_conditional.build_indexes(scales)

    @property
    def scale_table(self) -> Tensor:  # noqa: D102
        return self.gaussian_conditional.scale_table

    def quantize(self, y: Tensor) -> Tensor:  # noqa: D102
        z_hat, _ = self.entropy_bottleneck(self._hyper_latents(y), training=False)
        _, means = self._gaussians(z_hat, y)
        return torch.round(y - means) + means

    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:  # noqa: D102
        z_hat, z_likelihoods = self.entropy_bottleneck(self._hyper_latents(y), training=noisy)
        scales, means = self._gaussians(z_hat, y)
        _, likelihoods = self.gaussian_conditional(y, scales, means=means, training=noisy)
        return -likelihoods.log2().sum() - z_likelihoods.log2().sum()

    def _hyper_latents(self, y: Tensor) -> Tensor:
        """Of latents of any size, as of a training crop: their edges are repeated until the sides are multiples of 4."""
        height, width = y.shape[-2:]
        padding = (0, -width % self.hyper_factor, 0, -height % self.hyper_factor)
        return self.hyper_latents(F.pad(y, padding, mode="replicate"))

    def _gaussians(self, z_hat: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.gaussians(z_hat)
        return scales[..., : y.shape[-2], : y.shape[-1]], means[..., : y.shape[-2], : y.shape[-1]]

    def compress_latents(self, y: Tensor) -> list[bytes]:  # noqa: D102
        z = self.hyper_latents(y)
        strings = self.entropy_bottleneck.compress(z)
        scales, means = self.gaussians(self.entropy_bottleneck.decompress(strings, z.shape[-2:]))
        return [*self.gaussian_conditional.compress(y, self.indexes(scales), means=means), *strings]

    def decompress_latents(self, strings: Sequence[bytes], size: Sequence[int]) -> Tensor:  # noqa: D102
        scales, means = self.gaussians(self._read_hyper_latents(strings[1], size))
        return self.gaussian_conditional.decompress([strings[0]], self.indexes(scales), means=means)

    def _read_hyper_latents(self, string: bytes, size: Sequence[int]) -> Tensor:
        return self.entropy_bottleneck.decompress([string], [side // self.hyper_factor for side in size])

    def entropy_tables(self) -> EntropyTables:  # noqa: D102
        return tables_of(self.entropy_bottleneck, self.entropy_bottleneck.quantiles[:, 0, 1].detach())

    def gaussian_tables(self) -> EntropyTables:  # noqa: D102
        return tables_of(self.gaussian_conditional, torch.zeros(len(self.scale_table)))

    def aux_loss(self) -> Tensor:  # noqa: D102
        return self.entropy_bottleneck.loss()

    def make_tables(self) -> None:  # noqa: D102
        check_quantiles(self.entropy_bottleneck)
        self.update()
        scales = self.scale_table
        if not 0 < len(scales) <= SCALES or not (
            scales.isfinite().all() and (scales.diff() > 0).all() and scales[0] > 0
        ):
            raise ValueError("the scales do not ascend")
        if self.entropy_tables().channels != self.N or self.gaussian_tables().channels != len(scales):
            raise ValueError("there is not one table for each channel, or for each scale")


class MeanScaleHyperprior(ScaleHyperprior, models.MeanScaleHyperprior):
    """Latents whose means and scales the hyper-latents tell; of any N and M."""

    zoo = model_urls["mbt2018-mean"]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "MeanScaleHyperprior":  # noqa: D102
        n, m = encoder_sizes(state)
        if any(name.startswith("context_prediction.") for name in state):
            raise ValueError("these weights have a context model")
        refuse_unless(state, wide_hyper_synthesis(n, m))
        return cls(n, m)

    def hyper_latents(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.h_a(y)

    def gaussians(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        scales, means = self.h_s(z_hat).chunk(2, 1)
        return scales, means


def wide_hyper_synthesis(n: int, m: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the kernels of a hyperprior that tells means and scales."""
    wide = m * 3 // 2
    return {"h_a.0": (n, m, 3, 3), "h_s.0": (n, m, 5, 5), "h_s.2": (m, wide, 5, 5), "h_s.4": (2 * m, wide, 3, 3)}


def refuse_unless(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse weights whose kernels have other shapes, by their names.

    Raises:
        KeyError, ValueError: they have.
    """
    found = {name: tuple(state[f"{name}.weight"].shape) for name in shapes}
    if found != shapes:
        raise ValueError(f"the hyperprior's kernels are {found}")
