"""Arm Ethos-U: what Vela makes of our TFLite files, and that the simulator computes with Vela's own table."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from codecswap.cli import main
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.compile import ethos_u
from codecswap.compile.compiler import compile
from codecswap.compile.ethos_u import VELA, rsqrt_nodes, rsqrt_table, run_vela, simulator
from codecswap.compile.measure import EncoderQuality
from codecswap.data.pictures import to_picture
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.export.codec import quantize
from codecswap.inference.check import agreement
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap
from codecswap.targets.target import load_target

if not VELA.installed(None):
    pytest.skip("Vela and LiteRT are not installed (the extra npu)", allow_module_level=True)
litert = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
tflite = pytest.importorskip("codecswap.export.backends.tflite")

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """Quantized subpixel decoders of one small size, by precision."""
    samples = list(islice(sample_pictures(None, "", "train", (SIDE, SIDE)), 3))

    @cache
    def made(precision: str) -> Path:
        path = tmp_path_factory.mktemp("ethos") / precision
        codec = swap(load_codec("tiny"), "subpixel")[0].requires_grad_(False)
        how = {"precision": precision, "activations": "int8", "weight_bits": 8}
        quantize(codec, path, calibration_images=samples, width=SIDE, height=SIDE, **how)
        return path

    return made


def written(folder: Path, side: int = SIDE) -> Path:
    """A folder's decoder as TFLite, for pictures of this side."""
    transform = read_qdq(onnx.load(folder / "decoder.onnx"))
    path = folder / f"decoder{side}.tflite"
    tflite.write_tflite(replace(transform, input_shape=(*transform.input_shape[:2], side // 16, side // 16)), path)
    return path


@pytest.mark.parametrize("precision", ["w8a8", "w8a16"])
@pytest.mark.parametrize("chip", ["ethos-u55-32", "ethos-u65-512", "ethos-u85-1024"])
def test_all_of_a_decoder_is_on_the_npu(folder, precision: str, chip: str) -> None:
    found = run_vela(written(folder(precision)), chip)
    assert found.operators and all(one.on_npu for one in found.operators)
    assert {one.operator for one in found.operators} == {"Conv2D", "Concat", "Mul", "Rsqrt"}
    assert found.cycles > 0 and found.milliseconds > 0 and found.sram > 0


def test_what_vela_leaves_to_the_cpu_is_seen(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ethos_u.subprocess.run
    monkeypatch.setattr(ethos_u.subprocess, "run", lambda words, **more: run([*words, "--ignore-ops", "RSQRT"], **more))
    found = run_vela(written(folder("w8a8")), "ethos-u55-128")
    assert {one.operator for one in found.operators if not one.on_npu} == {"Rsqrt"}


def test_a_chip_that_vela_does_not_know_is_one_sentence(folder) -> None:
    with pytest.raises(UserError, match=r"does not compile decoder64\.tflite for ethos-u99"):
        run_vela(written(folder("w8a8")), "ethos-u99")


def test_the_table_of_rsqrt_is_the_one_in_velas_file(folder) -> None:
    path = written(folder("w8a16"))
    compiled = run_vela(path, "ethos-u55-256").content
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    (graph,), codes = model.subgraphs, [code.builtinCode for code in model.operatorCodes]
    found = 0
    for entry in graph.operators:
        if codes[entry.opcodeIndex] == schema.BuiltinOperator.RSQRT:
            scales = (graph.tensors[place].quantization.scale[0] for place in (*entry.inputs, *entry.outputs))
            assert np.stack(rsqrt_nodes(*scales), 1).astype("<i2").tobytes() in compiled
            found += 1
    assert found == 3


def test_the_table_is_close_to_the_function() -> None:
    scale_in, scale_out = np.float32(4 / 32767), np.float32(4 / 32767)
    values = np.arange(3000, 32768)
    expected = (values * scale_in) ** -0.5 / scale_out
    assert np.abs(rsqrt_table(scale_in, scale_out)[3000:] / expected - 1).max() < 5e-4
    assert rsqrt_table(scale_in, scale_out)[0] == 32767


@pytest.mark.parametrize(("precision", "least"), [("w8a8", 38), ("w8a16", 52)])
def test_the_simulator_is_the_qdq_files_meaning(folder, precision: str, least: float) -> None:
    path, teacher = folder(precision), TorchCodec(load_codec("tiny"))
    decode = simulator(read_qdq(onnx.load(path / "decoder.onnx")))
    exact = OnnxCodec(path, threads=1, reference=True)
    for picture in islice(sample_pictures(None, "", "val", (SIDE, SIDE)), 2):
        symbols = teacher.tables.to_symbols(teacher.analyze(picture))
        assert agreement("decoder", decode(exact.decoder_input(symbols)), exact.synthesize(symbols)) > least


def test_the_ends_are_what_a_firmware_feeds_in_and_takes_out(folder) -> None:
    """As docs/ethos-u.md and c/examples/csw_ethos_u.c say: NHWC; symbols as they are, or times 256; 8 bits, or 15."""
    ends = {}
    for precision in ("w8a8", "w8a16"):
        interpreter = litert.Interpreter(model_content=written(folder(precision)).read_bytes())
        details = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
        assert [one["shape"][1:3].tolist() for one in details] == [[SIDE // 16] * 2, [SIDE] * 2]
        assert details[0]["shape"][3] == len(OnnxCodec(folder(precision)).manifest.split_inputs.channels) + 1
        ends[precision] = [(one["dtype"], one["quantization"]) for one in details]
    assert ends["w8a8"] == [(np.int8, (1, 0)), (np.int8, (pytest.approx(1 / 255), -128))]
    (kind, (scale, zero)), result = ends["w8a16"]
    assert (kind, zero) == (np.int16, 0) and (1 / scale).is_integer()  # so that symbols go in exactly
    assert result == (np.int16, (pytest.approx(1 / 32640), 0))


def test_memory_grows_with_the_size(folder) -> None:
    sizes = [run_vela(written(folder("w8a8"), side), "ethos-u55-256").sram for side in (64, 128, 256)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_every_chip_is_one_of_velas() -> None:
    names = [load_target(name) for name in ("ethos-u55", "ethos-u65", "ethos-u85", "ethos-u55-32", "ethos-u85-2048")]
    assert [target.chip for target in names] == [
        "ethos-u55-256",
        "ethos-u65-512",
        "ethos-u85-1024",
        "ethos-u55-32",
        "ethos-u85-2048",
    ]
    assert {target.toolchain for target in names} == {"vela"}


@pytest.mark.slow
def test_the_command(tmp_path: Path, pictures: Path) -> None:
    size = ("--height", "96", "--width", "128")
    images = ("--images", str(pictures / "val"), "--calibration_images", str(pictures / "train"))
    words = (
        "compile",
        "--teacher",
        "tiny",
        "--target",
        "ethos-u65-256",
        *size,
        *images,
        "--output",
        str(tmp_path / "out"),
    )
    assert main(list(words)) == 0
    assert {"decoder.tflite", "decoder_vela.tflite", "decoder.onnx", "report.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["compiler"].startswith("ethos-u-vela") and report["files"][0] == "decoder_vela.tflite"
    assert {one["layer"] for one in report["operators"]} == {f"g_s.{index}" for index in range(7)}
    assert report["quality"]["float32"] - report["quality"]["compiled"] < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("w8a8", 28), ("w8a16", 45)])
def test_a_codec_with_a_hyperprior_is_compiled_whole(
    precision: str, least: float, hyper_codec: Callable[[str], HyperCodec], tmp_path: Path
) -> None:
    codec = swap(hyper_codec("mbt2018_mean"), "subpixel")[0]
    made = compile(codec, "ethos-u55", tmp_path / "a", precision=precision, height=128, width=192, most=1)
    assert made.on_npu and made.quality and made.quality.to_file and made.quality.to_file > least
    written, torch_codec = OnnxCodec(tmp_path / "a"), TorchCodec(codec)
    assert written.manifest.checks and written.manifest.split_inputs
    picture = next(iter(sample_pictures(None, "", "val", (192, 128))))
    quantized = written.entropy.quantize(torch_codec.analyze(picture), torch_codec.hyper_analyze)
    pair = (quantized.symbols, quantized.means)
    here, there = (one.synthesize(*pair).clip(0, 1) for one in (written, torch_codec))
    assert agreement("decoder", here, there) > 25


def test_both_networks_are_compiled_into_one_folder(hyper_codec: Callable[[str], HyperCodec], tmp_path: Path) -> None:
    codec = swap(hyper_codec("mbt2018_mean"), "subpixel")[0]
    how = {"precision": "w8a16", "height": 128, "width": 128, "most": 1}
    made = compile(codec, "ethos-u55", tmp_path / "a", part="both", **how)
    assert made.encoder and made.on_npu and made.report["encoder"]["part"] == "encoder"
    names = {f"{part}{end}" for part in ("decoder", "encoder") for end in (".onnx", ".tflite", "_vela.tflite")}
    assert names <= set(made.report["files"]) == {path.name for path in (tmp_path / "a").iterdir()} - {"report.json"}
    quality = made.encoder.quality
    assert isinstance(quality, EncoderQuality) and quality.compiled is not None and abs(quality.loss.bits) < 0.1
    folder = OnnxCodec(tmp_path / "a")
    assert folder.manifest.checks and len(folder.manifest.checks) == 4
    picture = to_picture(next(iter(sample_pictures(None, "", "val", (128, 128)))), (128, 128))
    assert folder.decompress(folder.compress(picture)).size == (128, 128)
    alone = compile(codec, "ethos-u55", tmp_path / "a", part="encoder", measured=False, **how)
    assert not (tmp_path / "a" / "decoder.onnx").exists() and alone.report["part"] == "encoder"
    assert alone.job.part == "encoder" and OnnxCodec(tmp_path / "a").manifest.decoder is None
    with pytest.raises(UserError, match="pack is for decoders"):
        compile(codec, "pack", tmp_path / "b", part="both", height=128, width=128)
