"""Fitted scales and ranges around inverse GDNs change what is rounded, and nothing else."""

import copy
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.data.samples import sample_pictures
from codecswap.graph.leaves import leaves
from codecswap.graph.lower import lower
from codecswap.graph.trace import trace
from codecswap.layers.gdn import GDN
from codecswap.quantize.codec import encode_samples, lowered_decoder
from codecswap.quantize.equalize import equalize
from codecswap.quantize.ranges import quantize_graph
from codecswap.quantize.signals import Signals, fit_signals, varied
from codecswap.quantized.compute import compute
from codecswap.quantized.precision import Precision
from codecswap.quantized.representation import TransformGraph

GDNS = ["g_s.1", "g_s.3", "g_s.5"]


def codec(gamma: float) -> FactorizedPrior:
    """With a gamma of almost 0, square roots are constant."""
    torch.manual_seed(0)
    made = FactorizedPrior(12, 7).eval().requires_grad_(False)
    for gdn in made.modules():
        if isinstance(gdn, GDN):
            gdn.gamma.copy_(gdn.gamma_reparam.init(torch.rand_like(gdn.gamma) * gamma))
    return made


def equalized(made: FactorizedPrior, latents: Tensor, form: str = "subpixel") -> nn.Module:
    transform = lower(made.g_s, form)
    equalize(transform, latents.split(1))
    return transform


def quantized(transform: nn.Module, latents: Tensor, signals: dict[str, Signals]) -> TransformGraph:
    graph = trace(transform, input="latents", shape=tuple(latents.shape), output="picture", prefix="g_s")
    known = {f"g_s.{path}": (one.range, one.root_range) for path, one in signals.items()}
    gdns = ["g_s.1", "g_s.3", "g_s.5"]
    return quantize_graph(
        graph, [one.numpy() for one in latents.split(1)], Precision.of("w8a8"), gdns=gdns, signals=known
    )


@pytest.mark.parametrize("form", ["native", "subpixel"])
@torch.no_grad()
def test_function_is_unchanged(form: str) -> None:
    latents, made = 5 * torch.randn(2, 7, 6, 4), codec(0.3)
    transform = equalized(made, latents, form)
    before = copy.deepcopy(transform)
    assert set(fit_signals(transform, latents.split(1), (2 * latents).split(1))) == {"1", "3", "5"}
    assert any(not torch.equal(*pair) for pair in zip(transform.parameters(), before.parameters(), strict=True))
    expected = made.g_s(latents)
    assert (transform(latents) - expected).abs().max() < 1e-4 * expected.abs().max()


@torch.no_grad()
def test_products_with_constant_roots_are_the_integers_that_the_signals_were() -> None:
    latents = 5 * torch.randn(2, 7, 6, 4)
    transform = equalized(codec(1e-7), latents)
    signals = fit_signals(transform, latents.split(1))
    assert all(one.repeated.max() < 0.01 for one in signals.values())
    graph = quantized(transform, latents, signals)
    integers: dict[str, np.ndarray] = {}

    def look(name: str, values: Tensor) -> Tensor:
        if rounding := graph.activations.get(name):
            integers[name] = rounding.quantize(values.numpy())
            return torch.from_numpy(rounding.scale * (integers[name].astype(np.float32) - rounding.zero_point))
        return values

    compute(graph, latents, each=look)
    for layer, product in {"g_s.1": "g_s.1/Mul_1", "g_s.3": "g_s.3/Mul_1", "g_s.5": "g_s.5/Mul_1"}.items():
        step = next(one for one in graph.operations if one.output == product)
        signal = next(name for name in step.inputs if not name.startswith(layer))
        assert len(np.unique(integers[signal])) > 50
        np.testing.assert_array_equal(integers[product], integers[signal])


@torch.no_grad()
def test_other_pictures_lose_less() -> None:
    teacher = load_codec("tiny")
    samples, others = (
        encode_samples(teacher, list(islice(sample_pictures(None, "", part, (192, 128)), 5)))
        for part in ("train", "val")
    )

    def errors(fitted: bool) -> Tensor:
        """Of each picture, with all activations rounded, and float weights."""
        made = lowered_decoder(teacher, samples, form="native", fitted=fitted)
        assert made.split_inputs
        pairs = zip(others.symbols, others.means, strict=True)
        latents = torch.from_numpy(np.stack([made.split_inputs.split(*pair) for pair in pairs]))
        graph = trace(made.transform, input="latents", shape=tuple(latents.shape), output="picture", prefix="g_s")
        known = {f"g_s.{path}": (one.range, one.root_range) for path, one in made.signals.items()}
        how = {"known": {"latents": Precision.of("w8a8").split_inputs}, "gdns": GDNS, "clip": True, "signals": known}
        rounded = quantize_graph(graph, made.inputs, Precision.of("w8a8"), **how).activations
        result = compute(replace(graph, activations=rounded), latents)
        return (result - compute(graph, latents)).square().mean((1, 2, 3))

    assert (errors(True) / errors(False)).log().mean() < 0


@torch.no_grad()
def test_other_pictures_widen_ranges() -> None:
    latents, made = 5 * torch.randn(2, 7, 6, 4), codec(0.01)

    def largest(others: list[Tensor]) -> float:
        """Mean of the channels' largest signals on the samples, in shares of their ranges."""
        transform = equalized(made, latents)
        fit_signals(transform, latents.split(1), others)
        return leaves(transform).compute(latents)["0.1"].abs().amax((0, 2, 3)).mean().item()

    assert largest([3 * one for one in latents.split(1)]) < 0.8 * largest([])


@torch.no_grad()
def test_a_transform_without_inverse_gdns_is_left() -> None:
    made = codec(0.1)
    encoder = lower(made.g_a)
    before = copy.deepcopy(encoder.state_dict())
    assert fit_signals(encoder, [torch.rand(1, 3, 64, 64)]) == {}
    assert all(torch.equal(before[name], values) for name, values in encoder.state_dict().items())


def test_varied_pictures_have_stronger_colors_and_contrast() -> None:
    random = np.random.default_rng(0)
    pictures = [random.uniform(0.4, 0.6, (3, 8, 8)).astype(np.float32) for _ in range(3)]
    colors, contrast, permuted = varied(pictures)
    assert all(one.dtype == np.float32 for one in (colors, contrast, permuted))
    np.testing.assert_allclose(colors.mean(0), pictures[0].mean(0), atol=1e-6)
    assert np.ptp(colors, 0).mean() > 1.5 * np.ptp(pictures[0], 0).mean()
    assert contrast.std() > 1.5 * pictures[1].std()
    np.testing.assert_array_equal(np.sort(permuted, 0), np.sort(pictures[2], 0))
    assert not np.array_equal(permuted, pictures[2])
    white = varied([np.ones((3, 4, 4), np.float32)] * 3)
    assert all(one.min() >= 0 and one.max() <= 1 for one in white)
