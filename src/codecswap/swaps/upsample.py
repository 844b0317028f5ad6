"""``upsample``: nearest upsampling and a convolution, without a mask. Not exact: fitted, then trained."""

import math

import torch
from torch import Tensor, nn

from codecswap.layers.upsampling import UpsampleConv2d, phase_matrix, to_subpixel, transposed_phase_kernels
from codecswap.least_squares import Places, Sums, patches, ridge_step
from codecswap.swaps.masked import why_not_odd
from codecswap.swaps.swap import Swap, copy_convolution, decibels, describe_convolution


def _build(layer: nn.ConvTranspose2d, size: int | None) -> UpsampleConv2d:
    return UpsampleConv2d(layer.in_channels, layer.out_channels, size or layer.kernel_size[0])


def _fit(new: UpsampleConv2d, layer: nn.ConvTranspose2d) -> float:
    weight, error = fit_weights(transposed_phase_kernels(layer), new.conv.kernel_size[0])
    copy_convolution(new.conv, weight, layer.bias)
    return error


def fit_weights(target: Tensor, kernel_size: int) -> tuple[Tensor, float]:
    """Fit the kernel after nearest upsampling whose four phases are closest to given phase kernels.

    Least squares, one axis at a time: the phases of a kernel ``W`` are ``A W A^T``, so the fit is
    ``A^+ T (A^+)^T`` for every pair of channels, with one small pseudo-inverse for all.

    Args:
        target: ``(O, I, 2, 2, F, F)``, as `codecswap.layers.upsampling.transposed_phase_kernels` gives them.
        kernel_size: odd size of the kernel.

    Returns: the kernel ``(O, I, k, k)`` in the target's dtype; the residual energy, in dB of the target's energy.
    """
    matrix = phase_matrix(kernel_size).to(target.device)
    radius = max(matrix.shape[1], target.shape[-1]) // 2
    matrix = _widen(matrix, radius, axes=(1,)).flatten(0, 1)  # (2 F, k)
    wide = _widen(target.double(), radius, axes=(4, 5)).permute(0, 1, 2, 4, 3, 5).flatten(2, 3).flatten(3, 4)
    inverse = torch.linalg.pinv(matrix)
    weight = inverse @ wide @ inverse.T
    left = (matrix @ weight @ matrix.T - wide).square().sum() / wide.square().sum().clamp_min(1e-300)
    return weight.to(target.dtype), 10 * math.log10(max(left.item(), 1e-300))


def _widen(tensor: Tensor, radius: int, axes: tuple[int, ...]) -> Tensor:
    """Pad the given axes, centered, with zeros to ``2 radius + 1``."""
    for axis in axes:
        pad = radius - tensor.shape[axis] // 2
        shape = list(tensor.shape)
        shape[axis] = pad
        zeros = tensor.new_zeros(shape)
        tensor = torch.cat([zeros, tensor, zeros], dim=axis)
    return tensor


class KernelFit:
    """Normal equations of one layer, summed over positions at low resolution, where they are smallest.

    An output position is one phase of a low-resolution position, and sees the ``F x F`` patch ``u`` around
    it through ``fold``: the unknown kernel meets the features ``fold[phase].T @ u``. So the sums of
    ``u u.T`` (``F^2 I`` square) hold all that those of the ``k^2 I`` features need, for all four phases.
    """

    def __init__(self, layer: UpsampleConv2d, original: nn.ConvTranspose2d) -> None:
        self.layer = layer
        kernels = to_subpixel(transposed_phase_kernels(original))  # (4 O, I, F', F')
        self.patch_size = kernels.shape[-1]
        self.kernels = kernels.flatten(1)
        self.bias = 0 if original.bias is None else original.bias.repeat_interleave(4)
        axis = phase_matrix(layer.conv.kernel_size[0], masked=layer.masked).to(layer.conv.weight.device)
        self.size = axis.shape[1]
        self.fold = torch.einsum("pas,qbt->pqabst", axis, axis).reshape(4, self.size**2, -1)  # (4, F^2, k^2)
        unknowns, outputs = self.size**2 * layer.conv.in_channels, len(kernels)
        self.sums = Sums(unknowns, outputs, self.fold.device)

    def add(self, inputs: Tensor, theirs: Tensor, places: Places) -> None:
        """Add positions of the student's input ``(B, I, h, w)`` and of the teacher's."""
        target = patches(theirs, places, self.patch_size) @ self.kernels.T + self.bias
        self.sums.add(patches(inputs, places, self.size), target)

    def solve(self, ridge: float) -> tuple[float, float]:
        """Write the solution into the layer. Returns: relative errors in dB, before and after."""
        conv, sums = self.layer.conv, self.sums
        inputs, outputs, equations = conv.in_channels, conv.out_channels, 4 * sums.count
        area = self.size**2
        system = self._system(inputs)
        moment = sums.cross.view(inputs, area, outputs, 4)
        cross = torch.einsum("iaop,pas->iso", moment, self.fold).flatten(0, 1)
        feature = torch.einsum("ia,pas->is", sums.inputs.view(inputs, area), self.fold).flatten() / equations
        mean = sums.targets.view(outputs, 4).sum(1) / equations
        variance = sums.energy.sum() - equations * mean.square().sum()
        energy = sums.energy.sum()
        if conv.bias is not None:  # the bias absorbs the means
            system.addr_(feature, feature, alpha=-equations)
            cross.addr_(feature, mean, alpha=-equations)
            energy = variance
        start = conv.weight.double().flatten(1).T  # (k^2 I, O)
        missing = cross - system @ start
        before = energy - (start * (cross + missing)).sum()
        diagonal = system.diagonal()
        strength = ridge * (diagonal + 1e-3 * diagonal.mean() + 1e-30)
        step, _ = ridge_step(system, missing, strength)
        solution = start + step
        after = energy - (solution * (cross + strength[:, None] * step)).sum()
        if conv.bias is not None:
            before += equations * (conv.bias + feature @ start - mean).square().sum()
            conv.bias.copy_(mean - feature @ solution)
        conv.weight.copy_(solution.T.reshape(conv.weight.shape))
        scale = variance.clamp_min(1e-300)
        return decibels(before / scale), decibels(after / scale)

    def _system(self, inputs: int) -> Tensor:
        """The Gram matrix of the features, ``(k^2 I, k^2 I)``, from that of the patches, row by row."""
        area, unknowns = self.fold.shape[1:]
        pairs = torch.einsum("pas,pbt->abst", self.fold, self.fold).flatten(2).flatten(0, 1)  # (F^4, k^4)
        gram = self.sums.gram.view(inputs, area, inputs, area)
        system = gram.new_empty(inputs, unknowns, inputs, unknowns)
        for row, block in zip(system, gram, strict=True):
            features = block.transpose(0, 1).flatten(1) @ pairs
            row.copy_(features.view(inputs, unknowns, unknowns).transpose(0, 1))
        return system.view(inputs * unknowns, inputs * unknowns)


UPSAMPLE = Swap(
    name="upsample",
    replaces=nn.ConvTranspose2d,
    exact=False,
    operators=("Resize", "Conv"),
    refusal=why_not_odd,
    build=_build,
    fit=_fit,
    recognizes=lambda layer: isinstance(layer, UpsampleConv2d) and not layer.masked,
    describe=lambda new: f"Upsample(x2) + {describe_convolution(new.conv)}",
    calibration=KernelFit,
    trained=True,
    sizes=(3, 5, 7),
    size_of=lambda new: new.conv.kernel_size[0],
)
