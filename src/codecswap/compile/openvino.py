"""Intel: OpenVINO, which compiles a whole network for one device, or refuses it.

It is compiled and timed for this machine's CPU; Intel's NPU takes the same files.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from codecswap.compile.folder import write_float, write_quantized
from codecswap.compile.toolchain import Compiled, Job
from codecswap.inference import openvino
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantized.precision import PRECISIONS

ROUNDS = 7
"""Number of alternating time measurements of each runtime; the fastest counts."""


class OpenVino:
    """OpenVINO."""

    install = "openvino: pip install openvino"

    def installed(self, python: Path | None) -> str | None:
        """Name and version."""
        version = openvino.version()
        return version and f"openvino {version}"

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx and, with OpenVINO, its own format; compare its time with ONNX Runtime's."""
        written = write_float(job) if job.precision not in PRECISIONS else write_quantized(job)[0]
        path = written.path
        if (compiler := self.installed(job.python)) is None:
            return Compiled((path,), None, notes=written.notes)
        ours, theirs = (OnnxCodec(path.parent, threads=1, runtime=name) for name in ("openvino", "onnxruntime"))
        decoder = job.part == "decoder"
        run, there = ((one.run_decoder if decoder else one.analyze) for one in (ours, theirs))
        x = job.samples.pictures[0]
        if decoder:
            x = ours.decoder_input(job.samples.symbols[0], job.samples.means[0])
        ms, ms_there = _fastest(partial(run, x), partial(there, x))
        return Compiled(
            (*_converted(path), path),
            compiler,
            milliseconds=ms,
            run=run,
            notes=(
                *written.notes,
                f"Measured on this machine's CPU, one thread: {ms:.1f} ms, with ONNX Runtime {ms_there:.1f} ms; in turns, the "
                f"fastest of {ROUNDS}. The whole {job.part} runs on one device: OpenVINO leaves nothing to another.",
            ),
        )


def _converted(path: Path) -> tuple[Path, Path]:
    """Write a network as OpenVINO's own files, decoder.xml and decoder.bin, which need no ONNX reader."""
    from openvino import Core, save_model

    made = path.with_suffix(".xml")
    save_model(Core().read_model(path), made, compress_to_fp16=False)
    return made, made.with_suffix(".bin")


def _fastest(*works: Callable[[], np.ndarray]) -> list[float]:
    """Fastest time of each in milliseconds, measured alternately, so that other load affects all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, found in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - began))
    return [min(found) for found in times]


OPENVINO = OpenVino()
