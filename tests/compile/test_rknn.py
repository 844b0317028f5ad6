"""Rockchip: what the toolkit's log says, the process that runs it, and (slow) the real one against its promises."""

import inspect
import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_environment import fake_environment

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.compile.folder import without_output_padding
from codecswap.compile.rknn import read_memory, read_operators
from codecswap.compile.rknn_graph import group_depth_to_space, own_integers
from codecswap.export.backends.onnx import export_decoder
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.inference.runtime import open_session
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph

ROOT = Path(__file__).parents[2]
HEAD = "D RKNN: [02:14:45.250] "
LOG = f"""
{HEAD}ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) FullName
{HEAD}     Network Layer Information Table
{HEAD}0    InputOperator      FLOAT16  CPU    \\                            (1,72,16,16)   0/0/0                 0     InputOperator:latents
{HEAD}1    Conv               FLOAT16  NPU    (1,72,16,16),(192,72,3,3)     (1,192,16,16)  16267/82944/82944     279   Conv:g_s.0/0/Conv
{HEAD}2    Sqrt               FLOAT16  CPU    (1,48,32,32)                  (1,48,32,32)   0/0/0          0%     96    Sqrt:g_s.1/Sqrt
{HEAD}3    Split              FLOAT16  NPU    (1,48,32,32)                  (1,48,32,32)   0/0/5          0%           Split:latents_split
{HEAD}4    OutputOperator     FLOAT16  CPU    (1,3,256,256)                 \\             0/0/0                 2048  OutputOperator:picture
{HEAD}<<<<<<<< end: rknn::RKNNModelRegCmdbuildPass
{HEAD}5    Conv               FLOAT16  NPU    (1,72,16,16)                  (1,192,16,16)  1/1/1                 279   Conv:g_s.0/another_table
{HEAD}Total Internal Memory Size: 9156KB
{HEAD}Total Weight Memory Size: 811.875KB
"""  # noqa: E501
FAKE = '''
"""rknn.api with ONNX Runtime inside: what its documents promise of the functions that are called, and its ranges."""
import numpy as np
import onnx
import onnxruntime
class RKNN:
    def __init__(self, verbose): print("W chatter on standard output")
    def config(self, target_platform): self.chip = target_platform; return 0
    def load_onnx(self, model):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # right on every processor
        self.session = onnxruntime.InferenceSession(as_ranges(onnx.load(model)).SerializeToString(), options)
        return 0
    def build(self, do_quantization):
        assert do_quantization is False
        if self.chip == "rk3566": print("E RKNN: REGTASK: too large\\n"); return -1
        print(LOG); return 0
    def export_rknn(self, path): open(path, "w").write(self.chip); return 0
    def init_runtime(self): return 0
    def inference(self, inputs, data_format): return self.session.run(None, {self.session.get_inputs()[0].name: inputs[0]})
'''


