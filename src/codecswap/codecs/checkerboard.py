"""Codecs of CompressAI's latent codecs: groups of channels, each a checkerboard; and ``cheng2020_anchor_checkerboard``.

The anchors of a group, every other position, are predicted from hyper-latents and from earlier groups; the others also from
the anchors around them. So a picture is decoded in two passes a group, not position by position.

He et al., "Checkerboard context model for efficient learned image compression", 2021.
"""

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.codecs.cheng2020 import anchor_encoder_channels
from codecswap.codecs.hyperprior import refuse_unless
from codecswap.codecs.protocol import HyperCodec
from codecswap.entropy.passes import ANCHOR, LATENTS, NON_ANCHOR, Pass, Region, hyperprior
from codecswap.layers.compressai import models


class Checkerboards(HyperCodec):
    """What such codecs have in common: CompressAI's module ``latent_codec``, which holds everything but the transforms."""

    factor = 16
    bit_exact = ("g_a", "latent_codec")
    predictors = ("latent_codec.hyper.h_s", "latent_codec.y")
    zoo: ClassVar[dict[str, dict[int, str]]] = {}

    latent_codec: Any
    groups: list[int]
    """Channels of each group."""

    @property
    def h_a(self) -> nn.Module:  # type: ignore[override]  # noqa: D102 (see HyperCodec, so below)
        return self.latent_codec.hyper.h_a

    @property
    def h_s(self) -> nn.Module:  # type: ignore[override]  # noqa: D102
        return self.latent_codec.hyper.h_s

    @property
    def entropy_bottleneck(self) -> Any:  # type: ignore[override]  # noqa: D102
        return self.latent_codec.hyper.entropy_bottleneck

    @property
    def gaussian_conditional(self) -> Any:  # type: ignore[override]
        """That of the first group; `make_tables` gives all groups the same scales."""
        return self.board(0).y.gaussian_conditional

    def board(self, group: int) -> Any:
        """CompressAI's `CheckerboardLatentCodec` of a group."""
        return self.latent_codec.y

    def channel_context(self, group: int, y_hat: Tensor) -> list[Tensor]:
        """What earlier groups ``y_hat: (B, M, h, w)`` tell of a group: no tensor, or one."""
        return []

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Hyper-latents, then the anchors and the other latents of each group."""
        groups = pairwise(accumulate(self.groups, initial=0))
        return hyperprior(self.N, *(Pass(LATENTS, group, half) for group in groups for half in (ANCHOR, NON_ANCHOR)))

    def hyper_latents(self, y: Tensor) -> Tensor:  # noqa: D102
        return self.h_a(y)

    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:
        """Scales and means of the anchors, or of the other latents, of a group."""
        first, end = step.channels
        group = list(accumulate(self.groups, initial=0)).index(first)
        board = self.board(group)
        around = board.context_prediction
        if step.positions == ANCHOR:
            context = side.new_zeros(len(side), around.out_channels, *side.shape[-2:])
        else:
            context = F.conv2d(y_hat[:, first:end], around.weight * around.mask, around.bias, padding=around.padding)
        found = board.entropy_parameters(torch.cat((context, *self.channel_context(group, y_hat), side), 1))
        named = dict(zip(board.y.chunks, found.chunk(2, 1), strict=True))
        return named["scales"][..., *region[1:]], named["means"][..., *region[1:]]

    @torch.no_grad()
    def make_tables(self) -> None:  # noqa: D102
        super().make_tables()
        for group in range(1, len(self.groups)):
            if not torch.equal(self.board(group).y.gaussian_conditional.scale_table, self.scale_table):
                raise ValueError("the groups have several tables of scales")


class Cheng2020AnchorCheckerboard(Checkerboards, models.Cheng2020AnchorCheckerboard):
    """The transforms of ``cheng2020_anchor``, one group; any N, which is M too. CompressAI publishes no weights of it."""

    margin = 7

    def __init__(self, N: int) -> None:
        super().__init__(N)
        self.N, self.M, self.groups = N, N, [N]

    @classmethod
    def untrained(cls, state: Mapping[str, Tensor]) -> "Cheng2020AnchorCheckerboard":  # noqa: D102
        n = anchor_encoder_channels(state)
        hyper, board = "latent_codec.hyper", "latent_codec.y"
        shapes = {f"{hyper}.h_a.0": (n, n, 3, 3), f"{hyper}.h_s.8": (2 * n, n * 3 // 2, 3, 3)}
        shapes |= {f"{board}.context_prediction": (2 * n, n, 5, 5)}
        refuse_unless(state, shapes | {f"{board}.entropy_parameters.0": (n * 10 // 3, 4 * n, 1, 1)})
        return cls(n)
