"""Trees of any shape: lowered, traced, computed from data and by ONNX Runtime, they are what PyTorch computes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compressai.layers import AttentionBlock, ResidualBlock
from onnxruntime import InferenceSession
from torch import Tensor, nn
from trees import CHANNELS, SIZE, tree

from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.export.backends.onnx import to_onnx
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.graph import onnx_graph as graph
from codecswap.graph.leaves import leaves
from codecswap.graph.lower import lower, take_split_inputs
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.split_inputs import SplitInputs
from codecswap.layers.upsampling import UpsampleConv2d
from codecswap.quantized.compute import compute, output_shape
from codecswap.quantized.representation import TransformGraph


def traced(module: nn.Module, size: tuple[int, int] | None = SIZE) -> TransformGraph:
    return trace(module, input="latents", shape=open_shape("latents", CHANNELS, size), output="picture", prefix="g_s")


def close(found: Any, wanted: Tensor) -> bool:
    return bool((torch.as_tensor(found) - wanted).abs().max() <= 1e-5 * wanted.abs().max())


def run(model: onnx.ModelProto, x: Tensor) -> np.ndarray:
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"latents": x.numpy()})[0]


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_a_random_tree_is_pytorchs(seed: int) -> None:
    decoder, x = tree(seed), torch.randn(1, CHANNELS, *SIZE)
    expected = decoder(x)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    for form in ("native", "subpixel"):
        lowered = lower(decoder, form)  # type: ignore[arg-type]
        assert close(lowered(x), expected)
        found = traced(lowered)
        assert close(compute(found, x), expected)
        assert found.output_shape == output_shape(found, found.input_shape) == expected.shape
        for opset in (11, 13, 20):
            model = to_onnx(found, opset)
            assert graph.opset(model) == opset and not graph.dead(model)
            assert close(run(model, x), expected)
        steps = leaves(lowered)
        assert close(steps.compute(x)[steps.output], expected)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


@torch.no_grad()
def test_open_sizes_and_batches() -> None:
    decoder = tree(0)
    model = to_onnx(traced(lower(decoder, "subpixel"), None), 13)
    for shape in ((2, CHANNELS, 3, 5), (1, CHANNELS, 8, 4)):
        x = torch.randn(shape)
        assert close(run(model, x), decoder(x))


def test_operations_know_their_layer_and_survive_the_file() -> None:
    decoder = nn.Sequential(*(tree(seed)[0] for seed in range(8)))
    found = traced(lower(decoder))
    paths = {f"g_s.{name}" for name, _ in decoder.named_modules()}
    assert {step.layer for step in found.operations} <= paths
    again = read_qdq(to_onnx(found, 13))
    assert [(step.name, step.layer) for step in again.operations] == [(s.name, s.layer) for s in found.operations]
    assert again.input_shape == found.input_shape and again.activations == {}


def test_a_parameter_that_two_layers_share_is_stored_once() -> None:
    decoder = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(CHANNELS, CHANNELS, 1))
    decoder[1].weight = decoder[0].weight
    assert sorted(traced(lower(decoder)).constants) == ["g_s.0.bias", "g_s.0.weight", "g_s.1.bias"]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0 else -x


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, x, alpha=2)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.GELU(), r"GELU at the layer g_s\.1\.1 .*build that layer from Conv2d, .*Sigmoid"),
        (nn.Softshrink(), "Softshrink at the layer g_s.1.1"),
        (Branching(), r"The layer g_s\.1\.1 \(Branching\) .*forward depends on values"),
        (Doubled(), "add at the layer g_s.1.1 cannot be written: it has 3 arguments"),
        (nn.Conv2d(CHANNELS, 3, 3, padding=1, padding_mode="reflect"), "its padding is reflect"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), "it is no nearest upsampling"),
        (nn.Conv2d(5, 3, 1), "The layer 1.1 cannot take an input of the shape 1x8x4x6"),
    ],
)
def test_what_no_operator_is_for_is_named(layer: nn.Module, words: str) -> None:
    decoder = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sequential(nn.ReLU(), layer))
    with pytest.raises(UserError, match=words):
        traced(lower(decoder))


def test_a_mask_needs_a_fixed_size() -> None:
    decoder = lower(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), UpsampleConv2d(CHANNELS, 3, masked=True))))
    with pytest.raises(UserError, match=r"The layer g_s\.1\.1 multiplies .* --height and --width"):
        traced(decoder, None)


@torch.no_grad()
def test_split_inputs_where_several_layers_read_the_latents(random_tables: Callable[..., EntropyTables]) -> None:
    rng = np.random.default_rng(0)
    medians, offsets = np.linspace(-1.3, 1.4, CHANNELS, dtype=np.float32), np.full(CHANNELS, -140, np.int32)
    tables = replace(random_tables(rng, CHANNELS), medians=medians, offsets=offsets)
    symbols = rng.integers(-140, 150, (CHANNELS, 4, 6)).astype(np.int32)
    decoder = lower(nn.Sequential(AttentionBlock(CHANNELS), nn.Conv2d(CHANNELS, 3, 3, padding=1)))
    taken = take_split_inputs(decoder, SplitInputs.for_tables(tables), medians)
    assert taken
    transform, split_inputs = taken
    assert [name for name, _ in transform.named_children()] == ["latents", "0", "1"]
    given, latents = (torch.from_numpy(one)[None] for one in (split_inputs.split(symbols), tables.to_latents(symbols)))
    assert given.shape[1] > CHANNELS + 1
    torch.testing.assert_close(transform(given), decoder(latents))
    assert (
        take_split_inputs(lower(AttentionBlock(CHANNELS)), split_inputs, medians) is None
    )  # no place for a layer before it


def test_leaves_name_modules_operators_and_who_reads_them() -> None:
    found = leaves(nn.Sequential(ResidualBlock(CHANNELS, CHANNELS)).eval())
    names = ["0.conv1", "0.leaky_relu", "0.conv2", "0.leaky_relu@1", "0/add"]
    assert [leaf.name for leaf in found.steps] == names
    assert [leaf.inputs for leaf in found.steps] == [
        ("input",), ("0.conv1",), ("0.leaky_relu",), ("0.conv2",), ("0.leaky_relu@1", "input")
    ]  # fmt: skip
    assert [leaf.name for leaf in found.consumers("input")] == ["0.conv1", "0/add"]
    assert found.output == "0/add" and found.steps[-1].module is None
