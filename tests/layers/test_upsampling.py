"""The algebra, against torch's own layers."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codecswap.layers.upsampling import (
    UpsampleConv2d,
    phase_matrix,
    transposed_phase_kernels,
)
from codecswap.swaps import SWAPS
from codecswap.swaps.apply import swap


def test_phase_matrix_is_the_one_in_the_design() -> None:
    first = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    second = [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert phase_matrix(5).tolist() == [first, second]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 7), (3, 3, 8, 4)])
def test_folded_equals_plain(kernel: int, masked: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    folded = UpsampleConv2d(3, 4, kernel, masked=masked).double()
    plain = copy.deepcopy(folded)
    plain.fold = False
    x = torch.randn(shape, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [folded(inputs[0]), plain(inputs[1])]
    assert outputs[0].shape == (shape[0], 4, 2 * shape[2], 2 * shape[3])
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-10)
    for mine, oracle in zip(folded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, oracle.grad, rtol=1e-10, atol=1e-10)


def test_plain_is_nearest_upsampling_and_convolution() -> None:
    layer = UpsampleConv2d(2, 3, 5, fold=False)
    oracle = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2, 3, 5, padding=2))
    oracle.load_state_dict(layer.state_dict())  # the same keys, too
    x = torch.randn(1, 2, 6, 5)
    torch.testing.assert_close(layer(x), oracle(x))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_folding_saves_the_multiplications_it_promises(kernel: int) -> None:
    size = UpsampleConv2d(2, 2, kernel).folded_weight().shape[-1]
    assert size == {3: 3, 5: 3, 7: 5}[kernel]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("replacement", "kernel"),
    [
        ("masked", 3),
        ("masked", 5),
        ("masked", 7),
        ("subpixel", 2),
        ("subpixel", 3),
        ("subpixel", 4),
        ("subpixel", 5),
        ("subpixel", 7),
    ],
)
def test_exact_replacements_equal_the_transposed_convolution(replacement: str, kernel: int, bias: bool) -> None:
    torch.manual_seed(1)
    padding = (kernel - 1) // 2
    layer = nn.ConvTranspose2d(
        3, 4, kernel, stride=2, padding=padding, output_padding=2 + 2 * padding - kernel, bias=bias
    ).double()
    new, error = SWAPS[replacement].replace(layer)
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(new(x), layer(x), rtol=0, atol=1e-12)
    assert error == float("-inf")


def test_even_kernels_are_no_kernels_of_ours() -> None:
    with pytest.raises(ValueError, match="odd, not 4"):
        UpsampleConv2d(1, 1, 4)


@st.composite
def transposed_layers(draw: st.DrawFn) -> nn.Module:
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    sides = [(draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 3))) for _ in range(rank)]
    kernel, stride, dilation = zip(*sides, strict=True)
    padding = tuple(draw(st.integers(0, (k - 1) * d // 2)) for k, d in zip(kernel, dilation, strict=True))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[rank - 1]
    bias = draw(st.booleans())
    return kind(*channels, kernel, stride, padding, extra, groups, bias, dilation).double()


@settings(max_examples=60, deadline=None)
@given(transposed_layers(), st.lists(st.integers(3, 6), min_size=2, max_size=2))
def test_any_transposed_convolution_in_any_module(layer: nn.Module, sides: list[int]) -> None:
    module = nn.ModuleDict({"inside": nn.Sequential(nn.ReLU(), layer)})
    x = torch.randn(2, layer.in_channels, *sides[: layer.weight.ndim - 2], dtype=torch.float64, requires_grad=True)
    wanted = module["inside"](x)
    for replacement in ("subpixel", "masked"):
        swapped, (report,) = swap(module, replacement)
        assert report.name == "inside.1" and report.error_db == float("-inf")
        torch.testing.assert_close(swapped["inside"](x), wanted, rtol=0, atol=1e-12)
        swapped["inside"](x).square().sum().backward()
        again, _ = swap(module, replacement, init="random")
        again.load_state_dict(swapped.state_dict())
        torch.testing.assert_close(again["inside"](x), wanted, rtol=0, atol=1e-12)
        assert not any(type(one) is type(layer) for one in swapped.modules())
    itself, _ = swap(layer, "subpixel")
    torch.testing.assert_close(itself(x.relu()), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "weight"),
    [
        (nn.ConvTranspose2d(2, 3, 5, 2, 2, 1), (12, 2, 3, 3)),
        (nn.ConvTranspose2d(2, 3, 4, 2, 1), (12, 2, 2, 2)),
        (nn.ConvTranspose2d(2, 3, 2, 2), (12, 2, 1, 1)),
        (nn.ConvTranspose1d(2, 3, 16, 8, 4), (24, 2, 2)),
        (nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4), (16, 1, 2, 2)),
    ],
)
def test_a_subpixel_convolution_is_as_small_as_it_can_be(layer: nn.Module, weight: tuple[int, ...]) -> None:
    assert swap(layer, "subpixel")[0].state_dict()["0.weight"].shape == weight


@pytest.mark.parametrize(("kernel", "padding", "extra"), [(5, 2, 1), (3, 1, 1), (4, 1, 0), (7, 3, 1)])
def test_phase_kernels_hold_every_tap_once(kernel: int, padding: int, extra: int) -> None:
    layer = nn.ConvTranspose2d(3, 2, kernel, stride=2, padding=padding, output_padding=extra)
    kernels = transposed_phase_kernels(layer)
    assert kernels[kernels != 0].sort().values.equal(layer.weight.detach().flatten().sort().values)
