"""ExecuTorch: its worker's operators against ONNX Runtime, and (slow) the processes of another Python."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fake_environment import fake_environment
from onnx import TensorProto, helper

from codecswap import cli
from codecswap.codecs.source import load_codec
from codecswap.compile.executorch import sentence
from codecswap.export.backends.executorch_worker import OPERATORS, Graph
from codecswap.export.backends.onnx import decoder_graph, encoder_graph, to_onnx
from codecswap.inference.runtime import open_session
from codecswap.targets.target import load_target

ROOT = Path(__file__).parents[2]
FAKES = {
    "backends/xnnpack/partition/xnnpack_partitioner.py": "class XnnpackPartitioner: pass\n",
    "exir/__init__.py": """
import io, torch
class Lowered:
    def __init__(self, exported): self.exported = exported
    def exported_program(self): return self.exported
    def to_executorch(self):
        file = io.BytesIO(); torch.export.save(self.exported, file); self.buffer = file.getvalue(); return self
def to_edge_transform_and_lower(exported, partitioner): return Lowered(exported)
""",
    "runtime/__init__.py": """
import io, torch
class Runtime:
    @staticmethod
    def get(): return Runtime()
    def load_program(self, given):
        print("chatter on standard output")
        self.module = torch.export.load(io.BytesIO(given) if isinstance(given, bytes) else given).module(); return self
    def load_method(self, name): assert name == "forward"; return self
    def execute(self, inputs): return [self.module(*inputs)]
""",
    "extension/pybindings/portable_lib.py": "def _unsafe_reset_threadpool(threads): assert threads == 1\n",
}
"""ExecuTorch's modules with PyTorch inside: what its documents promise of the functions that are called."""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that has an ExecuTorch of this interface, where `make executorch` puts it."""
    files = {f"executorch/{name}": text for name, text in FAKES.items()}
    path = fake_environment(tmp_path, "executorch", "executorch", "1.4.1", files)
    monkeypatch.chdir(tmp_path)
    return path


def compile(output: Path, pictures: Path, *more: object) -> int:
    words = ["--output", output, "--images", pictures / "val", "--calibration_images", pictures / "train", *more]
    size = ("--height", "80", "--width", "96")
    return cli.main(["compile", "--teacher", "tiny", "--target", "executorch", *size, *map(str, words)])


def agrees(model: onnx.ModelProto) -> None:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    wanted = open_session(model.SerializeToString()).run(None, {model.graph.input[0].name: x})[0]
    with torch.no_grad():
        result = Graph(model.graph).eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(result, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("form", ["native", "masked", "subpixel"])
def test_the_worker_computes_what_the_decoder_s_file_means(form: str) -> None:
    agrees(to_onnx(decoder_graph(load_codec("tiny"), form=form, size=(48, 64)), 13))


@pytest.mark.parametrize("name", ["tiny", "tiny_hyper"])
def test_the_worker_computes_what_the_encoder_s_file_means(name: str) -> None:
    agrees(to_onnx(encoder_graph(load_codec(name), (64, 64)), 13))


NODES = {
    "Slice": {"values": [[0, 1], [3, 9], [2, 3], [1, 2]]},
    "Reshape": {"values": [[2, 4, 4, 8]]},
    "Softmax": {"axis": 1},
    "Transpose": {"perm": [0, 2, 3, 1]},
    "LeakyRelu": {"alpha": 0.2},
    "DepthToSpace": {"blocksize": 2, "mode": "CRD"},
    **{name: {} for name in ("Abs", "Relu", "Sigmoid")},
}


@pytest.mark.parametrize("operator", NODES)
def test_an_operator_is_onnx_s(operator: str) -> None:
    attributes = dict(NODES[operator])
    constants = [np.array(values, np.int64) for values in attributes.pop("values", [])]
    stored = [onnx.numpy_helper.from_array(values, f"c{index}") for index, values in enumerate(constants)]
    names = [one.name for one in stored]
    x, y = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8]), onnx.ValueInfoProto(name="y")
    node = helper.make_node(operator, ["x", *names], ["y"], "n", **attributes)
    graph = helper.make_graph([node], "g", [x], [y], stored)
    opset = helper.make_opsetid("", 13)
    agrees(onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[opset], ir_version=8)))


def test_the_target_lists_the_worker_s_operators() -> None:
    assert load_target("executorch").operators == set(OPERATORS)


def test_what_xnnpack_does_not_take_is_counted() -> None:
    assert "kernels: a (2), b (1)." in sentence(("a", "b", "a")) and "all of it" in sentence(())


def test_without_it_the_onnx_file_is_written_and_one_line_says_how_to_install_it(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compile(tmp_path / "out", pictures) == 0
    assert "Not installed: executorch: `make executorch` makes" in capsys.readouterr().out
    assert (tmp_path / "out" / "decoder.onnx").is_file() and not (tmp_path / "out" / "decoder.pte").exists()


def test_a_python_without_it_is_said(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    assert compile(tmp_path / "out", pictures, "--toolchain_python", "/nowhere/python") == 2
    assert "no Python with executorch" in capsys.readouterr().err


@pytest.mark.slow
def test_another_python_converts_computes_and_is_timed(
    python: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compile(tmp_path / "out", pictures) == 0
    printed = capsys.readouterr().out
    assert "chatter" not in printed and "executorch 1.4.1: compiled." in printed
    assert "by ExecuTorch's portable kernels: " in printed and "pixel_shuffle" in printed  # the fake lowers nothing
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["files"][0] == "decoder.pte" and report["quality"]["to_file"] > 80

    words = ["--codec", "out", "--runtime", "executorch", "--sizes", "96x80", "--rounds", "1", "--output", "measured"]
    assert cli.main(["benchmark", "--teacher", "tiny", "--images", str(pictures / "val"), *words]) == 0
    (row,) = json.loads((tmp_path / "measured" / "benchmark.json").read_bytes())["rows"]
    assert row["status"] == "ok" and row["version"] == "executorch 1.4.1" and row["to_reference"] > 80


def test_a_graph_that_it_does_not_have_is_refused() -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Det", ["x"], ["y"], "n")], "g", ends[:1], ends[1:])
    with pytest.raises(ValueError, match="Det is not an operator of codecs"):
        Graph(graph)


@pytest.mark.slow
def test_the_real_one(tmp_path: Path, pictures: Path) -> None:
    real = ROOT / ".venv-executorch" / "bin" / "python"
    if (
        not real.exists()
        or subprocess.run([str(real), "-c", "import executorch.runtime"], capture_output=True).returncode
    ):
        pytest.skip("make executorch")
    assert compile(tmp_path / "out", pictures, "--toolchain_python", real) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert "XNNPACK computes all of it." in report["notes"] and report["quality"]["to_file"] > 100
