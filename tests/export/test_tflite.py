"""TFLite files: LiteRT computes from them what ONNX Runtime computes from ONNX, to roundings that fall the other way."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import QuantiseOptions
from codecswap.errors import UserError
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.export.verify import sample_pictures
from codecswap.inference.check import agreement
from codecswap.inference.runtime import OnnxCodec, open_session
from codecswap.quantise.command import quantise
from codecswap.quantise.representation import Constant, Operation, Quantisation, QuantisedTransform
from codecswap.swaps.apply import swap

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed (the extra npu)")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
tflite_module = pytest.importorskip("codecswap.export.backends.tflite")
tflite, write_tflite = tflite_module.tflite, tflite_module.write_tflite

SIZE = (96, 64)
REPLACEMENTS = ("none", "masked", "subpixel")


def run(content: bytes, x: np.ndarray) -> np.ndarray:
    """What LiteRT's plain kernels compute of ``x: (C, h, w)``, in real values ``(C, H, W)``."""
    plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = litert.Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    values = x.transpose(1, 2, 0)[None]
    if scale := given["quantization"][0]:
        values = np.rint(values / scale) + given["quantization"][1]
        assert np.array_equal(values, values.clip(*range_of(given["dtype"])))
    interpreter.set_tensor(given["index"], values.astype(given["dtype"]))
    interpreter.invoke()
    values = interpreter.get_tensor(result["index"]).astype(np.float32)
    if scale := result["quantization"][0]:
        values = (values - result["quantization"][1]) * np.float32(scale)
    return values[0].transpose(2, 0, 1)


