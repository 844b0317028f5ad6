"""``codecswap export``: write the files, verify them, say what they hold and whether an NPU takes them."""

from itertools import islice
from pathlib import Path

import onnx

from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions
from codecswap.console import say, show_table, warn
from codecswap.data.samples import sample_pictures
from codecswap.entropy.hyper_synthesis import IntegerNetwork
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.export.backends.onnx import export_decoder, export_encoder, export_hyper_encoder
from codecswap.export.operators import complaints, load_target
from codecswap.export.verify import verify
from codecswap.files import atomic_write
from codecswap.graph import onnx_graph as graph
from codecswap.inference.manifest import (
    Manifest,
    Network,
    describe_network,
    describe_side,
    replaced_folder,
    write_folder,
)
from codecswap.quantize.hyper_synthesis import integer_network
from codecswap.students.source import gdn_label, load_source, with_gdn
from codecswap.swaps import SWAPS

REFUSED = 3
"""Exit code where a target does not accept the graphs."""
RANGED_ON, RANGED_AT = 8, (256, 256)
"""How many pictures, and of which width and height, the ranges of the integer hyper-synthesis are taken from."""
COUNTED_AT = 256
"""Side of the picture for which multiply-adds are counted where the size is open."""


def main(options: ExportOptions) -> int:
    """``codecswap export``; returns 0, or 3 where ``--target`` does not accept something."""
    target = load_target(options.target) if options.target else None
    codec, name, replacement = load_source(options)
    if not options.checkpoint and (made_by := SWAPS.get(replacement)) and not made_by.exact:
        warn(
            f"--replacement {replacement} is not exact and this one is untrained: export a --checkpoint of distill or "
            "finetune."
        )
    codec, label = with_gdn(codec, options, options.part), gdn_label(replacement, options)
    with replaced_folder(options.output) as made:
        manifest = write(codec, name, label, options.replace(output=made))
        show_facts(made, manifest)
        samples = sample_pictures(options.images, "--images", "val", options.size, codec.multiple)
        verify(codec, made, samples, manifest.precision)
    say(f"Written: {options.output}.")
    if target is None:
        return 0
    found = {n.file: complaints(options.output / n.file, target) for n in manifest.networks}
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
    check_size(codec, options.height, options.width)
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    opset, height, width = options.opset, options.height, options.width
    encoder = decoder = None
    if options.part != "encoder":
        path, form, input = folder / "decoder.onnx", options.form, options.input
        export_decoder(codec, path, opset=opset, height=height, width=width, form=form, input=input)
        decoder = _finish(path, options, options.input, "picture")
    if options.part != "decoder":
        path = folder / "encoder.onnx"
        export_encoder(codec, path, opset=opset, height=height, width=width)
        encoder = _finish(path, options, "picture", "latents")
    hyper_encoder = side = None
    if isinstance(codec, HyperCodec):
        side = side_of(codec)
        if options.part != "decoder":
            path = folder / "hyper_encoder.onnx"
            export_hyper_encoder(codec, path, opset=opset, height=height, width=width)
            hyper_encoder = _finish(path, options, "latents", "hyper_latents")
    tables = codec.entropy_tables()
    manifest = Manifest(
        name=name,
        N=codec.N,
        M=codec.M,
        factor=codec.factor,
        margin=codec.margin,
        passes=codec.passes,
        replacement=replacement,
        precision="float16" if options.fp16 else "float32",
        opset=opset,
        height=height,
        width=width,
        encoder=encoder,
        decoder=decoder,
        split_inputs=None,
        tables_sha256=tables.digest().hex(),
        hyper_encoder=hyper_encoder,
        side=describe_side(codec.hyper_factor, *side) if side else None,
    )
    write_folder(folder, manifest, tables, side)
    return manifest


def check_size(codec: Codec, height: int | None, width: int | None) -> None:
    """Refuse a fixed size that a codec cannot have, and a codec that cannot be exported.

    Raises:
        UserError: see there.
    """
    if codec.has_context:
        raise UserError(
            "This codec has a context model, which decodes one position after the other and has no form in integers: it is not "
            "exported. Take a codec without one (mbt2018_mean)."
        )
    for name, length in (("height", height), ("width", width)):
        if length and length % codec.multiple:
            padded = -(-length // codec.multiple) * codec.multiple
            raise UserError(f"--{name} is a multiple of {codec.multiple} for this codec, not {length}: take {padded}.")


def side_of(codec: HyperCodec) -> tuple[EntropyTables, IntegerNetwork]:
    """The Gaussians' tables and the hyper-synthesis in integers, ranged on the package's photographs for training."""
    torch_codec = TorchCodec(codec)
    symbols = []
    for sample in islice(sample_pictures(None, "", "train", RANGED_AT), RANGED_ON):
        symbols.append(torch_codec.tables.to_symbols(torch_codec.hyper_analyze(torch_codec.analyze(sample))))
    return codec.gaussian_tables(), integer_network(codec, symbols)


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
    for network in manifest.networks:
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
