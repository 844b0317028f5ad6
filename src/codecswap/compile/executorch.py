"""ExecuTorch with XNNPACK, Meta's runtime for the CPUs of phones: an environment of its own (``make executorch``)."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from codecswap.compile.folder import write_float
from codecswap.compile.toolchain import Compiled, Job
from codecswap.environments import Worker
from codecswap.errors import UserError
from codecswap.export.backends.engines import ENGINES, EXECUTORCH_WORKER

ENGINE = ENGINES["executorch"]


class ExecuTorch:
    """Its converter, and the runtime on this machine."""

    install = f"{ENGINE.install}, or name the Python of yours with --toolchain_python"

    def installed(self, python: Path | None) -> str | None:
        """Name and version; errors as of `codecswap.environments.Environment.installed`."""
        return ENGINE.installed(python)

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx and, with ExecuTorch, decoder.pte."""
        compiler = self.installed(job.python)
        written = write_float(job)
        if compiler is None:
            return Compiled((written.path,), None, notes=written.notes)
        converted = ENGINE.convert(onnx.load(written.path), python=job.python)
        made = written.path.with_suffix(*ENGINE.suffixes)
        made.write_bytes(*converted.files)
        return Compiled(
            (made, written.path),
            compiler,
            run=_Runtime(made, job.python),
            computed_by="executorch",
            notes=(*written.notes, sentence(converted.outside)),
        )


class _Runtime(Worker):
    def __init__(self, program: Path, python: Path | None) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        command = [ENGINE.interpreter(python), str(EXECUTORCH_WORKER), "run", str(program.resolve())]
        failed = UserError("executorch does not compute what was converted: try another --form.")
        super().__init__(command, Path(self._scratch.name), lambda: failed)


def sentence(outside: Sequence[str]) -> str:
    """What XNNPACK does not compute, as a sentence."""
    if not outside:
        return "XNNPACK computes all of it."
    names = ", ".join(f"{name} ({count})" for name, count in Counter(outside).items())
    return f"Not by XNNPACK, but by ExecuTorch's portable kernels: {names}."


EXECUTORCH = ExecuTorch()
