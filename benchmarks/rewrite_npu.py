"""What `codecswap rewrite` does to six shapes that people have, in the NPUs' compilers: cycles and operators left to the CPU.

python -m benchmarks.rewrite_npu rockchip [--chip rk3588] [--python .venv-rknn/bin/python]     float16; 15 minutes
python -m benchmarks.rewrite_npu ethos-u [--chip ethos-u55-256]                                INT8; a minute
python -m benchmarks.rewrite_npu qualcomm                                                      INT8; 20 minutes

Every form of one ConvTranspose with random weights. Rockchip and Qualcomm read the ONNX file; for Qualcomm ONNX Runtime's own
quantize_static quantizes it. For Ethos-U this project's TFLite writer takes the place of a converter, which knows how to
interleave rows without a copy; shapes with one axis are left out there.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from benchmarks.rewrite import OPSET, SHAPES, form_of, layer_of
from onnx import ModelProto

from codecswap.compile import rknn, rknn_worker
from codecswap.compile.ethos_u import run_vela
from codecswap.console import show_table
from codecswap.layers.phase_grid import arrange
from codecswap.quantized.representation import Constant, Operation, Quantization, TransformGraph
from codecswap.rewrite.alone import standalone
from codecswap.rewrite.model import candidates
from codecswap.rewrite.plans import X
from codecswap.rewrite.transposed import Transposed

FORMS = ("native", "subpixel", "phases")
SCALE = np.float32(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compiler", choices=COMPILERS)
    parser.add_argument("--chip")
    parser.add_argument("--python", type=Path, default=rknn.FOUND_IN, help="the Python that has rknn-toolkit2")
    given = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        layer = layer_of(*shape)
        weight = np.random.default_rng(0).standard_normal(layer.weight_shape).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(
                [name, *(COMPILERS[given.compiler](given, layer, weight, form, Path(folder)) for form in FORMS)]
            )
    show_table(f"{given.compiler}: 10^6 cycles, operators on the CPU", ("shape", *FORMS), rows)


def model_of(layer: Transposed, weight: np.ndarray, form: str) -> ModelProto:
    return standalone(next(plan for plan in candidates(layer, OPSET)[0] if form_of(plan) == form), weight, None)


def on_rockchip(given: argparse.Namespace, layer: Transposed, weight: np.ndarray, form: str, folder: Path) -> str:
    path, log = folder / "model.onnx", folder / "build.log"
    onnx.save(model_of(layer, weight, form), path)
    words = [rknn_worker.__file__, given.chip or "rk3588", path, folder / "model.rknn", log]
    subprocess.run([str(given.python.absolute()), *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL, check=True)
    found = list(rknn.read_operators(log.read_text("utf-8", errors="replace")))
    return cell(sum(one.cycles or 0 for one in found), [one.operator for one in found if not one.on_npu])


def on_ethos_u(given: argparse.Namespace, layer: Transposed, weight: np.ndarray, form: str, folder: Path) -> str:
    from codecswap.export.backends.tflite import write_tflite

    if form == "phases" or len(layer.axes) == 1:
        return ""
    write_tflite(transform(layer, weight, form), folder / "model.tflite")
    found = run_vela(folder / "model.tflite", given.chip or "ethos-u55-256")
    return cell(found.cycles, [one.operator for one in found.operators if not one.on_npu])


def transform(layer: Transposed, weight: np.ndarray, form: str) -> TransformGraph:
    """A square layer as INT8 data, with the symmetric padding that the TFLite writer takes."""
    axis, (side, _) = layer.axes[0], layer.lengths
    rounding = Quantization(np.array(SCALE), np.array(128, np.uint8))
    if form == "native":
        extra = axis.excess + axis.stride + 2 * axis.padding - axis.kernel
        how = {"pads": [axis.padding] * 4, "strides": [axis.stride] * 2, "output_padding": [extra] * 2}
        steps, kernel, channels = [Operation("up", "up", "ConvTranspose", how, ("x", "w", "b"), "y")], weight, 1
    else:
        (window,) = axis.unshifted().windows
        pads = [max(window.pads) - end for end in window.pads]
        kernel, channels = np.pad(arrange(weight, [window] * 2), ((0, 0), (0, 0), pads, pads)), 0
        how = {"pads": [max(window.pads)] * 4, "strides": [1, 1]}
        shuffle = {"blocksize": axis.stride, "mode": "CRD"}
        steps = [Operation("up", "up", "Conv", how, ("x", "w", "b"), "c")]
        steps += [Operation("shuffle", "up", "DepthToSpace", shuffle, ("c",), "y")]
    scale = np.abs(kernel).max(axis=tuple(place for place in range(4) if place != channels)) / np.float32(127)
    weights = Quantization(scale, np.zeros(len(scale), np.int8), channels)
    biases = Quantization(scale * SCALE, np.zeros(len(scale), np.int32), 0)
    constants = {
        "w": Constant(weights.quantize(kernel), weights),
        "b": Constant(np.zeros(len(scale), np.int32), biases),
    }
    shapes = (1, layer.inputs, side, side), (1, layer.outputs, axis.stride * side, axis.stride * side)
    return TransformGraph("x", shapes[0], "y", shapes[1], tuple(steps), constants, dict.fromkeys("xcy", rounding))


def on_qualcomm(given: argparse.Namespace, layer: Transposed, weight: np.ndarray, form: str, folder: Path) -> str:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from codecswap.compile.qnn import DATA_TYPES, PROVIDER, _opened

    x = np.random.default_rng(0).standard_normal((1, layer.inputs, *layer.lengths)).astype(np.float32)
    onnx.save(model_of(layer, weight, form), folder / "model.onnx")
    reader = type("Reader", (), {"feeds": iter([{X: x}]), "get_next": lambda self: next(self.feeds, None)})()
    how = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(folder / "model.onnx", folder / "int8.onnx", reader, **how)
    try:
        parts = _opened(folder / "int8.onnx", given.chip or "v73", None).get_provider_graph_assignment_info()
    except Exception as error:
        return f"refused: {' '.join(str(error).split())[:60]}"
    placed = [(node.op_type, part.ep_name == PROVIDER) for part in parts for node in part.get_nodes()]
    if not placed:
        return "not told"
    return cell(None, sorted({name for name, on_npu in placed if not on_npu and name not in DATA_TYPES}))


def cell(cycles: float | None, left: list[str]) -> str:
    return ", ".join([*([] if cycles is None else [f"{cycles / 1e6:.2f}"]), " ".join(left) or "0"])


Compiler = Callable[[argparse.Namespace, Transposed, np.ndarray, str, Path], str]
COMPILERS: dict[str, Compiler] = {"rockchip": on_rockchip, "ethos-u": on_ethos_u, "qualcomm": on_qualcomm}


if __name__ == "__main__":
    main()
