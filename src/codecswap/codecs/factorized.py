"""The factorized prior of Balle et al. 2018, with GDN (CompressAI's ``bmshj2018_factorized``) or ReLU, ``..._relu``."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from codecswap.codecs.bottleneck import check_quantiles, quantize_with_likelihoods, tables_of
from codecswap.codecs.protocol import Codec
from codecswap.entropy.passes import Pass, factorized
from codecswap.entropy.tables import EntropyTables
from codecswap.layers.compressai import models, zoo


def encoder_sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Read N and M from the kernel shapes of CompressAI's four-layer encoder.

    Raises:
        KeyError, ValueError: the weights are of another encoder.
    """
    n, m = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
    shapes = [tuple(state[f"g_a.{index}.weight"].shape) for index in (0, 2, 4, 6)]
    if shapes != [(n, 3, 5, 5), (n, n, 5, 5), (n, n, 5, 5), (m, n, 5, 5)] or not n * m:
        raise ValueError(f"the encoder's kernels are {shapes}")
    return n, m


class FactorizedPrior(Codec, models.FactorizedPrior):
    """CompressAI's model, with its state dicts; any N and M."""

    factor = 16
    margin = 2  # four 5x5 layers of stride 2: a latent depends on 30 pixels beyond its own, a pixel on 1.9 latents
    bit_exact = ("g_a", "entropy_bottleneck")
    zoo = zoo.image.model_urls["bmshj2018-factorized"]

    entropy_bottleneck: Any

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "FactorizedPrior":  # noqa: D102 (see Codec, so below)
        if any(name.startswith("h_s.") for name in state):
            raise ValueError("these weights have a hyperprior")
        return cls(*encoder_sizes(state))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:  # type: ignore[override]
        """Load weights, with the parameter names of any version of CompressAI."""
        return super().load_state_dict(zoo.pretrained.load_pretrained(dict(state_dict)), strict=strict)

    @property
    def passes(self) -> tuple[Pass, ...]:  # noqa: D102
        return factorized(self.M)

    @property
    def medians(self) -> Tensor:
        """Medians that are subtracted before rounding, ``(1, M, 1, 1)``."""
        return self.entropy_bottleneck.quantiles[:, 0, 1].detach().view(1, -1, 1, 1)

    def quantize(self, y: Tensor) -> Tensor:  # noqa: D102
        return torch.round(y - self.medians) + self.medians

    def bits(self, y: Tensor, *, noisy: bool = False) -> Tensor:  # noqa: D102
        _, likelihoods = quantize_with_likelihoods(self.entropy_bottleneck, y, noisy=noisy)
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


class FactorizedPriorReLU(FactorizedPrior, models.FactorizedPriorReLU):
    """The same with ReLU instead of GDN (``bmshj2018_factorized_relu``). CompressAI publishes no weights of it."""

    zoo: ClassVar[dict[str, dict[int, str]]] = {}

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "FactorizedPriorReLU":  # noqa: D102
        if any(name.startswith(("g_a.1.", "g_a.3.", "g_a.5.")) for name in state):
            raise ValueError("these weights have GDN layers")
        codec = super().untrained(state)
        assert isinstance(codec, cls)
        return codec
