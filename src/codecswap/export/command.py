"""``codecswap export``: write the files, verify them, say what they hold and whether an NPU takes them."""

from dataclasses import replace
from pathlib import Path

import onnx

from codecswap.codecs.protocol import Codec
from codecswap.config import ExportOptions
from codecswap.console import say, show_table, warn
from codecswap.export.backends import graph
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.export.operators import complaints, load_target
from codecswap.export.source import gdn_label, load_source, with_gdn
from codecswap.export.verify import sample_pictures, verify
from codecswap.files import atomic_write
from codecswap.inference.manifest import Manifest, Network, describe_network, replaced_folder, write_folder
from codecswap.swaps import SWAPS

REFUSED = 3
"""Exit code where a target does not accept the graphs."""
COUNTED_AT = 256
"""Side of the picture for which multiply-adds are counted where the size is open."""


def main(options: ExportOptions, typed: set[str]) -> int:
    """``codecswap export``; returns 0, or 3 where ``--target`` does not accept something."""
    target = load_target(options.target) if options.target else None
    codec, name, replacement = load_source(options, typed)
    if not options.checkpoint and (made_by := SWAPS.get(replacement)) and not made_by.exact:
        warn(
            f"--replacement {replacement} is not exact and this one is untrained: export a --checkpoint of distill or "
            "finetune."
        )
    codec, label = with_gdn(codec, options), gdn_label(replacement, options)
    with replaced_folder(options.output) as made:
        manifest = write(codec, name, label, replace(options, output=made))
        show_facts(made, manifest)
        samples = sample_pictures(options.images, "--images", "val", options.size, codec.factor)
        verify(codec, made, samples, manifest.precision)
    say(f"Written: {options.output}.")
    if target is None:
        return 0
    found = {n.file: complaints(options.output / n.file, target) for n in (manifest.encoder, manifest.decoder) if n}
    for note in target.notes:
        say(f"{target.name}: {note}")
    for file, lines in found.items():
        say(f"{target.name} does not accept in {file}:" if lines else f"{target.name} accepts {file}.")
        for line in lines:
            say(f"  {line}.")
    say(f"(The list was read from {target.source}.)")
    return REFUSED if any(found.values()) else 0


def write(codec: Codec, name: str, replacement: str, options: ExportOptions) -> Manifest:
    """Write a codec's files into ``options.output``.

    Raises:
        UserError: the options ask for what cannot be (`codecswap.export.backends.onnx.export_decoder`).
    """
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    opset, height, width = options.opset, options.height, options.width
    encoder = decoder = None
    if options.parts != "encoder":
        path, form, input = folder / "decoder.onnx", options.form, options.input
        export_decoder(codec, path, opset=opset, height=height, width=width, form=form, input=input)
        decoder = _finish(path, options, options.input, "picture")
    if options.parts != "decoder":
        path = folder / "encoder.onnx"
        export_encoder(codec, path, opset=opset, height=height, width=width)
        encoder = _finish(path, options, "picture", "latents")
    tables = codec.entropy_tables()
    manifest = Manifest(
        name=name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        replacement=replacement,
        precision="float16" if options.fp16 else "float32",
        opset=opset,
        height=height,
        width=width,
        encoder=encoder,
        decoder=decoder,
        planes=None,
        tables_sha256=tables.digest().hex(),
    )
    write_folder(folder, manifest, tables)
    return manifest


def _finish(path: Path, options: ExportOptions, input: str, output: str) -> Network:
    if options.fp16:
        to_float16(path)
    return describe_network(path, input, output)


def to_float16(path: Path) -> None:
    """Convert an ONNX file in place to float16 inside, float32 at both ends."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    model.topological_sort()  # the casts of the inputs stand last
    onnx.checker.check_model(model.model, full_check=True)
    with atomic_write(path) as beside:
        onnx.save(model.model, beside)


def show_facts(folder: Path, manifest: Manifest) -> None:
    """Print what each file holds."""
    height, width = manifest.height or COUNTED_AT, manifest.width or COUNTED_AT
    rows = []
    for network in (manifest.encoder, manifest.decoder):
        if network is None:
            continue
        latents = (manifest.M, height // manifest.factor, width // manifest.factor)
        shape = (1, *((3, height, width) if network.input == "picture" else latents))
        known = graph.facts(folder / network.file, shape)
        operators = ", ".join(f"{count} {name}" for name, count in known.operators.items())
        rows.append(
            [
                f"{network.file} (opset {known.opset}): {operators}",
                f"{known.parameters:,}",
                f"{known.multiply_adds / (height * width):,.0f}",
                f"{known.size / 1e6:.2f}",
            ]
        )
    title = f"{manifest.name}, N={manifest.N}, M={manifest.M}, {manifest.precision}"
    show_table(title, ["file and operators", "parameters", "multiply-adds per pixel", "MB"], rows)
