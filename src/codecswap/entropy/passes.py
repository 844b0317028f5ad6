"""Passes of entropy coding: which latents are coded together, in which order, and what determines their tables.

Each pass may depend on all earlier passes. A factorized prior has one pass; a hyperprior one of the hyper-latents and
one of the latents; a checkerboard or groups of channels have several; a context model is a pass of many steps.
codec.json stores the list, so that all programs read the same description.

Sources: Minnen, Balle and Toderici, "Joint autoregressive and hierarchical priors for learned image compression", 2018;
Minnen and Singh, "Channel-wise autoregressive entropy models for learned image compression", 2020 (groups of channels);
He et al., "Checkerboard context model for efficient learned image compression", 2021.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LATENTS, HYPER_LATENTS = "latents", "hyper_latents"
"""Values that a pass may code."""
ALL, ANCHOR, NON_ANCHOR, RASTER = "all", "anchor", "non_anchor", "raster"
"""Positions of a pass: all; the even or odd ones (row + column) of a checkerboard; one by one in raster order."""
BY_CHANNEL, PREDICTED = "channel", "predicted"
"""Source of CDF indexes: one table per channel, or predicted, like the means, from decoded values."""

Region = tuple[slice, Any, Any]
"""Index of the last three axes ``(M, h, w)``: channels as a slice; rows and columns as slices, arrays, or one of each."""


@dataclass(frozen=True)
class Pass:
    """Symbols that are coded together: channel by channel, row by row; ``raster``: all channels of a position, then the next.

    Raises:
        ValueError: a value is not allowed.
    """

    latents: str
    """``latents`` or ``hyper_latents``."""
    channels: tuple[int, int]
    """First channel, and last channel + 1."""
    positions: str = ALL
    """``all``, ``anchor``, ``non_anchor`` or ``raster``."""
    indexes: str = PREDICTED
    """``channel`` or ``predicted``."""

    def __post_init__(self) -> None:
        first, end = self.channels
        if type(first) is not int or type(end) is not int or not 0 <= first < end:
            raise ValueError(self.channels)
        if self.latents not in (LATENTS, HYPER_LATENTS) or self.indexes not in (BY_CHANNEL, PREDICTED):
            raise ValueError(self)
        if self.positions not in (ALL, ANCHOR, NON_ANCHOR, RASTER):
            raise ValueError(self.positions)

    def region(self, height: int, width: int) -> Region:
        """Index of all elements of ``(M, height, width)`` that the pass codes."""
        if self.positions in (ALL, RASTER):
            return slice(*self.channels), slice(None), slice(None)
        odd = np.add.outer(np.arange(height), np.arange(width)) % 2
        rows, columns = np.nonzero(odd if self.positions == NON_ANCHOR else 1 - odd)
        return slice(*self.channels), rows, columns

    def steps(self, height: int, width: int) -> Iterator[Region]:
        """Index of each step: the whole region at once, or position by position."""
        if self.positions != RASTER:
            yield self.region(height, width)
            return
        for row, column in np.ndindex(height, width):
            yield slice(*self.channels), row, column


def factorized(channels: int) -> tuple[Pass, ...]:
    """The pass of a factorized prior."""
    return (Pass(LATENTS, (0, channels), ALL, BY_CHANNEL),)


def hyperprior(hyper_channels: int, *predicted: Pass) -> tuple[Pass, ...]:
    """The pass of the hyper-latents (one table per channel), then the predicted passes of the latents."""
    return (Pass(HYPER_LATENTS, (0, hyper_channels), ALL, BY_CHANNEL), *predicted)


def predicted(passes: Sequence[Pass]) -> list[Pass]:
    """The passes whose CDF indexes and means are computed."""
    return [each for each in passes if each.indexes == PREDICTED]


def has_context(passes: Sequence[Pass]) -> bool:
    """Whether CDF indexes of some latents depend on other latents, not only on hyper-latents."""
    found = predicted(passes)
    return len(found) > 1 or any(each.positions == RASTER for each in found)


def check_passes(passes: Sequence[Pass], channels: int, hyper_channels: int) -> None:
    """Refuse passes that do not code every latent exactly once, or whose order cannot be decoded.

    Raises:
        ValueError: see there.
    """
    if tuple(passes) == factorized(channels):
        return
    rest = tuple(passes[1:])
    counts = np.zeros((channels, 2, 2), int)
    if not rest or tuple(passes) != hyperprior(hyper_channels, *rest):
        raise ValueError("neither one pass with a table for each channel, nor hyper-latents first")
    for each in rest:
        if (each.latents, each.indexes) != (LATENTS, PREDICTED) or each.channels[1] > channels:
            raise ValueError(each)
        counts[each.region(2, 2)] += 1
    if (counts != 1).any():
        raise ValueError("not every latent is coded once")
