"""Small codecs of every architecture whose random weights give latents, scales and means of many sizes."""

from typing import Any

import torch
from torch import nn

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import Codec

SIZES: dict[str, tuple[Any, ...]] = {
    "cheng2020_anchor": (8,),
    "cheng2020_attn": (8,),
    "cheng2020_anchor_checkerboard": (8,),
    "elic2022_official": (8, 12, [2, 3, 7]),
    "elic2022_chandelier": (8, 12, [2, 3, 7]),
}
"""Arguments of classes that are not built from N and M alone."""
SPREAD = 8.0
"""Standard deviation of the latents and of the hyper-latents."""
CONTRAST = 0.15
"""Standard deviation of what is decoded, around a mean of 0.5."""


@torch.no_grad()
def small_codec(name: str) -> Codec:
    """A codec of an architecture, N=8, M=12 (8 where M is N), in eval mode, with entropy tables."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec: Any = ARCHITECTURES[name](*SIZES.get(name, (8, 12))).eval()
        x = torch.rand(1, 3, 64, 64)
        for _ in range(2):  # an attention block after the layer is not linear
            _last(codec.g_a).weight *= SPREAD / codec.g_a(x).std()
        if codec.hyperprior:
            _last(codec.h_a).weight *= SPREAD / codec.hyper_latents(codec.g_a(x)).std()
            for last, scales in _parameters(codec):
                last.weight *= 4
                last.bias[scales] += torch.linspace(1, 12, len(last.bias[scales]))
    codec.make_tables()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        shown = codec.g_s(codec.quantize(codec.g_a(torch.rand(1, 3, 64, 64))))
    last = [layer for layer in codec.g_s.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
    last.weight *= CONTRAST / shown.std()
    last.bias.copy_(0.5 + (last.bias - shown.mean()) * CONTRAST / shown.std())
    return codec.requires_grad_(False)


def _last(transform: nn.Sequential) -> nn.Conv2d:
    return next(layer for layer in reversed(transform) if isinstance(layer, nn.Conv2d))


def _parameters(codec: Any) -> list[tuple[Any, slice]]:
    """The layers that give scales, and where these are among their outputs."""
    if hasattr(codec, "board"):
        boards = [codec.board(group) for group in range(len(codec.groups))]
        return [
            (each.entropy_parameters[-1], _half(size, each.y.chunks[0] == "scales"))
            for each, size in zip(boards, codec.groups, strict=True)
        ]
    layers = codec.entropy_parameters if hasattr(codec, "entropy_parameters") else codec.h_s
    last = next(layer for layer in reversed(layers) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d))
    return [(last, slice(codec.M))]


def _half(size: int, first: bool) -> slice:
    return slice(size) if first else slice(size, None)
