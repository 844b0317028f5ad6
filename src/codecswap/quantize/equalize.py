"""Equalization: rescale channels around every GDN so that all use the same range, without changing what is computed.

INT8 gives one scale to a whole activation; where one channel is a hundred times wider than another, the narrow one keeps
two levels of 256. A scale per channel can pass through a GDN exactly, because gamma couples squares of channels::

    IGDN:  y_i = x_i sqrt(beta_i + sum_j gamma_ij x_j^2)     GDN:  y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)

Dividing x_i by s_i (in the convolution before) and multiplying y_i by c_i (undone in the convolution after) turns gamma_ij
into gamma_ij s_j^2 (s_i c_i)^(+-2) and beta_i into beta_i (s_i c_i)^(+-2): plus for IGDN, minus for GDN. It works on lowered
transforms (`codecswap.graph.lower`), whose beta has no lower bound that would clip. What replaces a GDN says for itself how it
takes such scales (`codecswap.layers.gdn.PlainActivation.rescale`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from codecswap.graph.lower import convolution
from codecswap.layers.gdn import PlainActivation


@torch.no_grad()
def equalize(transform: nn.Module, samples: Iterable[Tensor]) -> None:
    """Rescale, in place, so that on the samples every channel before and after every GDN has a largest value of 1.

    Args:
        transform: what `codecswap.graph.lower.lower` returns.
        samples: what goes into it, ``(B, C, H, W)`` each; only ranges are taken from them, so a few pictures do.
    """
    layers = list(transform.children())
    ranges = _ranges(transform, samples)
    for before, gdn, after in zip(layers, layers[1:], layers[2:], strict=False):
        if isinstance(gdn, PlainActivation):
            inside, outside = (_usable(values) for values in ranges[gdn])
            given = gdn.rescale(inside, 1 / outside)
            _scale_outputs(before, 1 / inside)
            _scale_inputs(after, 1 / given)


def _ranges(transform: nn.Module, samples: Iterable[Tensor]) -> dict[PlainActivation, tuple[Tensor, Tensor]]:
    """The largest absolute value of each channel before and after each GDN."""
    found: dict[PlainActivation, tuple[Tensor, Tensor]] = {}

    def look(gdn: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(gdn, PlainActivation)
        largest = tuple(x.abs().amax(dim=(0, 2, 3)) for x in (inputs[0], output))
        before = found.get(gdn, largest)
        found[gdn] = torch.maximum(before[0], largest[0]), torch.maximum(before[1], largest[1])

    handles = [gdn.register_forward_hook(look) for gdn in transform.modules() if isinstance(gdn, PlainActivation)]
    try:
        for sample in samples:
            transform(sample)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _usable(largest: Tensor) -> Tensor:
    """Scales to divide by: a channel that is silent on the samples is left as it is."""
    return torch.where(largest > 1e-12, largest, torch.ones_like(largest))


def _scale_outputs(layer: nn.Module, scale: Tensor) -> None:
    conv = convolution(layer)
    if isinstance(conv, nn.ConvTranspose2d):
        conv.weight *= scale[None, :, None, None]
    else:
        scale = scale.repeat_interleave(conv.out_channels // len(scale))  # four phases where PixelShuffle follows
        conv.weight *= scale[:, None, None, None]
    if conv.bias is not None:
        conv.bias *= scale


def _scale_inputs(layer: nn.Module, scale: Tensor) -> None:
    conv = convolution(layer)
    shape = (-1, 1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (1, -1, 1, 1)
    conv.weight *= scale.view(shape)
