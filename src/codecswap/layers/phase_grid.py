"""Algebra of transposed convolutions, one axis at a time: which kernel tap is multiplied with which input.

An axis has kernel k, stride s, dilation d, padding b in front, input length L and output length ``s L + excess``. The output
is seen as a grid of phases, shifted by r0: position ``s i + r - r0`` is phase r of the low-resolution position i, and

    out[s i + r - r0] = sum of w[j] x[i + t] over the taps j with t = (r - r0 + b - j d) / s an integer.

So a transposed convolution *is* a convolution at low resolution that computes all phases (or one convolution for each of
them), whose results are interleaved and cropped. Pads and crops do not depend on L. The shift is chosen so that the kernel
at low resolution has as few taps as possible: a kernel of 4, stride 2, padding 1 becomes one of 2, not of 3.

NumPy only: modules (`codecswap.layers.upsampling`) and ONNX nodes (`codecswap.rewrite`) are both built from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHIFTS = 8
"""Number of shifts tried, those with the smallest windows."""
MOST_TAPS = 1 << 24
"""Largest length of a window: dilation can spread two taps over any length."""
ABSENT = -1
"""In `Window.taps`: the phase does not use this position."""


@dataclass(frozen=True)
class Window:
    """One convolution along one axis."""

    taps: np.ndarray
    """``(phases, K)``: tap of the transposed kernel at each position of this convolution's kernel, or `ABSENT`."""
    dilation: int
    pads: tuple[int, int]
    """Zero padding at the start and the end, 0 or more."""


@dataclass(frozen=True)
class Grid:
    """How the output of one axis is assembled."""

    stride: int
    """Phases to interleave: those of the windows, in order."""
    windows: tuple[Window, ...]
    crop: tuple[int, int]
    """Positions to remove at the start and the end, after interleaving."""


