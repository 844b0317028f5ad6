"""The algebra, against torch's own layers."""

import copy

import pytest
import torch
from torch import nn

from codecswap.layers.upsampling import (
    SubpixelConv2d,
    UpsampleConv2d,
    from_phase_kernels,
    phase_matrix,
    transposed_phase_kernels,
)
from codecswap.swaps import SWAPS


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
    for layer in (UpsampleConv2d, SubpixelConv2d):
        with pytest.raises(ValueError, match="odd, not 4"):
            layer(1, 1, 4)


@pytest.mark.parametrize(("kernel", "padding", "extra"), [(5, 2, 1), (3, 1, 1), (4, 1, 0), (7, 3, 1)])
def test_phase_kernels_hold_every_tap_once(kernel: int, padding: int, extra: int) -> None:
    layer = nn.ConvTranspose2d(3, 2, kernel, stride=2, padding=padding, output_padding=extra)
    kernels = transposed_phase_kernels(layer)
    assert (kernels != 0).sum() == layer.weight.numel()
    assert torch.equal(from_phase_kernels(kernels, layer), layer.weight)
