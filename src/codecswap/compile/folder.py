"""The codec's part of a compiled folder: decoder.onnx, entropy tables and codec.json, as export and quantize write them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto

from codecswap.compile.toolchain import Job, Scheme
from codecswap.config import ExportOptions
from codecswap.export.command import write
from codecswap.inference.manifest import describe_network, read_folder, write_folder
from codecswap.quantize.command import quantize


def write_float(job: Job, opset: int) -> Path:
    """Write the decoder in float32, with one size; returns its file."""
    options = job.options
    given = ExportOptions(
        output=job.folder,
        part="decoder",
        form=options.form or "native",
        opset=opset,
        height=options.height,
        width=options.width,
    )
    write(job.codec, job.name, job.replacement, given)
    return job.folder / "decoder.onnx"


def write_quantized(job: Job, scheme: Scheme) -> Path:
    """Write the decoder quantized, with one size; returns its file."""
    options = job.options
    given = scheme.options.replace(
        output=job.folder,
        part="decoder",
        form=options.form or "native",
        height=options.height,
        width=options.width,
    )
    quantize(job.codec, job.name, job.replacement, job.pictures, given, show=False, adapt=scheme.adapt)
    return job.folder / "decoder.onnx"


def rewrite(path: Path, change: Callable[[ModelProto], None]) -> None:
    """Change a folder's decoder without changing what it computes."""
    model = onnx.load(path)
    change(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    manifest, tables = read_folder(path.parent)
    decoder = describe_network(path, manifest.decoder.input, manifest.decoder.output) if manifest.decoder else None
    write_folder(path.parent, replace(manifest, decoder=decoder), tables)
