"""Rockchip's NPUs: rknn-toolkit2, which needs a Python environment of its own (``make rknn``) and is called as a subprocess.

What is known of version 2.5.0, from running it: everything runs on the NPU in float16. In 8 bits every square root goes to
the CPU, unless its output is not quantized: then it is computed in float16, on the NPU. On the rk3588 a transposed convolution
with ``output_padding`` does not build.

It does not take the integers of a QDQ file as they are, but makes ranges of them. Of int8 weights with scale s it makes the
range of the type, 128 s, with 127 steps: all are rounded again, to integers of scale 128 / 127 s. An activation whose zero
point is in the middle (128 of uint8) is taken for a symmetric one of the same range: what is read from it is 128 / 127 times
as large. Biases and all other activations keep their values. `for_toolkit` gives it other integers, of which it makes ours.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx

from codecswap.compile.folder import OPSET, without_output_padding, write_float, write_quantized
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job
from codecswap.environments import Environment, Worker
from codecswap.errors import UserError
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.graph.onnx_graph import layer_in
from codecswap.quantized.precision import PRECISIONS
from codecswap.quantized.representation import Constant, Quantization, TransformGraph

NAME = "rknn-toolkit2"
ENVIRONMENT = Environment(NAME, "rknn")
ENDS = ("InputOperator", "OutputOperator")
"""The compiler's names of data transfers by the CPU, which compute nothing."""


class Rknn:
    """rknn-toolkit2."""

    install = f"{ENVIRONMENT.install}, or name the Python of yours with --toolchain_python"

    def installed(self, python: Path | None) -> str | None:
        """Name and version, if there is a Python that has it; errors as of `Environment.installed`."""
        return ENVIRONMENT.installed(python)

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx and, with the toolkit, decoder.rknn."""
        compiler = self.installed(job.python)  # report a wrong --toolchain_python first
        change, model = without_output_padding, None
        if job.precision in PRECISIONS:
            written, transform = write_quantized(job, change)
            change(model := qdq_model(for_toolkit(transform), OPSET))
        else:
            written = write_float(job, change)
        path = written.path
        if compiler is None:
            return Compiled((path,), None, notes=written.notes)
        simulator = Simulator(job, path, model)
        return Compiled(
            (simulator.built, path),
            compiler,
            tuple(simulator.operators),
            cycles=sum(one.cycles or 0 for one in simulator.operators),
            memory=simulator.memory,
            run=simulator,
            notes=written.notes,
        )


class Simulator:
    """A process that builds a network and runs it in the toolkit's simulator.

    Args:
        job: the job.
        path: the job's network, e.g. decoder.onnx.
        model: what the toolkit reads instead, if it would take that file for another function.

    Raises:
        UserError: it was not built.
    """

    def __init__(self, job: Job, path: Path, model: onnx.ModelProto | None = None) -> None:
        self.built = path.with_suffix(".rknn")
        self._scratch = tempfile.TemporaryDirectory()
        self._log = Path(self._scratch.name) / "build.log"
        if model:
            path = Path(self._scratch.name) / path.name
            onnx.save(model, path)
        python = job.python or ENVIRONMENT.python
        with as_file(files("codecswap.compile") / "rknn_worker.py") as worker:
            words = [python.absolute(), worker, job.target.chip, path.resolve(), self.built.resolve(), self._log]
            # the toolkit writes files to its working directory
            scratch = Path(self._scratch.name)
            self._worker = Worker([*map(str, words)], scratch, lambda: UserError(self._sentence("its simulator")))
            answer = json.loads(self._worker.answer())
        if answer["code"]:
            raise UserError(self._sentence(answer["stage"]))
        log = self._log.read_text("utf-8", errors="replace")
        self.operators = list(read_operators(log))
        self.memory = read_memory(log)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Compute the network's output, float32, for its input ``(C, h, w)``."""
        return self._worker(x)

    def _sentence(self, stage: str) -> str:
        lines = self._log.read_text("utf-8", errors="replace").splitlines() if self._log.is_file() else []
        said = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in lines]
        errors = [line for line in said if line.startswith("E ") or "Error" in line] or said[-1:]
        return f"{NAME} failed in {stage} ({' / '.join(errors)[:500]}): try another --form or --precision."


def for_toolkit(transform: TransformGraph) -> TransformGraph:
    """Change the integers of a transform such that the toolkit makes the transform's own of them (see above).

    Weights are integers in +-126; a larger one is clipped. Where the zero point moves, the lowest level is lost.
    """
    constants, activations = dict(transform.constants), dict(transform.activations)
    for name, constant in constants.items():
        if constant.quantization and constant.values.dtype == np.int8:
            wider = np.rint(constant.values * (128 / 127)).clip(-128, 127).astype(np.int8)
            scale = constant.quantization.scale * np.float32(127 / 128)
            constants[name] = Constant(wider, replace(constant.quantization, scale=scale))
    for name, one in activations.items():
        if one.zero_point == _middle(one):
            activations[name] = replace(one, zero_point=one.zero_point - one.zero_point.dtype.type(1))
    return replace(transform, constants=constants, activations=activations)


def _middle(one: Quantization) -> int:
    limits = np.iinfo(one.zero_point.dtype)
    return (int(limits.min) + int(limits.max) + 1) // 2


def read_operators(log: str) -> Iterator[CompiledOperator]:
    """Parse the table of layers in the toolkit's log.

    Some chips have one column more, so the columns are found from the right ones: ``FullName`` is the last, the cycles are
    the only ``DDR/NPU/Total``.
    """
    _, _, table = log.partition("Network Layer Information Table")
    for line in table.splitlines():
        found = re.search(r"\] (\d+)\s+(\S+)\s+\S+\s+(CPU|NPU)\s.*\s\d+/\d+/(\d+)\s.*?(\S+)\s*$", line)
        if found and (operator := found[2]) not in ENDS:
            yield CompiledOperator(layer_in(found[5]), operator, found[3] == "NPU", float(found[4]))
        if "end: rknn::RKNNModelRegCmdbuildPass" in line:
            return


def read_memory(log: str) -> int | None:
    """Bytes of activations and weights, from the toolkit's log."""
    found = re.findall(r"Total (?:Internal|Weight) Memory Size: ([\d.]+)KB", log)
    return round(1024 * sum(map(float, found))) or None


RKNN = Rknn()
