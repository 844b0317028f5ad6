"""Write the codec files of a compiled folder: decoder.onnx, entropy tables and codec.json."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from codecswap.compile.toolchain import Job
from codecswap.export.backends.onnx import decoder_graph, to_onnx
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.export.folder import add_checks, agreement_sentences, equalization_sentences, write_codec
from codecswap.inference.split_inputs import SplitInputs
from codecswap.quantize.codec import quantize
from codecswap.quantized.representation import TransformGraph

OPSET = 13
"""Newest opset that all compilers read."""


@dataclass(frozen=True)
class Written:
    """A written decoder."""

    path: Path
    notes: tuple[str, ...] = ()
    """Where equalization stopped, and the agreement of ONNX Runtime with the reference execution, as sentences."""


def write_float(job: Job, change: Callable[[ModelProto], None] | None = None) -> Written:
    """Write the decoder in float32.

    Args:
        change: changes the graph in place without changing the function.
    """
    model = to_onnx(decoder_graph(job.codec, form=job.form, size=job.size), OPSET)
    return Written(write_model(job, model, "float32", None, change))


def write_quantized(job: Job, change: Callable[[ModelProto], None] | None = None) -> tuple[Written, TransformGraph]:
    """Write the decoder quantized as the target asks, with its checks; ``change`` as in `write_float`."""
    made = job.quantized or quantize(
        job.codec, job.samples, job.target.scheme(job.precision), form=job.form, size=job.size
    )
    decoder = made.networks["decoder"]
    transform = decoder.transform
    path = write_model(job, qdq_model(transform, OPSET), made.precision, made.split_inputs, change, made.remedies)
    notes = [*equalization_sentences(decoder), *agreement_sentences(add_checks(job.folder, job.samples))]
    return Written(path, tuple(notes)), transform


def write_model(
    job: Job,
    model: ModelProto,
    precision: str,
    split_inputs: SplitInputs | None,
    change: Callable[[ModelProto], None] | None = None,
    remedies: Collection[tuple[str, str]] = (),
) -> Path:
    """Write a job's decoder; returns its file."""
    if change:
        change(model)
        onnx.checker.check_model(model, full_check=True)
    facts: dict[str, Any] = {"name": job.name, "precision": precision, "remedies": remedies}
    write_codec(job.folder, job.codec, {"decoder": model}, **facts, size=job.size, split_inputs=split_inputs)
    return job.folder / "decoder.onnx"
