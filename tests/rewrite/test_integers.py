"""Quantized files: integers stay as they are, and what ran in float beside them runs in integers afterwards."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import dequantize, model_of, one_node, quantized, value
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from codecswap.rewrite.rewriting import rewrite
from codecswap.rewrite.runs import session

RANDOM = np.random.default_rng(7)
WEIGHT = RANDOM.standard_normal((8, 6, 4, 4)).astype(np.float32)
BIAS = RANDOM.standard_normal(6).astype(np.float32)
HOW = {"strides": [2, 2], "pads": [1, 1, 1, 1]}


def qdq_model() -> ModelProto:
    """Input, weight, bias and output of a ConvTranspose, all quantized."""
    levels, scale, zero = quantized(WEIGHT, 1)
    zero[:] = 0
    given = {"levels": levels, "scale": scale, "zero": zero, "in_scale": np.float32(0.02), "in_zero": np.uint8(128)}
    given |= {"bias": np.rint(BIAS / (0.02 * scale)).astype(np.int32), "bias_scale": np.float32(0.02) * scale}
    given |= {"bias_zero": np.zeros(6, np.int32), "out_scale": np.float32(0.1), "out_zero": np.uint8(120)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "in_scale", "in_zero"], ["q"]),
        dequantize("d", ["q", "in_scale", "in_zero"], None),
        dequantize("w", ["levels", "scale", "zero"], 1),
        dequantize("b", ["bias", "bias_scale", "bias_zero"], 0),
        helper.make_node("ConvTranspose", ["d", "w", "b"], ["u"], name="up", **HOW),
        helper.make_node("QuantizeLinear", ["u", "out_scale", "out_zero"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in given.items()]
    outputs = [value("y", [1, 6, 16, 16], TensorProto.UINT8)]
    return model_of(helper.make_graph(nodes, "test", [value("x", [1, 8, 8, 8])], outputs, tensors))


def run_as(path: Path) -> set[str]:
    """Operators that ONNX Runtime runs after its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


@pytest.mark.parametrize("form", ["subpixel", "phases"])
def test_a_quantized_file_keeps_its_integers_and_runs_in_them(tmp_path: Path, form: str) -> None:
    onnx.save(qdq_model(), tmp_path / "model.onnx")
    rewrite(tmp_path / "model.onnx", tmp_path / "out.onnx", form=form)
    before, after = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / name).graph.initializer}
        for name in ("model.onnx", "out.onnx")
    )
    old = before["levels"]
    new = [values for values in after.values() if values.dtype == np.int8 and values.ndim == 4]
    assert np.array_equal(np.sort(np.concatenate([values.ravel() for values in new])), np.sort(old.ravel()))
    biases = np.concatenate([values for values in after.values() if values.dtype == np.int32 and values.any()])
    assert set(biases.tolist()) == set(before["bias"].tolist())
    assert "ConvTranspose" in run_as(tmp_path / "model.onnx"), "in float"
    assert {"QLinearConv"} == {name for name in run_as(tmp_path / "out.onnx") if "Conv" in name}
    x = RANDOM.standard_normal((1, 8, 8, 8)).astype(np.float32)
    wanted, found = (session(tmp_path / name).run(None, {"x": x})[0] for name in ("model.onnx", "out.onnx"))
    assert np.abs(wanted.astype(int) - found.astype(int)).max() <= 1
    assert (wanted != found).mean() < 0.002


class Feeds(CalibrationDataReader):
    def __init__(self) -> None:
        self.feeds = iter([{"x": RANDOM.standard_normal((1, 8, 8, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


@pytest.mark.parametrize("form", ["subpixel", "phases"])
def test_quantized_afterwards_by_onnx_runtime_it_runs_in_integers(tmp_path: Path, form: str) -> None:
    onnx.save(one_node(WEIGHT, [8, 8], bias=BIAS, **HOW), tmp_path / "model.onnx")
    rewrite(tmp_path / "model.onnx", tmp_path / "out.onnx", form=form)
    made = {}
    for name in ("model", "out"):
        path = tmp_path / f"{name}_int8.onnx"
        how = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(tmp_path / f"{name}.onnx", path, Feeds(), **how)
        made[name] = run_as(path)
    assert "ConvTranspose" in made["model"] and "QLinearConv" not in made["model"], "the original stays in float"
    assert "QLinearConv" in made["out"] and not {"Conv", "FusedConv", "ConvTranspose"} & made["out"]
