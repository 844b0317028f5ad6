"""A codec with a hyperprior in 8-bit integers: the folder codes, and reads what the float folder wrote."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codecswap.codecs.protocol import HyperCodec
from codecswap.data.pictures import to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.export.codec import quantize
from codecswap.export.folder import write_float
from codecswap.export.tables import show_quality
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap


@pytest.mark.parametrize(("part", "precision"), [("both", "w8a8"), ("decoder", "w8a16")])
def test_a_quantized_folder_codes_and_reads_the_float_folders_files(
    part: str, precision: str, hyper_codec: Callable[[str], HyperCodec], photos: list[Path], tmp_path: Path
) -> None:
    codec, _ = swap(hyper_codec("mbt2018_mean"), "subpixel")
    samples = []
    for path in photos[:2]:
        with Image.open(path) as photo:
            samples.append(to_array(photo.crop((200, 200, 328, 328)).convert("RGB")))
    quantize(codec, tmp_path / "int8", part=part, precision=precision, refit=False, calibration_images=samples)
    write_float(codec, tmp_path / "float")
    quantized, in_float = OnnxCodec(tmp_path / "int8"), OnnxCodec(tmp_path / "float")
    manifest = quantized.manifest
    assert (manifest.hyper_encoder is not None) == (part == "both") and manifest.side and not manifest.checks
    picture = to_picture(samples[0], (128, 128))
    data = bitstream.encode(in_float, picture)
    wanted, found = (to_array(bitstream.decode(one, data)) for one in (in_float, quantized))
    error = np.square(wanted - found).mean()
    assert -10 * np.log10(max(error, 1e-12)) > (30 if precision == "w8a8" else 45)
    if part == "both":
        own = bitstream.encode(quantized, picture)
        assert bitstream.decode(in_float, own).size == (128, 128) and abs(len(own) / len(data) - 1) < 0.1
    show_quality(codec, tmp_path / "int8", samples, part=part, form="native")
