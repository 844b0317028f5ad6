"""Equalization changes ranges and nothing else."""

import pytest
import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.graph.lower import LoweredGDN, lower
from codecswap.layers.gdn import GDN
from codecswap.quantize.equalize import equalize
from codecswap.swaps import GDN_SWAPS
from codecswap.swaps.apply import swap, swap_gdn


@pytest.fixture
def codec() -> FactorizedPrior:
    """An odd number of channels, and GDNs whose channels differ by orders of magnitude."""
    torch.manual_seed(0)
    codec = FactorizedPrior(7, 11).eval().requires_grad_(False)
    for gdn in codec.modules():
        if isinstance(gdn, GDN):
            gdn.gamma.copy_(gdn.gamma_reparam.init(torch.rand_like(gdn.gamma) * 0.3))
            gdn.beta.copy_(gdn.beta_reparam.init(10 ** (4 * torch.rand_like(gdn.beta) - 3)))
    return codec


@pytest.mark.parametrize("replacement", ["none", "upsample", "masked", "subpixel"])
@pytest.mark.parametrize("form", ["native", "subpixel"])
@torch.no_grad()
def test_decoder_output_is_unchanged(codec: FactorizedPrior, replacement: str, form: str) -> None:
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    latents = 5 * torch.randn(2, 11, 6, 4)
    transform = lower(codec.g_s, form)
    equalize(transform, latents.split(1))
    assert_unchanged(transform(latents), codec.g_s(latents))
    assert_flat(transform, latents)


@torch.no_grad()
def test_encoder_output_is_unchanged(codec: FactorizedPrior) -> None:
    pictures = torch.rand(2, 3, 64, 96)
    transform = lower(codec.g_a)
    equalize(transform, pictures.split(1))
    assert_unchanged(transform(pictures), codec.g_a(pictures))
    assert_flat(transform, pictures)


@pytest.mark.parametrize("gdn", GDN_SWAPS)
@torch.no_grad()
def test_what_replaces_a_gdn_takes_the_scales_too(codec: FactorizedPrior, gdn: str) -> None:
    codec = swap_gdn(codec, gdn, "both")[0]
    pictures, latents = torch.rand(2, 3, 64, 96), 5 * torch.randn(2, 11, 6, 4)
    for transform, x in ((codec.g_a, pictures), (codec.g_s, latents)):
        lowered = lower(transform, "subpixel")
        equalize(lowered, x.split(1))
        assert_unchanged(lowered(x), transform(x))


@torch.no_grad()
def test_a_trained_codec_on_other_pictures(teacher: FactorizedPrior) -> None:
    pictures = torch.rand(3, 3, 64, 64)
    analysis, synthesis = lower(teacher.g_a), lower(teacher.g_s, "subpixel")
    latents = encode(teacher, pictures)
    equalize(analysis, [pictures[:1]])
    equalize(synthesis, [latents[:1]])
    assert_unchanged(analysis(pictures), teacher.g_a(pictures))
    assert_unchanged(synthesis(latents), teacher.g_s(latents))


def assert_unchanged(mine: torch.Tensor, reference: torch.Tensor) -> None:
    assert (mine - reference).abs().max() < 1e-5 * reference.abs().max()


def assert_flat(transform: torch.nn.Module, x: torch.Tensor) -> None:
    for layer in transform.children():
        if isinstance(layer, LoweredGDN):
            torch.testing.assert_close(x.abs().amax(dim=(0, 2, 3)), torch.ones(x.shape[1]), rtol=1e-3, atol=0)
        x = layer(x)
        if isinstance(layer, LoweredGDN):
            torch.testing.assert_close(x.abs().amax(dim=(0, 2, 3)), torch.ones(x.shape[1]), rtol=1e-3, atol=0)
