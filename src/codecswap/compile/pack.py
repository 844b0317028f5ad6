"""The calibration pack: what a converter that quantizes by itself takes. Nobody has a decoder's input lying around.

decoder.onnx is float32 and equalized, so that one scale for all channels of an activation costs little; its input is the
symbols of real pictures, as the entropy decoder gives them (split inputs: codec.json has the layout).
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from codecswap.compile.toolchain import Compiled, Job, Scheme
from codecswap.config import CompileOptions, QuantizeOptions
from codecswap.errors import UserError
from codecswap.export.backends.onnx import latent_size, write_onnx
from codecswap.graph.trace import open_shape, trace
from codecswap.inference.manifest import Manifest, describe_network, write_folder
from codecswap.quantize.command import lowered_decoder

FOLDER, NHWC, LIST, README = "calibration", "calibration_nhwc.npy", "dataset.txt", "README.md"
OPSET = 13


class Pack:
    """No compiler: the files alone."""

    install = "the converters are their vendors': README.md in the folder says which takes what"

    def installed(self, options: CompileOptions) -> str | None:
        """Nothing is run."""
        return None

    def scheme(self, precision: str) -> Scheme:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("pack holds a decoder in float, which converters quantize by themselves.")

    def compile(self, job: Job) -> Compiled:
        """Write the pack."""
        return Compiled(tuple(write_pack(job)), None)


def write_pack(job: Job, name: str = "decoder.onnx") -> list[Path]:
    """Write the equalized float decoder as ``name``, the real inputs in both layouts, the list of them and the page.

    ``calibration/000.npy`` and so on are ``(1, C, h, w)``, calibration_nhwc.npy is ``(N, h, w, C)``, all float32.

    Returns: the files, the decoder first.
    """
    options, codec, tables = job.options, job.codec, job.codec.entropy_tables()
    size = latent_size(options.height, options.width, codec.factor)
    how = QuantizeOptions(form=options.form or "native", height=options.height, width=options.width)
    lowered, inputs, split_inputs = lowered_decoder(codec, job.symbols, [None] * len(job.symbols), tables, how)
    path = job.folder / name
    shape = open_shape("split_inputs", inputs[0].shape[1], size)
    write_onnx(trace(lowered, input="split_inputs", shape=shape, output="picture", prefix="g_s"), path, OPSET)
    manifest = Manifest(
        name=job.name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        passes=codec.passes,
        replacement=job.replacement,
        precision="float32",
        opset=OPSET,
        height=options.height,
        width=options.width,
        encoder=None,
        decoder=describe_network(path, "split_inputs", "picture"),
        split_inputs=split_inputs,
        tables_sha256=tables.digest().hex(),
    )
    write_folder(job.folder, manifest, tables)
    return [path, *_write_inputs(job.folder, name, inputs)]


def _write_inputs(folder: Path, decoder: str, inputs: Sequence[np.ndarray]) -> list[Path]:
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
