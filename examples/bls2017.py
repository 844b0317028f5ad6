"""A codec that this package does not know, as a teacher: ``codecswap export --teacher examples/bls2017.py:codec``.

Balle, Laparra and Simoncelli, "End-to-end optimized image compression", 2017 (``bls2017`` of TensorFlow Compression), with
CompressAI's layers: a convolution of stride 4, two of stride 2, GDN between them, and an entropy table for each channel.
"""

from pathlib import Path

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN
from compressai.models import CompressionModel
from torch import nn

WEIGHTS = Path(__file__).with_name("bls2017.pth")


class BLS2017(CompressionModel):
    """Needed: ``g_a``, ``g_s``, ``entropy_bottleneck``; with a hyperprior also ``h_a``, ``h_s``, ``gaussian_conditional``."""

    def __init__(self, N: int = 128) -> None:
        super().__init__()
        self.g_a = nn.Sequential(
            nn.Conv2d(3, N, 9, stride=4, padding=4),
            GDN(N),
            nn.Conv2d(N, N, 5, stride=2, padding=2),
            GDN(N),
            nn.Conv2d(N, N, 5, stride=2, padding=2, bias=False),
        )
        self.g_s = nn.Sequential(
            nn.ConvTranspose2d(N, N, 5, stride=2, padding=2, output_padding=1),
            GDN(N, inverse=True),
            nn.ConvTranspose2d(N, N, 5, stride=2, padding=2, output_padding=1),
            GDN(N, inverse=True),
            nn.ConvTranspose2d(N, 3, 9, stride=4, padding=4, output_padding=3),
        )
        self.entropy_bottleneck = EntropyBottleneck(N)


def codec() -> BLS2017:
    """The codec with your weights, of any N. What a function returns is the teacher; it takes no arguments."""
    state = torch.load(WEIGHTS, weights_only=True)
    model = BLS2017(len(state["g_a.0.weight"]))
    model.load_state_dict(state)
    return model
