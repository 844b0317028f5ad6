"""Equalization changes ranges and nothing else."""

import copy

import pytest
import torch
from compressai.layers import AttentionBlock
from compressai.models.sensetime import ResidualBottleneckBlock
from residual import Residual
from torch import nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.graph.leaves import leaves
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


@pytest.mark.parametrize("form", ["native", "subpixel"])
@torch.no_grad()
def test_residual_and_attention_blocks(form: str) -> None:
    torch.manual_seed(0)
    codec = Residual(8, 12).eval()
    for transform, x in ((codec.g_a, torch.rand(2, 3, 64, 96)), (codec.g_s, 5 * torch.randn(2, 12, 6, 4))):
        lowered = lower(transform, form if transform is codec.g_s else "native")
        stopped = equalize(lowered, x.split(1))
        assert_unchanged(lowered(x), transform(x))
        last = f"{len(transform) - 1}"
        for path, layer in lowered.named_modules():
            if isinstance(layer, ResidualBottleneckBlock):
                assert stopped[f"{path}.conv3"] == "add joins two scales"
                assert f"{path}.conv1" not in stopped and f"{path}.conv2" not in stopped
            if isinstance(layer, AttentionBlock):
                assert stopped[f"{path}.conv_b.3"] == "no scale passes through sigmoid"
        assert not any(path.startswith(last) and path.count(".") < 2 for path in stopped)
        block = next(path for path, layer in lowered.named_modules() if isinstance(layer, ResidualBottleneckBlock))
        tree = leaves(lowered)
        (reader,) = (leaf for leaf in tree.steps if leaf.path == f"{block}.conv2")
        largest = tree.compute(x)[reader.inputs[0]].amax(dim=(0, 2, 3))
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-3, atol=0)


@torch.no_grad()
def test_scales_pass_upsampling_pixel_shuffle_and_groups() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.LeakyReLU(), nn.ConvTranspose2d(8, 16, 4, 2, groups=2), nn.PixelShuffle(2)]
    layers += [nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Upsample(scale_factor=3, mode="nearest"), nn.Conv2d(8, 2, 1)]
    transform, x = nn.Sequential(*layers).requires_grad_(False), torch.randn(2, 3, 9, 7)
    equalized = copy.deepcopy(transform)
    assert equalize(equalized, x.split(1)) == {}
    assert_unchanged(equalized(x), transform(x))
    for place in (2, 4, 7):
        largest = equalized[:place](x).abs().amax(dim=(0, 2, 3))
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-3, atol=0)


@torch.no_grad()
def test_a_layer_that_is_called_twice_keeps_its_scales() -> None:
    torch.manual_seed(0)
    twice = nn.Conv2d(4, 4, 3, padding=1)
    transform, x = (
        nn.Sequential(nn.Conv2d(4, 4, 1), twice, nn.ReLU(), twice).requires_grad_(False),
        torch.randn(1, 4, 9, 7),
    )
    expected = transform(x)
    assert equalize(transform, [x]) == {"0": "1 is used twice", "1": "1 is used twice"}
    assert torch.equal(transform(x), expected)


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
