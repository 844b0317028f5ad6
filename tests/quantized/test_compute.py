"""The interpreter in PyTorch, and training with it: what ONNX Runtime computes of the same transform, of any shape."""

import json
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compressai.layers import AttentionBlock, ResidualBlock, ResidualBlockUpsample
from compressai.models.utils import deconv
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from trees import CHANNELS, SIZE, quantized, signal_to_noise, tree

from codecswap.export.backends.onnx_qdq import read_qdq, write_qdq
from codecswap.graph.lower import lower
from codecswap.graph.trace import trace
from codecswap.inference.runtime import open_session
from codecswap.quantized.compute import OPERATORS, compute, rounded
from codecswap.quantized.representation import Constant, Operation, TransformGraph
from codecswap.quantized.synthesis import QuantizedSynthesis


def integers(seed: int, x: torch.Tensor, kind: str = "uint8") -> TransformGraph:
    lowered = lower(tree(seed))
    return quantized(trace(lowered, input="latents", shape=tuple(x.shape), output="picture", prefix="g_s"), x, kind)


@pytest.mark.parametrize(("kind", "least"), [("uint8", 45), ("int16", 80)])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_integers_of_any_shape_are_the_files(tmp_path: Any, seed: int, kind: str, least: float) -> None:
    x = torch.randn(1, CHANNELS, *SIZE)
    found = integers(seed, x, kind)
    write_qdq(found, tmp_path / "x.onnx", 13)
    expected = open_session(str(tmp_path / "x.onnx"), reference=True).run(None, {"latents": x.numpy()})[0]
    assert signal_to_noise(compute(found, x).numpy(), expected) > least
    again = read_qdq(onnx.load(tmp_path / "x.onnx"))
    assert signal_to_noise(compute(again, x).numpy(), expected) > least


def test_every_convolution_of_a_tree_trains_and_is_kept() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(
        AttentionBlock(CHANNELS), ResidualBlockUpsample(CHANNELS, CHANNELS), ResidualBlock(CHANNELS, 6), deconv(6, 3)
    ).eval()
    x = torch.randn(1, CHANNELS, *SIZE)
    start = quantized(
        trace(lower(decoder), input="latents", shape=tuple(x.shape), output="picture", prefix="g_s"), x, "uint8"
    )
    float_layer = next(step for step in start.operations if step.layer == "g_s.2.conv1")
    reals = {name: Constant(start.constants[name].real) for name in float_layer.inputs[1:]}
    start = TransformGraph(**(vars(start) | {"constants": {**start.constants, **reals}}))
    trained = QuantizedSynthesis(start, None, np.zeros(CHANNELS), precision="w8a8")
    torch.testing.assert_close(trained(x), compute(start, x))
    trained(x).square().mean().backward()
    convolutions = sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in lower(decoder).modules())
    assert len(trained.biases) == convolutions == len(trained.gains) + 1 == len(trained.shifts) + 1
    assert all(p.grad is not None and p.grad.any() for p in trained.parameters())
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01 * torch.randn_like(parameter) * parameter.abs().max()
    again = QuantizedSynthesis.of(json.loads(json.dumps(trained.layout())), trained.state_dict())
    again.load_state_dict(trained.state_dict())
    torch.testing.assert_close(again(x), trained(x))
    assert signal_to_noise(compute(trained.transform(), x).numpy(), trained(x).detach().numpy()) > 45
    larger = trained.transform((8, 10))
    assert larger.output_shape == (1, 3, 32, 40)


RANDOM = np.random.default_rng(0)
CASES: list[tuple[str, dict[str, Any], list[np.ndarray | None]]] = [
    ("Conv", {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2], "group": 2}, [(6, 2, 3, 2), (6,)]),
    ("ConvTranspose", {"pads": [1, 1, 1, 1], "strides": [3, 3], "output_padding": [1, 1]}, [(4, 5, 4, 4), (5,)]),
    ("Slice", {}, [np.array([1, 2]), np.array([3, 6]), np.array([1, 3])]),
    ("Reshape", {}, [np.array([1, 2, 2, 48])]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, []),
    ("Softmax", {"axis": 1}, []),
    ("MatMul", {}, [(8, 3)]),
    ("Concat", {"axis": 2}, [(1, 4, 2, 8)]),
    ("Clip", {}, [np.float32(-0.5)]),
    ("Clip", {}, [None, np.float32(0.25)]),
    ("LeakyRelu", {"alpha": 0.3}, []),
    ("Sub", {}, [(4, 1, 1)]),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, []),
    (
        "Resize",
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        [None, np.array([1, 1, 3, 2], np.float32)],
    ),
]  # type: ignore[list-item]


@pytest.mark.parametrize(("operator", "attributes", "given"), CASES)
def test_an_operator_is_onnx_runtimes(operator: str, attributes: dict[str, Any], given: list[Any]) -> None:
    x = RANDOM.standard_normal((1, 4, 6, 8)).astype(np.float32)
    stored = {
        f"c{place}": RANDOM.standard_normal(one).astype(np.float32) if isinstance(one, tuple) else np.asarray(one)
        for place, one in enumerate(given)
        if one is not None
    }
    inputs = ("x", *("" if one is None else f"c{place}" for place, one in enumerate(given)))
    node = helper.make_node(operator, inputs, ["y"], **attributes)
    ends = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in "xy")
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph([node], "g", *ends, weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    expected = open_session(model.SerializeToString()).run(None, {"x": x})[0]
    step = Operation("y", "g_s.0", operator, attributes, inputs, "y")
    constants = {name: Constant(value) for name, value in stored.items()}
    found = compute(TransformGraph("x", x.shape, "y", (), (step,), constants, {}), torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_every_tensor_goes_through_the_callback_once() -> None:
    x = torch.randn(1, CHANNELS, *SIZE)
    found = integers(0, x)
    seen: list[str] = []

    def look(name: str, value: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return rounded(value, found.activations[name])

    assert torch.equal(compute(found, x, each=look), compute(found, x))
    assert seen == ["latents", *(step.output for step in found.operations)]
    assert {step.operator for step in found.operations} <= OPERATORS.keys()
