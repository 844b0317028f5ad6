"""Closed-form starts for the layers that cannot equal what they replace."""

import math

import torch
from torch import Tensor

from codecswap.layers import phase_matrix


def fit_weights(target: Tensor, kernel_size: int) -> tuple[Tensor, float]:
    """The kernel after nearest upsampling whose four phases come closest to given phase kernels (least squares).

    One axis at a time: the phases of a kernel ``W`` are ``A W A^T``, so the fit is ``A^+ T (A^+)^T`` for every pair of
    channels, with one small pseudo-inverse for all.

    Args:
        target: ``(O, I, 2, 2, F, F)``, as `codecswap.layers.transposed_phase_kernels` gives them.
        kernel_size: odd size of the kernel sought.

    Returns: the kernel ``(O, I, k, k)`` in the target's dtype, and the energy left over in dB of the target's.
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
