"""NVIDIA's TensorRT: a network in operators and types that it takes, and a script that builds the engine where the GPU is.

Engines are of one GPU and one release, so nothing is built here; ONNX Runtime computes the file's pictures.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx

from codecswap.compile.folder import without_output_padding, write_float
from codecswap.compile.toolchain import Compiled, Job
from codecswap.export.folder import to_float16
from codecswap.inference.runtime import open_session

NETWORK, SCRIPT = "{}_tensorrt.onnx", "build_engine.py"
"""Names of files; the first by the network's name."""


class TensorRt:
    """TensorRT, which is not called."""

    install = f"TensorRT, on the machine with the GPU: pip install tensorrt, then python {SCRIPT} in the folder"

    def installed(self, python: Path | None) -> str | None:
        """Always None: engines are built where they run."""
        return None

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx, decoder_tensorrt.onnx without output_padding in float32 or float16, and the script."""
        written = write_float(job)
        path, model = written.path, onnx.load(written.path)
        without_output_padding(model)
        made, script = path.with_name(NETWORK.format(path.stem)), path.with_name(SCRIPT)
        onnx.save(to_float16(model) if job.precision == "float16" else model, made)
        script.write_text((files("codecswap.compile") / "tensorrt_build.py").read_text("utf-8"), "utf-8")
        session = open_session(made.read_bytes(), threads=1)
        given = session.get_inputs()[0].name

        def run(x: np.ndarray) -> np.ndarray:
            return session.run(None, {given: x[None]})[0][0]

        note = f"{made.name} is for {SCRIPT}, on the machine with the GPU; here ONNX Runtime computed it."
        return Compiled((made, script, path), None, run=run, computed_by="ONNX Runtime", notes=(*written.notes, note))


TENSORRT = TensorRt()
