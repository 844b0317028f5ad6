"""``codecswap export``: write the files, verify them on the spot, say what they hold and whether an NPU takes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageOps

from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions
from codecswap.console import say, show_table, track, warn
from codecswap.data.discovery import scan
from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.errors import UserError
from codecswap.export.backends import graph
from codecswap.export.backends.onnx import export_decoder, export_encoder
from codecswap.export.operators import complaints, load_target
from codecswap.export.source import load_source
from codecswap.files import atomic_write
from codecswap.inference.bitstream import pad, to_array
from codecswap.inference.manifest import Manifest, Network, describe_network, write_folder
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps import SWAPS

REFUSED = 3
"""Exit code where a target does not accept the graphs."""
VERIFIED_ON = 3
"""Pictures that the files are verified on."""
BOUNDARY, ERROR = 1e-3, 1e-4
"""Most that float32 files may be away from PyTorch: latents (in steps of rounding) that become other symbols, and pictures."""
COUNTED_AT = 256
"""Side of the picture for which multiply-adds are counted where the size is open."""


def main(options: ExportOptions, typed: set[str]) -> int:
    """``codecswap export``; returns 0, or 3 where ``--target`` does not accept something."""
    target = load_target(options.target) if options.target else None
    codec, name, replacement = load_source(options, typed)
    if replacement in SWAPS and not SWAPS[replacement].exact and not options.checkpoint:
        warn(
            f"--replacement {replacement} is not exact and this one is untrained: export a --checkpoint of distill or "
            "finetune."
        )
    manifest = write(codec, name, replacement, options)
    show_facts(options.output, manifest)
    verify(codec, options.output, pictures(options.images, manifest), manifest.precision)
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


def pictures(folder: str | None, manifest: Manifest) -> Iterator[np.ndarray]:
    """Pictures ``(3, H, W)``, float32 in [0, 1], padded to whole latents or cropped to the fixed size.

    Raises:
        UserError: the folder holds none that can be read.
    """
    size = (manifest.width, manifest.height) if manifest.width and manifest.height else None
    return (pad(picture, manifest.factor) for picture in fitted(folder, "--images", "val", size))


def fitted(folder: str | None, option: str, side: str, size: tuple[int, int] | None) -> Iterator[np.ndarray]:
    """Pictures of a folder, or the package's photographs, ``(3, H, W)``, float32 in [0, 1].

    Args:
        folder: None: the package's.
        option: the option that named the folder.
        side: ``train`` or ``val``, of the package's photographs.
        size: width and height that they are cut to; None: whole.

    Raises:
        UserError: the folder holds none that can be read.
    """
    found = 0
    for path in scan(folder or str(files("codecswap") / "assets" / "photos" / side)):
        try:
            picture = load_picture(path)
        except UNREADABLE:
            continue
        found += 1
        yield to_array(ImageOps.fit(picture, size, Image.Resampling.LANCZOS) if size else picture)
    if not found:
        raise UserError(f"{option} {folder} holds no picture that can be read.")


@dataclass
class Differences:
    """What an exported codec's results differ from PyTorch's in, over all pictures."""

    symbols: int = 0
    differing: int = 0
    """Symbols that are rounded to another integer."""
    boundary: float = 0.0
    """Largest distance of PyTorch's latent from the interval that is rounded to the symbol of the file."""
    picture: float = 0.0
    """Largest error of a reconstruction whose values are in [0, 1]."""
    squared: float = 0.0
    """Sum over the pictures of the mean squared error of a reconstruction."""
    pictures: int = 0


def compare(codec: Codec, folder: Path, samples: Iterator[np.ndarray]) -> Differences:
    """Run the exported files with ONNX Runtime and the codec with PyTorch on the same pictures."""
    torch_codec, exported = TorchCodec(codec), OnnxCodec(folder)
    tables, result = torch_codec.tables, Differences()
    for sample in track("Check", list(islice(samples, VERIFIED_ON)), unit="pictures"):
        latents = torch_codec.analyse(sample)
        symbols = tables.to_symbols(latents)
        result.pictures += 1
        if exported.manifest.encoder:
            given = tables.to_symbols(exported.analyse(sample))
            beyond = np.abs(latents - tables.medians[:, None, None] - given) - 0.5
            result.symbols += symbols.size
            result.differing += int((given != symbols).sum())
            result.boundary = max(result.boundary, float(beyond.max(initial=0, where=given != symbols)))
        if exported.manifest.decoder:
            error = exported.synthesise(symbols) - torch_codec.synthesise(symbols)
            result.picture = max(result.picture, float(np.abs(error).max()))
            result.squared += float(np.square(error, dtype=np.float64).mean())
    return result


def verify(codec: Codec, folder: Path, samples: Iterator[np.ndarray], precision: str) -> None:
    """Hold the exported files against PyTorch on real pictures, and say how close they are.

    Raises:
        UserError: float32 files differ by more than rounding. Judged is how far values are apart, not how many symbols
            differ: that depends on how many latents happen to lie on a boundary.
    """
    found = compare(codec, folder, samples)
    if found.symbols:
        say(
            f"Encoder against PyTorch, {found.pictures} pictures: {found.differing:,} of {found.symbols:,} symbols differ"
            + (f", each within {found.boundary:.1e} of a rounding boundary." if found.differing else ".")
        )
    if found.picture or not found.symbols:
        decibels = -10 * np.log10(max(found.squared / found.pictures, 1e-30))
        say(
            f"Decoder against PyTorch, {found.pictures} pictures: largest error {found.picture:.1e} of 1, "
            f"PSNR {decibels:.1f} dB (8 bits alone cost 58.9 dB)."
        )
    if precision != "float32":
        return
    if found.boundary > BOUNDARY or found.picture > ERROR:
        raise UserError(
            f"The files in {folder} differ from PyTorch by more than rounding: do not use them, and report the versions "
            "of torch and onnxruntime."
        )


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
