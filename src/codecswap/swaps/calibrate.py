"""Closed-form starts for the layers that cannot equal what they replace."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.console import bar
from codecswap.layers.upsampling import UpsampleConv2d, phase_matrix, to_subpixel, transposed_phase_kernels


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


def fit_weights(target: Tensor, kernel_size: int) -> tuple[Tensor, float]:
    """The kernel after nearest upsampling whose four phases come closest to given phase kernels.

    Least squares, one axis at a time: the phases of a kernel ``W`` are ``A W A^T``, so the fit is
    ``A^+ T (A^+)^T`` for every pair of channels, with one small pseudo-inverse for all.

    Args:
        target: ``(O, I, 2, 2, F, F)``, as `codecswap.layers.upsampling.transposed_phase_kernels` gives them.
        kernel_size: odd size of the kernel sought.

    Returns: the kernel ``(O, I, k, k)`` in the target's dtype; the energy left over, in dB of the target's.
    """
    matrix = phase_matrix(kernel_size).to(target.device)
    reach = max(matrix.shape[1], target.shape[-1]) // 2
    matrix = _widen(matrix, reach, axes=(1,)).flatten(0, 1)  # (2 F, k)
    wide = _widen(target.double(), reach, axes=(4, 5)).permute(0, 1, 2, 4, 3, 5).flatten(2, 3).flatten(3, 4)
    inverse = torch.linalg.pinv(matrix)
    weight = inverse @ wide @ inverse.T
    left = (matrix @ weight @ matrix.T - wide).square().sum() / wide.square().sum().clamp_min(1e-300)
    return weight.to(target.dtype), 10 * math.log10(max(left.item(), 1e-300))


def _widen(tensor: Tensor, reach: int, axes: tuple[int, ...]) -> Tensor:
    """Pad the given axes, centred, with zeros to ``2 reach + 1``."""
    for axis in axes:
        pad = reach - tensor.shape[axis] // 2
        shape = list(tensor.shape)
        shape[axis] = pad
        zeros = tensor.new_zeros(shape)
        tensor = torch.cat([zeros, tensor, zeros], dim=axis)
    return tensor


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
) -> list[LayerFit]:
    """Fit the plain ``upsample`` layers of a swapped codec to its teacher on real latents, in place.

    Closed form, layer by layer through ``g_s``: what the student's front (fitted already) puts out is
    regressed on what the teacher's layer puts out behind its own front, so a layer also makes up for the
    errors of those before it. Kernel and bias are the least-squares solution, with a ridge that pulls the
    kernel towards the one that the layer has. The exact layers (``masked``, ``subpixel``) are left alone.
    Equal calls give equal weights.

    Args:
        teacher: the codec with the transposed convolutions.
        student: what `codecswap.swaps.apply.swap` made of it; the parameters of its ``UpsampleConv2d`` change.
        latents: ``(n, M, h, w)``, rounded as a bitstream carries them (`codecswap.codecs.protocol.Codec.quantise`),
            on any device; they are taken to the codecs', and to their dtype, a batch at a time.
        ridge: strength of the pull on an unknown, as a fraction of the energy of its input; above 0.
        positions: how many low-resolution positions (each four equations for every output channel) a layer
            is fitted to: equally many from each picture, drawn at random where there are more.
        batch_size: pictures decoded at once; it bounds the memory.
        seed: of the draw.

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
        (name, layer)
        for name, layer in student.named_modules()
        if name.startswith("g_s.") and isinstance(layer, UpsampleConv2d) and not layer.masked
    ]
    if not layers:
        return []
    chunks = latents.split(batch_size)
    with bar("Calibrate", len(layers) * (len(chunks) + 1), unit="steps") as advance:  # a layer's solution is one more
        for name, layer in layers:
            original = teacher.get_submodule(name)
            assert isinstance(original, nn.ConvTranspose2d)
            sums = _Sums(layer, original)
            for chunk in chunks:
                chunk = chunk.to(layer.conv.weight)
                inputs = _input_of(layer, student.get_submodule("g_s"), chunk)
                theirs = _input_of(original, teacher.get_submodule("g_s"), chunk)
                sums.add(inputs, theirs, _draw(inputs, math.ceil(positions / len(latents)), generator))
                advance(1)
            before, after = sums.solve(ridge)
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


