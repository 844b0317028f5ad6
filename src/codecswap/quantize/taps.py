"""(Transposed, grouped) convolutions as linear maps of input patches, for least squares."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codecswap.least_squares import Places

Convolution = nn.Conv2d | nn.ConvTranspose2d


def fits(conv: Convolution) -> bool:
    """Whether `Taps` supports a convolution; transposed ones must have one group, to have one scale per channel."""
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and (conv.groups == 1 or isinstance(conv, nn.Conv2d))


@dataclass(frozen=True)
class Part:
    """Outputs that depend on the same inputs: one group of channels, at one phase of a transposed convolution."""

    channels: Tensor
    """Indexes of the convolution's output channels, ``(O / groups,)``."""
    outputs: Tensor
    """Their indexes in `Taps.outputs`, ``(O / groups,)``."""
    inputs: Tensor
    """Indexes of their inputs in `Taps.inputs`, ``(K,)``."""
    weights: Tensor
    """Indexes of their weights in the flattened weight, ``(O / groups, K)``."""


class Taps:
    """The inputs and weights that each output of a convolution depends on.

    Along one axis, the output of a convolution at position ``i`` is the sum over its taps ``j`` of ``w[j] x[s i + d j - p]``
    (stride s, dilation d, padding p). A transposed one has s phases: its output at ``s i + r`` is the sum of
    ``w[j] x[i + (r + p - d j) / s]`` over the taps for which that is an integer. The neighborhood of position ``i`` is all
    that any phase sees.

    Args:
        conv: with zero padding given as numbers.
    """

    def __init__(self, conv: Convolution) -> None:
        self.phases = conv.stride if isinstance(conv, nn.ConvTranspose2d) else (1, 1)
        self.step = (1, 1) if isinstance(conv, nn.ConvTranspose2d) else conv.stride
        # for each axis and phase, taps with the offsets where they read
        self.taps = [_taps(conv, axis) for axis in range(2)]
        offsets = [[offset for phase in axis for _, offset in phase] for axis in self.taps]
        self.first = [min(one) for one in offsets]
        self.size = [max(one) - min(one) + 1 for one in offsets]
        self.parts = list(self._parts(conv))

    def inputs(self, x: Tensor, outputs: Tensor, places: Places) -> Tensor:
        """The neighborhoods in ``x: (B, I, H, W)`` of some positions of its `outputs`: ``(P, I size^2)``."""
        counts = outputs.shape[-2:]
        pads = []
        for axis in (1, 0):
            last = self.step[axis] * (counts[axis] - 1) + self.size[axis] - 1 + self.first[axis]
            pads += [-self.first[axis], last + 1 - x.shape[2 + axis]]
        windows = F.pad(x, pads).unfold(2, self.size[0], self.step[0]).unfold(3, self.size[1], self.step[1])
        picture, row, column = (index.to(x.device) for index in places)
        return windows[picture, :, row, column].flatten(1)

    def outputs(self, y: Tensor) -> Tensor:
        """The outputs ``y: (B, O, H, W)`` with phases as channels, ``(B, O phases, H / stride, W / stride)``."""
        (down, across), (height, width) = self.phases, y.shape[-2:]
        rows, columns = height // down, width // across
        y = y[:, :, : rows * down, : columns * across].unflatten(3, (columns, across)).unflatten(2, (rows, down))
        return y.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def _parts(self, conv: Convolution) -> Iterator[Part]:
        transposed = isinstance(conv, nn.ConvTranspose2d)
        channels = conv.weight.shape[0] if transposed else conv.groups * conv.weight.shape[1]
        numbers = torch.arange(conv.weight.numel(), device=conv.weight.device).view(conv.weight.shape)
        for group in range(conv.groups):
            given = torch.arange(channels).chunk(conv.groups)[group]
            made = torch.arange(conv.out_channels).chunk(conv.groups)[group]
            kernels = (
                numbers[given].transpose(0, 1) if transposed else numbers[made]
            )  # (O / groups, I / groups, kh, kw)
            for row, column in product(*map(range, self.phases)):
                down, across = self.taps[0][row], self.taps[1][column]
                if not down or not across:  # the kernel is smaller than the stride
                    continue
                y, x = (
                    [offset - first for _, offset in one] for one, first in zip((down, across), self.first, strict=True)
                )
                seen = [given[:, None, None] * self.size[0], torch.tensor(y)[:, None], torch.tensor(x)]
                inputs = (seen[0] + seen[1]) * self.size[1] + seen[2]
                chosen = kernels[:, :, [tap for tap, _ in down]][..., [tap for tap, _ in across]]
                outputs = (made * self.phases[0] + row) * self.phases[1] + column
                yield Part(made, outputs, inputs.flatten(), chosen.flatten(1))


def _taps(conv: Convolution, axis: int) -> list[list[tuple[int, int]]]:
    kernel, stride, dilation = conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis]
    padding = int(conv.padding[axis])
    if not isinstance(conv, nn.ConvTranspose2d):
        return [[(tap, tap * dilation - padding) for tap in range(kernel)]]
    positions = [[(tap, phase + padding - tap * dilation) for tap in range(kernel)] for phase in range(stride)]
    return [[(tap, at // stride) for tap, at in phase if at % stride == 0] for phase in positions]
