"""OpenVINO: its files, and what it computes, on whatever processor this is."""

import json
from pathlib import Path

import numpy as np
import pytest

from codecswap import cli
from codecswap.inference.runtime import OnnxCodec

openvino = pytest.importorskip("openvino")


@pytest.mark.parametrize("precision", ["float32", pytest.param("w8a8", marks=pytest.mark.slow)])
def test_files_mean_the_same_to_openvino(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture, precision: str
) -> None:
    folders = ["--output", tmp_path, "--images", pictures / "val", "--calibration_images", pictures / "train"]
    more = ["--target", "openvino", "--precision", precision, "--height", 96, "--width", 80]
    assert cli.main(["compile", "--teacher", "tiny", *map(str, [*folders, *more])]) == 0
    assert "one thread:" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert report["files"][:3] == ["decoder.xml", "decoder.bin", "decoder.onnx"]
    assert report["compiler"].startswith("openvino 20") and report["milliseconds"] > 0
    assert report["quality"]["to_float"] > (100 if precision == "float32" else 35)
    # its own files, as another program would open them
    symbols = np.random.default_rng(0).integers(-3, 4, (80, 6, 5)).astype(np.int32)
    exact = OnnxCodec(tmp_path, reference=True)
    alone = openvino.Core().compile_model(tmp_path / "decoder.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    error = alone([exact.decoder_input(symbols)[None]])[0][0] - exact.synthesize(symbols)
    assert np.sqrt(np.square(error).mean()) < (1e-5 if precision == "float32" else 10 ** (-50 / 20))
