"""Calibration: closed-form initial weights for layers of inexact swaps."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.layers.gdn import GDN, PlainActivation
from codecswap.layers.upsampling import SubpixelConv, UpsampleConv2d
from codecswap.least_squares import Places, Sums, draw, patches, ridge_step
from codecswap.swaps import swap_of
from codecswap.swaps.order import execution_order, inputs_of
from codecswap.swaps.swap import Calibration, decibels
from codecswap.swaps.upsample import KernelFit

Progress = Callable[[int, int], None]
"""Called with the number of steps done and their total."""


@dataclass(frozen=True)
class LayerFit:
    """Error of one fitted layer against the layer it replaced, on calibration latents.

    Errors are energies of the difference between the two layers' outputs (before the IGDN), each layer
    behind its own decoder's front, in dB of the variance of the teacher's output. Sums of float32 products
    resolve them down to about -50 dB, those of float64 far deeper.
    """

    name: str
    """Name of the layer, e.g. ``g_s.0``."""
    error_before_db: float
    """With the weights and bias before the fit; the layers before it are calibrated already."""
    error_db: float
    """After the fit."""


@torch.no_grad()
def calibrate(
    teacher: nn.Module,
    student: nn.Module,
    latents: Tensor,
    *,
    ridge: float = 1e-2,
    positions: int = 65536,
    batch_size: int = 8,
    seed: int = 0,
    transform: str = "g_s",
    progress: Progress | None = None,
) -> list[LayerFit]:
    """Fit the inexact layers of a swapped codec to its teacher's layers on real latents, in place.

    Closed form, layer by layer in order of execution, at any depth of the module tree: what
    the student's front (fitted already) puts out is regressed on what the teacher's layer puts out behind its own front, so
    a layer also compensates errors of the layers before it. Its weights are the least-squares solution, with ridge
    regularization towards its current weights. Layers of exact swaps are skipped, except convolutions behind a GDN swap
    that needs training. A layer that runs several times is fitted to all of its inputs.
    Equal calls give equal weights.

    Args:
        teacher: the codec with the transposed convolutions.
        student: what `codecswap.swaps.apply.swap` made of it; its layers' parameters change.
        latents: ``(n, M, h, w)``, rounded as a bitstream carries them (`codecswap.codecs.protocol.Codec.quantize`),
            on any device; they are copied to the codecs' device and dtype batch by batch.
        ridge: regularization of an unknown, as a fraction of the energy of its input; above 0. On held-out pictures
            1e-2 is as good as 1e-3 where there are many latents and 0.1 to 0.4 dB better where there are few.
        positions: how many low-resolution positions (each four equations for every output channel) a layer
            is fitted to: equally many from each picture, drawn at random where there are more.
        batch_size: pictures decoded at once; it bounds the memory.
        seed: seed of the drawn positions.
        transform: ``g_s``, or ``g_a`` with pictures ``(n, 3, H, W)`` in [0, 1] instead of latents.
        progress: called with the number of steps done and their total.

    Returns: one entry for each layer fitted, in order.

    Raises:
        ValueError: there are no latents, or ``ridge`` or ``positions`` is not positive.
    """
    if latents.ndim != 4 or not latents.numel():
        raise ValueError(f"latents must be (n, M, h, w) with n > 0, not {tuple(latents.shape)}")
    if ridge <= 0 or positions <= 0:
        raise ValueError(f"ridge and positions must be positive, not {ridge} and {positions}")
    generator = torch.Generator().manual_seed(seed)
    fits: list[LayerFit] = []
    chunks = latents.split(batch_size)
    mine, theirs = student.get_submodule(transform), teacher.get_submodule(transform)
    layers = _fitted_layers(mine, theirs, latents[:1].to(next(student.parameters())))
    steps = len(layers) * (len(chunks) + 1)  # one more for a layer's solution
    for name, calls, calibration in layers:
        layer, original = mine.get_submodule(name), theirs.get_submodule(name)
        fit = calibration(layer, original)
        for place, chunk in enumerate(chunks):
            chunk = chunk.to(next(layer.parameters()))
            pairs = (inputs_of(layer, mine, chunk, calls), inputs_of(original, theirs, chunk, calls))
            for seen, wanted in zip(*pairs, strict=True):
                fit.add(seen, wanted, draw(seen, math.ceil(positions / len(latents) / calls), generator))
            if progress:
                progress(len(fits) * (len(chunks) + 1) + place + 1, steps)
        fits.append(LayerFit(f"{transform}.{name}", *fit.solve(ridge)))
        if progress:
            progress(len(fits) * (len(chunks) + 1), steps)
    return fits


def _fitted_layers(
    student: nn.Module, teacher: nn.Module, x: Tensor
) -> list[tuple[str, int, Callable[[Any, Any], Calibration]]]:
    """Layers to fit, in order of execution: name, number of calls, and the class of the fit.

    These are layers of inexact swaps, and convolutions behind a swap that needs training; not those that the teacher, itself a
    student, has as well.
    """
    layers, inexact = [], False
    inside: tuple[str, ...] = ()  # modules inside a layer belong to it
    for name, calls in execution_order(student, x).items():
        layer = student.get_submodule(name)
        made_by = swap_of(layer)
        is_activation = isinstance(layer, GDN | PlainActivation) or bool(made_by and made_by.replaces is GDN)
        if name.startswith(inside) or not (made_by or is_activation or isinstance(layer, nn.Conv2d)):
            continue
        inside += (f"{name}.",)
        fit = made_by.calibration if made_by else None
        if fit is None and inexact and not is_activation and ConvolutionFit.takes(layer):
            fit = KernelFit if isinstance(layer, UpsampleConv2d) else ConvolutionFit
        if fit is KernelFit and isinstance(teacher.get_submodule(name), UpsampleConv2d):
            fit = None
        if fit:
            layers.append((name, calls, fit))
        inexact = inexact or bool(made_by and made_by.trained and is_activation)
    return layers


class ConvolutionFit:
    """Fit of a convolution that would equal the old layer if its inputs were the same."""

    def __init__(self, layer: nn.Conv2d | SubpixelConv, original: nn.Module) -> None:
        self.layer, self.original = layer, original
        self.conv = layer.conv if isinstance(layer, SubpixelConv) else layer
        area = self.conv.kernel_size[0] ** 2
        self.sums = Sums(area * self.conv.in_channels + 1, self.conv.out_channels, self.conv.weight.device)

    @staticmethod
    def takes(layer: nn.Module) -> bool:
        """Whether this fit supports a layer: a convolution with a square kernel, one group and "same" padding."""
        if isinstance(layer, SubpixelConv) and not layer.upsamples_by_2:
            return False
        conv = layer.conv if isinstance(layer, SubpixelConv | UpsampleConv2d) else layer
        if not isinstance(conv, nn.Conv2d) or isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            return False
        size, stride, padding = (
            (side,) * 2 for side in (conv.kernel_size[0], conv.stride[0], conv.kernel_size[0] // 2)
        )
        given = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
        return given == (size, stride, padding, (1, 1), 1) and size[0] % 2 == 1

    def add(self, inputs: Tensor, theirs: Tensor, places: Places) -> None:
        """Add positions of the student's input ``(B, I, h, w)`` and of the teacher's."""
        wanted = self.original(theirs)
        wanted = F.pixel_unshuffle(wanted, 2) if isinstance(self.layer, SubpixelConv) else wanted
        size, stride, padding = self.conv.kernel_size[0], self.conv.stride[0], int(self.conv.padding[0])
        picture, row, column = places
        places = picture, row // stride, column // stride
        seen = patches(inputs, places, size, stride=stride, padding=padding)
        self.sums.add(torch.cat([seen, torch.ones_like(seen[:, :1])], 1), patches(wanted, places, 1))

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the layer. Returns: its output's relative error in dB, before and after."""
        sums, conv = self.sums, self.conv
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        start = torch.cat([conv.weight.flatten(1), bias[:, None]], 1).double().T
        variance = (sums.energy - sums.targets.square() / sums.count).sum().clamp_min(1e-300)

        def error(weights: Tensor) -> float:
            left = sums.energy.sum() - (weights * (2 * sums.cross - sums.gram @ weights)).sum()
            return decibels(left / variance)

        strength = ridge * (sums.gram.diagonal() + 1e-3 * sums.gram.diagonal().mean() + 1e-30)
        step, _ = ridge_step(sums.gram.clone(), sums.cross - sums.gram @ start, strength)
        solution = start + step
        conv.weight.data.copy_(solution[:-1].T.reshape(conv.weight.shape))
        if conv.bias is not None:
            conv.bias.data.copy_(solution[-1])
        return error(start), error(solution)