def as_ranges(model: onnx.ModelProto) -> onnx.ModelProto:
    """The function that the toolkit computes for a QDQ file, as measured."""
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    made = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        values, scale, zero_point = (stored.get(name) for name in node.input)
        name = node.input[1] + "_read"
        if values is not None and values.dtype == np.int8:  # 127 steps for the 128 of the type
            made[node.input[0]] = np.rint(values * (127 / 128)).astype(np.int8)
        elif values is not None or zero_point != 128:  # 128: symmetric
            continue
        made[name], node.input[1] = (scale * (128 / 127)).astype(np.float32), name
    for one in [one for one in model.graph.initializer if one.name in made]:
        model.graph.initializer.remove(one)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in made.items())
    return model


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that has a toolkit of this interface."""
    api = FAKE + inspect.getsource(as_ranges) + f"LOG = {LOG!r}\n"
    files = {"rknn/__init__.py": "", "rknn/api.py": api}
    return fake_environment(tmp_path, "rknn", "rknn-toolkit2", "2.5.0", files)


def compile(target: str, output: Path, pictures: Path, *more: object) -> int:
    folders = ["--output", output, "--images", pictures / "val", "--calibration_images", pictures / "val"]
    return cli.main(["compile", "--teacher", "tiny", "--target", target, *map(str, [*folders, *more])])


def test_the_table_of_layers_is_read_whatever_its_columns() -> None:
    found = [(one.layer, one.operator, one.on_npu, one.cycles) for one in read_operators(LOG)]
    assert found == [("g_s.0", "Conv", True, 82944), ("g_s.1", "Sqrt", False, 0), ("", "Split", True, 5)]
    assert read_memory(LOG) == round(1024 * (9156 + 811.875))
    assert read_memory("") is None


def test_the_toolkits_ranges_of_the_integers_that_it_gets_are_our_integers() -> None:
    """As measured: int8 weights become 127 steps over 128 times their scale; a zero point of 128 widens by 128 / 127."""
    weights = np.arange(-126, 127, dtype=np.int8).reshape(11, -1, 1, 1)
    scale = np.linspace(0.001, 0.02, 11, dtype=np.float32)
    of_weights = Quantization(scale, np.zeros(11, np.int8), 0)
    middle, other = (Quantization(np.array(0.1, np.float32), np.array(at, np.uint8)) for at in (128, 3))
    given = own_integers(
        TransformGraph("x", (), "y", (), (), {"w": Constant(weights, of_weights)}, {"x": middle, "y": other})
    )
    handed = given.constants["w"]
    assert handed.quantization and given.activations["x"].zero_point != 128 and given.activations["y"] is other
    np.testing.assert_array_equal(np.rint(handed.values * (127 / 128)), weights)
    np.testing.assert_allclose(handed.quantization.scale * (128 / 127), scale, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float16", "w8a8"])
def test_depth_to_space_in_groups_is_the_same_function(precision: str) -> None:
    activations: dict[str, Quantization] = {}
    if precision == "w8a8":
        activations = dict.fromkeys(("x", "y"), Quantization(np.array(0.02, np.float32), np.array(127, np.uint8)))
    step = Operation("g_s.0/1/DepthToSpace", "g_s.0", "DepthToSpace", {"blocksize": 2, "mode": "CRD"}, ("x",), "y")
    graph = TransformGraph("x", (1, 192, 4, 6), "y", (1, 48, 8, 12), (step,), {}, activations)
    model = qdq_model(graph, 13)
    given = {"x": np.random.default_rng(0).normal(0, 0.5, (1, 192, 4, 6)).astype(np.float32)}
    before = open_session(model.SerializeToString()).run(None, given)[0]
    group_depth_to_space(model)
    onnx.checker.check_model(model, full_check=True)
    kernels = [node for node in model.graph.node if node.op_type in ("DepthToSpace", "ConvTranspose")]
    assert [(node.op_type, node.name) for node in kernels] == [("ConvTranspose", "g_s.0/1/DepthToSpace")]
    read = as_ranges(model) if precision == "w8a8" else model
    np.testing.assert_allclose(open_session(read.SerializeToString()).run(None, given)[0], before, atol=1e-6)


def test_less_padding_at_the_end_is_output_padding(teacher: FactorizedPrior, tmp_path: Path) -> None:
    export_decoder(teacher, tmp_path / "decoder.onnx", height=64, width=64)
    model = onnx.load(tmp_path / "decoder.onnx")
    given = {"latents": np.random.default_rng(0).normal(0, 3, (1, 80, 4, 4)).astype(np.float32)}
    before = open_session(model.SerializeToString()).run(None, given)[0]
    without_output_padding(model)
    assert "output_padding" not in str(model.graph.node) and str(model.graph.node).count("ConvTranspose") > 3
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(open_session(model.SerializeToString()).run(None, given)[0], before, atol=1e-6)


@pytest.mark.parametrize("precision", ["float16", pytest.param("w8a8", marks=pytest.mark.slow)])
def test_another_python_builds_and_computes(
    python: Path,
    tmp_path: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where `make rknn` was run: its environment is found
    size = ("--height", 96, "--width", 80, "--precision", precision)
    assert compile("rk3576", tmp_path / "out", pictures, *size) == 3
    printed = capsys.readouterr().out
    assert "chatter" not in printed and "rknn-toolkit2 2.5.0: 2 operators on the NPU, 1 on the CPU" in printed
    assert (tmp_path / "out" / "decoder.rknn").read_text() == "rk3576"
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["quality"]["to_float"] > (100 if precision == "float16" else 35)
    assert report["quality"]["to_file"] > 55  # 38 if the toolkit is given the file itself
    model = onnx.load(tmp_path / "out" / "decoder.onnx")
    read_by = {name: node.op_type for node in model.graph.node for name in node.input}
    roots = [read_by[node.output[0]] for node in model.graph.node if node.op_type == "Sqrt"]
    assert roots == ["Mul"] * 3  # not rounded


@pytest.mark.slow
def test_what_does_not_build_is_said(
    python: Path, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compile("rk3566", tmp_path / "out", pictures, "--toolchain_python", python) == 2
    error = capsys.readouterr().err
    assert "failed in build" in error and "REGTASK: too large" in error and error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_without_the_toolkit_the_files_are_written(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compile("rk3588", tmp_path / "out", pictures, "--height", 96, "--width", 80) == 0
    assert "make rknn" in capsys.readouterr().out
    assert (tmp_path / "out" / "decoder.onnx").is_file() and not (tmp_path / "out" / "decoder.rknn").exists()


@pytest.fixture(scope="module")
def toolkit() -> Path:
    """The environment of ``make rknn``."""
    python = ROOT / ".venv-rknn" / "bin" / "python"
    if (
        subprocess.run([str(python), "-c", "from rknn.api import RKNN"], capture_output=True).returncode
        if python.exists()
        else 1
    ):
        made = subprocess.run(["make", "rknn"], cwd=ROOT, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"make rknn: {(made.stderr.strip() or made.stdout).splitlines()[-1]}")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("form", ["subpixel", "native"])
@pytest.mark.parametrize("target", ["rk3588", "rv1126b"])
def test_float16_runs_whole_on_the_npu_and_is_the_decoder(
    toolkit: Path, tmp_path: Path, pictures: Path, target: str, form: str
) -> None:
    more = ("--precision", "float16", "--form", form, "--toolchain_python", toolkit)
    assert compile(target, tmp_path / "out", pictures, *more) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert len(report["operators"]) > 15 and report["cycles"] > 1e6 and report["memory"] > 1 << 20
    assert report["quality"]["to_float"] > 70


@pytest.mark.slow
@pytest.mark.parametrize("target", ["rk3588", "rk3566", "rk3576", "rv1126b"])
def test_8_bits_run_whole_on_the_npu_and_lose_little(
    toolkit: Path, tmp_path: Path, pictures: Path, target: str
) -> None:
    more = ("--precision", "w8a8", "--toolchain_python", toolkit)
    folders = ["--output", tmp_path / "out", "--images", pictures / "val"]
    assert cli.main(["compile", "--teacher", "tiny", "--target", target, *map(str, [*folders, *more])]) == 0
    quality = json.loads((tmp_path / "out" / "report.json").read_bytes())["quality"]
    assert quality["to_file"] > 50 and abs(quality["compiled"] - quality["file"]) < 0.05, quality
    assert quality["to_float"] > 40, quality
