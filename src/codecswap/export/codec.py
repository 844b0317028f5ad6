"""`codecswap export` and `codecswap quantize` as functions: write a codec as a folder that needs no PyTorch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codecswap.codecs.protocol import Codec
from codecswap.config import Form, Part
from codecswap.console import Track, silent
from codecswap.data.samples import calibration_pictures, held_out_pictures
from codecswap.export.backends.onnx import DecoderInput
from codecswap.export.folder import add_checks, check_operators, check_size, write_float, write_quantized
from codecswap.export.verify import Differences, verify
from codecswap.inference.folder import replaced_folder
from codecswap.inference.manifest import Manifest
from codecswap.quantize import codec as library
from codecswap.quantize.budget import Budget, search
from codecswap.quantize.codec import QuantizedCodec, encode_samples
from codecswap.quantize.scheme import COPIES, PRICES, Scheme


def export(
    codec: Codec,
    output: str | Path,
    *,
    part: Part = "both",
    form: Form = "native",
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
    input: DecoderInput = "latents",
    fp16: bool = False,
    images: str | None = None,
    name: str = "",
    track: Track = silent,
) -> tuple[Manifest, Differences]:
    """Write a codec as ONNX files and entropy tables, and compare the files with PyTorch on real pictures.

    Args:
        codec: a teacher or a student, in float.
        output: the folder; it is replaced whole, or stays as it is.
        part, form, opset, input, fp16, name: as in `codecswap.export.folder.write_float`.
        height, width: fixed size of the pictures, multiples of `Codec.multiple`; None: any size.
        images: folder of pictures to compare on; None: photographs inside the package.
        track: shows progress.

    Returns: the contents of codec.json, and the differences from PyTorch.

    Raises:
        UserError: the codec has no such lowering, size or input, cannot be exported, or float32 files differ from PyTorch.
    """
    size = (height, width) if height and width else None
    with replaced_folder(Path(output)) as made:
        how = {"part": part, "form": form, "opset": opset, "input": input, "fp16": fp16}
        manifest = write_float(codec, made, name=name, size=size, **how)  # type: ignore[arg-type]
        samples = held_out_pictures(images, size and size[::-1], codec.multiple)
        return manifest, verify(codec, made, samples, manifest.precision, track)


def quantize(
    codec: Codec,
    output: str | Path | None = None,
    *,
    precision: str = "w8a8",
    activations: str = "uint8",
    weight_bits: int = 8,
    equalize: bool = True,
    refit: bool = True,
    keep: Sequence[str] = (),
    part: Part = "decoder",
    form: Form = "native",
    opset: int = 13,
    height: int | None = None,
    width: int | None = None,
    calibration_images: str | Sequence[np.ndarray] | None = None,
    calibration_count: int = 32,
    max_loss: float | str | None = None,
    max_cost: float | str | None = None,
    images: str | None = None,
    name: str = "",
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[QuantizedCodec, dict[str, float]]:
    """Quantize a codec's networks and, with ``output``, write them as `export` does.

    Args:
        codec: a teacher or a student; it is not changed.
        output: the folder; it is replaced whole, or stays as it is. None: nothing is written.
        precision, activations, weight_bits, equalize, refit, keep: `codecswap.quantize.scheme.Scheme`.
        part, form, opset, height, width, name: as in `export`; opsets 13 to 20.
        calibration_images: folder of pictures, or pictures ``(3, H, W)`` of one size, float32 in [0, 1]; None: photographs
            inside the package.
        calibration_count: largest number of pictures of a folder.
        max_loss, max_cost: `codecswap.quantize.budget.Budget.of`; the networks' `frontier` says how they were met.
        images: folder of held-out pictures to measure the loss on; None: photographs inside the package.
        advance: called with the number of steps done, `codecswap.quantize.codec.STEPS` for each network and one for each
            picture; with a budget also for each set of remedies that is quantized.

    Returns: the networks, and the agreement of ONNX Runtime with the reference execution of the files, in dB per network.

    Raises:
        UserError: the codec has no such layer or lowering, or ONNX Runtime computes the files wrongly here.
    """
    size = (height, width) if height and width else None
    check_size(codec, size)
    check_operators(codec, part, form, size)
    scheme = Scheme(precision, activations, weight_bits, equalize, refit, tuple(keep), copies=COPIES)
    library.check_layers(codec, scheme)
    if calibration_images is None or isinstance(calibration_images, str):
        cut = size and size[::-1]
        calibration_images = list(calibration_pictures(calibration_images, cut, calibration_count))
    samples = encode_samples(codec, calibration_images, advance)
    how: dict[str, Any] = {"part": part, "form": form, "size": size, "advance": advance}
    if max_loss is None and max_cost is None:
        networks = library.quantize(codec, samples, scheme, **how)
    else:
        held_out = held_out_pictures(images, size and size[::-1], codec.multiple)
        budget = Budget.of(max_loss, max_cost)
        networks = search(codec, samples, held_out, scheme, budget, prices=PRICES, **how)
    if output is None:
        return networks, {}
    with replaced_folder(Path(output)) as made:
        write_quantized(codec, networks, made, name=name, opset=opset, size=size)
        return networks, add_checks(made, samples)
