"""Clipping of 8-bit tensors: judged by the error of the output, computed with the rounding itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from codecswap.graph.trace import trace
from codecswap.quantize.clipping import clipped_ranges
from codecswap.quantize.ranges import estimate_ranges, quantize_graph
from codecswap.quantized.compute import compute
from codecswap.quantized.precision import Precision


class Product(nn.Module):
    """As in a GDN: the second factor is large only where the first one is small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] * torch.sqrt(x[:, 1:])


@pytest.fixture
def feed() -> torch.Tensor:
    x = torch.randn((1, 2, 64, 64), generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 1].abs() * 0.05
    x[:, :, 0, 0] = torch.tensor([1e-6, 20.0])
    x[:, 1] **= 2
    return x


def test_a_rare_large_value_that_does_not_matter_is_clipped(feed: torch.Tensor) -> None:
    graph = trace(Product().eval(), input="latents", shape=tuple(feed.shape), output="picture", prefix="g_s")
    ranges = estimate_ranges(graph, [feed.numpy()])
    exact = compute(graph, feed)

    factor, layer = next((step.output, step.layer) for step in graph.operations if step.operator == "Sqrt")

    def error(clip: bool, gdns: tuple[str, ...] = (layer,)) -> float:
        """With the factor rounded, and nothing else."""
        made = quantize_graph(graph, [feed.numpy()], Precision.of("w8a8"), gdns=gdns, clip=clip)
        alone = replace(graph, activations={factor: made.activations[factor]})
        return (compute(alone, feed) - exact).square().mean().item()

    assert error(True) < error(False) / 2
    assert error(True, ()) == error(False, ()) > 0, "a signal is not clipped"
    found = clipped_ranges(graph, [feed.numpy()], {factor: ranges[factor]})[factor]
    assert found == pytest.approx((0, 10), abs=1e-6)  # the smallest share that is tried


def test_values_that_all_matter_are_not_clipped() -> None:
    x = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(1)) * 2 - 1
    conv = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    graph = trace(conv, input="latents", shape=tuple(x.shape), output="picture", prefix="g_s")
    assert clipped_ranges(graph, [x.numpy()], {"latents": (-1.0, 1.0)})["latents"][1] > 0.8


def test_weights_of_the_output_decide(feed: torch.Tensor) -> None:
    graph = trace(Product().eval(), input="latents", shape=tuple(feed.shape), output="picture", prefix="g_s")
    ranges = estimate_ranges(graph, [feed.numpy()])
    weight = torch.zeros(1, 1, 64, 64)
    weight[..., 0, 0] = 1  # only the large value counts
    factor = next(step.output for step in graph.operations if step.operator == "Sqrt")
    found = clipped_ranges(graph, [np.float32(feed)], {factor: ranges[factor]}, weight)[factor]
    assert found == ranges[factor]
