"""Weights refitted and rounded: on the grid, and closer to the float layer than nearest rounding."""

import copy

import pytest
import torch
from torch import Tensor, nn

from codecswap.quantize.rounding import SplitConv2d, round_weights

LEVELS = 63


def layer_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "transposed":
        return nn.ConvTranspose2d(6, 5, 5, stride=2, padding=2, output_padding=1)
    if kind == "transposed, 3":
        return nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)
    if kind == "strided":
        return nn.Conv2d(6, 5, 5, stride=2, padding=2)
    return nn.Sequential(nn.Conv2d(6, 20, 3, padding=1), nn.PixelShuffle(2))


def correlated(count: int, seed: int) -> list[Tensor]:
    """Inputs whose channels and pixels resemble each other, as a decoder's do: what compensation lives on."""
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(6, 2, generator=torch.Generator().manual_seed(9))
    sources = [torch.randn(1, 2, 14, 14, generator=generator) for _ in range(count)]
    smooth = [nn.functional.avg_pool2d(one, 3, stride=1) for one in sources]
    return [
        torch.einsum("oc,bchw->bohw", mixture, one) + 0.05 * torch.randn(1, 6, 12, 12, generator=generator)
        for one in smooth
    ]


def nearest(layer: nn.Module) -> nn.Module:
    rounded = copy.deepcopy(layer)
    conv = next(module for module in rounded.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d))
    axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    scale = conv.weight.detach().abs().amax(tuple({0, 1, 2, 3} - {axis}), keepdim=True) / LEVELS
    conv.weight.data = (conv.weight / scale).round() * scale
    return rounded


@pytest.mark.parametrize("kind", ["transposed", "transposed, 3", "strided", "subpixel"])
@torch.no_grad()
def test_rounding_keeps_outputs_where_they_were(kind: str) -> None:
    layer, seen, other = layer_of(kind), correlated(24, 1), correlated(8, 2)
    fitted = nn.Sequential(copy.deepcopy(layer))
    scales = round_weights(fitted, seen, exact_input=True, levels=LEVELS)

    def error(candidate: nn.Module) -> float:
        return sum((candidate(x) - layer(x)).square().mean().item() for x in other)

    assert error(fitted) < 0.5 * error(nearest(layer))
    ((name, scale),) = scales.items()
    weight = fitted.get_parameter(name)
    axis = 1 if "transposed" in kind else 0
    assert scale.shape == (weight.shape[axis],)
    whole = weight / scale.view([-1 if place == axis else 1 for place in range(4)])
    torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)
    others = tuple({0, 1, 2, 3} - {axis})
    # every row uses its last level: who finds scales by himself, from the weights, finds these
    torch.testing.assert_close(whole.abs().amax(others), torch.full_like(scale, LEVELS), rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_transposed_convolution_is_fitted_to_what_reaches_it() -> None:
    """With inputs that were rounded coarsely, a refit is better than the float weights."""
    layer, seen, other = layer_of("transposed"), correlated(24, 1), correlated(8, 2)
    fitted = nn.Sequential(copy.deepcopy(layer))
    round_weights(fitted, seen, exact_input=False, levels=1 << 20, steps=6)

    def rounded(x: Tensor) -> Tensor:
        step = (max(one.max() for one in seen) - min(one.min() for one in seen)) / 6
        return (x / step).round() * step

    errors = [sum((one(rounded(x)) - layer(x)).square().mean() for x in other) for one in (fitted, layer)]
    assert errors[0] < 0.8 * errors[1]


@torch.no_grad()
def test_a_layer_in_float_makes_up_for_those_before_it() -> None:
    torch.manual_seed(0)
    layers, seen, other = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 5, 3)), correlated(24, 1), correlated(8, 2)
    errors = {}
    for untouched in ((), ("1",)):
        fitted = copy.deepcopy(layers)
        scales = round_weights(fitted, seen, exact_input=True, levels=3, float_layers=("1",), untouched=untouched)
        assert set(scales) == {"0.weight"}
        assert torch.equal(fitted[1].weight, layers[1].weight) == bool(untouched)
        errors[untouched] = sum((fitted(x) - layers(x)).square().mean().item() for x in other)
    assert errors[()] < 0.9 * errors[("1",)]


@torch.no_grad()
def test_coarse_and_fine_weights_are_those_that_were_there() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, 5, stride=2, padding=2)
    conv.weight[0] = 0
    split, x = SplitConv2d(conv, LEVELS), torch.randn(1, 6, 12, 12)
    torch.testing.assert_close(split(x), conv(x))
    step = conv.weight.abs().amax((1, 2, 3), keepdim=True) / LEVELS
    assert (split.fine.weight.abs() <= 0.51 * step).all()
    for part in (split.coarse, split.fine):  # rounded to nearest, as it will be
        step = part.weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / LEVELS
        part.weight.copy_((part.weight / step).round() * step)
    rounded = (split.coarse.weight + split.fine.weight - conv.weight).abs().max()
    assert rounded < conv.weight.abs().max() / LEVELS**2 / 2


@torch.no_grad()
def test_inputs_that_hardly_vary_are_no_trouble() -> None:
    layer = nn.Sequential(nn.Conv2d(6, 5, 3))
    seen = [1000 + 1e-4 * x for x in correlated(8, 1)]
    fitted = copy.deepcopy(layer)
    round_weights(fitted, seen, exact_input=True, levels=LEVELS)
    assert (fitted(seen[0]) - layer(seen[0])).abs().max() < 1e-3 * layer(seen[0]).abs().max()


@torch.no_grad()
def test_no_number_ends_at_once() -> None:
    layer = nn.Sequential(nn.Conv2d(6, 5, 3))
    with pytest.raises(torch.linalg.LinAlgError):
        round_weights(layer, [torch.full((1, 6, 12, 12), float("nan"))], exact_input=True, levels=LEVELS)
