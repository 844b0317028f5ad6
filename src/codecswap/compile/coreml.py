"""Apple: a Core ML package, written and checked by coremltools, which computes it on macOS only."""

import logging
from collections import Counter
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from codecswap.compile.folder import write_float
from codecswap.compile.toolchain import Compiled, Job, name_and_version
from codecswap.export.backends.onnx import decoder_graph, encoder_graph

NAME = "coremltools"


class CoreMl:
    """coremltools."""

    install = f"pip install {NAME}"

    def installed(self, python: Path | None) -> str | None:
        """Name and version."""
        return name_and_version(NAME)

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx and, with coremltools, decoder.mlpackage."""
        written, compiler = write_float(job), self.installed(job.python)
        path = written.path
        if compiler is None:
            return Compiled((path,), None, notes=written.notes)
        logging.getLogger(NAME).setLevel(logging.ERROR)  # it warns of what only macOS has, and of each new PyTorch
        from codecswap.export.backends.coreml import TARGET, mlprogram

        if job.part == "decoder":
            transform = decoder_graph(job.codec, form=job.form, size=job.size)
        else:
            transform = encoder_graph(job.codec, job.size)
        with redirect_stderr(StringIO()):  # its progress bars
            model = mlprogram(transform, half=job.precision == "float16")
        made = path.with_suffix(".mlpackage")
        model.save(str(made))
        counted = ", ".join(f"{count} {name}" for name, count in sorted(operators(model).items()))
        note = (
            f"{made.name} is for {TARGET}, macOS 13 and newer: {counted}. Its types and shapes were checked; what the Neural "
            "Engine runs of it only macOS says (Xcode's performance report), and nothing was computed."
        )
        return Compiled((made, path), compiler, notes=(*written.notes, note))


def operators(model: Any) -> Counter[str]:
    """How often each operator is in an ML program, without constants."""
    (function,) = model.get_spec().mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    return Counter(step.type for step in block.operations if step.type != "const")


COREML = CoreMl()
