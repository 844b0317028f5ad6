"""Intel: OpenVINO, which compiles a whole network for one device, or refuses it.

It is compiled and timed for this machine's CPU; Intel's NPU takes the same files.
"""

from pathlib import Path

from codecswap.compile.folder import write_float, write_quantized
from codecswap.compile.timing import measure_here
from codecswap.compile.toolchain import Compiled, Job
from codecswap.inference import openvino
from codecswap.inference.runtime import OnnxCodec
from codecswap.quantized.precision import PRECISIONS


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
        ours = OnnxCodec(path.parent, threads=1, runtime="openvino")
        run = ours.run_decoder if job.part == "decoder" else ours.analyze
        ms, sentence = measure_here(job, path, run)
        whole = f"The whole {job.part} runs on one device: OpenVINO leaves nothing to another."
        return Compiled(
            (*_converted(path), path),
            compiler,
            milliseconds=ms,
            run=run,
            computed_by="OpenVINO",
            notes=(*written.notes, f"{sentence} {whole}"),
        )


def _converted(path: Path) -> tuple[Path, Path]:
    """Write a network as OpenVINO's own files, decoder.xml and decoder.bin, which need no ONNX reader."""
    from openvino import Core, save_model

    made = path.with_suffix(".xml")
    save_model(Core().read_model(path), made, compress_to_fp16=False)
    return made, made.with_suffix(".bin")


OPENVINO = OpenVino()
