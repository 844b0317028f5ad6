"""A codec with residual blocks, attention blocks and transposed convolutions, as ELIC has them, small enough for tests."""

import functools
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import AttentionBlock
from compressai.models.sensetime import ResidualBottleneckBlock
from compressai.models.utils import conv, deconv
from torch import Tensor, nn

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.discovery import scan
from codecswap.data.transforms import first_readable

NAME = "residual"
STEPS, BATCH, SIDE = 40, 4, 64
SCALE = 4.0
"""The rounding of orthonormal latents of pictures in [0, 1] would be too coarse."""


class Residual(FactorizedPrior):
    """CompressAI's own layers in module trees: additions, products, sigmoids, and layers at any depth."""

    factor = 16
    margin = 7  # three residual units at the latents, one attention block and three residual blocks beyond them

    def __init__(self, N: int, M: int) -> None:
        super().__init__(N, M)
        self.g_a = nn.Sequential(
            conv(3, N),
            ResidualBottleneckBlock(N, N),
            conv(N, N),
            ResidualBottleneckBlock(N, N),
            AttentionBlock(N),
            conv(N, N),
            ResidualBottleneckBlock(N, N),
            conv(N, M),
            AttentionBlock(M),
        )
        self.g_s = nn.Sequential(
            AttentionBlock(M),
            deconv(M, N),
            ResidualBottleneckBlock(N, N),
            deconv(N, N),
            AttentionBlock(N),
            ResidualBottleneckBlock(N, N),
            deconv(N, N),
            ResidualBottleneckBlock(N, N),
            deconv(N, 3),
        )
        self.entropy_bottleneck = EntropyBottleneck(M)

    @classmethod
    def untrained(cls, state):
        if "g_a.4.conv_b.3.weight" not in state:
            raise ValueError("these weights have no attention blocks")
        return cls(state["g_a.0.weight"].shape[0], state["g_a.7.weight"].shape[0])


def residual_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make `Residual` known until the test's end, and write a trained one: about 24 dB on photographs at 0.4 bpp.

    Training takes some seconds, once in a process.
    """
    monkeypatch.setitem(ARCHITECTURES, NAME, Residual)
    path = folder / f"{NAME}.pth"
    torch.save(_weights(), path)
    return path


@functools.cache
def _weights() -> dict[str, Tensor]:
    """The principal components of 2x2 patches, level by level, for a start; then some steps of training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec = Residual(16, 24)
        photos, _ = first_readable(scan(Path(str(files("codecswap") / "assets" / "photos" / "train"))), 13)
        _start(codec, photos)
        optimizer = torch.optim.Adam(codec.parameters(), lr=1e-3)
        for _ in range(STEPS):
            top, left = torch.randint(0, photos.shape[-1] - SIDE, (2,)).tolist()
            x = photos[torch.randperm(len(photos))[:BATCH], :, top : top + SIDE, left : left + SIDE]
            optimizer.zero_grad()
            y = codec.g_a(x)
            error = (codec.g_s(y + (codec.quantize(y) - y).detach()) - x).square().mean()
            rate = codec.bits(y, noisy=True) / x[:, 0].numel()
            (1000 * error + rate + codec.aux_loss()).backward()
            nn.utils.clip_grad_norm_(codec.parameters(), 10.0)
            optimizer.step()
        codec.eval().make_tables()
    return {name: value.detach().clone() for name, value in codec.state_dict().items()}


@torch.no_grad()
def _start(codec: Residual, x: Tensor) -> None:
    """Both transforms as a pyramid of orthonormal projections, their blocks close to the identity."""
    for layer in codec.modules():
        if isinstance(layer, ResidualBottleneckBlock):
            layer.conv3.weight *= 0.3
        elif isinstance(layer, AttentionBlock):
            layer.conv_b[3].bias -= 1.5
    downward = [layer for layer in codec.g_a if isinstance(layer, nn.Conv2d)]
    upward = [layer for layer in codec.g_s if isinstance(layer, nn.ConvTranspose2d)]
    for down, up in zip(downward, reversed(upward), strict=True):
        scale = SCALE if down is downward[-1] else 1.0
        seen = F.unfold(x, 2, stride=2).transpose(0, 1).flatten(1)  # (4 C, positions)
        mean = seen.mean(1) if down is downward[0] else torch.zeros(len(seen))
        basis = torch.linalg.eigh((seen - mean[:, None]).cov()).eigenvectors.T.flip(0)[: down.out_channels]
        for layer in (down, up):
            layer.weight.zero_()
        taps = basis.view(len(basis), -1, 2, 2)
        down.weight[: len(basis), :, 2:4, 2:4] = scale * taps
        up.weight[: len(basis), :, 2:4, 2:4] = taps / scale
        down.bias.zero_()[: len(basis)] = -scale * basis @ mean
        up.bias.copy_(mean.view(-1, 4).mean(1) if down is downward[0] else torch.zeros(up.out_channels))
        x = down(x) / scale
