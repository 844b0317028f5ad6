"""Tiles with their margins are the whole picture."""

import numpy as np
import pytest
import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.inference.tiles import windows
from codecswap.swaps.apply import swap


@pytest.mark.parametrize("length", [1, 5, 6, 17, 100])
@pytest.mark.parametrize("size", [5, 8, 40])
def test_windows_cover_an_axis_and_keep_their_margins(length: int, size: int) -> None:
    expected, size = 0, min(size, length)
    for start, first, last in windows(length, size, FactorizedPrior.margin):
        assert first == expected < last
        assert start == 0 or first - start >= FactorizedPrior.margin
        assert start + size == length or start + size - last >= FactorizedPrior.margin
        expected = last
    assert expected == length


@pytest.mark.parametrize("replacement", ["none", "masked", "upsample"])
def test_tiled_is_whole(teacher: FactorizedPrior, replacement: str) -> None:
    torch.manual_seed(0)
    codec = teacher if replacement == "none" else swap(teacher, replacement)[0]
    whole, tiled = TorchCodec(codec), TorchCodec(codec, tile=(7, 6))
    picture = torch.rand(3, 16 * 13, 16 * 17).numpy()
    latents = whole.analyze(picture)
    assert np.abs(tiled.analyze(picture) - latents).max() < 1e-4  # latents reach 20
    symbols = whole.tables.to_symbols(latents)
    assert np.abs(tiled.synthesize(symbols) - whole.synthesize(symbols)).max() < 1e-5
