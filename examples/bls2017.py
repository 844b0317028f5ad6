"""Balle's codec of 2017, which this package does not know: ``codecswap export --teacher examples/bls2017.py:codec``."""

from pathlib import Path

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN
from compressai.models import CompressionModel
from torch.nn import Conv2d, ConvTranspose2d, Sequential


class BLS2017(CompressionModel):
    """Convolutions of strides 4, 2 and 2, GDN between them, and a table for each channel."""

    def __init__(self, N: int = 128) -> None:
        super().__init__()
        down = [Conv2d(3, N, 9, 4, 4), Conv2d(N, N, 5, 2, 2), Conv2d(N, N, 5, 2, 2, bias=False)]
        self.g_a = Sequential(down[0], GDN(N), down[1], GDN(N), down[2])
        up = [ConvTranspose2d(N, N, 5, 2, 2, 1), ConvTranspose2d(N, N, 5, 2, 2, 1), ConvTranspose2d(N, 3, 9, 4, 4, 3)]
        self.g_s = Sequential(up[0], GDN(N, inverse=True), up[1], GDN(N, inverse=True), up[2])
        self.entropy_bottleneck = EntropyBottleneck(N)


def codec() -> BLS2017:
    """The teacher, with your weights, which are beside this file."""
    state = torch.load(Path(__file__).with_name("bls2017.pth"), weights_only=True)
    model = BLS2017(len(state["g_a.0.weight"]))
    model.load_state_dict(state)
    return model
