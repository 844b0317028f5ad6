"""Folders that were compiled for an NPU, in its board's runtime: stand-ins of Rockchip's and Arm's, Qualcomm's own emulator."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from codecswap.benchmarking import machines, measure, runtimes
from codecswap.benchmarking.contenders import of_folder
from codecswap.benchmarking.machines import Machine, ask_here, this_machine
from codecswap.benchmarking.measure import HeldOut, Row
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.export.codec import export, quantize
from codecswap.runner import networks

SIZE = (64, 48)
NPUS = ["onnxruntime-qnn", "litert-ethos-u", "rknnlite"]
INFO = "rknn_toolkit_lite2-9.8.dist-info/METADATA"
RKNNLITE = {
    INFO: "Metadata-Version: 2.1\nName: rknn-toolkit-lite2\nVersion: 9.8\n",
    "rknnlite/__init__.py": "",
    "rknnlite/api.py": """
import onnxruntime
class RKNNLite:
    def load_rknn(self, path):
        self.content = open(path, "rb").read()
        return 0 if self.content.startswith(b"RKNN") else -1
    def init_runtime(self):
        self.session = onnxruntime.InferenceSession(self.content[4:], providers=["CPUExecutionProvider"])
        return 0
    def inference(self, inputs, data_format=None):
        assert data_format == ["nhwc"] and inputs[0].flags.c_contiguous
        name = self.session.get_inputs()[0].name
        return self.session.run(None, {name: inputs[0].transpose(0, 3, 1, 2)})
""",
}
LITERT = {
    "ai_edge_litert/__init__.py": "__version__ = '7.6'",
    "ai_edge_litert/interpreter.py": """
import numpy, onnxruntime, os
def load_delegate(name):
    if os.environ.get("NO_DELEGATE"):
        raise OSError(f"{name}: cannot open shared object file")
    return name
class Interpreter:
    def __init__(self, model_content, num_threads, experimental_delegates):
        assert experimental_delegates == ["libethosu_delegate.so"]
        self.session = onnxruntime.InferenceSession(model_content, providers=["CPUExecutionProvider"])
    def allocate_tensors(self):
        pass
    def get_input_details(self):
        return [{"index": 3, "dtype": numpy.float32, "quantization": (0.0, 0)}]
    def get_output_details(self):
        return [{"index": 7, "quantization": (0.0, 0)}]
    def set_tensor(self, index, values):
        assert index == 3
        self.given = values.transpose(0, 3, 1, 2)
    def invoke(self):
        (self.result,) = self.session.run(None, {self.session.get_inputs()[0].name: self.given})
    def get_tensor(self, index):
        assert index == 7
        return self.result.transpose(0, 2, 3, 1)
