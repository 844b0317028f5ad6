"""Write the codec files of a compiled folder: decoder.onnx or encoder.onnx, entropy tables and codec.json."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from codecswap.compile.toolchain import Job
from codecswap.export.backends.onnx import decoder_graph, encoder_graph, hyper_encoder_graph, to_onnx
from codecswap.export.backends.onnx_qdq import qdq_model
from codecswap.export.folder import (
    add_checks,
    agreement_sentences,
    equalization_sentences,
    finer_sentence,
    write_codec,
)
from codecswap.inference.folder import MANIFEST, read_folder
from codecswap.inference.split_inputs import SplitInputs
from codecswap.quantize.codec import quantize
from codecswap.quantized.representation import TransformGraph

OPSET = 13
"""Newest opset that all compilers read."""


@dataclass(frozen=True)
class Written:
    """A written network."""

    path: Path
    notes: tuple[str, ...] = ()
    """Where equalization stopped, and the agreement of ONNX Runtime with the reference execution, as sentences."""


def write_float(job: Job, change: Callable[[ModelProto], None] | None = None) -> Written:
    """Write the network in float32.

    Args:
        change: changes the graph in place without changing the function.
    """
    decoder = job.part == "decoder"
    graph = decoder_graph(job.codec, form=job.form, size=job.size) if decoder else encoder_graph(job.codec, job.size)
    return Written(write_model(job, to_onnx(graph, OPSET), "float32", None, change))


def write_quantized(job: Job, change: Callable[[ModelProto], None] | None = None) -> tuple[Written, TransformGraph]:
    """Write the network quantized as the target asks, with its checks; ``change`` as in `write_float`."""
    made = job.quantized or quantize(
        job.codec, job.samples, job.target.scheme(job.precision), part=job.part, form=job.form, size=job.size
    )
    network = made.networks[job.part]
    transform = network.transform
    path = write_model(job, qdq_model(transform, OPSET), made.precision, made.split_inputs, change, made.remedies)
    agreement: dict[str, float] = {job.part: add_checks(job.folder, job.samples)[job.part]}
    notes = [*equalization_sentences(network), *agreement_sentences(agreement), finer_sentence(network)]
    return Written(path, tuple(filter(None, notes))), transform


def write_model(
    job: Job,
    model: ModelProto,
    precision: str,
    split_inputs: SplitInputs | None,
    change: Callable[[ModelProto], None] | None = None,
    remedies: Collection[tuple[str, str]] = (),
) -> Path:
    """Write a job's network, beside the folder's other one if there is one; returns its file."""
    if change:
        change(model)
        onnx.checker.check_model(model, full_check=True)
    models: dict[str, ModelProto] = {job.part: model}
    given = dict(remedies)
    if (job.folder / MANIFEST).exists():
        before, _ = read_folder(job.folder)
        given, split_inputs = before.remedies | given, split_inputs or before.split_inputs
        models = {Path(one.file).stem: onnx.load(job.folder / one.file) for one in before.networks} | models
    if "encoder" in models and job.codec.hyperprior:
        models["hyper_encoder"] = to_onnx(hyper_encoder_graph(job.codec.hyperprior, job.size), OPSET)
    facts: dict[str, Any] = {"name": job.name, "precision": precision, "remedies": tuple(given.items())}
    write_codec(job.folder, job.codec, models, **facts, size=job.size, split_inputs=split_inputs)
    return job.folder / f"{job.part}.onnx"


def without_output_padding(model: ModelProto) -> None:
    """Replace ``output_padding`` of transposed convolutions by less padding at the end, which is equivalent."""
    for node in model.graph.node:
        attributes = {item.name: item for item in node.attribute}
        if node.op_type == "ConvTranspose" and "output_padding" in attributes:
            more, pads = attributes["output_padding"].ints, attributes["pads"].ints
            pads[len(more) :] = [pad - extra for pad, extra in zip(pads[len(more) :], more, strict=True)]
            node.attribute.remove(attributes["output_padding"])
