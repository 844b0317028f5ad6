"""Layers that take the place of a stride-2 transposed convolution.

A stride-2 transposed convolution, and a convolution after nearest upsampling by 2, both *are* a small convolution at low
resolution with four times the outputs, followed by PixelShuffle: output position ``2i + p`` (phase ``p``) sees the input
at ``i + d`` for a few ``d``. `phase_matrix` writes down which kernel tap lands on which ``d``; everything else follows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


def why_not_doubling(layer: nn.ConvTranspose2d) -> str | None:
    """Why ``layer`` is none of the transposed convolutions that these layers can equal, as the end of a sentence."""
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


def _tap_selection(layer: nn.ConvTranspose2d) -> Tensor:
    """Which tap ``(k,)`` a phase ``(2,)`` sees at which offset ``(F,)``, zeros and ones: every tap is seen once."""
    kernel, padding = layer.kernel_size[0], int(layer.padding[0])
    offsets = [
        (p, (p + padding - tap) // 2, tap) for p in range(2) for tap in range(kernel) if (p + padding - tap) % 2 == 0
    ]
    reach = max(abs(d) for _, d, _ in offsets)
    selection = layer.weight.new_zeros(2, 2 * reach + 1, kernel)
    for phase, d, tap in offsets:
        selection[phase, d + reach, tap] = 1
    return selection


def phase_taps(layer: nn.ConvTranspose2d) -> Tensor:
    """Which taps of `transposed_phase_kernels` a layer has, ``(2, 2, F, F)``, bool."""
    seen = _tap_selection(layer).sum(-1) > 0
    return seen[:, None, :, None] & seen[None, :, None, :]


def transposed_phase_kernels(layer: nn.ConvTranspose2d) -> Tensor:
    """The four low-resolution kernels that together are ``layer``.

    ``out[2i + p] = sum_d w[p - 2d + padding] x[i + d]`` on each axis.

    Returns: ``(O, I, 2, 2, F, F)`` in the layer's dtype; phases (p, q), then offsets ``-(F // 2) .. F // 2``.
    """
    selection = _tap_selection(layer)
    weight = layer.weight.detach().transpose(0, 1)  # (O, I, k, k)
    return torch.einsum("pas,oist,qbt->oipqab", selection, weight, selection)


def from_phase_kernels(kernels: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """The weight ``(I, O, k, k)`` that gives ``layer`` these `transposed_phase_kernels`."""
    selection = _tap_selection(layer).to(kernels)
    return torch.einsum("pas,oipqab,qbt->iost", selection, kernels, selection)


def to_subpixel(kernels: Tensor) -> Tensor:
    """Phase kernels ``(O, I, 2, 2, F, F)`` as the weight ``(4 O, I, F, F)`` of a convolution before PixelShuffle(2)."""
    outputs, inputs, _, _, size, _ = kernels.shape
    return kernels.permute(0, 2, 3, 1, 4, 5).reshape(4 * outputs, inputs, size, size)


class ConstantMask(nn.Module):
    """Multiplies by a constant 0/1 mask that keeps even rows and columns: nearest upsampling becomes zero insertion."""

    def forward(self, x: Tensor) -> Tensor:
        """Mask ``x: (B, C, 2H, 2W)``."""
        mask = torch.zeros(x.shape[-2:], dtype=x.dtype, device=x.device)
        mask[::2, ::2] = 1
        return x * mask


class MaskedUpsample(nn.Sequential):
    """Nearest upsampling by 2, then the constant mask: zero insertion, in operators that NPUs have."""

    def __init__(self) -> None:
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), ConstantMask())


class UpsampleConv2d(nn.Sequential):
    """Nearest upsampling by 2 and a convolution: ``(B, I, H, W) -> (B, O, 2H, 2W)``.

    The parameters are those of ``nn.Sequential(nn.Upsample, nn.Conv2d)`` (``1.weight``: (O, I, k, k), ``1.bias``: (O,)).
    The forward pass folds the kernel into four phases and works at low resolution: the same function and the same
    gradients with 36/100 of the multiply-adds (k = 5).

    Args:
        masked: zero insertion instead of plain repetition, which makes the layer able to *equal* a transposed convolution.
        fold: False computes at high resolution, as the layer is written: the oracle, and the form that is exported.
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


class SubpixelConv2d(nn.Sequential):
    """A convolution with four times the outputs and PixelShuffle(2): ``(B, I, H, W) -> (B, O, 2H, 2W)``.

    Parameters: ``0.weight``: (4 O, I, k, k), ``0.bias``: (4 O,). Source: Shi et al., "Real-time single image and video
    super-resolution using an efficient sub-pixel convolutional neural network", 2016.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        conv = nn.Conv2d(in_channels, 4 * out_channels, kernel_size, padding=kernel_size // 2)
        super().__init__(conv, nn.PixelShuffle(2))

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that holds the parameters."""
        return self[0]  # type: ignore[return-value]
