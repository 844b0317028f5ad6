"""Renesas's DRP-AI (RZ/V2H, RZ/V2N): writes files as its documents require. The compiler needs an account.

Two ways lead through DRP-AI TVM (https://github.com/renesas-rz/rzv_drp-ai_tvm, commit a557552 of 2025-12-25, read 2026-11-25):

- Its quantizer chooses the scales from real inputs: decoder_float.onnx and the calibration pack. README.md of its folder QAT
  recommends this one first.
- Scales are taken from a fake-quantized file (``--qat --qat_type pytorch``): decoder.onnx. As in its sample, QAT's
  qat_retrain.py: opset 13; float weights that pass QuantizeLinear and DequantizeLinear, int8, symmetric, per channel; float
  biases; activations uint8, per tensor, with half of the range (``reduce_range``), which the sample says is essential. We keep
  symbols and picture at 8 bits.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from codecswap.compile.folder import OPSET, write_quantized
from codecswap.compile.pack import equalized_decoder, write_inputs
from codecswap.compile.toolchain import Compiled, Job
from codecswap.graph import onnx_graph as graph
from codecswap.quantized.representation import Quantization
from codecswap.quantized.synthesis import QuantizedSynthesis

IR_VERSION = 8
"""Newest IR version that ONNX 1.12 reads."""
FLOAT = "decoder_float.onnx"
NOTES = (
    "Nothing was compiled. Checked against https://github.com/renesas-rz/rzv_drp-ai_tvm (commit a557552, read 2026-11-25): "
    f"opset {OPSET}, IR version {IR_VERSION} at most, one size; weights int8, symmetric, per channel; activations uint8, per "
    "tensor.",
    f"{FLOAT} with calibration/ is for its quantizer, which Renesas recommends first; decoder.onnx, fake-quantized, for --qat. "
    "Its activations have 7 bits, as Renesas's sample demands: compare both in its interpreter (target InterpreterQuant).",
)


class DrpAi:
    """DRP-AI TVM."""

    install = "DRP-AI TVM and DRP-AI Translator i8 from renesas.com, which needs an account"

    def installed(self, python: Path | None) -> str | None:
        """Always None: the compiler is not called."""
        return None

    def compile(self, job: Job) -> Compiled:
        """Write decoder.onnx (fake-quantized), decoder_float.onnx and the calibration pack."""
        pack: list[Path] = []
        if not isinstance(job.codec.g_s, QuantizedSynthesis):  # else there is no float decoder
            model, inputs, _ = equalized_decoder(job)
            _read_by_onnx_1_12(model)
            onnx.save(model, job.folder / FLOAT)
            pack = [job.folder / FLOAT, *write_inputs(job.folder, FLOAT, inputs)]
        written, _ = write_quantized(job, _fake_quantized)
        return Compiled((written.path, *pack), None, notes=(*written.notes, *NOTES))


def _fake_quantized(model: ModelProto) -> None:
    """Store weights and biases as floats, and add their fake quantization (they are multiples of their scale already)."""
    stored, nodes, initializers = graph.weights(model), list(model.graph.node), model.graph.initializer
    del model.graph.node[:]
    for node in nodes:
        name, *parameters = node.input
        if node.op_type == "DequantizeLinear" and name in stored:
            axis = next(item.i for item in node.attribute if item.name == "axis")
            scale, zero_point = (stored[parameter] for parameter in parameters)
            rounding = Quantization(scale, zero_point, axis)
            initializers.remove(next(tensor for tensor in initializers if tensor.name == name))
            if zero_point.dtype == np.int32:
                unused = [tensor for tensor in initializers if tensor.name in parameters]
                for tensor in unused:
                    initializers.remove(tensor)
                initializers.append(numpy_helper.from_array(rounding.dequantize(stored[name]), node.output[0]))
                continue
            initializers.append(numpy_helper.from_array(rounding.dequantize(stored[name]), f"{name}_float"))
            inputs = [f"{name}_float", *parameters]
            model.graph.node.append(
                helper.make_node("QuantizeLinear", inputs, [name], f"{name}/QuantizeLinear", axis=axis)
            )
        model.graph.node.append(node)
    _read_by_onnx_1_12(model)


def _read_by_onnx_1_12(model: ModelProto) -> None:
    model.ir_version = min(model.ir_version, IR_VERSION)


DRP_AI = DrpAi()
