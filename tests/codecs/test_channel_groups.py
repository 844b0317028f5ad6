"""A codec of channel groups and checkerboards, as ELIC has them, is one class: it trains, codes, and agrees with CompressAI."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai import models
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models.utils import conv, deconv
from PIL import Image
from torch import Tensor, nn

from codecswap.cli import main
from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import HyperCodec, encode
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.entropy import bitstream
from codecswap.entropy.passes import ANCHOR, LATENTS, NON_ANCHOR, Pass, Region, check_passes, hyperprior
from codecswap.evaluation.measure import code
from codecswap.swaps.apply import swap

GROUPS = [2, 3, 7]


class Groups(HyperCodec, models.CompressionModel):
    """Groups of channels, each a checkerboard; transforms as a factorized prior has them."""

    factor = 16
    margin = 2
    predictors = ("h_s", "contexts")
    bit_exact = ("g_a", "h_a", "h_s", "contexts", "entropy_bottleneck", "gaussian_conditional")
    zoo = FactorizedPrior.zoo

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.N, self.M, plain = n, m, models.FactorizedPrior(n, m)
        self.g_a, self.g_s = plain.g_a, plain.g_s
        self.h_a = nn.Sequential(conv(m, n, kernel_size=3, stride=1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))
        self.h_s = nn.Sequential(deconv(n, n), nn.ReLU(), deconv(n, 2 * n))
        self.entropy_bottleneck, self.gaussian_conditional = EntropyBottleneck(n), GaussianConditional(None)
        self.contexts = nn.ModuleList()
        for index, size in enumerate(GROUPS):
            spatial = CheckerboardMaskedConv2d(size, 2 * size, kernel_size=5, stride=1, padding=2)
            channel = conv(sum(GROUPS[:index]), 2 * size, stride=1) if index else nn.Identity()
            inputs = 2 * size + 2 * size * (index > 0) + 2 * n
            together = nn.Sequential(nn.Conv2d(inputs, 3 * size, 1), nn.ReLU(), nn.Conv2d(3 * size, 2 * size, 1))
            self.contexts.append(nn.ModuleDict({"spatial": spatial, "channel": channel, "together": together}))

    @classmethod
    def untrained(cls, state):
        return cls(state["h_a.0.weight"].shape[0], sum(GROUPS)) if "contexts.0.spatial.weight" in state else state["no"]

    @property
    def passes(self) -> tuple[Pass, ...]:
        ends = np.cumsum([0, *GROUPS]).tolist()
        groups = pairwise(ends)
        return hyperprior(self.N, *(Pass(LATENTS, group, half) for group in groups for half in (ANCHOR, NON_ANCHOR)))

    def hyper_latents(self, y: Tensor) -> Tensor:
        return self.h_a(y)

    def gaussians(self, side: Tensor, y_hat: Tensor, step: Pass, region: Region) -> tuple[Tensor, Tensor]:
        first, end = step.channels
        context = self.contexts[[end - first == size for size in GROUPS].index(True)]
        spatial = context["spatial"](y_hat[:, first:end])
        seen = [spatial if step.positions == NON_ANCHOR else torch.zeros_like(spatial)]
        seen += [context["channel"](y_hat[:, :first])] if first else []
        scales, means = context["together"](torch.cat((*seen, side), 1)).chunk(2, 1)
        return scales[..., *region[1:]], means[..., *region[1:]]

    def in_compressai(self) -> HyperpriorLatentCodec:
        """The same entropy model, built of CompressAI's latent codecs."""
        gaussian = {
            "y": GaussianConditionalLatentCodec(gaussian_conditional=self.gaussian_conditional, quantizer="ste")
        }
        boards = {
            f"y{index}": CheckerboardLatentCodec(gaussian, each["together"], each["spatial"])
            for index, each in enumerate(self.contexts)
        }
        channel = {f"y{index}": each["channel"] for index, each in enumerate(self.contexts) if index}
        hyper = HyperLatentCodec(entropy_bottleneck=self.entropy_bottleneck, h_a=self.h_a, h_s=self.h_s)
        groups = ChannelGroupsLatentCodec(boards, channel, groups=GROUPS)
        return HyperpriorLatentCodec({"y": groups, "hyper": hyper}).eval()


