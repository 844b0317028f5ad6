"""Closed-form starts for the layers that cannot equal what they replace."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codecswap.console import bar
from codecswap.least_squares import draw
from codecswap.swaps import maker


@dataclass(frozen=True)
class LayerFit:
    """How close one layer comes to the one it replaced, on calibration latents.

    Errors are energies of the difference between the two layers' outputs (before the IGDN), each layer
    behind its own decoder's front, in dB of the variance of the teacher's output. Sums of float32 products
    resolve them down to about -50 dB, those of float64 far deeper.
    """

    name: str
    """Where the layer stands, e.g. ``g_s.0``."""
    error_before_db: float
    """With the weights and the bias it had, behind the front that is calibrated already."""
    error_db: float
    """After the fit."""


@torch.no_grad()
def calibrate(
    teacher: nn.Module,
    student: nn.Module,
    latents: Tensor,
    *,
    ridge: float = 1e-3,
    positions: int = 65536,
    batch_size: int = 8,
    seed: int = 0,
    transform: str = "g_s",
) -> list[LayerFit]:
    """Fit the layers of a swapped codec that cannot equal its teacher's to them on real latents, in place.

    Closed form, layer by layer through the transform: what the student's front (fitted already) puts out is
    regressed on what the teacher's layer puts out behind its own front, so a layer also makes up for the
    errors of those before it. Its weights are the least-squares solution, with a ridge that pulls them
    towards those that the layer has. Layers of exact swaps are left alone.
    Equal calls give equal weights.

    Args:
        teacher: the codec with the transposed convolutions.
        student: what `codecswap.swaps.apply.swap` made of it; its layers' parameters change.
        latents: ``(n, M, h, w)``, rounded as a bitstream carries them (`codecswap.codecs.protocol.Codec.quantise`),
            on any device; they are taken to the codecs', and to their dtype, a batch at a time.
        ridge: strength of the pull on an unknown, as a fraction of the energy of its input; above 0.
        positions: how many low-resolution positions (each four equations for every output channel) a layer
            is fitted to: equally many from each picture, drawn at random where there are more.
        batch_size: pictures decoded at once; it bounds the memory.
        seed: of the draw.
        transform: ``g_s``, or ``g_a`` with pictures ``(n, 3, H, W)`` in [0, 1] in the place of latents.

    Returns: one entry for each layer fitted, in order.

    Raises:
        ValueError: there are no latents, or ``ridge`` or ``positions`` is not positive.
    """
    if latents.ndim != 4 or not latents.numel():
        raise ValueError(f"latents must be (n, M, h, w) with n > 0, not {tuple(latents.shape)}")
    if ridge <= 0 or positions <= 0:
        raise ValueError(f"ridge and positions must be positive, not {ridge} and {positions}")
    generator = torch.Generator().manual_seed(seed)
    fits = []
    layers = [
        (name, layer, swap.calibration)
        for name, layer in student.named_modules()
        if name.startswith(f"{transform}.") and (swap := maker(layer)) and swap.calibration
    ]
    if not layers:
        return []
    chunks = latents.split(batch_size)
    with bar("Calibrate", len(layers) * (len(chunks) + 1), unit="steps") as advance:  # a layer's solution is one more
        for name, layer, calibration in layers:
            original = teacher.get_submodule(name)
            fit = calibration(layer, original)
            for chunk in chunks:
                chunk = chunk.to(next(layer.parameters()))
                inputs = _input_of(layer, student.get_submodule(transform), chunk)
                theirs = _input_of(original, teacher.get_submodule(transform), chunk)
                count = math.ceil(positions / len(latents))
                fit.add(inputs, theirs, draw(inputs, count, generator))
                advance(1)
            before, after = fit.solve(ridge)
            fits.append(LayerFit(name, before, after))
            advance(1)
    return fits


class _Reached(Exception):
    """Stops a forward pass at the layer whose input is wanted."""


def _input_of(layer: nn.Module, decoder: nn.Module, latents: Tensor) -> Tensor:
    """What ``layer`` is fed when ``decoder`` decodes ``latents``; the layers behind it do not run."""
    caught = []

    def catch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        caught.append(arguments[0])
        raise _Reached

    handle = layer.register_forward_pre_hook(catch)
    try:
        decoder(latents)
    except _Reached:
        pass
    finally:
        handle.remove()
    return caught[0]