""",
}


@pytest.fixture
def codec() -> FactorizedPrior:
    """A codec of a few channels with random weights."""
    torch.manual_seed(0)
    made = FactorizedPrior(8, 12)
    with torch.no_grad():
        made.g_s[6].bias += 0.5
    made.make_tables()
    return made.eval().requires_grad_(False)


def compiled(folder: Path, codec: FactorizedPrior, toolchain: str, file: str, start: bytes = b"") -> Path:
    """A folder as `codecswap compile` writes it, whose compiled file is an ONNX file after a few bytes."""
    export(codec, folder, part="decoder", width=SIZE[0], height=SIZE[1])
    (folder / file).write_bytes(start + (folder / "decoder.onnx").read_bytes())
    (folder / "report.json").write_text(json.dumps({"toolchain": toolchain, "precision": "float16"}))
    return folder


def measured(folder: Path, codec: FactorizedPrior, names: Sequence[str], modules: Sequence[str]) -> list[Row]:
    board = Machine(ask_here, "", frozenset(modules), False, is_board=True)
    found = list(of_folder(folder, codec, names, board))
    return measure.measure(found, [SIZE], HeldOut(codec, codec), board.ask, rounds=1)


def installed(site: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    environment = machines._environment
    monkeypatch.setattr(machines, "_environment", lambda threads: environment(threads) | {"PYTHONPATH": str(site)})


def test_rockchips_runtime_runs_its_folder(
    tmp_path: Path, codec: FactorizedPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", RKNNLITE, monkeypatch)
    folder = compiled(tmp_path / "folder", codec, "rknn", "decoder.rknn", b"RKNN")
    both = measured(folder, codec, ["onnxruntime", *NPUS], ["onnxruntime", "rknnlite", "ai_edge_litert"])
    assert [row.runtime for row in both] == ["onnxruntime", "rknnlite"]
    row = both[1]
    assert row.status == measure.OK and row.version == "rknn-toolkit-lite2 9.8" and row.precision == "float16"
    assert row.to_reference is not None and row.to_reference > 80 and list(row.times) == ["64x48"]
    (folder / "decoder.rknn").write_bytes(b"other")
    (row,) = measured(folder, codec, NPUS, ["rknnlite"])
    assert row.status.startswith("Failed: RuntimeError: RKNNLite does not open the network. It needs pip install rknn")


def test_a_board_without_its_runtime_says_how_to_install_it(tmp_path: Path, codec: FactorizedPrior) -> None:
    folder = compiled(tmp_path / "folder", codec, "rknn", "decoder.rknn")
    (row,) = measured(folder, codec, NPUS, ["onnxruntime"])
    assert row.status.startswith("Not installed: pip install rknn-toolkit-lite2 on the board")


def test_ethos_u_runs_through_its_delegate(
    tmp_path: Path, codec: FactorizedPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", LITERT, monkeypatch)
    folder = compiled(tmp_path / "folder", codec, "vela", "decoder_vela.tflite")
    (row,) = measured(folder, codec, NPUS, ["ai_edge_litert", "rknnlite"])
    assert (row.status, row.runtime, row.version) == (measure.OK, "litert-ethos-u", "ai_edge_litert 7.6")
    assert row.to_reference is not None and row.to_reference > 80
    monkeypatch.setenv("NO_DELEGATE", "1")
    (row,) = measured(folder, codec, NPUS, ["ai_edge_litert"])
    assert "libethosu_delegate.so: cannot open shared object file. It needs pip install ai-edge-litert" in row.status


def test_qualcomms_emulator_runs_its_folder(tmp_path: Path, codec: FactorizedPrior) -> None:
    pytest.importorskip("onnxruntime_qnn")
    random = np.random.default_rng(0)
    pictures = [random.random((3, SIZE[1], SIZE[0]), np.float32) for _ in range(2)]
    how = {"form": "subpixel", "equalize": False, "refit": False, "calibration_images": pictures}
    folder = tmp_path / "folder"
    quantize(codec, folder, width=SIZE[0], height=SIZE[1], **how)
    (folder / "report.json").write_text(json.dumps({"toolchain": "qnn", "precision": "w8a8"}))
    here = this_machine(runtimes.MODULES)
    found = list(of_folder(folder, codec, ["onnxruntime", *NPUS], here))
    rows = measure.measure(found, [SIZE], HeldOut(codec, codec), here.ask, rounds=1)
    assert [(row.runtime, row.status) for row in rows] == [("onnxruntime", measure.OK), ("onnxruntime-qnn", measure.OK)]
    assert rows[1].version.endswith(networks.EMULATED) and not rows[0].version.endswith(networks.EMULATED)
    assert all(row.lost is not None for row in rows) and rows[1].lost == pytest.approx(rows[0].lost, abs=0.5)


def test_an_onnxruntime_without_qnn_says_so(
    tmp_path: Path, codec: FactorizedPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    export(codec, tmp_path / "folder", part="decoder")
    content = (tmp_path / "folder" / "decoder.onnx").read_bytes()
    with pytest.raises(RuntimeError, match="this onnxruntime has no QNNExecutionProvider"):
        networks.OnnxRuntime(content, 1, runtimes.configuration("onnxruntime-qnn", "w8a8", False))


def test_other_codecs_have_no_rows_of_npus(tmp_path: Path, codec: FactorizedPrior) -> None:
    export(codec, tmp_path / "folder", part="decoder")
    board = replace(this_machine(()), modules=frozenset(runtimes.MODULES))
    assert not list(of_folder(tmp_path / "folder", codec, NPUS, board))
