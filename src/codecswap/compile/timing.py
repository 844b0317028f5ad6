"""Time of a compiled network on this machine's CPU, beside ONNX Runtime's."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from codecswap.compile.toolchain import Job, Run
from codecswap.inference.runtime import OnnxCodec

ROUNDS = 7
"""Number of alternating time measurements of each runtime; the fastest counts."""


def measure_here(job: Job, path: Path, run: Run) -> tuple[float, str]:
    """Milliseconds of a network on one thread, and a sentence that compares them with ONNX Runtime's.

    Args:
        job: the job.
        path: its ONNX file.
        run: the same network in another runtime, on one thread.
    """
    there = OnnxCodec(path.parent, threads=1)
    decoder = job.part == "decoder"
    x = there.decoder_input(job.samples.symbols[0], job.samples.means[0]) if decoder else job.samples.pictures[0]
    other = there.run_decoder if decoder else there.analyze
    ms, ms_there = _fastest(partial(run, x), partial(other, x))
    return ms, (
        f"Measured on this machine's CPU, one thread: {ms:.1f} ms, with ONNX Runtime {ms_there:.1f} ms; in turns, the "
        f"fastest of {ROUNDS}."
    )


def _fastest(*works: Callable[[], np.ndarray]) -> list[float]:
    """Fastest time of each in milliseconds, measured alternately, so that other load affects all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, found in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            found.append(1e3 * (time.perf_counter() - began))
    return [min(found) for found in times]
