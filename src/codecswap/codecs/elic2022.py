"""``elic2022_official`` and ``elic2022_chandelier``: residual and attention blocks, groups of channels, checkerboards.

He et al., "ELIC: Efficient learned image compression with unevenly grouped space-channel contextual adaptive coding", 2022.
The second is CompressAI's class for the public re-implementation of V. Chandelier, which predicts a group from the first and
the previous one only. Its own checkpoints have other names of the same weights (`compressai_names`).
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from codecswap.codecs.checkerboard import Checkerboards
from codecswap.codecs.hyperprior import refuse_unless
from codecswap.layers.compressai import models, zoo

HYPER, Y = "latent_codec.hyper", "latent_codec.y"
"""Places of the hyperprior and of the groups in a state dict."""


class Elic2022(Checkerboards):
    """What the two have in common. CompressAI publishes no weights of them."""

    margin = 9  # a pixel depends on 8.3 latents to each side, a latent on 132 pixels

    def __init__(self, N: int, M: int, groups: list[int] | None = None) -> None:
        super().__init__(N, M, groups)
        self.N, self.M = N, M

    def board(self, group: int) -> Any:  # noqa: D102
        return self.latent_codec.y.latent_codec[f"y{group}"]

    def channel_context(self, group: int, y_hat: Tensor) -> list[Tensor]:  # noqa: D102
        if not group:
            return []
        return [self.latent_codec.y.channel_context[f"y{group}"](self.seen(group, y_hat))]

    @abstractmethod
    def seen(self, group: int, y_hat: Tensor) -> Tensor:
        """Channels of ``y_hat: (B, M, h, w)`` that predict a group other than the first."""


class Elic2022Official(Elic2022, models.Elic2022Official):
    """A group is predicted from all earlier ones; any N, M and groups."""

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "Elic2022Official":  # noqa: D102 (see Codec, so below)
        n, groups = _sizes(state)
        ends = list(accumulate(groups))
        shapes = {f"{Y}.channel_context.y{k}.0": (224, ends[k - 1], 5, 5) for k in range(1, len(groups))}
        refuse_unless(state, shapes | {f"{HYPER}.h_s.4": (n * 3 // 2, 2 * n, 3, 3)})
        return cls(n, sum(groups), groups)

    def seen(self, group: int, y_hat: Tensor) -> Tensor:  # noqa: D102
        return y_hat[:, : sum(self.groups[:group])]


class Elic2022Chandelier(Elic2022, models.Elic2022Chandelier):
    """A group is predicted from the first and the previous one; any N, M and groups."""

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "Elic2022Chandelier":  # noqa: D102
        n, groups = _sizes(state)
        seen = [0, groups[0], *(groups[0] + size for size in groups[1:])]
        shapes = {f"{Y}.channel_context.y{k}.0": (224, seen[k], 5, 5) for k in range(1, len(groups))}
        refuse_unless(state, shapes | {f"{HYPER}.h_s.4": (2 * sum(groups), n * 3 // 2, 3, 3)})
        return cls(n, sum(groups), groups)

    def seen(self, group: int, y_hat: Tensor) -> Tensor:  # noqa: D102
        parts = y_hat.split(self.groups, 1)
        return torch.cat(parts[:1] if group == 1 else (parts[0], parts[group - 1]), 1)


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, list[int]]:
    """Read N and the groups.

    Raises:
        KeyError, ValueError: the weights are of another architecture.
    """
    kernel = f"{Y}.latent_codec.y{{}}.context_prediction.weight"
    count = next(k for k in range(len(state)) if kernel.format(k) not in state)
    n, groups = state["g_a.0.weight"].shape[0], [state[kernel.format(k)].shape[1] for k in range(count)]
    encoder = {"g_a.0": (n, 3, 5, 5), "g_a.13": (sum(groups), n, 5, 5), "g_a.8.conv_a.0.conv.0": (n // 2, n, 1, 1)}
    refuse_unless(state, encoder | {f"{HYPER}.h_a.0": (n, sum(groups), 3, 3)})
    return n, groups


def compressai_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the names of CompressAI's class, where they have those of Chandelier's; others are returned as they are.

    The names were read from ``Network.py`` of github.com/VincentChandelier/ELiC-ReImplemetation (commit aa2521f).
    """
    if "cc_transforms.0.0.weight" not in state:
        return state
    count = sum(bool(re.fullmatch(r"context_prediction\.\d+\.weight", name)) for name in state)
    made = {}
    for name, value in zoo.pretrained.load_pretrained(state).items():
        part, _, rest = name.partition(".")
        index, _, inner = rest.partition(".")
        if part in ("h_a", "h_s", "entropy_bottleneck"):
            made[f"{HYPER}.{name}"] = value
        elif part == "cc_transforms":
            made[f"{Y}.channel_context.y{int(index) + 1}.{inner}"] = value
        elif part == "context_prediction":
            made[f"{Y}.latent_codec.y{index}.context_prediction.{inner}"] = value
        elif part == "ParamAggregation":
            made[f"{Y}.latent_codec.y{index}.entropy_parameters.{inner}"] = value
        elif part == "gaussian_conditional":  # one for all groups
            made |= {f"{Y}.latent_codec.y{group}.y.{name}": value for group in range(count)}
        else:
            made[name] = value
    return made
