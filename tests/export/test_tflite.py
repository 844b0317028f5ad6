"""TFLite files: LiteRT computes from them what ONNX Runtime computes from ONNX, to roundings that fall the other way."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compressai.layers import AttentionBlock, ResidualBlock, ResidualBlockUpsample
from compressai.models.utils import deconv
from torch import nn
from trees import CHANNELS, quantized, signal_to_noise, tree
from trees import SIZE as TREE_SIZE

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.export.backends.onnx_qdq import read_qdq
from codecswap.export.codec import quantize
from codecswap.graph.lower import lower
from codecswap.graph.trace import trace
from codecswap.inference.check import agreement
from codecswap.inference.runtime import OnnxCodec, open_session
from codecswap.quantized.compute import compute, rounded
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph
from codecswap.swaps.apply import swap, swap_gdn
from codecswap.swaps.calibrate import calibrate

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT is not installed (the extra npu)")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
tflite_module = pytest.importorskip("codecswap.export.backends.tflite")
tflite, write_tflite = tflite_module.tflite, tflite_module.write_tflite

SIZE = (64, 48)
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


@pytest.fixture(scope="module")
def symbols() -> list[np.ndarray]:
    codec = TorchCodec(load_codec("tiny"))
    return [codec.tables.to_symbols(codec.analyze(one)) for one in islice(sample_pictures(None, "", "val", SIZE), 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Quantized folders, by replacement and precision."""

    @cache
    def made(replacement: str, precision: str) -> Path:
        codec = load_codec("tiny")
        codec = codec if replacement == "none" else swap(codec, replacement)[0]
        path = tmp_path_factory.mktemp(replacement) / precision
        options = {"precision": precision, "weight_bits": 8, "activations": "uint8" if precision == "w8a8" else "int8"}
        options |= {"width": SIZE[0], "height": SIZE[1]}
        samples = list(islice(sample_pictures(None, "", "train", SIZE), 3))
        quantize(codec.requires_grad_(False), path, calibration_images=samples, **options)
        return path

    return made


@pytest.mark.parametrize("replacement", REPLACEMENTS)
def test_float_decoder_is_onnx_runtimes(tmp_path: Path, symbols: list[np.ndarray], replacement: str) -> None:
    codec = load_codec("tiny")
    codec = codec if replacement == "none" else swap(codec, replacement)[0]
    path, latents = tmp_path / "decoder.onnx", symbols[0].astype(np.float32)
    export_decoder(codec, path, height=SIZE[1], width=SIZE[0])
    expected = open_session(path.read_bytes(), 1).run(None, {"latents": latents[None]})[0][0]
    content = tflite(read_qdq(onnx.load(path)))
    assert np.abs(run(content, latents) - expected).max() < 1e-5
    assert not {"SQRT", "DIV", "DEPTH_TO_SPACE", "TRANSPOSE"} & set(operators(content))


def test_float_encoder_is_onnx_runtimes(tmp_path: Path) -> None:
    path, picture = tmp_path / "encoder.onnx", next(sample_pictures(None, "", "val", SIZE))
    export_encoder(load_codec("tiny"), path, height=SIZE[1], width=SIZE[0])
    expected = open_session(path.read_bytes(), 1).run(None, {"picture": picture[None]})[0][0]
    content = tflite(read_qdq(onnx.load(path)))
    assert np.abs(run(content, picture) - expected).max() < 1e-5 * np.abs(expected).max()
    assert set(operators(content)) == {"CONV_2D", "MUL", "RSQRT"}


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize(("precision", "least"), [("w8a8", 42), ("w8a16", 62)])
def test_integers_are_the_qdq_files(
    folders: Callable[[str, str], Path], symbols: list[np.ndarray], replacement: str, precision: str, least: float
) -> None:
    folder = folders(replacement, precision)
    content = tflite(read_qdq(onnx.load(folder / "decoder.onnx")))
    quantized, teacher = OnnxCodec(folder, threads=1, reference=True), TorchCodec(load_codec("tiny"))
    for one in symbols:
        expected, wanted = quantized.synthesize(one), teacher.synthesize(one)
        found = run(content, quantized.manifest.split_inputs.split(one))
        assert agreement("decoder", found, expected) > least
        assert agreement("decoder", found, wanted) > agreement("decoder", expected, wanted) - 1.5


FORMS = {
    "ramps": {"RELU"},
    "gdn1": {"ABS"},
    "relu": {"RELU"},
    "none": set(),
}
"""What each form of GDN has beside convolutions and products, where ReLU is no end of a range."""


