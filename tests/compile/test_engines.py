"""ncnn and MNN: their files, what they compute, and what is said where they do not convert or are not installed."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codecswap import cli
from codecswap.benchmarking.contenders import of_folder
from codecswap.benchmarking.machines import this_machine
from codecswap.benchmarking.runtimes import MODULES
from codecswap.codecs.source import load_codec
from codecswap.errors import UserError
from codecswap.export.backends import engines
from codecswap.export.backends.engines import ENGINES
from codecswap.inference.runtime import OnnxCodec
from codecswap.runner.networks import RUNTIMES


@pytest.fixture(params=["ncnn", "mnn"])
def engine(request: pytest.FixtureRequest) -> str:
    """An engine that is installed."""
    if ENGINES[request.param].installed() is None:
        pytest.skip(ENGINES[request.param].install)
    return request.param


def compile(output: Path, pictures: Path, *more: object) -> int:
    words = ["--output", output, "--images", pictures / "val", "--calibration_images", pictures / "train", *more]
    return cli.main(["compile", "--teacher", "tiny", "--height", "80", "--width", "96", *map(str, words)])


def test_its_files_mean_what_the_onnx_file_means(
    engine: str, tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture
) -> None:
    assert compile(tmp_path, pictures, "--target", engine, "--precision", "float32", "--part", "both") == 0
    assert f"Against the file, {ENGINES[engine].packages[0]}: " in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert {f"decoder{suffix}" for suffix in ENGINES[engine].suffixes} < set(report["files"])
    assert report["milliseconds"] > 0 and report["quality"]["to_float"] > 80
    encoder = report["encoder"]["quality"]
    assert encoder["compiled"] == pytest.approx(encoder["float32"], abs=0.05)
    # the folder, as `codecswap benchmark --codec` opens it
    (contender,) = of_folder(tmp_path, load_codec("tiny"), [engine], this_machine(MODULES))
    network = RUNTIMES[engine](contender.network((96, 80)), 1, dict(contender.config))
    symbols = np.random.default_rng(0).integers(-3, 4, (80, 5, 6)).astype(np.int32)
    onnx_codec = OnnxCodec(tmp_path)
    given = {"latents": onnx_codec.decoder_input(symbols)[None]}
    error = network.array(network.run(network.given(given)))[0] - onnx_codec.synthesize(symbols)
    assert np.sqrt(np.square(error).mean()) < 1e-4


def test_a_graph_that_it_does_not_have_is_refused(engine: str) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("NoSuchOperator", ["x"], ["y"], "n")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    with pytest.raises(UserError, match="try another --form"):
        ENGINES[engine].convert(model)


@pytest.mark.parametrize("name", ["ncnn", "mnn"])
def test_without_it_the_onnx_file_is_written_and_one_line_says_how_to_install_it(
    name: str, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def nothing(package: str) -> str:
        raise engines.PackageNotFoundError

    monkeypatch.setattr(engines, "version", nothing)
    assert compile(tmp_path, pictures, "--target", name) == 0
    said = capsys.readouterr().out
    assert f"Not installed: pip install {ENGINES[name].packages[0]}" in said and "accepts all" in said
    onnx.checker.check_model(onnx.load(tmp_path / "decoder.onnx"))
