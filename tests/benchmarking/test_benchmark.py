"""`codecswap benchmark`: rows, files, and what is said instead of a figure. No test asserts a time."""

import ast
import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from codecswap.benchmarking import command, contenders, machines, measure, runtimes
from codecswap.benchmarking.contenders import Contender, Forms, of_codec, of_folder, resized
from codecswap.benchmarking.estimates import estimate
from codecswap.benchmarking.machines import ask_here, ended, this_machine
from codecswap.benchmarking.measure import HeldOut, Sample, Times
from codecswap.cli import main
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config.measuring import PrecisionName, RuntimeName
from codecswap.entropy.bitstream import to_symbols
from codecswap.export.backends.engines import ENGINES
from codecswap.export.backends.onnx import decoder_graph
from codecswap.export.codec import quantize
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantize.codec import encode_samples
from codecswap.quantize.codec import quantize as in_memory
from codecswap.quantize.scheme import Scheme
from codecswap.runner import messages, networks

SMALL = (64, 64)
HERE = this_machine(runtimes.MODULES)


@pytest.fixture
def codec() -> FactorizedPrior:
    """A codec of a few channels with random weights, whose results have many values."""
    torch.manual_seed(0)
    made = FactorizedPrior(8, 12)
    with torch.no_grad():
        made.g_a[6].weight *= 100
        made.g_s[6].bias += 0.5
    made.make_tables()
    return made.eval().requires_grad_(False)


@pytest.fixture
def folder(tmp_path: Path, codec: FactorizedPrior) -> Path:
    """Its decoder in 8 bits, as `codecswap quantize` writes it."""
    random = np.random.default_rng(0)
    pictures = [random.random((3, *SMALL), np.float32) for _ in range(2)]
    quantize(codec, tmp_path / "folder", equalize=False, refit=False, calibration_images=pictures)
    return tmp_path / "folder"


def decibels(x: np.ndarray, picture: np.ndarray) -> float:
    shown = np.rint(np.clip(x.astype(np.float64), 0, 1) * 255) / 255
    return float(10 * np.log10(1 / np.mean((shown - picture) ** 2)))


def relu_file(path: Path, shape: tuple[int | str, ...] = (1, 3, "h", "w")) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_a_folder_loses_what_an_independent_computation_says(
    codec: FactorizedPrior, folder: Path, photographs: str
) -> None:
    held_out = HeldOut(codec, codec, photographs)
    (contender,) = of_folder(folder, codec, ["onnxruntime"], HERE)
    (row,) = measure.measure([contender], [SMALL], held_out, ask_here, rounds=1)
    assert row.status == measure.OK and row.precision == "w8a8" and row.runtime == "onnxruntime"
    assert row.bytes == (folder / "decoder.onnx").stat().st_size
    assert row.memory and row.memory > 10_000_000 and row.version.startswith("onnxruntime ")
    opened, losses = OnnxCodec(folder), []
    for sample in held_out.samples(SMALL):
        assert sample.picture is not None
        coded = to_symbols(TorchCodec(codec), sample.picture)
        with torch.no_grad():
            float_picture = codec.g_s(torch.from_numpy(coded.symbols.astype(np.float32) + coded.means)[None])[0].numpy()
        eight_bits = opened.synthesize(coded.symbols, coded.means)
        losses.append(decibels(float_picture, sample.picture) - decibels(eight_bits, sample.picture))
    assert len(losses) == 2 and abs(np.mean(losses)) > 1e-3
    assert row.lost == pytest.approx(np.mean(losses), abs=0.01)


def test_every_form_of_a_codec_decodes_alike(codec: FactorizedPrior, photographs: str) -> None:
    forms, files = ("native", "masked", "subpixel"), Forms(codec)
    found = list(of_codec(codec, "it", ["subpixel"], ["float32"], ["pytorch"], files, HERE))
    found += of_codec(codec, "it", forms, ["float32", "float16"], ["onnxruntime"], files, HERE)
    rows = measure.measure(found, [SMALL], HeldOut(codec, codec, photographs), ask_here, rounds=1)
    assert [(row.runtime, row.form, row.precision) for row in rows] == [
        ("pytorch", "subpixel", "float32"),
        *(("onnxruntime", form, precision) for form in forms for precision in ("float32", "float16")),
    ]
    for row in rows:
        assert row.status == measure.OK, row
        assert row.lost is not None and row.to_reference is not None
        assert abs(row.lost) < 0.1 and row.to_reference > (50 if row.precision == "float16" else 80)
        assert list(row.times) == ["64x64"]


