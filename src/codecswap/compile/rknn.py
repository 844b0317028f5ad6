"""Rockchip's NPUs: rknn-toolkit2, which needs a Python environment of its own (``make rknn``) and is called as a subprocess.

What is known of version 2.5.0, from running it: everything runs on the NPU in float16. In 8 bits every square root goes to
the CPU, unless its output is not quantized: then it is computed in float16, on the NPU. On the rk3588 a transposed convolution
with ``output_padding`` does not build. What else it takes otherwise than meant, and is given instead:
`codecswap.compile.rknn_graph`.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import onnx

from codecswap.compile.folder import OPSET, without_output_padding, write_float, write_quantized
from codecswap.compile.rknn_graph import group_depth_to_space, own_integers
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job
from codecswap.environments import Environment, Worker
from codecswap.errors import UserError
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.graph.onnx_graph import layer_in
from codecswap.quantized.precision import PRECISIONS

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
        change = without_output_padding
        if job.precision in PRECISIONS:
            written, transform = write_quantized(job, change)
            change(model := qdq_model(own_integers(transform), OPSET))
        else:
            written = write_float(job, change)
            model = onnx.load(written.path)
        group_depth_to_space(model)
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
        model: what the toolkit reads instead.

    Raises:
        UserError: it was not built.
    """

    def __init__(self, job: Job, path: Path, model: onnx.ModelProto) -> None:
        self.built = path.with_suffix(".rknn")
        self._scratch = tempfile.TemporaryDirectory()
        self._log = Path(self._scratch.name) / "build.log"
        given = Path(self._scratch.name) / path.name
        onnx.save(model, given)
        python = job.python or ENVIRONMENT.python
        with as_file(files("codecswap.compile") / "rknn_worker.py") as worker:
            words = [python.absolute(), worker, job.target.chip, given, self.built.resolve(), self._log]
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
