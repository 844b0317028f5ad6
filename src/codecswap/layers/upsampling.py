"""Layers that replace transposed convolutions: any of them, and those with stride 2.

A stride-2 transposed convolution, and a convolution after nearest upsampling by 2, both *are* a small convolution at low
resolution with four times the outputs, followed by PixelShuffle: output position ``2i + p`` (phase ``p``) sees the input
at ``i + d`` for a few ``d``. `phase_matrix` writes down which kernel tap lands on which ``d``; everything else follows.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.layers.phase_grid import Axis, Window


def phase_matrix(kernel_size: int, *, masked: bool = False) -> Tensor:
    """Matrix that folds a kernel applied after nearest x2 upsampling into its two phases at low resolution (one axis).

    The convolution is ``kernel_size`` wide (odd) with padding ``kernel_size // 2``. With ``masked``, only the even
    positions of the upsampled signal are non-zero (zero insertion), so only every other tap counts.

    Returns: ``(2, F, kernel_size)``, zeros and ones, float64; ``F`` is 3 for kernels of 3 and 5, and 5 for 7. The folded
    kernel of phases ``(p, q)`` is ``A[p] @ W @ A[q].T``.
    """
    radius = kernel_size // 2
    reach = (radius + 1) // 2
    matrix = torch.zeros(2, 2 * reach + 1, kernel_size, dtype=torch.float64)
    for phase in range(2):
        for tap in range(kernel_size):
            position = phase + tap - radius  # on the upsampled axis, relative to 2i
            if masked and position % 2:
                continue
            matrix[phase, position // 2 + reach, tap] = 1
    return matrix


def why_not_stride_2(layer: nn.ConvTranspose2d) -> str | None:
    """Why these layers cannot equal ``layer``, as the end of a sentence; None if they can."""
    kernel, stride = layer.kernel_size, layer.stride
    padding = layer.padding if isinstance(layer.padding, tuple) else (-1, -1)
    doubled = all(k + op - 2 * p == 2 for k, op, p in zip(kernel, layer.output_padding, padding, strict=True))
    if tuple(stride) != (2, 2):
        return f"its stride is {tuple(stride)}, not 2"
    if layer.groups != 1:
        return f"it has {layer.groups} groups"
    if tuple(layer.dilation) != (1, 1):
        return f"its dilation is {tuple(layer.dilation)}"
    if kernel[0] != kernel[1]:
        return f"its kernel {tuple(kernel)} is not square"
    if not doubled:
        return f"its output is not twice its input (padding {layer.padding}, output_padding {layer.output_padding})"
    return None


def axes_of(layer: nn.ConvTranspose1d | nn.ConvTranspose2d) -> list[Axis]:
    """The axes of any transposed convolution."""
    padding = [int(side) for side in layer.padding]
    ends = [(side, side) for side in padding]
    shape = zip(layer.kernel_size, layer.stride, layer.dilation, ends, layer.output_padding, strict=True)
    return [Axis.of(*sides) for sides in shape]


def transposed_phase_kernels(layer: nn.ConvTranspose2d) -> Tensor:
    """The four low-resolution kernels that together are a ``layer`` that upsamples by 2.

    ``out[2i + p] = sum_d w[p - 2d + padding] x[i + d]`` on each axis.

    Returns: ``(O, I, 2, 2, F, F)`` in the layer's dtype; phases (p, q), then offsets ``-(F // 2) .. F // 2``.
    """
    windows = [axis.unshifted().windows[0] for axis in axes_of(layer)]
    kernels = phase_kernels(layer.weight.detach(), windows)
    reach = max(windows[0].pads)
    return F.pad(kernels, [reach - pad for window in reversed(windows) for pad in window.pads])


def phase_kernels(weight: Tensor, windows: Sequence[Window], groups: int = 1) -> Tensor:
    """Kernels of a transposed convolution's weight ``(I, O / groups, k, ...)`` for some windows.

    Returns: ``(O, I / groups, phases, ..., K, ...)``.
    """
    rank = len(windows)
    weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (O, I / groups, k, ...)
    for window in windows:
        taps = torch.from_numpy(window.taps).to(weight.device)
        weight = F.pad(weight.movedim(2, -1), (0, 1))[..., taps]  # an absent tap, -1, is the zero at the end
    order = [2 * axis + part for part in (0, 1) for axis in range(rank)]
    return weight.permute(0, 1, *(2 + place for place in order))


def to_subpixel(kernels: Tensor) -> Tensor:
    """Phase kernels ``(O, I, p, ..., K, ...)`` as the weight ``(O * phases, I, K, ...)`` before PixelShuffle."""
    rank = (kernels.ndim - 2) // 2
    return kernels.movedim(1, 1 + rank).flatten(0, rank)


class ConstantMask(nn.Module):
    """Multiplies by a constant 0/1 mask, so that nearest upsampling becomes zero insertion."""

    def __init__(self, strides: Sequence[int] = (2, 2)) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(self, x: Tensor) -> Tensor:
        """Mask ``x: (B, C, 2H, 2W)``, or as many axes as there are strides."""
        mask = torch.zeros(x.shape[2:], dtype=x.dtype, device=x.device)
        mask[tuple(slice(None, None, stride) for stride in self.strides)] = 1
        return x * mask


class MaskedUpsample(nn.Sequential):
    """Nearest upsampling, then the constant mask: zero insertion, in operators that NPUs have."""

    def __init__(self, strides: Sequence[int] = (2, 2)) -> None:
        factor: Any = strides[0] if len(set(strides)) == 1 else tuple(strides)
        super().__init__(nn.Upsample(scale_factor=factor, mode="nearest"), ConstantMask(strides))


class UpsampleConv2d(nn.Sequential):
    """Nearest upsampling by 2 and a convolution: ``(B, I, H, W) -> (B, O, 2H, 2W)``.

    The parameters are those of ``nn.Sequential(nn.Upsample, nn.Conv2d)`` (``1.weight``: (O, I, k, k), ``1.bias``: (O,)).
    The forward pass folds the kernel into four phases and works at low resolution: the same function and the same
    gradients with 36/100 of the multiply-adds (k = 5).

    Args:
        masked: zero insertion instead of repetition, so that the layer can equal a transposed convolution.
        fold: False computes at high resolution, as exported and as the reference for tests.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 5, *, masked: bool = False, fold: bool = True
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        upsample = MaskedUpsample() if masked else nn.Upsample(scale_factor=2, mode="nearest")
        super().__init__(upsample, nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2))
        self.masked = masked
        self.fold = fold
        phases = phase_matrix(kernel_size, masked=masked)
        # every 2D phase kernel is linear in the kernel: one (4 F F, k k) matrix folds them all
        fold_matrix = torch.einsum("pas,qbt->pqabst", phases, phases).flatten(4).flatten(0, 3)
        self._fold_matrix: Tensor
        self.register_buffer("_fold_matrix", fold_matrix.to(self.conv.weight.dtype), persistent=False)

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that holds the parameters."""
        return self[1]  # type: ignore[return-value]

    def folded_weight(self) -> Tensor:
        """The kernel at low resolution, ``(4 O, I, F, F)``, in PixelShuffle's channel order; differentiable."""
        outputs, inputs = self.conv.weight.shape[:2]
        size = math.isqrt(self._fold_matrix.shape[0] // 4)
        kernels = self.conv.weight.reshape(outputs * inputs, -1) @ self._fold_matrix.T
        return to_subpixel(kernels.view(outputs, inputs, 2, 2, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Compute ``(B, I, H, W) -> (B, O, 2H, 2W)``."""
        if not self.fold:
            return super().forward(x)
        weight = self.folded_weight()
        bias = None if self.conv.bias is None else self.conv.bias.repeat_interleave(4)
        return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2), 2)


class Interleave(nn.Module):
    """PixelShuffle for any strides and one or two axes: ``(B, O * phases, H, W) -> (B, O, s H, t W)``."""

    def __init__(self, strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)

    def forward(self, x: Tensor) -> Tensor:
        """Interleave."""
        rank = len(self.strides)
        order = [place for axis in range(rank) for place in (2 + rank + axis, 2 + axis)]
        x = x.unflatten(1, (-1, *self.strides)).permute(0, 1, *order)
        for axis in range(rank):
            x = x.flatten(2 + axis, 3 + axis)
        return x


class Crop(nn.Module):
    """Removes positions at the start and the end of each spatial axis."""

    def __init__(self, ends: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.ends = tuple(ends)

    def forward(self, x: Tensor) -> Tensor:
        """Crop."""
        return x[(slice(None), slice(None), *(slice(front, -behind or None) for front, behind in self.ends))]


class SubpixelConv(nn.Sequential):
    """Any transposed convolution, as a convolution that computes all phases, PixelShuffle and, if needed, a crop.

    ``(B, I, L) -> (B, O, L')`` or ``(B, I, H, W) -> (B, O, H', W')``. Parameters: ``0.weight``: (O * phases, I / groups, K,
    ...), ``0.bias``: (O * phases,). Source: Shi et al., "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network", 2016; the grid of phases: `codecswap.layers.phase_grid`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, axes: Sequence[Axis], groups: int = 1, bias: bool = True
    ) -> None:
        grids = [axis.together() for axis in axes]
        self.windows = [grid.windows[0] for grid in grids]
        strides = [grid.stride for grid in grids]
        conv, spare = _padded(in_channels, out_channels * math.prod(strides), self.windows, groups, bias)
        square = len(strides) == 2 and len(set(strides)) == 1
        shuffle = nn.PixelShuffle(strides[0]) if square else Interleave(strides)
        ends = [
            (grid.crop[0] + grid.stride * front, grid.crop[1] + grid.stride * behind)
            for grid, (front, behind) in zip(grids, spare, strict=True)
        ]
        self.upsamples_by_2 = strides == [2, 2] and not any(map(any, ends))
        super().__init__(conv, shuffle, *([Crop(ends)] if any(map(any, ends)) else []))

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that holds the parameters."""
        return self[0]  # type: ignore[return-value]


class MaskedConv(nn.Sequential):
    """Any transposed convolution, as zero insertion by nearest upsampling and a mask, a convolution and, if needed, a crop.

    Shapes as in `SubpixelConv`. Parameters: ``1.weight``: (O, I / groups, k, ...), ``1.bias``: (O,).
    """

    def __init__(
        self, in_channels: int, out_channels: int, axes: Sequence[Axis], groups: int = 1, bias: bool = True
    ) -> None:
        grids = [axis.inserted() for axis in axes]
        self.windows = [grid.windows[0] for grid in grids]
        conv, spare = _padded(in_channels, out_channels, self.windows, groups, bias)
        ends = [
            (grid.crop[0] + front, grid.crop[1] + behind) for grid, (front, behind) in zip(grids, spare, strict=True)
        ]
        insertion = MaskedUpsample([axis.stride for axis in axes])
        super().__init__(insertion, conv, *([Crop(ends)] if any(map(any, ends)) else []))

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that holds the parameters."""
        return self[1]  # type: ignore[return-value]


def _padded(
    inputs: int, outputs: int, windows: Sequence[Window], groups: int, bias: bool
) -> tuple[nn.Conv1d | nn.Conv2d, list[tuple[int, int]]]:
    """A convolution for some windows, and its surplus output positions, since PyTorch pads both ends equally."""
    kind: Any = {1: nn.Conv1d, 2: nn.Conv2d}[len(windows)]
    size, dilation = [window.taps.shape[1] for window in windows], [window.dilation for window in windows]
    padding = [max(window.pads) for window in windows]
    spare = [(pad - window.pads[0], pad - window.pads[1]) for pad, window in zip(padding, windows, strict=True)]
    how = {"padding": tuple(padding), "dilation": tuple(dilation), "groups": groups, "bias": bias}
    return kind(inputs, outputs, tuple(size), **how), spare