@pytest.fixture
def codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Random weights that give latents, scales and means of many sizes; loaded from its file, by its line in the table."""
    monkeypatch.setitem(ARCHITECTURES, "groups", Groups)
    torch.manual_seed(0)
    made = Groups(8, sum(GROUPS))
    with torch.no_grad():
        made.g_a[6].weight *= 25
        made.h_a[4].weight *= 20
        for size, context in zip(GROUPS, made.contexts, strict=True):
            context["together"][2].bias[:size] += torch.linspace(1, 12, size)
            context["spatial"].weight *= 3
    torch.save(made.state_dict(), tmp_path / "groups.pth")
    found = load_codec(str(tmp_path / "groups.pth"))
    assert isinstance(found, Groups)
    return found


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    return Image.fromarray(noise).resize((205, 140), Image.Resampling.BICUBIC)


def test_latents_come_back_exactly_and_are_those_of_compressai(codec: Groups) -> None:
    check_passes(codec.passes, codec.M, codec.N)
    x = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    y = codec.g_a(x)
    strings = codec.compress_latents(y)
    latents = codec.decompress_latents(strings, y.shape[-2:])
    assert torch.equal(latents, codec.decompress_latents(strings, y.shape[-2:]))
    torch.testing.assert_close(codec.quantize(y), latents, rtol=0, atol=1e-4)
    theirs = codec.in_compressai()
    torch.testing.assert_close(theirs(y)["y_hat"], latents, rtol=0, atol=1e-4)
    assert latents.unique().numel() > 100 and codec.contexts[2]["spatial"](latents[:, 5:]).std() > 0.1


def test_bits_are_those_of_compressais_likelihoods(codec: Groups) -> None:
    x = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    y = codec.g_a(x)
    wanted = sum(-likelihoods.log2().sum().item() for likelihoods in codec.in_compressai()(y)["likelihoods"].values())
    strings = codec.compress_latents(y)
    assert 8 * sum(map(len, strings)) == pytest.approx(wanted, rel=0.02)
    assert codec.bits(y).item() == pytest.approx(wanted, rel=1e-4)
    assert codec.bits(y, noisy=True).item() == pytest.approx(wanted, rel=0.1)


def test_files_go_through_the_commands_and_a_student_reads_them(
    codec: Groups, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture.save(tmp_path / "a.png")
    names = ["--codec", str(tmp_path / "groups.pth")]
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.csw"), *names]) == 0
    assert main(["decode", str(tmp_path / "a.csw"), "-o", str(tmp_path / "b.png"), *names]) == 0
    data = (tmp_path / "a.csw").read_bytes()
    student = swap(codec, "subpixel")[0]
    quantized, size = bitstream.read(data, TorchCodec(student).entropy, 16)
    wanted, _ = bitstream.read(data, TorchCodec(codec).entropy, 16)
    assert (
        size == (140, 205) and (quantized.symbols == wanted.symbols).all() and (quantized.means == wanted.means).all()
    )
    damaged = data[:-40] + bytes(36) + data[-4:]
    with pytest.raises(bitstream.BadFile):
        bitstream.read(damaged, TorchCodec(codec).entropy, 16)
    capsys.readouterr()
    assert main(["export", "--teacher", names[1], "--output", str(tmp_path / "folder")]) == 2
    assert "cannot be exported" in capsys.readouterr().err and not (tmp_path / "folder").exists()


def test_pictures_and_crops_of_any_size(codec: Groups) -> None:
    bpp, latents = code(codec, torch.rand(1, 3, 38, 70))
    assert latents.shape == (1, codec.M, 4, 8) and bpp > 0
    assert encode(codec, torch.rand(2, 3, 48, 80)).shape == (2, codec.M, 3, 5)
    codec.requires_grad_(True)
    codec.bits(codec.g_a(torch.rand(2, 3, 48, 80)), noisy=True).backward()
    assert all(p.grad is not None for each in codec.contexts for p in each.parameters())