@pytest.mark.parametrize("precision", ["w8a8", "w8a16"])
def test_tflite_files_lose_what_their_onnx_twins_lose(codec: FactorizedPrior, photographs: str, precision: str) -> None:
    pytest.importorskip("ai_edge_litert")
    found = of_codec(codec, "it", ("subpixel",), [precision], ["onnxruntime", "litert"], Forms(codec), HERE)
    held_out = HeldOut(codec, codec, photographs)
    rows = measure.measure(list(found), [SMALL], held_out, ask_here, rounds=1)
    assert [row.status for row in rows] == [measure.OK] * 2
    assert rows[0].lost == pytest.approx(rows[1].lost, abs=0.5)


@pytest.mark.parametrize("engine", ["ncnn", "mnn"])
def test_an_engine_decodes_what_pytorch_does(codec: FactorizedPrior, photographs: str, engine: str) -> None:
    if ENGINES[engine].installed() is None:
        pytest.skip(ENGINES[engine].install)
    found = of_codec(codec, "it", ("native", "subpixel"), ["float32", "float16"], [engine], Forms(codec), HERE)
    rows = measure.measure(list(found), [SMALL], HeldOut(codec, codec, photographs), ask_here, rounds=1)
    assert [row.status for row in rows] == [measure.OK] * 4
    sizes = {row.precision: row.bytes or 0 for row in rows if row.form == "native"}
    assert sizes["float16"] < 0.7 * sizes["float32"]
    assert all((row.to_reference or 0) > (40 if row.precision == "float16" else 80) for row in rows)


def test_integer_files_are_estimated_for_ethos_u(codec: FactorizedPrior) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("ethosu.vela")
    precisions, runtimes_ = ["float32", "w8a8"], ["onnxruntime", "litert"]
    found = estimate(
        list(of_codec(codec, "it", ("subpixel",), precisions, runtimes_, Forms(codec), HERE)), [SMALL], "vela 1"
    )
    assert [(one.precision, one.chip) for one in found] == [("w8a8", "ethos-u55-256"), ("w8a8", "ethos-u85-1024")]
    assert all(one.cycles > 0 and one.milliseconds > 0 and one.memory > 0 and one.on_cpu == 0 for one in found)


def test_masks_of_another_size_are_those_of_the_float_file(codec: FactorizedPrior) -> None:
    random = np.random.default_rng(0)
    samples = encode_samples(codec, [random.random((3, 48, 80), np.float32)])
    how = {"form": "masked", "size": (48, 80)}
    made = in_memory(codec, samples, Scheme(equalize=False, refit=False), **how).networks["decoder"].transform
    found, wanted = resized(made, (96, 128), codec.factor), decoder_graph(codec, form="masked", size=(128, 96))
    masks = {name: one.values for name, one in wanted.constants.items() if name.endswith("mask")}
    assert len(masks) == 4 and found.output_shape == wanted.output_shape
    for name, values in masks.items():
        stored = found.constants[name]
        levels = stored.values.astype(np.float32) - (stored.quantization.zero_point if stored.quantization else 0)
        np.testing.assert_array_equal(levels / levels.max(), values)


def test_rounds_take_turns_and_quartiles_are_of_all_runs() -> None:
    seen = []

    def ask(request: bytes, threads: int, python: Path | None) -> tuple[bytes, str]:
        facts, arrays = messages.unpack(request)
        seen.append((arrays["64x64"].tobytes().decode(), len(facts["tasks"])))
        later = len(seen) > 3
        done = [{"ms": [], "cpu_ms": []} for _ in facts["tasks"][:-1]]
        done.append({"ms": [2.0, 4.0] if later else [1.0, 3.0], "cpu_ms": [1.0, 1.0]})
        results = {str(index): np.zeros((1, 3, 2, 2), np.float32) for index in range(len(done) - 1)}
        return messages.pack({"tasks": done, "version": "v", "peak_bytes": 100 + later}, results), ""

    class Zeros:
        def samples(self, size: tuple[int, int]) -> list[Sample]:
            return [Sample({"x": np.zeros(1)}, np.full((3, 2, 2), 0.1, np.float32))]

    three = [Contender("s", form, "p", "onnxruntime", network=lambda size, form=form: form.encode()) for form in "abc"]
    rows = measure.measure(three, [SMALL], Zeros(), ask, rounds=2)
    assert seen == [("a", 2), ("b", 2), ("c", 2), ("a", 1), ("b", 1), ("c", 1)]
    assert [row.times["64x64"] for row in rows] == [Times(2.5, 1.75, 3.25, 1.0)] * 3
    assert rows[0].to_reference == pytest.approx(20) and rows[0].lost is None
    assert rows[1].memory == 101 and rows[1].bytes == 1


