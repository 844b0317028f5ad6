"""Copies of channels change what is rounded, and nothing else."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.graph.lower import lower
from codecswap.graph.trace import trace
from codecswap.layers.gdn import GDN
from codecswap.quantize.copies import copy_channels
from codecswap.quantize.equalize import equalize
from codecswap.quantize.ranges import quantize_graph
from codecswap.quantized.compute import compute
from codecswap.quantized.precision import Precision


@pytest.fixture
def codec() -> FactorizedPrior:
    """In its first IGDN, all later layers depend on channel 3 much more than on the others."""
    torch.manual_seed(0)
    codec = FactorizedPrior(12, 7).eval().requires_grad_(False)
    for gdn in codec.modules():
        if isinstance(gdn, GDN):
            gdn.gamma.copy_(gdn.gamma_reparam.init(torch.rand_like(gdn.gamma) * 0.3))
    codec.g_s[2].weight[3] *= 20
    return codec


@pytest.mark.parametrize("form", ["native", "subpixel"])
@torch.no_grad()
def test_function_is_unchanged_and_the_work_is_what_was_allowed(codec: FactorizedPrior, form: str) -> None:
    latents = 5 * torch.randn(2, 7, 6, 4)
    transform = lower(codec.g_s, form)
    equalize(transform, latents.split(1))
    before = _multiply_adds(transform)
    assert copy_channels(transform, latents.split(1), 0.001) == {}
    added = copy_channels(transform, latents.split(1), 0.2)
    assert sum(added.values()) > 1
    for path, number in added.items():
        assert transform.get_submodule(path).norm.weight.shape[:2] == (12 + number, 12 + number)
    assert 1.02 < _multiply_adds(transform) / before < 1.22  # copies of copies cost a little more
    expected = codec.g_s(latents)
    # norms grow by the square of a rounding step
    assert (transform(latents) - expected).abs().max() < 1e-3 * expected.abs().max()


@torch.no_grad()
def test_a_channel_that_matters_is_rounded_finer(codec: FactorizedPrior) -> None:
    latents = 5 * torch.randn(1, 7, 16, 16)
    plain = lower(codec.g_s, "subpixel")
    equalize(plain, [latents])
    copied = copy.deepcopy(plain)
    added = copy_channels(copied, [latents], 0.04)
    assert set(added) == {"1"}

    def error(transform: nn.Module) -> float:
        """With the tensors around the first IGDN rounded, and nothing else."""
        graph = trace(transform, input="latents", shape=tuple(latents.shape), output="picture", prefix="g_s")
        made = quantize_graph(graph, [latents.numpy()], Precision.of("w8a8"))
        around = {name: one for name, one in made.activations.items() if name.startswith("g_s.0")}
        around |= {step.output: made.activations[step.output] for step in graph.operations if step.layer == "g_s.1"}
        result = compute(replace(graph, activations=around), latents)
        return (result - plain(latents)).square().mean().item()

    assert error(copied) < 0.8 * error(plain)


@torch.no_grad()
def test_a_transform_without_gdn_gets_none() -> None:
    transform = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3)).requires_grad_(False)
    assert copy_channels(transform, [torch.randn(1, 3, 16, 16)], 0.5) == {}


def _multiply_adds(transform: nn.Module) -> float:
    """Counted by PyTorch itself."""
    with FlopCounterMode(display=False) as counter:
        transform(torch.zeros(1, 7, 6, 4))
    return counter.get_total_flops()
