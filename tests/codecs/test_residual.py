"""The codec that the other tests take for transforms of any shape: it codes pictures, and its margin is wide enough."""

from pathlib import Path

import torch

from codecswap.codecs.architectures import name_of
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.data.transforms import first_readable
from codecswap.metrics import psnr, to_8_bits


def test_it_codes_pictures(residual: Path, photos: list[Path]) -> None:
    codec = load_codec(str(residual))
    assert name_of(codec) == "residual"
    x, _ = first_readable(photos, 3)
    y = codec.g_a(x)
    shown = codec.g_s(encode(codec, x))
    assert psnr(to_8_bits(shown), x).mean() > 22
    bytes_ = codec.compress_latents(y[:1])
    assert 0.1 < 8 * len(bytes_[0]) / x[0, 0].numel() < 1
    torch.testing.assert_close(codec.decompress_latents(bytes_, y.shape[-2:]), encode(codec, x[:1]))


def test_no_latent_reaches_beyond_the_margin(residual: Path) -> None:
    codec = load_codec(str(residual))
    reach = 2 * codec.margin + 3
    latents = torch.randn(1, 24, reach, reach, generator=torch.Generator().manual_seed(0))
    moved = latents.clone()
    moved[:, :, codec.margin + 1, codec.margin + 1] += 1e3
    changed = (codec.g_s(moved) != codec.g_s(latents)).any(1)[0]
    inside = changed[codec.factor : -codec.factor, codec.factor : -codec.factor]
    assert inside.any() and changed.sum() == inside.sum()