@pytest.mark.parametrize("gdn", FORMS)
def test_no_form_of_gdn_leaves_a_root(tmp_path: Path, gdn: str) -> None:
    """In float and in integers."""
    teacher, samples = load_codec("tiny"), list(islice(sample_pictures(None, "", "train", (128, 128)), 8))
    codec = swap_gdn(swap(teacher, "subpixel")[0], gdn, **({"pieces": 2} if gdn == "ramps" else {}))[0]
    codec.requires_grad_(False)
    calibrate(teacher, codec, teacher.quantize(teacher.g_a(torch.from_numpy(np.stack(samples)))))
    torch_codec = TorchCodec(codec)
    symbols = torch_codec.tables.to_symbols(torch_codec.analyze(samples[0]))
    path, latents = tmp_path / "decoder.onnx", symbols.astype(np.float32)
    export_decoder(codec, path, height=128, width=128)
    expected = open_session(path.read_bytes(), 1).run(None, {"latents": latents[None]})[0][0]
    content = tflite(read_qdq(onnx.load(path)))
    assert np.abs(run(content, latents) - expected).max() < 1e-5 * max(1, np.abs(expected).max())
    shuffled = {"CONV_2D", "MUL", "CONCATENATION", "RESHAPE"} - ({"MUL"} if gdn in ("relu", "none") else set())
    assert set(operators(content)) == shuffled | FORMS[gdn]
    for precision, kind, least in (("w8a8", "uint8", 42), ("w8a16", "int8", 60)):
        options = {"precision": precision, "activations": kind, "weight_bits": 8, "refit": False}
        options |= {"width": 128, "height": 128, "calibration_images": samples}
        made, _ = quantize(codec, tmp_path / precision, **options)
        content = tflite(made.networks["decoder"].transform)
        quantized = OnnxCodec(tmp_path / precision, threads=1, reference=True)
        found = run(content, quantized.manifest.split_inputs.split(symbols))
        assert agreement("decoder", found, quantized.synthesize(symbols)) > least
        unfused = FORMS[gdn] if precision == "w8a16" else FORMS[gdn] - {"RELU"}
        assert set(operators(content)) == shuffled | unfused


def convolution(kind: str) -> TransformGraph:
    """A 1x1 convolution of two channels, with activations of one type."""
    zeros = np.zeros(2, np.int8)
    constants = {
        "weight": Constant(np.ones((2, 2, 1, 1), np.int8), Quantization(np.full(2, 0.5, np.float32), zeros, 0)),
        "bias": Constant(np.array([7, -3], np.int32), Quantization(np.full(2, 0.25, np.float32), zeros, 0)),
    }
    step = Operation("", "g_s.0", "Conv", {"pads": [0] * 4, "strides": [1, 1]}, ("x", "weight", "bias"), "y")
    rounding = Quantization.fixed(0.5, np.iinfo(kind).min // 2 if kind == "uint16" else np.iinfo("int16").min, kind)
    return TransformGraph("x", (1, 2, 3, 4), "y", (1, 2, 3, 4), (step,), constants, {"x": rounding, "y": rounding})


def test_what_no_tflite_file_says_is_refused(tmp_path: Path) -> None:
    transform, path = convolution("int16"), tmp_path / "a.tflite"
    with pytest.raises(UserError, match="--height and --width"):
        write_tflite(replace(transform, input_shape=("batch", 2, "rows", "columns")), path)
    with pytest.raises(UserError, match=r"g_s\.0 is in float"):
        write_tflite(replace(transform, activations={"x": transform.activations["x"]}), path)
    unknown = replace(transform, operations=(replace(transform.operations[0], operator="Reciprocal"),))
    with pytest.raises(UserError, match=r"Reciprocal at g_s\.0 cannot be written .*use --gdn sqrt"):
        write_tflite(unknown, path)
    with pytest.raises(UserError, match="has uint16"):
        write_tflite(convolution("uint16"), path)
    assert not list(tmp_path.iterdir())
    write_tflite(transform, path)
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = 0.5 * x.sum(0) + np.array([7, -3])[:, None, None] * 0.25
    assert np.abs(run(path.read_bytes(), x) - expected).max() < 0.26


@pytest.mark.parametrize("seed", range(8))
def test_a_float_tree_of_any_shape_is_pytorchs(seed: int) -> None:
    decoder, x = lower(tree(seed), "subpixel"), torch.randn(1, CHANNELS, *TREE_SIZE)
    found = trace(decoder, input="latents", shape=tuple(x.shape), output="picture", prefix="g_s")
    if unknown := {step.operator for step in found.operations} - set(tflite_module.OPERATORS):
        with pytest.raises(UserError, match=f"({'|'.join(unknown)}) at g_s.* cannot be written into a TFLite file"):
            tflite(found)
        return
    expected = decoder(x)[0].detach().numpy()
    assert np.abs(run(tflite(found), x[0].numpy()) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "least"), [("uint8", 30), ("int16", 60)])
def test_an_integer_tree_of_any_shape_is_what_it_means(kind: str, least: float) -> None:
    """Sums of two tensors with scales of their own, sigmoids, products, leaky ReLUs, skipped convolutions."""
    torch.manual_seed(0)
    blocks = AttentionBlock(CHANNELS), ResidualBlockUpsample(CHANNELS, CHANNELS), ResidualBlock(CHANNELS, 6)
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    decoder = nn.Sequential(*blocks, depthwise, deconv(6, 3)).eval()
    x = torch.randn(1, CHANNELS, *TREE_SIZE)
    found = quantized(
        trace(lower(decoder), input="latents", shape=tuple(x.shape), output="picture", prefix="g_s"), x, kind
    )
    x = rounded(x, found.activations["latents"])
    content, expected = tflite(found), compute(found, x)[0].detach().numpy()
    assert signal_to_noise(run(content, x[0].numpy()), expected) > least
    assert {"ADD", "DEPTHWISE_CONV_2D", "LOGISTIC", "LEAKY_RELU", "MUL"} <= set(operators(content))
