"""The factorized prior of Balle et al. 2018 (CompressAI's ``bmshj2018_factorized``): every latent coded on its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from codecswap.codecs.bottleneck import check_quantiles, tables_of
from codecswap.codecs.protocol import Codec
from codecswap.entropy.passes import Pass, factorized
from codecswap.entropy.tables import EntropyTables
from codecswap.layers.compressai import models, zoo


def encoder_sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """N and M, as the kernels of CompressAI's encoder with four layers tell them.

    Raises:
        KeyError, ValueError: it is another encoder.
    """
    n, m = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
    shapes = [tuple(state[f"g_a.{index}.weight"].shape) for index in (0, 2, 4, 6)]
    if shapes != [(n, 3, 5, 5), (n, n, 5, 5), (n, n, 5, 5), (m, n, 5, 5)] or not n * m:
        raise ValueError(f"the encoder's kernels are {shapes}")
    return n, m


class FactorizedPrior(Codec, models.FactorizedPrior):
    """CompressAI's model: its state dicts, of any N and M."""

    factor = 16
    margin = 2  # four layers of 5x5 and stride 2: a latent sees 30 pixels beyond its own, and a pixel 1.9 latents
    bit_exact = ("g_a", "entropy_bottleneck")
    zoo = zoo.image.model_urls["bmshj2018-factorized"]

    entropy_bottleneck: Any

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "FactorizedPrior":  # noqa: D102 (see Codec, so below)
        if any(name.startswith("h_s.") for name in state):
            raise ValueError("these weights have a hyperprior")
        return cls(*encoder_sizes(state))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights, by their names in any version of CompressAI."""
        return super().load_state_dict(zoo.pretrained.load_pretrained(dict(state_dict)), strict=strict)

    @property
    def passes(self) -> tuple[Pass, ...]:  # noqa: D102
        return factorized(self.M)

    @property
    def medians(self) -> Tensor:
        """What rounding is centerd on, ``(1, M, 1, 1)``."""
        return self.entropy_bottleneck.quantiles[:, 0, 1].detach().view(1, -1, 1, 1)

    def quantize(self, y: Tensor) -> Tensor:  # noqa: D102
        return torch.round(y - self.medians) + self.medians

    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:  # noqa: D102
        _, likelihoods = self.entropy_bottleneck(y, training=noisy)
        return -likelihoods.log2().sum()

    def entropy_tables(self) -> EntropyTables:  # noqa: D102
        return tables_of(self.entropy_bottleneck, self.medians)

    def aux_loss(self) -> Tensor:  # noqa: D102
        return self.entropy_bottleneck.loss()

    def make_tables(self) -> None:  # noqa: D102
        check_quantiles(self.entropy_bottleneck)
        self.entropy_bottleneck.update()
        if self.entropy_tables().channels != self.M:
            raise ValueError("there is not one table for each channel")
