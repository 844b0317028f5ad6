"""ncnn and MNN: runtimes for the CPUs of phones and boards, which also run here, so that pictures and times are the runtime's.

A network is converted whole, or refused: nothing falls to another runtime.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from codecswap.compile.folder import write_float
from codecswap.compile.timing import measure_here
from codecswap.compile.toolchain import Compiled, Job, Run
from codecswap.errors import UserError
from codecswap.export.backends.engines import ENGINES, Engine, engine_settings, file_of
from codecswap.runner.networks import RUNTIMES


class EngineToolchain:
    """The converter of an engine, and the engine on this machine."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.install = engine, engine.install

    def installed(self, python: Path | None) -> str | None:
        """Names and versions."""
        return self.engine.installed()

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx and, with the engine, its own files; compare its time with ONNX Runtime's."""
        written, engine, half = write_float(job), self.engine, job.precision == "float16"
        path = written.path
        if (compiler := engine.installed()) is None:
            return Compiled((path,), None, notes=written.notes)
        parts = engine.convert(onnx.load(path), half).files
        made = [path.with_suffix(suffix) for suffix in engine.suffixes]
        for file, part in zip(made, parts, strict=True):
            file.write_bytes(part)
        run = _opened(engine, parts, half)
        ms, sentence = measure_here(job, path, run)
        return Compiled(
            (*made, path),
            compiler,
            milliseconds=ms,
            run=run,
            computed_by=engine.packages[0],
            notes=(*written.notes, sentence),
        )


def _opened(engine: Engine, parts: tuple[bytes, ...], half: bool) -> Run:
    with _silence():
        try:
            network = RUNTIMES[engine.runtime](file_of(parts), 1, engine_settings(half))
        except RuntimeError as error:
            raise UserError(
                f"{engine.packages[0]} does not open what was converted ({error}): try another --form."
            ) from error

    def run(x: np.ndarray) -> np.ndarray:
        return network.array(network.run(network.given({"x": x[None]})))[0]

    return run


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what libraries write to the standard output of the process."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


NCNN, MNN = (EngineToolchain(ENGINES[name]) for name in ("ncnn", "mnn"))
