"""TensorRT: the network, and the script that builds its engine, with a package of the interface that its documents promise."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from codecswap import cli

FAKE = """
class Logger:
    WARNING = 2
    def __init__(self, level): pass
class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1
class OnnxParser:
    num_errors = 1
    def __init__(self, network, logger): pass
    def parse_from_file(self, path):
        self.content = open(path, "rb").read(); return b"DepthToSpace" in self.content
    def get_error(self, index): return "no such operator"
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): assert flags == 2
    def create_builder_config(self): pass
    def build_serialized_network(self, network, config): return memoryview(b"engine")
__version__ = "0"
"""


@pytest.mark.parametrize(("form", "precision"), [("subpixel", "float16"), ("native", "float32")])
def test_the_files_and_the_script(
    form: str, precision: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--teacher", "tiny", "--target", "tensorrt", "--form", form, "--precision", precision]
    words += ["--images", str(pictures / "val"), "--calibration_images", str(pictures / "train")]
    made = tmp_path / "made"
    assert cli.main(["compile", *words, "--height", "80", "--width", "96", "--output", str(made)]) == 0
    said = capsys.readouterr().out
    assert "Against the file, ONNX Runtime: " in said and "pip install tensorrt" in said and "accepts all" in said
    model = onnx.load(made / "decoder_tensorrt.onnx")
    assert not any(item.name == "output_padding" for node in model.graph.node for item in node.attribute)
    weights = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16 if precision == "float16" else onnx.TensorProto.FLOAT}
    quality = json.loads((made / "report.json").read_bytes())["quality"]
    assert quality["to_file"] > (60 if precision == "float16" else 100)
    (tmp_path / "tensorrt.py").write_text(FAKE)
    how = {"capture_output": True, "text": True, "env": {"PYTHONPATH": str(tmp_path)}}
    done = subprocess.run([sys.executable, made / "build_engine.py"], **how)
    built = form == "subpixel"  # the other has no DepthToSpace, which this TensorRT asks for
    assert (done.returncode == 0) == built == (made / "decoder_tensorrt.engine").exists()
    assert ("Written: " if built else "no such operator") in done.stdout
