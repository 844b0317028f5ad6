"""Files of codecs with a hyperprior in PyTorch: they come back, hold CompressAI's strings, and refuse in a sentence."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai import models
from PIL import Image

from codecswap.cli import main
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import HyperCodec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.coding import files as coding
from codecswap.data.pictures import pad, to_array
from codecswap.entropy import bitstream
from codecswap.entropy.bitstream import BadFile, overhead
from codecswap.entropy.model import Parameters
from codecswap.entropy.passes import Pass, Region
from codecswap.errors import UserError
from codecswap.swaps.apply import swap

THEIRS = {
    "bmshj2018_hyperprior": models.ScaleHyperprior,
    "mbt2018_mean": models.MeanScaleHyperprior,
    "mbt2018": models.JointAutoregressiveHierarchicalPriors,
}
NAMES = list(THEIRS)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), np.uint8)
    return Image.fromarray(noise).resize((205, 140), Image.Resampling.BICUBIC)


def sealed(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<I", zlib.crc32(content[:-4]))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_the_strings_of_compressai_and_its_latents_come_back(
    name: str, hyper_codec: Callable[[str], HyperCodec], picture: Image.Image
) -> None:
    codec = hyper_codec(name)
    data = bitstream.encode(TorchCodec(codec), picture)
    x = torch.from_numpy(pad(to_array(picture), 64))[None]
    theirs = THEIRS[name](codec.N, codec.M).eval()
    theirs.load_state_dict(codec.state_dict())
    with torch.no_grad():
        (latents,), (hyper,) = theirs.compress(x)["strings"]
        assert data[overhead(data) - 4 : -4] == hyper + latents
        wanted = codec.decompress_latents([latents, hyper], (12, 16))
        shown = codec.g_s(wanted)[0].numpy()
    student, _ = swap(codec, "subpixel")
    for decoder in (TorchCodec(codec), TorchCodec(student)):
        read, size = bitstream.read(data, decoder.entropy, decoder.factor)
        assert size == (140, 205) and (read.symbols.astype(np.float32) + read.means == wanted[0].numpy()).all()
        decoded = to_array(bitstream.decode(decoder, data))
        assert decoded.shape == (3, 140, 205)
        assert np.abs(decoded - shown[:, :140, :205].clip(0, 1)).max() < 0.51 / 255


def test_files_that_cannot_be_decoded_say_why(
    teacher: FactorizedPrior, hyper_codec: Callable[[str], HyperCodec], picture: Image.Image
) -> None:
    codec, factorized = TorchCodec(hyper_codec("mbt2018_mean")), TorchCodec(teacher)
    other = hyper_codec("mbt2018_mean")
    with torch.no_grad():
        other.h_s[2].bias[0] += 1e-6
    good = bitstream.encode(codec, picture)
    for decoder, data, sentence in (
        (factorized, good, "by a codec with a hyperprior and one rate, and this one is without a hyperprior"),
        (
            codec,
            bitstream.encode(factorized, picture),
            "by a codec without a hyperprior, and this one is with a hyperprior",
        ),
        (TorchCodec(other), good, "by another codec"),
        (
            codec,
            good[:4] + b"\x03" + good[5:],
            "was written by a codec with variable rate, and this one is with",
        ),
        (codec, good[:4] + b"\x09" + good[5:], "has version 9 of the format, this program reads 1 to 3"),
        (codec, sealed(good[:5] + b"\x01" + good[6:]), "needs the integer arithmetic of the exported folder"),
        (codec, sealed(good[:5] + b"\x02" + good[6:]), "needs an arithmetic that this program does not have"),
        (codec, good[:-9] + good[-8:], "truncated or altered"),
        (codec, sealed(good[:30] + b"\x09" + good[31:]), "its header contradicts itself"),
        (codec, sealed(good[:6] + struct.pack("<II", 1 << 20, 1 << 20) + good[14:]), "1048576x1048576 pixels"),
        (codec, sealed(good[:46] + bytes(4) + good[50:]), "its header contradicts itself"),
        (codec, sealed(good[:-40] + bytes(36) + good[-4:]), "is damaged"),
    ):
        with pytest.raises(BadFile, match=sentence):
            bitstream.decode(decoder, data)
    for place in range(len(good)):
        with pytest.raises(BadFile):
            bitstream.decode(codec, sealed(good[:place]) if place > 8 else good[:place])


@pytest.mark.parametrize("name", ["mbt2018_mean", "mbt2018"])
def test_another_rounding_of_the_scales_is_found_out_and_shows_no_picture(
    name: str, hyper_codec: Callable[[str], HyperCodec], picture: Image.Image
) -> None:
    codec = TorchCodec(hyper_codec(name))
    data = bitstream.encode(codec, picture)

    class Elsewhere(type(codec.entropy.predictor)):
        def begin(self, hyper_symbols: np.ndarray) -> Parameters:
            parameters = super().begin(hyper_symbols)

            def moved(step: Pass, region: Region, decoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                indexes, means = parameters(step, region, decoded)
                indexes.ravel()[5] += 1
                return indexes, means

            return moved

    codec.entropy.predictor.__class__ = Elsewhere
    with pytest.raises(
        BadFile, match=r"floating point chooses other entropy tables .* encode the picture with a folder of"
    ):
        bitstream.decode(codec, data)


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_code_with_a_checkpoint(
    name: str, hyper_codec: Callable[[str], HyperCodec], picture: Image.Image, tmp_path: Path
) -> None:
    torch.save(hyper_codec(name).state_dict(), tmp_path / "codec.pth")
    picture.save(tmp_path / "a.png")
    both = ["--codec", str(tmp_path / "codec.pth")]
    assert main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.csw"), *both]) == 0
    assert main(["decode", str(tmp_path / "a.csw"), "-o", str(tmp_path / "b.png"), *both]) == 0
    with Image.open(tmp_path / "b.png") as decoded:
        assert decoded.size == picture.size
    with pytest.raises(UserError, match=r"a\.csw was written by a codec with a hyperprior"):
        codec = coding.Source("tiny", "", 8, "mse", 1, "onnxruntime").open()
        coding.decode_file(codec, tmp_path / "a.csw", tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()
