"""The calibration pack: a float decoder and real inputs, for converters that quantize by themselves.

decoder.onnx is float32 and equalized, so that one scale per activation tensor costs little; its input is the
symbols of real pictures, as the entropy decoder gives them (split inputs: codec.json has the layout).
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from onnx import ModelProto

from codecswap.compile.folder import OPSET, write_model
from codecswap.compile.toolchain import Compiled, Job
from codecswap.export.backends.onnx import latent_size, to_onnx
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.split_inputs import SplitInputs
from codecswap.quantize.codec import lowered_decoder

FOLDER, NHWC, LIST, README = "calibration", "calibration_nhwc.npy", "dataset.txt", "README.md"


class Pack:
    """Writes files, without a compiler."""

    install = "the converters are their vendors': README.md in the folder says which takes what"

    def installed(self, python: Path | None) -> str | None:
        """Always None: no compiler is called."""
        return None

    def compile(self, job: Job) -> Compiled:
        """Write the pack."""
        model, inputs, split_inputs = equalized_decoder(job)
        path = write_model(job, model, "float32", split_inputs)
        return Compiled((path, *write_inputs(job.folder, path.name, inputs)), None)


def equalized_decoder(job: Job) -> tuple[ModelProto, list[np.ndarray], SplitInputs | None]:
    """The equalized float decoder of a job, its real inputs ``(1, C, h, w)``, and their layout."""
    made = lowered_decoder(job.codec, job.samples, form=job.form)
    name = "split_inputs" if made.split_inputs else "latents"
    shape = open_shape(name, made.inputs[0].shape[1], latent_size(job.size, job.codec.factor))
    graph = trace(made.transform, input=name, shape=shape, output="picture", prefix="g_s")
    return to_onnx(graph, OPSET), made.inputs, made.split_inputs


def write_inputs(folder: Path, decoder: str, inputs: Sequence[np.ndarray]) -> list[Path]:
    """Write the real inputs of ``decoder`` in both layouts, the list of them and the page.

    ``calibration/000.npy`` and so on are ``(1, C, h, w)``, calibration_nhwc.npy is ``(N, h, w, C)``, all float32.
    """
    (folder / FOLDER).mkdir()
    singles = [folder / FOLDER / f"{index:03}.npy" for index in range(len(inputs))]
    for path, one in zip(singles, inputs, strict=True):
        np.save(path, one)
    np.save(folder / NHWC, np.concatenate(inputs).transpose(0, 2, 3, 1))
    (folder / LIST).write_text("".join(f"{FOLDER}/{path.name}\n" for path in singles), "utf-8")
    page = Template((files("codecswap.compile") / "pack.md").read_text("utf-8"))
    shape = ", ".join(map(str, inputs[0].shape))
    (folder / README).write_text(page.substitute(decoder=decoder, count=len(inputs), shape=shape), "utf-8")
    return [folder / NHWC, folder / LIST, folder / README, *singles]


PACK = Pack()
