"""Exported graphs: the function PyTorch computes, in the operators promised and nothing else."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.errors import UserError
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.graph import onnx_graph as graph
from codecswap.swaps.apply import swap

LATENTS = (1, 80, 6, 5)
IGDN = {"Conv", "Mul", "Sqrt"}
CASES = [  # replacement, form, fixed size, operators
    ("none", "native", False, IGDN | {"ConvTranspose"}),
    ("none", "masked", True, IGDN | {"Resize"}),
    ("none", "subpixel", False, IGDN | {"DepthToSpace"}),
    ("upsample", "native", False, IGDN | {"Resize"}),
    ("upsample", "subpixel", False, IGDN | {"DepthToSpace"}),
    ("masked", "native", True, IGDN | {"Resize"}),
    ("masked", "subpixel", False, IGDN | {"DepthToSpace"}),
    ("subpixel", "native", True, IGDN | {"DepthToSpace"}),
]


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def made(teacher: FactorizedPrior, replacement: str) -> FactorizedPrior:
    return teacher if replacement == "none" else swap(teacher, replacement)[0]


@pytest.mark.parametrize(("replacement", "form", "fixed", "operators"), CASES)
@torch.no_grad()
def test_decoder_is_pytorchs(
    teacher: FactorizedPrior, tmp_path: Path, replacement: str, form: str, fixed: bool, operators: set[str]
) -> None:
    codec, path = made(teacher, replacement), tmp_path / "decoder.onnx"
    before = copy.deepcopy(codec.state_dict())
    size = {"height": 96, "width": 80} if fixed else {}
    for input, shift in (("latents", 0), ("symbols", codec.medians)):
        export_decoder(codec, path, form=form, input=input, **size)
        latents = torch.randint(-6, 7, LATENTS).float()
        expected = codec.g_s(latents + shift)
        assert (run(path, latents) - expected).abs().max() < 1e-5 * expected.abs().max()
        found = graph.facts(path, LATENTS)
        assert found.opset == 13
        assert set(found.operators) == (operators if input == "latents" else operators | {"Add"})
    assert all(torch.equal(value, codec.state_dict()[name]) for name, value in before.items())


@torch.no_grad()
def test_encoder_is_pytorchs_at_any_size(teacher: FactorizedPrior, tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    export_encoder(teacher, path)
    assert set(graph.facts(path, (1, 3, 64, 64)).operators) == {"Conv", "Div", "Mul", "Sqrt"}
    for shape in ((1, 3, 64, 96), (2, 3, 16, 32)):
        x = torch.rand(shape)
        assert (run(path, x) - teacher.g_a(x)).abs().max() < 1e-4
    export_encoder(teacher, path, height=48, width=32)
    shape = [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 48, 32]


@pytest.mark.parametrize("opset", [11, 20])
def test_opset_is_the_one_asked_for(teacher: FactorizedPrior, tmp_path: Path, opset: int) -> None:
    path = tmp_path / "decoder.onnx"
    export_decoder(made(teacher, "upsample"), path, opset=opset)
    assert graph.facts(path, LATENTS).opset == opset
    assert torch.isfinite(run(path, torch.ones(LATENTS))).all()


def test_equal_weights_leave_no_trace(tmp_path: Path) -> None:
    codec = FactorizedPrior(7, 11).eval().requires_grad_(False)
    for name, parameter in codec.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    path = tmp_path / "decoder.onnx"
    export_decoder(codec, path)
    assert set(graph.facts(path, (1, 11, 2, 2)).operators) == {"Conv", "ConvTranspose", "Mul", "Sqrt"}
    x = torch.randn(1, 11, 3, 2)
    assert (run(path, x) - codec.g_s(x)).abs().max() < 1e-5


def test_multiply_adds_are_those_of_the_algebra(teacher: FactorizedPrior, tmp_path: Path) -> None:
    def of_layers(replacement: str, form: str) -> dict[str, int]:
        path = tmp_path / "decoder.onnx"
        export_decoder(made(teacher, replacement), path, form=form, height=96, width=80)
        model = onnx.load(path)
        counted = graph.multiply_adds(model, LATENTS)
        return {graph.layer_of(node): counted[node.name] for node in model.graph.node if node.name in counted}

    transposed, plain, folded = (
        of_layers("none", "native"),
        of_layers("masked", "native"),
        of_layers("none", "subpixel"),
    )
    places = 4 * LATENTS[2] * LATENTS[3]  # of the first layer's output
    assert transposed["g_s.0"] * 4 == plain["g_s.0"] == 25 * 80 * 48 * places
    assert folded["g_s.0"] == 9 * 80 * 48 * places


def test_what_no_output_needs_is_found() -> None:
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"], "kept"), onnx.helper.make_node("Neg", ["x"], ["z"], "lost")]
    spare = onnx.numpy_helper.from_array(np.ones(1, np.float32), "spare")
    ends = [value("x", 1, [1])], [value("y", 1, [1])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", *ends, initializer=[spare]))
    assert graph.dead(model) == ["lost", "spare"]


@pytest.mark.parametrize(
    ("replacement", "options", "words"),
    [
        ("masked", {}, "--height and --width"),
        ("none", {"form": "masked"}, "g_s.0"),
        ("subpixel", {"form": "masked"}, "no form with Resize"),
    ],
)
def test_the_impossible_is_refused(
    teacher: FactorizedPrior, tmp_path: Path, replacement: str, options: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        export_decoder(made(teacher, replacement), tmp_path / "decoder.onnx", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("form", "upward"), [("native", "ConvTranspose"), ("masked", "Resize"), ("subpixel", "DepthToSpace")]
)
@torch.no_grad()
def test_residual_and_attention_blocks_are_pytorchs(residual: Path, tmp_path: Path, form: str, upward: str) -> None:
    codec = load_codec(str(residual))
    decoder, encoder, x = tmp_path / "decoder.onnx", tmp_path / "encoder.onnx", torch.rand(1, 3, 64, 96)
    export_decoder(codec, decoder, form=form, height=64, width=96)
    export_encoder(codec, encoder)
    latents = codec.g_a(x)
    assert (run(encoder, x) - latents).abs().max() < 1e-5 * latents.abs().max()
    latents = codec.quantize(latents)
    assert (run(decoder, latents) - codec.g_s(latents)).abs().max() < 1e-5
    found = set(graph.facts(decoder, tuple(latents.shape)).operators)
    assert found == {"Conv", "Add", "Mul", "Relu", "Sigmoid", upward}
    layers = {graph.layer_of(node) for node in onnx.load(decoder).graph.node}
    assert {"g_s.0", "g_s.0.conv_a.0.conv.0", "g_s.1", "g_s.2", "g_s.2.conv1"} <= layers
