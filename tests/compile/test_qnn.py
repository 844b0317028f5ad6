"""Qualcomm's HTP in its emulator: all of the decoder is there, and 16-bit activations are as good as float."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_pack import SIDE

from codecswap import cli
from codecswap.compile import qnn
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantized import precision
from codecswap.quantized.representation import Quantization

pytest.importorskip("onnxruntime_qnn", reason="onnxruntime-qnn is not installed: pip install codecswap[npu]")


def compiled(pictures: Path, folder: Path, *more: str) -> int:
    """Compile on a small size, for one picture."""
    size = ["--height", str(SIDE), "--width", str(SIDE)]
    sources = ["--teacher", "tiny", "--calibration_images", str(pictures / "train"), "--images", str(pictures / "val")]
    return cli.main(["compile", "--target", "qnn", "--output", str(folder), *size, *sources, *more])


@pytest.fixture
def one(pictures: Path, tmp_path: Path) -> Path:
    """The pictures, of which a single small one is measured."""
    from PIL import Image

    (tmp_path / "one" / "val").mkdir(parents=True)
    (tmp_path / "one" / "train").symlink_to(pictures / "train")
    first = min((pictures / "val").iterdir())
    with Image.open(first) as picture:
        picture.crop((60, 60, 60 + SIDE, 60 + SIDE)).save(tmp_path / "one" / "val" / first.name)
    return tmp_path / "one"


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param("w8a16", 46, marks=pytest.mark.slow),
        pytest.param("mixed", 46, marks=pytest.mark.slow),
        ("w8a8", 38),
    ],
)
def test_all_of_it_runs_there_and_it_means_what_the_file_means(
    one: Path, tmp_path: Path, name: str, least: float
) -> None:
    folder = tmp_path / name
    assert compiled(one, folder, "--precision", name) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["compiler"].startswith("onnxruntime-qnn ")
    assert [item["layer"] for item in report["operators"] if item["operator"] == "Conv"] == [
        f"g_s.{i}" for i in range(7)
    ]
    assert all(item["on_npu"] for item in report["operators"])
    assert report["quality"]["to_float"] > least
    assert (folder / "decoder_htp.onnx").stat().st_size > 100_000
    # the emulator's integers against the file's reference execution: a bias beyond int32 would show here
    rng = np.random.default_rng(0)
    symbols = rng.integers(-3, 4, (80, SIDE // 16, SIDE // 16)).astype(np.int32)
    codec = OnnxCodec(folder, reference=True)
    session = qnn._opened(folder / "decoder.onnx", "v73", tmp_path / "again.onnx")
    assert session
    error = session.run(None, {"split_inputs": codec.decoder_input(symbols)[None]})[0][0] - codec.synthesize(symbols)
    assert -10 * np.log10(np.square(error).mean()) > 48


def test_what_it_refuses_is_named_by_layer(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    narrow = property(lambda self: Quantization.fixed(1, -128, "uint8"))
    monkeypatch.setattr(precision.Precision, "split_inputs", narrow)  # a convolution with 8-bit input and 16-bit output
    folder = tmp_path / "refused"
    assert compiled(one, folder, "--precision", "w8a16") == 3
    operators = json.loads((folder / "report.json").read_text())["operators"]
    assert {item["layer"] for item in operators if not item["on_npu"]} == {"g_s.0"}
    assert "on the CPU" in capsys.readouterr().out and not (folder / "decoder_htp.onnx").exists()


def test_without_the_plugin_the_files_are_written(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(qnn.QNN.__class__, "installed", lambda self, python: None)
    assert compiled(one, tmp_path / "files") == 0
    printed = capsys.readouterr().out
    assert "pip install codecswap[npu]" in printed and "Not checked" in printed
    assert (tmp_path / "files" / "decoder.onnx").is_file()
