"""Intel: OpenVINO, which compiles a network whole for one device, or refuses it.

It is compiled and timed for this machine's CPU; Intel's NPU takes the same files.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from codecswap.compile.folder import write_float, write_quantized
from codecswap.compile.toolchain import Compiled, Job, Scheme
from codecswap.config import CompileOptions, QuantizeOptions
from codecswap.inference import openvino
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantized.precision import PRECISIONS

OPSET = 13
ROUNDS = 7
"""Times that a picture is decoded with each runtime, in turns; the fastest counts."""


class OpenVino:
    """OpenVINO."""

    install = "openvino: pip install openvino"

    def installed(self, options: CompileOptions) -> str | None:
        """Name and version."""
        version = openvino.version()
        return version and f"openvino {version}"

    def scheme(self, precision: str) -> Scheme:
        """With weights of 7 bits: OpenVINO has the instructions that overflow with 8."""
        return Scheme(QuantizeOptions(opset=OPSET, weight_bits=7))

    def compile(self, job: Job) -> Compiled:
        """Write decoder.onnx and, with OpenVINO, its own format; time it beside ONNX Runtime."""
        in_float = job.precision not in PRECISIONS
        path = write_float(job, OPSET) if in_float else write_quantized(job, self.scheme(job.precision))
        if (compiler := self.installed(job.options)) is None:
            return Compiled((path,), None)
        ours, theirs = (OnnxCodec(path.parent, threads=1, runtime=name) for name in ("openvino", "onnxruntime"))
        ms, ms_there = _fastest(partial(ours.synthesize, job.symbols[0]), partial(theirs.synthesize, job.symbols[0]))
        return Compiled(
            (*_converted(path), path),
            compiler,
            milliseconds=ms,
            decode=ours.synthesize,
            notes=(
                f"Measured on this machine's CPU, one thread: {ms:.1f} ms, with ONNX Runtime {ms_there:.1f} ms; in turns, the "
                f"fastest of {ROUNDS}. The whole decoder runs on one device: OpenVINO leaves nothing to another.",
            ),
        )


def _converted(path: Path) -> tuple[Path, Path]:
    """Write a network as OpenVINO's own files, decoder.xml and decoder.bin, which need no ONNX reader."""
    from openvino import Core, save_model

    made = path.with_suffix(".xml")
    save_model(Core().read_model(path), made, compress_to_fp16=False)
    return made, made.with_suffix(".bin")


def _fastest(*works: Callable[[], np.ndarray]) -> list[float]:
    """Milliseconds of each, done in turns: the machine's other work then slows all of them alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, found in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - began))
    return [min(found) for found in times]


OPENVINO = OpenVino()
