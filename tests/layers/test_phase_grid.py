"""The algebra of any transposed convolution, against PyTorch's own."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from codecswap.layers.phase_grid import Axis, Grid, Window, arrange

CONV = {1: F.conv1d, 2: F.conv2d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


@st.composite
def axes(draw: st.DrawFn) -> tuple[Axis, int, dict[str, int]]:
    """An axis, an input length, and PyTorch's arguments for it."""
    kernel, stride, dilation = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    wide = (kernel - 1) * dilation + 1
    padding, extra = draw(st.integers(0, wide)), draw(st.integers(0, max(stride, dilation) - 1))
    least = max(1, -(-(2 * padding + 1 - wide - extra) // stride) + 1)
    length = least + draw(st.integers(0, 4))
    axis = Axis.of(kernel, stride, dilation, (padding, padding), extra)
    return axis, length, {"stride": stride, "dilation": dilation, "padding": padding, "output_padding": extra}


def compute(x: torch.Tensor, weight: np.ndarray, grids: list[Grid], groups: int) -> torch.Tensor:
    """What the grids say, phase by phase, with PyTorch's convolution."""
    rank, inputs = len(grids), {}
    outputs = weight.shape[1] * groups
    for places in product(*(range(len(grid.windows)) for grid in grids)):
        windows = [grid.windows[place] for grid, place in zip(grids, places, strict=True)]
        padded = F.pad(x, [pad for window in reversed(windows) for pad in window.pads])
        kernels = torch.from_numpy(arrange(weight, windows, groups))
        result = CONV[rank](padded, kernels, groups=groups, dilation=[window.dilation for window in windows])
        phases = [len(window.taps) for window in windows]
        result = result.unflatten(1, (outputs, *phases))
        for part in product(*map(range, phases)):
            inputs[tuple(np.add(places, part))] = result[(slice(None), slice(None), *part)]
    size = next(iter(inputs.values())).shape[2:]
    strides = [grid.stride for grid in grids]
    whole = x.new_empty(*x.shape[:1], outputs, *(s * n for s, n in zip(strides, size, strict=True)))
    for phases, values in inputs.items():
        whole[(..., *(slice(p, None, s) for p, s in zip(phases, strides, strict=True)))] = values
    return whole[(..., *(slice(g.crop[0], n - g.crop[1]) for g, n in zip(grids, whole.shape[2:], strict=True)))]


def insert_zeros(x: torch.Tensor, strides: list[int]) -> torch.Tensor:
    whole = x.new_zeros(*x.shape[:2], *(s * n for s, n in zip(strides, x.shape[2:], strict=True)))
    whole[(..., *(slice(None, None, s) for s in strides))] = x
    return whole


@settings(max_examples=100, deadline=None)
@given(
    st.lists(axes(), min_size=1, max_size=2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(0, 9)
)
def test_every_grid_equals_pytorch(
    chosen: list[tuple[Axis, int, dict[str, int]]], groups: int, inputs: int, outputs: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    kinds, lengths, arguments = zip(*chosen, strict=True)
    x = torch.randn(2, groups * inputs, *lengths, generator=random, dtype=torch.float64)
    weight = torch.randn(
        groups * inputs, outputs, *(axis.kernel for axis in kinds), generator=random, dtype=torch.float64
    )
    call = {name: [one[name] for one in arguments] for name in arguments[0]}
    try:
        wanted = TRANSPOSED[len(kinds)](x, weight, groups=groups, **call)
    except RuntimeError as refused:  # an output without positions
        assert "too small" in str(refused) or "should be greater" in str(refused)
        return
    for grids in ([axis.together() for axis in kinds], [axis.apart() for axis in kinds]):
        torch.testing.assert_close(compute(x, weight.numpy(), grids, groups), wanted, rtol=0, atol=1e-12)
    zeros = insert_zeros(x, [axis.stride for axis in kinds])
    inserted = compute(zeros, weight.numpy(), [axis.inserted() for axis in kinds], groups)
    torch.testing.assert_close(inserted, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("axis", "taps"),
    [
        (Axis.of(5, 2, pads=(2, 2), output_padding=1), 3),
        (Axis.of(4, 2, pads=(1, 1)), 2),
        (Axis.of(3, 2, pads=(1, 1), output_padding=1), 2),
        (Axis.of(2, 2), 1),
        (Axis.of(16, 8, pads=(4, 4)), 2),
        (Axis.of(9, 4, pads=(4, 4), output_padding=3), 3),
        (Axis.of(3, 1, 2, pads=(2, 2)), 3),  # dilated, not filled with zeros
    ],
)
def test_kernels_at_low_resolution_are_as_small_as_the_design_says(axis: Axis, taps: int) -> None:
    grid = axis.together()
    assert [window.taps.shape[1] for window in grid.windows] == [taps]
    assert sorted(grid.windows[0].taps[grid.windows[0].taps >= 0]) == list(range(axis.kernel)), "every tap once"


@pytest.mark.parametrize("pads", [(0, 0), (2, 1), (1, 3)])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_pads_say_what_output_padding_says(pads: tuple[int, int], extra: int) -> None:
    axis = Axis.of(5, 3, pads=pads, output_padding=extra)
    assert Axis.of(5, 3, pads=axis.pads) == axis


def test_absent_taps_are_filled_and_channels_can_come_by_phase() -> None:
    windows = [Window(np.array([[0, -1], [1, 2]]), 1, (0, 0))]
    weight = np.arange(2 * 3 * 3, dtype=np.int8).reshape(2, 3, 3)
    points = np.array([[50, 60, 70]], np.int8)
    by_output = arrange(weight, windows, fill=points)
    assert by_output[:, 0].tolist() == [[0, 50], [1, 2], [3, 60], [4, 5], [6, 70], [7, 8]]
    by_phase = arrange(weight, windows, fill=points, phases_first=True)
    assert by_phase.reshape(2, 3, 2, 2).transpose(1, 0, 2, 3).reshape(6, 2, 2).tolist() == by_output.tolist()
    assert by_output.dtype == np.int8