def test_quartiles() -> None:
    times = Times.of([4.0, 1.0, 3.0, 2.0, 5.0], [7.0, 9.0, 8.0])
    assert (times.lower, times.median, times.upper, times.cpu) == (2.0, 3.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("answer", "how", "said"),
    [
        (b"", ended(-9, b""), "ended by SIGKILL (too little memory?)"),
        (b"", ended(3, b"a\nno space\n"), "ended with code 3 (no space)"),
        (b'{"error": "ValueError: 3 channels"}', "", "ValueError: 3 channels"),
    ],
)
def test_a_runtime_that_fails_is_a_row(codec: FactorizedPrior, answer: bytes, how: str, said: str) -> None:
    found = list(of_codec(codec, "it", ("native",), ["float32"], ["onnxruntime"], Forms(codec), HERE))
    (row,) = measure.measure(found, [SMALL], HeldOut(codec, codec), lambda *given: (answer, how), rounds=1)
    assert said in row.status and row.lost is None and not row.times and row.bytes


def test_the_runner_says_what_it_cannot_open() -> None:
    facts = {"runtime": "onnxruntime", "threads": 1, "config": {"provider": "CPUExecutionProvider", "entries": {}}}
    facts["tasks"] = [{"network": "n", "feeds": {}, "repeats": 1, "keep": False}]
    content, _ = ask_here(messages.pack(facts, {"n": np.zeros(9, np.uint8)}), 1)
    assert json.loads(content)["error"]


def test_the_runner_needs_nothing_else_of_the_package_and_an_old_python() -> None:
    folder = Path(networks.__file__).parent
    assert {f"{name}.py" for name in (*machines.RUNNER, "__init__")} == {path.name for path in folder.glob("*.py")}
    sent: set[str] = set()
    for name in machines.RUNNER:
        tree = ast.parse((folder / f"{name}.py").read_text("utf-8"), feature_version=(3, 8))
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {one for one in names if one.startswith("codecswap")} <= sent
        sent.add(f"codecswap.runner.{name}")


def test_names_of_options_are_those_of_the_tables() -> None:
    assert set(get_args(RuntimeName)) == set(runtimes.RUNTIMES)
    assert {name for one in runtimes.RUNTIMES.values() for name in one.precisions} == set(get_args(PrecisionName))
    assert {one.runner for one in runtimes.RUNTIMES.values()} == set(networks.RUNTIMES)


def test_the_command_writes_the_rows_twice(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--teacher", "tiny", "--form", "native", "--precision", "float32", "--runtime", "onnxruntime"]
    words += ["--sizes", "32x48,64x64", "--rounds", "1", "--output", str(tmp_path / "out")]
    assert main(["benchmark", *words]) == 0
    content = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))
    (row,) = content["rows"]
    assert content["format"] == "codecswap benchmark" and content["threads"] == 1 and content["machine"]
    assert row["status"] == "ok" and list(row["times"]) == ["32x48", "64x64"] and abs(row["lost"]) < 0.01
    lines = (tmp_path / "out" / "benchmark.csv").read_text("utf-8").splitlines()
    head = [line.partition(": ")[0] for line in lines if line.startswith("# ")]
    assert head == ["# command", "# codecswap", "# commit", "# date", "# machine"]
    (flat,) = csv.DictReader(lines[len(head) :])
    assert flat["ms_64x64_median"] == f"{row['times']['64x64']['median']:.3f}" and flat["bytes"] == str(row["bytes"])
    assert "native, float32, onnxruntime" in capsys.readouterr().out