def _draw(x: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Indices (picture, row, column) of at most ``count`` positions of each picture of ``x: (B, C, h, w)``.

    Drawn on the CPU: the same ones on every device.
    """
    height, width = x.shape[-2:]
    count = min(count, height * width)
    drawn = torch.stack([torch.randperm(height * width, generator=generator)[:count] for _ in x])
    picture = torch.arange(len(x)).repeat_interleave(count)
    place = drawn.flatten()
    return picture.to(x.device), (place // width).to(x.device), (place % width).to(x.device)


def _patches(x: Tensor, where: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
    """Square neighbourhoods of positions of ``x: (B, C, h, w)``, zeros outside: ``(P, C size^2)``."""
    picture, row, column = where
    windows = F.pad(x, [size // 2] * 4).unfold(2, size, 1).unfold(3, size, 1)  # a view
    return windows[picture, :, row, column].flatten(1)


class _Sums:
    """The normal equations of one layer: sums over positions, at low resolution, where they are smallest.

    An output position is one phase of a low-resolution position, and sees the ``F x F`` patch ``u`` around
    it through ``fold``: the unknown kernel meets the features ``fold[phase].T @ u``. So the sums of
    ``u u.T`` (``F^2 I`` square) hold all that those of the ``k^2 I`` features need, for all four phases.
    """

    def __init__(self, layer: UpsampleConv2d, original: nn.ConvTranspose2d) -> None:
        self.layer = layer
        kernels = to_subpixel(transposed_phase_kernels(original))  # (4 O, I, F', F')
        self.reach = kernels.shape[-1]
        self.kernels = kernels.flatten(1)
        self.bias = 0 if original.bias is None else original.bias.repeat_interleave(4)
        axis = phase_matrix(layer.conv.kernel_size[0]).to(layer.conv.weight.device)
        self.size = axis.shape[1]
        self.fold = torch.einsum("pas,qbt->pqabst", axis, axis).reshape(4, self.size**2, -1)  # (4, F^2, k^2)
        unknowns, outputs = self.size**2 * layer.conv.in_channels, len(kernels)
        self.count = 0
        self.gram = self.fold.new_zeros(unknowns, unknowns)
        self.cross = self.fold.new_zeros(unknowns, outputs)
        self.patch = self.fold.new_zeros(unknowns)
        self.target = self.fold.new_zeros(outputs)
        self.energy = self.fold.new_zeros(outputs)

    def add(self, inputs: Tensor, theirs: Tensor, where: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take in positions of the student's input ``(B, I, h, w)`` and of the teacher's."""
        patches = _patches(inputs, where, self.size)
        target = _patches(theirs, where, self.reach) @ self.kernels.T + self.bias
        self.count += len(patches)
        self.gram += patches.T @ patches
        self.cross += patches.T @ target
        self.patch += patches.sum(0, dtype=torch.float64)
        self.target += target.sum(0, dtype=torch.float64)
        self.energy += target.double().square().sum(0)

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the layer. Returns: relative errors in dB, before and after."""
        conv = self.layer.conv
        inputs, outputs, equations = conv.in_channels, conv.out_channels, 4 * self.count
        area = self.size**2
        system = self._system(inputs)
        moment = self.cross.view(inputs, area, outputs, 4)
        cross = torch.einsum("iaop,pas->iso", moment, self.fold).flatten(0, 1)
        feature = torch.einsum("ia,pas->is", self.patch.view(inputs, area), self.fold).flatten() / equations
        mean = self.target.view(outputs, 4).sum(1) / equations
        variance = self.energy.sum() - equations * mean.square().sum()
        energy = self.energy.sum()
        if conv.bias is not None:  # the bias takes the means on itself
            system.addr_(feature, feature, alpha=-equations)
            cross.addr_(feature, mean, alpha=-equations)
            energy = variance
        start = conv.weight.double().flatten(1).T  # (k^2 I, O)
        produced = system @ start
        missing = cross - produced
        before = energy - (start * (2 * cross - produced)).sum()
        diagonal = system.diagonal()
        pull = ridge * (diagonal.clone() + 1e-3 * diagonal.mean() + 1e-30)
        diagonal += pull
        step = torch.cholesky_solve(missing, torch.linalg.cholesky(system))
        solution = start + step
        after = energy - (solution * (cross + pull[:, None] * step)).sum()
        if conv.bias is not None:
            before += equations * (conv.bias + feature @ start - mean).square().sum()
            conv.bias.copy_(mean - feature @ solution)
        conv.weight.copy_(solution.T.reshape(conv.weight.shape))
        scale = variance.clamp_min(1e-300)
        return _decibels(before / scale), _decibels(after / scale)

    def _system(self, inputs: int) -> Tensor:
        """The Gram matrix of the features, ``(k^2 I, k^2 I)``, from that of the patches, row by row."""
        area, unknowns = self.fold.shape[1:]
        pairs = torch.einsum("pas,pbt->abst", self.fold, self.fold).flatten(2).flatten(0, 1)  # (F^4, k^4)
        gram = self.gram.view(inputs, area, inputs, area)
        system = gram.new_empty(inputs, unknowns, inputs, unknowns)
        for row, block in zip(system, gram, strict=True):
            features = block.transpose(0, 1).flatten(1) @ pairs
            row.copy_(features.view(inputs, unknowns, unknowns).transpose(0, 1))
        return system.view(inputs * unknowns, inputs * unknowns)


def _decibels(ratio: Tensor) -> float:
    return 10 * math.log10(max(ratio.item(), 1e-30))