def range_of(dtype: np.dtype) -> tuple[int, int]:
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def operators(content: bytes) -> list[str]:
    """TFLite's names, in order."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items()}
    codes = [names[code.builtinCode] for code in model.operatorCodes]
    return [codes[entry.opcodeIndex] for entry in model.subgraphs[0].operators]


def symbols_of(side: str) -> list[np.ndarray]:
    codec = TorchCodec(load_codec("tiny"))
    return [codec.tables.to_symbols(codec.analyse(one)) for one in islice(sample_pictures(None, "", side, SIZE), 2)]


@pytest.fixture(scope="module")
def symbols() -> list[np.ndarray]:
    return symbols_of("val")


@pytest.fixture(scope="module")
def calibrated() -> list[np.ndarray]:
    return symbols_of("train")


@pytest.fixture(scope="module", params=REPLACEMENTS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec = load_codec("tiny")
    codec = codec if request.param == "none" else swap(codec, request.param)[0]
    path = tmp_path_factory.mktemp(request.param) / "codec"
    options = QuantiseOptions(output=path, width=SIZE[0], height=SIZE[1], weight_bits=8)
    samples = list(islice(sample_pictures(None, "", "train", SIZE), 3))
    quantise(codec.requires_grad_(False), "tiny", request.param, samples, options, show=False)
    return path


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_float_decoder_is_onnx_runtimes(tmp_path: Path, symbols: list[np.ndarray], replacement: str) -> None:
    codec = load_codec("tiny")
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    path, latents = tmp_path / "decoder.onnx", symbols[0].astype(np.float32)
    export_decoder(codec, path, height=SIZE[1], width=SIZE[0])
    expected = open_session(path.read_bytes(), 1).run(None, {"latents": latents[None]})[0][0]
    content = tflite(read_qdq(onnx.load(path)), "float32")
    assert np.abs(run(content, latents) - expected).max() < 1e-5
    assert not {"SQRT", "DIV", "DEPTH_TO_SPACE", "TRANSPOSE"} & set(operators(content))


def test_float_encoder_is_onnx_runtimes(tmp_path: Path) -> None:
    path, picture = tmp_path / "encoder.onnx", next(sample_pictures(None, "", "val", SIZE))
    export_encoder(load_codec("tiny"), path, height=SIZE[1], width=SIZE[0])
    expected = open_session(path.read_bytes(), 1).run(None, {"picture": picture[None]})[0][0]
    content = tflite(read_qdq(onnx.load(path)), "float32")
    assert np.abs(run(content, picture) - expected).max() < 1e-5 * np.abs(expected).max()
    assert set(operators(content)) == {"CONV_2D", "MUL", "RSQRT"}


def test_int8_is_the_qdq_file(folder: Path, symbols: list[np.ndarray]) -> None:
    content = tflite(read_qdq(onnx.load(folder / "decoder.onnx")), "w8a8")
    quantised, teacher = OnnxCodec(folder, threads=1, exact=True), TorchCodec(load_codec("tiny"))
    for one in symbols:
        expected, wanted = quantised.synthesise(one), teacher.synthesise(one)
        found = run(content, quantised.manifest.planes.of_symbols(one))
        assert agreement("decoder", found, expected) > 45
        assert agreement("decoder", found, wanted) > agreement("decoder", expected, wanted) - 0.5


def test_int16_is_its_weights_with_float_activations(folder: Path, calibrated: list[np.ndarray]) -> None:
    transform, planes = read_qdq(onnx.load(folder / "decoder.onnx")), OnnxCodec(folder).manifest.planes
    for one in calibrated:  # whose values are all inside the ranges
        given = planes.of_symbols(one)
        expected, at16 = (run(tflite(transform, name), given).clip(0, 1) for name in ("float32", "w8a16"))
        assert agreement("decoder", at16, expected) > 60


def small_convolution(weight_scale: float, bias_scale: float, bias: list[int]) -> QuantisedTransform:
    """A 1x1 convolution of two channels, whose first output has weights of a scale of its own."""
    scales = np.array([weight_scale, 0.01], np.float32)
    zeros = np.zeros(2, np.int8)
    constants = {
        "weight": Constant(
            np.array([[100, -100], [50, 20]], np.int8)[:, :, None, None], Quantisation(scales, zeros, 0)
        ),
        "bias": Constant(np.array(bias, np.int32), Quantisation(np.full(2, bias_scale, np.float32), zeros, 0)),
    }
    attributes = {"pads": [0, 0, 0, 0], "strides": [1, 1], "kernel_shape": [1, 1]}
    step = Operation("g_s.0/Conv", "g_s.0", "Conv", attributes, ("planes", "weight", "bias"), "picture")
    roundings = {"planes": Quantisation.fixed(0.1, -128, "int8"), "picture": Quantisation.fixed(0.1, -128, "uint8")}
    return QuantisedTransform("planes", (1, 2, 3, 4), "picture", (1, 2, 3, 4), (step,), constants, roundings)


@pytest.mark.parametrize("precision", ["w8a8", "w8a16"])
def test_a_bias_beyond_its_integers_makes_the_weights_coarser(precision: str) -> None:
    # 8.0 in steps of 0.1 * 1e-12 is 8e13, and a scale of 1e-12 makes weights of no effect
    transform = small_convolution(1e-12, 0.5, [16, 4])
    x = np.random.default_rng(0).integers(-20, 21, (2, 3, 4)).astype(np.float32) / 10
    expected = np.stack([np.full((3, 4), 8.0), 0.5 * x[0] + 0.2 * x[1] + 2])
    assert np.abs(run(tflite(transform, precision), x) - expected).max() < 0.051


def test_an_open_size_and_a_layer_in_float_are_refused(tmp_path: Path) -> None:
    transform = small_convolution(0.01, 0.5, [1, 2])
    with pytest.raises(UserError, match="--height and --width"):
        write_tflite(replace(transform, input_shape=("batch", 2, "rows", "columns")), tmp_path / "a.tflite", "w8a8")
    with pytest.raises(UserError, match=r"g_s\.0 is in float"):
        write_tflite(replace(transform, activations={}), tmp_path / "a.tflite", "w8a8")
    assert not list(tmp_path.iterdir())
    write_tflite(transform, tmp_path / "a.tflite", "w8a8")
    assert (tmp_path / "a.tflite").read_bytes() == tflite(transform, "w8a8")