def test_a_runtime_that_is_not_installed_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(machines, "find_spec", lambda name: None)
    words = ["--teacher", "tiny", "--runtime", "openvino,litert", "--output", str(tmp_path / "out")]
    assert main(["benchmark", *words]) == 0
    said = capsys.readouterr().out
    assert "openvino: Not installed: pip install openvino." in said and "pip install ai-edge-litert" in said
    rows = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["rows"]
    assert [row["runtime"] for row in rows] == ["openvino", "litert"] and not any(row["times"] for row in rows)


def test_an_onnx_file_of_any_kind(tmp_path: Path, codec: FactorizedPrior) -> None:
    from codecswap.export.backends.onnx import export_decoder

    export_decoder(codec, tmp_path / "decoder.onnx")
    words = ["--onnx", str(tmp_path / "decoder.onnx"), "--runtime", "onnxruntime", "--sizes", "64x64", "--rounds", "1"]
    assert main(["benchmark", *words, "--output", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "benchmark.json").read_text("utf-8"))["rows"]
    assert {row["form"]: row["status"] == "ok" for row in rows} == {
        "native": True,
        "subpixel": True,
        "masked": False,  # of any size
        "phases": True,
    }
    assert all(row["to_reference"] > 80 and row["lost"] is None for row in rows if row["status"] == "ok")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "256"], "--sizes takes widths and heights"),
        (["--sizes", "60x64"], "multiples of 16"),
        (["--threads", "0"], "--threads is at least 1"),
        (["--rounds", "0"], "--rounds is at least 1"),
        (["--runtime", "tensorrt"], "--runtime"),
        (["--codec", "nowhere"], "There is no codec nowhere"),
        (["--onnx", "nowhere.onnx"], "leave out --precision"),
        (["--output", __file__], "not a folder"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--teacher", "tiny", "--form", "native", "--precision", "float32", *words]) == 2
    captured = capsys.readouterr().err
    assert said in captured and captured.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_that_cannot_be_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.onnx").write_bytes(b"nothing")
    assert main(["benchmark", "--onnx", str(tmp_path / "a.onnx"), "--output", str(tmp_path / "out")]) == 2
    assert main(["benchmark", "--onnx", str(tmp_path / "b.onnx"), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 2 and not (tmp_path / "out").exists()


def test_a_folder_of_another_codec(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--teacher", "tiny", "--codec", str(folder), "--output", str(tmp_path / "out")]
    assert main(["benchmark", *words]) == 2
    assert "is of another codec" in capsys.readouterr().err


def test_a_folder_of_a_fixed_size_says_which(codec: FactorizedPrior, folder: Path) -> None:
    (contender,) = of_folder(folder, codec, ["onnxruntime"], HERE)
    fixed = replace(contender, size=(48, 32))
    (row,) = measure.measure([fixed], [SMALL], HeldOut(codec, codec), ask_here, rounds=1)
    assert row.status == "Its size is fixed: add --sizes 48x32."


@pytest.mark.parametrize("turn", [0, 1])
def test_an_interrupt_leaves_files_as_they_were(
    turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relu: Callable[[], Path]
) -> None:
    there, turns = tmp_path / "out", []
    there.mkdir()
    (there / "benchmark.json").write_text("old")

    def interrupted(request: bytes, threads: int, python: Path | None) -> tuple[bytes, str]:
        turns.append(0)
        if len(turns) > turn:
            raise KeyboardInterrupt
        return ask_here(request, threads)

    here = replace(HERE, ask=interrupted)
    monkeypatch.setattr(command, "this_machine", lambda modules: here)
    words = ["--onnx", str(relu()), "--form", "native", "--runtime", "onnxruntime", "--sizes", "16x16"]
    assert main(["benchmark", *words, "--output", str(there)]) == 130
    assert [path.name for path in there.iterdir()] == ["benchmark.json"]
    assert (there / "benchmark.json").read_text() == "old"


@pytest.fixture
def relu(tmp_path: Path) -> Callable[[], Path]:
    """Makes an ONNX file of one operator."""
    return lambda: relu_file(tmp_path / "relu.onnx")


def test_what_is_quantized_is_quantized_once(codec: FactorizedPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    make = contenders.quantize
    monkeypatch.setattr(contenders, "quantize", lambda *given, **how: calls.append(given) or make(*given, **how))
    files, scheme = Forms(codec), Scheme(equalize=False, refit=False)
    sizes = [files.onnx("subpixel", "w8a8", scheme, size) for size in (SMALL, (96, 64))]
    assert len(calls) == 1 and sizes[0] != sizes[1]
