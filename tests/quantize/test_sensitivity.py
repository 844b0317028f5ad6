"""What a tensor costs is what the transform loses when that alone is rounded."""

import torch
from torch import nn

from codecswap.graph.trace import trace
from codecswap.quantize.ranges import quantize_graph
from codecswap.quantize.sensitivity import costs
from codecswap.quantized.precision import Precision


@torch.no_grad()
def test_weights_and_activations_are_rounded_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 6, 3), nn.PixelShuffle(1), nn.LeakyReLU(0.3), nn.Conv2d(6, 3, 3)).eval()
    x = torch.randn(1, 4, 12, 12)
    graph = trace(module, input="latents", shape=(1, 4, 12, 12), output="picture", prefix="g_s")
    quantized = quantize_graph(graph, [x.numpy()], Precision.of("w8a8"))
    found = {(cost.layer, cost.tensor): cost.mse for cost in costs(graph, quantized, x.numpy())}
    assert list(found) == [
        ("g_s.0", "weights"),
        ("g_s.0", "Conv"),
        ("g_s.2", "LeakyRelu"),
        ("g_s.3", "weights"),
        ("g_s.3", "Conv"),
    ]
    exact = module(x)

    def mse(result: torch.Tensor) -> float:
        return (result - exact).square().mean().item()

    rounding = quantized.activations[quantized.operations[0].output]
    first = torch.from_numpy(rounding.dequantize(rounding.quantize(module[0](x).numpy())))
    assert abs(found["g_s.0", "Conv"] / mse(module[1:](first)) - 1) < 1e-3
    for name in ("weight", "bias"):
        getattr(module[3], name).copy_(torch.from_numpy(quantized.constants[f"g_s.3.{name}"].real))
    assert abs(found["g_s.3", "weights"] / mse(module(x)) - 1) < 1e-3
