"""Qualcomm's HTP: ONNX Runtime's plugin onnxruntime-qnn, which compiles for it and emulates it on x86.

What it takes and what we know of it (version 2.7.0): the file of `codecswap quantize`, with one size. In w8a16, with 16-bit
activations, it is as good as the file's reference execution; in mixed it computes the products of the GDNs, whose factors have
different types, in float. A convolution with 8-bit input and 16-bit output it does not take.
"""

from pathlib import Path

import numpy as np
import onnxruntime

from codecswap.compile.folder import write_quantized
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job, name_and_version
from codecswap.errors import UserError
from codecswap.graph.onnx_graph import layer_in

NAME = "onnxruntime-qnn"
PROVIDER = "QNNExecutionProvider"
BINARY = "{}_htp.onnx"
"""The compiled network in ONNX Runtime's EPContext format, which a session on the device opens; by the network's name."""
DATA_TYPES = ("QuantizeLinear", "DequantizeLinear", "Cast", "Transpose")
"""Operators that only change the data type or layout; the compiler fuses them into their neighbors."""


class Qnn:
    """onnxruntime-qnn."""

    install = "pip install codecswap[npu]"

    def installed(self, python: Path | None) -> str | None:
        """Its name and version."""
        return name_and_version(NAME)

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx, and decoder_htp.onnx for the HTP if all of it runs there."""
        written, _ = write_quantized(job)
        path, notes = written.path, written.notes
        compiler = self.installed(job.python)
        if compiler is None:
            return Compiled((path,), None, notes=notes)
        binary = path.with_name(BINARY.format(path.stem))
        session = _opened(path, job.target.chip, binary)
        if session is None:
            binary.unlink(missing_ok=True)  # the file of a refused network holds only a part of it
            return Compiled((path,), compiler, _compiled_operators(_opened(path, job.target.chip, None)), notes=notes)
        given = session.get_inputs()[0].name

        def run(x: np.ndarray) -> np.ndarray:
            return session.run(None, {given: x[None]})[0][0]

        return Compiled((binary, path), compiler, _compiled_operators(session), run=run, notes=notes)


def _opened(path: Path, chip: str, binary: Path | None) -> onnxruntime.InferenceSession | None:
    """Open a network in the emulator; returns None if a part of it would run on the CPU.

    Args:
        chip: the HTP's version, e.g. ``v73``.
        binary: path of the compiled network; None: let the CPU run what the HTP does not support.
    """
    import onnxruntime_qnn

    if not any(device.ep_name == PROVIDER for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if binary:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "1")
        options.add_session_config_entry("ep.context_file_path", str(binary))
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "htp_arch": chip.removeprefix("v")}
    options.add_provider_for_devices(devices[:1], settings)
    try:
        return onnxruntime.InferenceSession(path, options)
    except Exception as error:  # its exceptions have no common class
        if binary and "fallback to CPU EP has been explicitly disabled" in str(error):
            return None
        raise UserError(
            f"{NAME} does not compile {path.name} ({str(error)[:300]}): try another --precision."
        ) from error


def _compiled_operators(session: onnxruntime.InferenceSession | None) -> tuple[CompiledOperator, ...]:
    """The operators and where they run; `DATA_TYPES` only if they run on the CPU."""
    assert session
    found = [
        CompiledOperator(layer_in(node.name), node.op_type, part.ep_name == PROVIDER)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    return tuple(one for one in found if one.operator not in DATA_TYPES or (one.layer and not one.on_npu))


QNN = Qnn()
