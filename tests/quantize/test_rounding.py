"""Weights refitted and rounded: on the grid, and closer to the float layer than nearest rounding."""

import copy
from typing import Any

import pytest
import torch
from residual import Residual
from torch import Tensor, nn

from codecswap.graph.leaves import leaves
from codecswap.graph.lower import lower
from codecswap.least_squares import draw, patches
from codecswap.quantize import float_and_rounded, rounding
from codecswap.quantize.float_and_rounded import FloatAndRounded
from codecswap.quantize.gains import output_metrics
from codecswap.quantize.rounding import SplitConv2d, round_weights
from codecswap.quantize.taps import Taps

LEVELS = 63


def layer_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "transposed":
        return nn.ConvTranspose2d(6, 5, 5, stride=2, padding=2, output_padding=1)
    if kind == "transposed, 3":
        return nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1)
    if kind == "transposed, 4x3, strides 2 and 3":
        return nn.ConvTranspose2d(6, 5, (4, 3), stride=(2, 3), padding=1)
    if kind == "grouped":
        return nn.Conv2d(6, 4, (3, 5), padding=1, groups=2)
    if kind == "dilated":
        return nn.Conv2d(6, 5, 3, stride=2, dilation=2)
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


def nearest(layer: nn.Module, levels: int = LEVELS) -> nn.Module:
    """With its weights rounded to nearest."""
    rounded = copy.deepcopy(layer)
    conv = next(module for module in rounded.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d))
    axis = 1 if isinstance(conv, nn.ConvTranspose2d) else 0
    scale = conv.weight.detach().abs().amax(tuple({0, 1, 2, 3} - {axis}), keepdim=True) / levels
    conv.weight.data = (conv.weight / scale).round() * scale
    return rounded


KINDS = ["transposed", "transposed, 3", "transposed, 4x3, strides 2 and 3", "strided", "grouped", "dilated", "subpixel"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "subpixel"])
@torch.no_grad()
def test_taps_are_what_a_convolution_sees(kind: str) -> None:
    conv, x = layer_of(kind), torch.randn(2, 6, 9, 11)
    taps = Taps(conv)
    targets = taps.outputs(conv(x))
    places = draw(targets, 20, torch.Generator().manual_seed(0))
    inputs, wanted = taps.inputs(x, targets, places), patches(targets, places, 1)
    found = torch.full_like(wanted, float("nan"))
    for part in taps.parts:
        weight = conv.weight.flatten()[part.weights]
        found[:, part.outputs] = inputs[:, part.inputs] @ weight.T + conv.bias[part.channels]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", ["strided", "transposed"])
@torch.no_grad()
def test_coarse_and_fine_weights_are_those_that_were_there(kind: str) -> None:
    conv, others = layer_of(kind), (0, 2, 3) if kind == "transposed" else (1, 2, 3)
    conv.weight.select(1 if kind == "transposed" else 0, 0).zero_()
    split, x = SplitConv2d(conv, LEVELS), torch.randn(1, 6, 12, 12)
    torch.testing.assert_close(split(x), conv(x))
    step = conv.weight.abs().amax(others, keepdim=True) / LEVELS
    assert (split.fine.weight.abs() <= 0.51 * step).all()
    for part in (split.coarse, split.fine):  # rounded to nearest, as it will be
        step = part.weight.abs().amax(others, keepdim=True).clamp_min(1e-12) / LEVELS
        part.weight.copy_((part.weight / step).round() * step)
    rounded = (split.coarse.weight + split.fine.weight - conv.weight).abs().max()
    assert rounded < conv.weight.abs().max() / LEVELS**2 / 2


@pytest.mark.parametrize("transform", ["g_a", "g_s"])
@torch.no_grad()
def test_residual_blocks_are_rounded_in_order_of_execution(transform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    codec = Residual(6, 6).eval()
    tree = lower(getattr(codec, transform), prefix=transform)
    size = (3, 48, 32) if transform == "g_a" else (6, 3, 2)
    seen, other = (
        nn.functional.interpolate(torch.randn(n, *size), scale_factor=4, mode="bicubic").split(1) for n in (12, 4)
    )
    fitted, again, rounded = (copy.deepcopy(tree) for _ in range(3))
    scales = round_weights(fitted, seen, exact_input=False, levels=15)
    convolutions = {path for path, one in tree.named_modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)}
    assert scales.keys() == {f"{path}.weight" for path in convolutions}
    for path in convolutions:
        rounded.set_submodule(path, nearest(rounded.get_submodule(path), 15))

    def error(candidate: nn.Module) -> float:
        return sum((candidate(x) - tree(x)).square().mean().item() for x in other)

    assert error(fitted) < error(rounded)
    monkeypatch.setattr(float_and_rounded, "CACHE_BYTES", 0)  # nothing is kept, everything computed again
    round_weights(again, seen, exact_input=False, levels=15)
    assert all(torch.equal(one, two) for one, two in zip(fitted.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def test_a_layer_that_stays_in_float_has_no_rounded_output() -> None:
    torch.manual_seed(0)
    tree = nn.Sequential(nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU()), nn.Conv2d(6, 5, 3))
    walk = FloatAndRounded(tree, correlated(3, 1), exact_input=False, steps=15, float_layers=["0"])
    (given, *_), (second, *_) = ([x for x, _ in walk.at(place)] for place in (0, 2))
    assert len(given.unique()) <= 16 < len(second.unique())
    torch.testing.assert_close(second, tree[0](given))


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


@torch.no_grad()
def test_the_metric_of_a_layer_is_that_of_what_follows_it() -> None:
    """With a 1x1 convolution W after it, an error e adds ``|W e|^2``."""
    torch.manual_seed(0)
    tree = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1))
    exact = tree[1].weight[:, :, 0, 0].double()
    weight = torch.tensor([1.0, 4.0, 0.25, 2.0]).view(1, 4, 1, 1)
    for given in (None, weight):
        found = output_metrics(leaves(tree), correlated(40, 1), ["0"], given)["0"]
        wanted = exact.T @ (exact if given is None else weight.flatten().double()[:, None] * exact)
        assert (found - wanted).norm() < 0.3 * wanted.norm()


@pytest.mark.parametrize("kind", ["plain", "transposed", "strided"])
@torch.no_grad()
def test_outputs_compensate_each_other_in_the_metric_of_the_picture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows sees 2 directions of 5 channels or more: errors go where they are not seen."""
    layer = nn.Conv2d(6, 8, 3, padding=1) if kind == "plain" else layer_of(kind)
    tree = nn.Sequential(layer, nn.Conv2d(layer.out_channels, 2, 1)).requires_grad_(False)
    seen, other = correlated(24, 1), correlated(8, 2)

    def error() -> float:
        fitted = copy.deepcopy(tree)
        round_weights(fitted, seen, exact_input=True, levels=15, steps=1 << 20, float_layers=["1"], untouched=["1"])
        return sum((fitted(x) - tree(x)).square().mean().item() for x in other)

    with_metric = error()
    monkeypatch.setattr(rounding, "output_metrics", lambda *given: {})
    assert with_metric < 0.6 * error()


@torch.no_grad()
def test_nothing_is_rounded_where_all_layers_stay_in_float() -> None:
    tree = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 4, 1)).requires_grad_(False)
    assert round_weights(tree, correlated(3, 1), exact_input=True, levels=15, float_layers=["0", "1"]) == {}
