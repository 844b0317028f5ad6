"""Running models in ONNX Runtime on the CPU, and comparing what they give."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

Feeds = dict[str, np.ndarray]
GUESSES = ((1, 64), (2, 96), (1, 224), (1, 256), (1, 32), (1, 320), (1, 128), (1, 512), (1, 16), (1, 7), (1, 1))
"""Lengths tried for dynamic dimensions: of the first axis, and of all others."""
ROUNDS = 15
"""Times that a model is run to be timed; the fastest counts."""


CLOCK = time.process_time if time.get_clock_info("process_time").resolution < 1e-6 else time.perf_counter
"""Other programs that are running do not count, where the system tells time spent in a process finely enough."""


@dataclass(frozen=True)
class Difference:
    """The largest difference between two models' outputs."""

    error: float
    """For real outputs relative to their largest value; for integers the share that differs."""
    place: str = ""
    """Output and index."""
    real: bool = True


def session(model: ModelProto | Path, *, optimized: bool = False) -> onnxruntime.InferenceSession:
    """Open a model on one thread; unless ``optimized``, its operators run as the file has them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def difference(
    names: Sequence[str], wanted: Sequence[np.ndarray], found: Sequence[np.ndarray], *, least: float = 1e-30
) -> Difference:
    """Compare the outputs of two models; errors are relative to an output's largest value, or to ``least``."""
    worst = Difference(0.0)
    for name, a, b in zip(names, wanted, found, strict=True):
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):  # sequences and maps
            continue
        if a.shape != b.shape:
            return Difference(np.inf, f"{name}, whose shape is {list(b.shape)} in place of {list(a.shape)}")
        if not a.size:
            continue
        if a.dtype.kind not in "fV":
            differing = a != b
            error, where, real = float(differing.mean()), int(differing.argmax()), False
        else:
            x, y = a.astype(np.float64), b.astype(np.float64)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            scale = max(np.abs(x[np.isfinite(x)]).max(initial=0), least)
            with np.errstate(invalid="ignore"):
                away = np.where(same, 0, np.abs(x - y) / scale)
            away = np.where(np.isnan(away), np.inf, away)
            error, where, real = float(away.max()), int(away.argmax()), True
        if error > worst.error:
            index = [int(place) for place in np.unravel_index(where, a.shape)]
            worst = Difference(error, f"{name} {index}", real)
    return worst


def random_feeds(inputs: Sequence[ValueInfoProto], guess: tuple[int, int], seed: int) -> Feeds:
    """Random values for a model's inputs: normal, or integers 0 and 1.

    Raises:
        ValueError: an input is no tensor of numbers, or has too many of them.
    """
    random = np.random.default_rng(seed)
    feeds = {}
    for value in inputs:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type in (TensorProto.STRING, TensorProto.UNDEFINED):
            raise ValueError(f"its input {value.name} is no tensor of numbers")
        shape = [dim.dim_value or guess[bool(axis)] for axis, dim in enumerate(kind.shape.dim)]
        if np.prod(shape, dtype=float) > MOST_INPUTS:
            raise ValueError(f"its input {value.name} has the shape {shape}")
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        real = kind.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        feeds[value.name] = (random.standard_normal(shape) if real else random.integers(0, 2, shape)).astype(dtype)
    return feeds


MOST_INPUTS = 1 << 27
"""Numbers in one input, at most."""


def milliseconds(runs: Sequence[tuple[onnxruntime.InferenceSession, Mapping[str, np.ndarray]]]) -> list[float]:
    """Milliseconds of each: processor time on one thread, the least of some rounds in turns."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for (opened, feeds), found in zip(runs, times, strict=True):
            began = CLOCK()
            opened.run(None, feeds)
            found.append(1e3 * (CLOCK() - began))
    return [min(found) for found in times]
