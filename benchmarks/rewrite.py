"""What `codecswap rewrite` does to six shapes that people have: time in ONNX Runtime and OpenVINO.

python -m benchmarks.rewrite [--rounds 3]

Every form of one ConvTranspose with random weights, one thread, in turns, the least processor time of each, relative to the
ConvTranspose itself. `--target cpu` is the form chosen by measuring.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from codecswap.console import show_table
from codecswap.layers.phase_grid import Axis
from codecswap.rewrite.alone import standalone
from codecswap.rewrite.measured import fastest
from codecswap.rewrite.model import Outcome, candidates
from codecswap.rewrite.plans import Plan, X
from codecswap.rewrite.runs import CLOCK, milliseconds, session
from codecswap.rewrite.transposed import Transposed

OPSET = 13
SHAPES = {  # input channels, output channels, kernel, stride, padding, output_padding, length, axes
    "k5 s2 p2 op1, 192 -> 192 at 32x32 (codecs)": (192, 192, 5, 2, 2, 1, 32, 2),
    "k4 s2 p1, 64 -> 64 at 64x64 (GANs, JPEG AI)": (64, 64, 4, 2, 1, 0, 64, 2),
    "k2 s2, 64 -> 64 at 80x80 (segmentation, OCR)": (64, 64, 2, 2, 0, 0, 80, 2),
    "k3 s2 p1 op1, 120 -> 60 at 64x64 (HiFiC)": (120, 60, 3, 2, 1, 1, 64, 2),
    "k16 s8 p4, 256 -> 128 at 400 (speech)": (256, 128, 16, 8, 4, 0, 400, 1),
    "k9 s4 p4 op3, 192 -> 3 at 64x64 (bls2017)": (192, 3, 9, 4, 4, 3, 64, 2),
}
FORMS = ("native", "subpixel", "phases", "phases, one convolution", "masked")


def layer_of(inputs: int, outputs: int, k: int, s: int, p: int, extra: int, length: int, rank: int) -> Transposed:
    axis = Axis.of(k, s, pads=(p, p), output_padding=extra)
    return Transposed((axis,) * rank, 1, (inputs, outputs, *(k,) * rank), (length,) * rank, 1)


def form_of(plan: Plan) -> str:
    return "phases, one convolution" if "Split" in plan.operators else plan.form


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times 15 runs of each")
    options = parser.parse_args()
    runtime, vino = [], []
    for name, shape in SHAPES.items():
        layer = layer_of(*shape)
        random = np.random.default_rng(0)
        weight = random.standard_normal(layer.weight_shape).astype(np.float32)
        x = random.standard_normal((1, layer.inputs, *layer.lengths)).astype(np.float32)
        plans = {}
        for plan in candidates(layer, OPSET)[0]:
            plans.setdefault(form_of(plan), plan)  # of subpixel, the channel order CRD
        models = {form: standalone(plan, weight, None) for form, plan in plans.items()}
        if layer.strides[0] > 2 and len(layer.axes) == 2:
            del models["masked"]  # a hundred times slower
        models["cpu"] = standalone(fastest(Outcome("", ""), candidates(layer, OPSET)[0]), weight, None)
        opened = [(session(model, optimized=True), {X: x}) for model in models.values()]
        rounds = [milliseconds(opened) for _ in range(options.rounds)]
        runtime.append(row(name, dict(zip(models, np.min(rounds, axis=0), strict=True))))
        if times := openvino_times(models, x, 15 * options.rounds):
            vino.append(row(name, times))
    columns = ("shape", "ConvTranspose, ms", *FORMS[1:], "--target cpu")
    if runtime:
        show_table("ONNX Runtime, one thread", columns, runtime)
    if vino:
        show_table("OpenVINO, one thread", columns, vino)


def row(name: str, times: dict[str, float]) -> list[str]:
    base = times["native"]
    shown = [f"{times[form] / base:.2f}" if form in times else "" for form in (*FORMS[1:], "cpu")]
    return [name, f"{base:.2f}", *shown]


def openvino_times(models: dict[str, ModelProto], x: np.ndarray, rounds: int) -> dict[str, float]:
    """Milliseconds by form; empty where OpenVINO is not installed."""
    try:
        import openvino
    except ImportError:
        return {}
    core, compiled = openvino.Core(), {}
    with tempfile.TemporaryDirectory() as scratch:
        for form, model in models.items():
            onnx.save(model, Path(scratch) / "model.onnx")
            how = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
            compiled[form] = core.compile_model(Path(scratch) / "model.onnx", "CPU", how)
    times: dict[str, list[float]] = {form: [] for form in compiled}
    for _ in range(rounds):
        for form, network in compiled.items():
            began = CLOCK()
            network([x])
            times[form].append(1e3 * (CLOCK() - began))
    return {form: min(found) for form, found in times.items()}


if __name__ == "__main__":
    main()