@dataclass(frozen=True)
class Axis:
    """One axis of a transposed convolution."""

    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    """Padding at the start, as in ONNX and PyTorch: output positions that are removed."""
    excess: int = 0
    """Output length minus stride times input length."""

    @classmethod
    def of(
        cls, kernel: int, stride: int = 1, dilation: int = 1, pads: tuple[int, int] = (0, 0), output_padding: int = 0
    ) -> "Axis":
        """The axis with these attributes, as ONNX defines them (PyTorch's ``padding`` is both of ``pads``)."""
        excess = (kernel - 1) * dilation + 1 + output_padding - sum(pads) - stride
        return cls(kernel, stride, dilation, pads[0], excess)

    @property
    def pads(self) -> tuple[int, int]:
        """Padding at the start and the end for this output length without output_padding; negative if impossible."""
        return self.padding, (self.kernel - 1) * self.dilation + 1 - self.stride - self.padding - self.excess

    def together(self) -> Grid:
        """One window for all phases, with the shift of the smallest kernel, then of the smallest crop."""
        width = (self.kernel - 1) * self.dilation

        def spread(shift: int) -> int:
            front = shift - self.padding
            return (front + width) // self.stride - front // self.stride

        # the window changes only at shifts that put a tap at phase 0
        shifts = {0, *((self.padding - tap * self.dilation) % self.stride for tap in range(self.kernel))}
        best = sorted(shifts, key=lambda shift: (spread(shift), shift))[:SHIFTS]
        return min((self._grid(shift, joined=True) for shift in best), key=_cost)

    def unshifted(self) -> Grid:
        """One window for all phases, without a shift."""
        return self._grid(0, joined=True)

    def apart(self) -> Grid:
        """One window per phase: the same multiply-adds as the transposed convolution, unless a phase is empty."""
        return self._grid(0, joined=False)

    def inserted(self) -> Grid:
        """One window after zero insertion: the input's values at multiples of the stride, zeros between and behind."""
        front, behind = (self.kernel - 1) * self.dilation - self.padding, self.excess + self.padding
        window = Window(np.arange(self.kernel)[None, ::-1], self.dilation, (max(front, 0), max(behind, 0)))
        return Grid(1, (window,), (max(-front, 0), max(-behind, 0)))

    def _grid(self, shift: int, *, joined: bool) -> Grid:
        places: list[list[tuple[int, int]]] = [[] for _ in range(self.stride)]  # per phase: (t, tap)
        for tap in range(self.kernel):
            distance = tap * self.dilation + shift - self.padding
            phase = distance % self.stride
            places[phase].append(((phase - distance) // self.stride, tap))
        groups = [places] if joined else [[one] for one in places]
        spans = [_Span.of(group) for group in groups]
        last = -(
            -(self.excess + shift) // self.stride
        )  # of the low-resolution positions needed, minus that of the input's
        lead, tail = max(0, *(span.first for span in spans)), max(last, *(-span.last for span in spans))
        windows = tuple(
            Window(span.taps, span.step, (lead - span.first, tail + span.last)) for span in spans
        )  # windows must all begin at one position and end at one, so some are padded more than they need
        return Grid(self.stride, windows, (shift + self.stride * lead, self.stride * tail - shift - self.excess))


@dataclass(frozen=True)
class _Span:
    """Input positions of some phases: ``first``, ``first + step``, ... ``last``."""

    first: int
    last: int
    step: int
    taps: np.ndarray

    @classmethod
    def of(cls, phases: Sequence[Sequence[tuple[int, int]]]) -> "_Span":
        seen = [t for phase in phases for t, _ in phase] or [0]
        first, last = min(seen), max(seen)
        step = math.gcd(*(t - first for t in seen)) or 1
        size = (last - first) // step + 1
        if len(phases) * size > MOST_TAPS:
            raise ValueError(f"its window has {len(phases) * size:,} places")
        taps = np.full((len(phases), size), ABSENT)
        for row, phase in zip(taps, phases, strict=True):
            for t, tap in phase:
                row[(t - first) // step] = tap
        return cls(first, last, step, taps)


def _cost(grid: Grid) -> tuple[int, int, int]:
    window = grid.windows[0]
    return window.taps.shape[1], sum(grid.crop), sum(window.pads)


def arrange(
    weight: np.ndarray,
    windows: Sequence[Window],
    groups: int = 1,
    *,
    fill: np.ndarray | int = 0,
    phases_first: bool = False,
) -> np.ndarray:
    """The weight of a convolution from that of a transposed one: values are moved, never changed.

    Args:
        weight: ``(I, O / groups, k, ...)``.
        windows: one for each spatial axis.
        groups: groups of both convolutions.
        fill: value of absent taps: 0, or zero points of shape ``(I or 1, O / groups or 1)``.
        phases_first: output channels in the order (phase, output), which needs one group, instead of (output, phase).

    Returns: ``(O * phases, I / groups, K, ...)``.
    """
    inputs, outputs = weight.shape[:2]
    rank = len(windows)
    present = np.ones((), bool)
    for axis, window in enumerate(windows):
        weight = np.take(weight, window.taps.clip(0), axis=2 + 2 * axis)  # (I, O / g, phases, K, ..., k, ...)
        present = np.multiply.outer(present, window.taps != ABSENT)
    if not present.all():
        fill = np.asarray(fill, weight.dtype)
        weight = np.where(present, weight, fill.reshape(fill.shape + (1,) * 2 * rank if fill.ndim else ()))
    weight = weight.reshape(groups, inputs // groups, outputs, *weight.shape[2:])
    phases, taps = ([3 + offset + 2 * axis for axis in range(rank)] for offset in (0, 1))
    channels = [*phases, 0, 2] if phases_first else [0, 2, *phases]
    sizes = [window.taps.shape[1] for window in windows]
    return weight.transpose(*channels, 1, *taps).reshape(-1, inputs // groups, *sizes)


def output_channels(outputs: int, phases: int, *, phases_first: bool = False) -> np.ndarray:
    """For each output channel of `arrange`, the channel (of ``outputs``) of the transposed convolution that it belongs to."""
    channels = np.arange(outputs)
    return np.tile(channels, phases) if phases_first else np.repeat(channels, phases)
