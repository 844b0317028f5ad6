"""Encode a picture as a .csw file (docs/bitstream.md) and decode it; without PyTorch."""

import struct
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from codecswap.data.pictures import MOST_PIXELS, UNREADABLE, load_picture, pad, to_array, to_picture
from codecswap.entropy import rans
from codecswap.entropy.model import FLOAT, INTEGER, EntropyModel, OtherIndexes, Quantized, Strings
from codecswap.entropy.passes import factorized
from codecswap.entropy.rate_control import encode_to_size
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.inference.tiles import Region

MAGIC = b"\x89CSW"
"""The first byte is not ASCII, so that a transfer in text mode is detected."""
VERSION = 1
"""File version of codecs without hyper-latents: one string per picture."""
HYPER_VERSION = 2
"""File version of codecs with hyper-latents."""
GAIN_VERSION = 3
"""File version of codecs with hyper-latents and variable rate: that of version 2 with the gain, float32, after its header."""
_KINDS = {
    VERSION: "without a hyperprior",
    HYPER_VERSION: "with a hyperprior and one rate",
    GAIN_VERSION: "with variable rate",
}
"""Codecs of each version."""
_HYPER_HEADER = struct.Struct("<4sBBII16sIIIII")
"""Magic, version, arithmetic, height, width, digest, height and width of the hyper-latents, CRC-32 of the CDF
indexes, lengths of the hyper-latents' and the latents' string."""
_HEADER = struct.Struct("<4sBBII16sI")
"""Magic, version, zero, height, width, the tables' digest (its first half), length of the string."""
_GAIN_HEADER = struct.Struct(_HYPER_HEADER.format + "f")
_CHECKSUM = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CHECKSUM.size
"""Bytes of a version 1 file besides its string."""


def overhead(data: bytes) -> int:
    """Bytes of this file besides its strings."""
    header = {VERSION: _HEADER, HYPER_VERSION: _HYPER_HEADER, GAIN_VERSION: _GAIN_HEADER}[data[len(MAGIC)]]
    return header.size + _CHECKSUM.size


Box = tuple[int, int, int, int]
"""Left, top, width and height of a part of a picture, in pixels."""


class Codec(Protocol):
    """Interface that encoding and decoding need: a codec in PyTorch, or an exported one in ONNX Runtime."""

    tables: EntropyTables
    """Entropy tables of the latents, or of the hyper-latents if there are some."""
    factor: int
    """Pixels per latent along each axis."""

    @property
    def entropy(self) -> EntropyModel:
        """The entropy model of the latents."""

    def analyze(self, picture: np.ndarray) -> np.ndarray:
        """Latents ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, float32 in [0, 1]."""

    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/4, w/4)``, before rounding, of latents ``(M, h, w)``, of a codec that has them."""

    def synthesize(
        self, symbols: np.ndarray, means: np.ndarray | None = None, region: Region | None = None
    ) -> np.ndarray:
        """Decode ``symbols: (M, H/16, W/16)``, int32, and their means (None: medians) to a picture ``(3, H, W)``, float32.

        ``region``: rows and columns of latents whose pixels are computed; by default all.
        """


class BadFile(ValueError):
    """A file that cannot be decoded; the message continues a sentence that starts with the file's name."""


_OTHER_ARITHMETIC = {
    FLOAT: "was written in PyTorch, whose floating point an exported folder does not repeat: decode it with the checkpoint of "
    "the codec that wrote it, or encode the picture with this folder",
    INTEGER: "needs the integer arithmetic of the exported folder that wrote it: name that folder with --codec",
}
_CONTRADICTION = "is damaged (its header contradicts itself): encode the picture again"
_UNKNOWN_ARITHMETIC = "needs an arithmetic that this program does not have: update codecswap"
_OTHER_INDEXES = {
    FLOAT: "cannot be decoded on this machine: its floating point chooses other entropy tables than the encoder's did. Decode "
    "it where it was encoded, or encode the picture with a folder of `codecswap export`, which chooses them in integers",
    INTEGER: "is damaged (its latents' tables do not follow from its hyper-latents): encode the picture again",
}


def to_symbols(codec: Codec, picture: np.ndarray, gain: float | None = None) -> Quantized:
    """The rounded latents of a padded picture ``(3, H, W)``; ``gain`` as in `encode`."""
    entropy = codec.entropy if gain is None else codec.entropy.at(gain)
    return entropy.quantize(codec.analyze(picture), codec.hyper_analyze)


def encode(codec: Codec, picture: Image.Image, *, gain: float | None = None, most_bytes: int | None = None) -> bytes:
    """Code an RGB picture of any size.

    Args:
        gain: of a codec with variable rate (`codecswap.entropy.rates.Rates`); by default the codec's own, mostly the largest.
        most_bytes: size of the file that a codec with variable rate comes close to, from below
            (`codecswap.entropy.rate_control.encode_to_size`).

    Raises:
        UserError: the codec cannot take that size, or has no such gain or rate.
    """
    entropy = codec.entropy if gain is None else codec.entropy.at(gain)
    if most_bytes is not None:
        entropy.at(entropy.gain)  # refuses a codec of one rate
    multiple = codec.factor * entropy.factor
    check_pixels(picture.height, picture.width, multiple)
    latents = codec.analyze(pad(to_array(picture), multiple))
    return encode_latents(codec, latents, (picture.height, picture.width), gain=gain, most_bytes=most_bytes)


def check_pixels(height: int, width: int, multiple: int) -> None:
    """Refuse a picture that has too many pixels once its sides are padded to a ``multiple``.

    Raises:
        UserError: see there.
    """
    if (padded := _padded(height, width, multiple)) > MOST_PIXELS:
        raise UserError(f"A picture of {padded:,} pixels, padded, is more than {MOST_PIXELS:,}: cut it into parts.")


def encode_latents(
    codec: Codec,
    latents: np.ndarray,
    size: tuple[int, int],
    *,
    gain: float | None = None,
    most_bytes: int | None = None,
) -> bytes:
    """Code the latents ``(M, h, w)``, before rounding, of a picture of height and width ``size`` before padding.

    The other arguments and the errors are those of `encode`.
    """
    entropy = codec.entropy if gain is None else codec.entropy.at(gain)
    rates = None if most_bytes is None else entropy.at(entropy.gain).rates
    if rates is None or most_bytes is None:
        return write(entropy.encode(latents, codec.hyper_analyze), size, entropy, codec.factor)
    hyper_latents = codec.hyper_analyze(latents)

    def encode_at(gain: float) -> bytes:
        at_gain = entropy.at(gain)
        return write(at_gain.encode(latents, lambda _: hyper_latents), size, at_gain, codec.factor)

    return encode_to_size(encode_at, rates, most_bytes)


def decode(codec: Codec, data: bytes, region: Box | None = None) -> Image.Image:
    """Decode what `encode` wrote, with this codec or any other that has the same entropy tables.

    Args:
        codec: the codec.
        data: content of the file.
        region: left, top, width and height of the part to decode, in pixels. Its pixels are those of the whole picture; all
            latents are read, and g_s is computed on the tiles (`codecswap.inference.tiles`) that have a part of it.

    Raises:
        BadFile: it is damaged, of another codec or of a newer version, is not a .csw file, or is smaller than the region.
        UserError: the codec cannot take that size.
    """
    quantized, size = read(data, codec.entropy, codec.factor)
    latents = None
    if region is not None:
        left, top, width, height = region
        if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
            words = ",".join(map(str, region))
            raise BadFile(f"has {size[1]}x{size[0]} pixels, and the region {words} is not inside: name another")
        spans = (top, top + height), (left, left + width)
        rows, columns = (slice(start // codec.factor, -(-end // codec.factor)) for start, end in spans)
        latents = rows, columns
    decoded = codec.synthesize(quantized.symbols, quantized.means, latents)
    if region is not None:
        decoded = decoded[:, top - codec.factor * rows.start :, left - codec.factor * columns.start :]
        size = height, width
    if not np.isfinite(decoded).all():
        raise BadFile("decodes to values that are no picture's: encode the picture again")
    return to_picture(decoded, size)


class CodesPictures:
    """Base class with ``compress`` and ``decompress``, for every kind of codec."""

    def coder(self) -> Codec:
        """The object that computes the transforms."""
        raise NotImplementedError

    def compress(
        self, picture: Image.Image | str | Path, *, gain: float | None = None, most_bytes: int | None = None
    ) -> bytes:
        """Code a picture of any size and mode as the content of a ``.csw`` file (docs/bitstream.md).

        Args:
            picture: a Pillow image, converted to 8-bit RGB, or a picture's file.
            gain: of a codec with variable rate; larger: more bits. By default the largest that it was trained at.
            most_bytes: size that a codec with variable rate comes close to, from below.

        Raises:
            UserError: the file cannot be read, the codec cannot take that size, it has no encoder, no such gain or one rate
                alone, or cannot make so small a file.
        """
        if isinstance(picture, str | Path):
            try:
                picture = load_picture(picture)
            except UNREADABLE as error:
                raise UserError(f"{picture} cannot be read as a picture ({error}): name another file.") from None
        if not isinstance(picture, Image.Image):
            kind = type(picture).__name__
            raise UserError(f"compress() takes a Pillow image or a picture's file, not {kind}: make it an image first.")
        return encode(self.coder(), picture.convert("RGB"), gain=gain, most_bytes=most_bytes)

    def decompress(self, data: bytes, *, region: Box | None = None) -> Image.Image:
        """Decode what `compress` or ``codecswap encode`` wrote, with this codec or another one with its entropy tables.

        Args:
            data: content of the file.
            region: left, top, width and height of the part to decode, in pixels; by default all.

        Returns: the picture, 8-bit RGB.

        Raises:
            UserError: the bytes are damaged, of another codec or of a newer version, the region is not inside the picture, or
                the codec has no decoder.
        """
        try:
            return decode(self.coder(), data, region)
        except BadFile as error:
            raise UserError(f"The coded picture {error}.") from error


def write(strings: Strings, size: tuple[int, int], entropy: EntropyModel, factor: int) -> bytes:
    """Write a file's bytes.

    Args:
        size: height and width of the picture, in pixels, as it was before padding.
        factor: pixels per latent.
    """
    start, digest = (MAGIC, VERSION, 0, *size), entropy.digest[:16]
    if entropy.predictor is None:
        content = _HEADER.pack(*start, digest, len(strings.latents)) + strings.latents
        return content + _CHECKSUM.pack(zlib.crc32(content))
    start = (MAGIC, GAIN_VERSION if entropy.rates else HYPER_VERSION, entropy.predictor.arithmetic, *size)
    sides = (-(-length // (factor * entropy.factor)) for length in size)
    lengths = len(strings.hyper_latents), len(strings.latents)
    content = _HYPER_HEADER.pack(*start, digest, *sides, strings.indexes_crc, *lengths)
    if entropy.rates:
        content = _GAIN_HEADER.pack(*_HYPER_HEADER.unpack(content), entropy.gain)
    content += strings.hyper_latents + strings.latents
    return content + _CHECKSUM.pack(zlib.crc32(content))


def read(data: bytes, entropy: EntropyModel, factor: int) -> tuple[Quantized, tuple[int, int]]:
    """Read a file's bytes.

    Args:
        entropy: entropy model of the codec that decodes.
        factor: pixels per latent of this codec.

    Returns: the latents ``(M, h, w)``; the picture's height and width in pixels.

    Raises:
        BadFile: see there. No memory is allocated before the file has been checked.
    """
    hyper = entropy.predictor
    header, version = (_HYPER_HEADER, HYPER_VERSION) if hyper else (_HEADER, VERSION)
    if entropy.rates:
        header, version = _GAIN_HEADER, GAIN_VERSION
    _check_complete(data, version, header.size + _CHECKSUM.size)
    _, _, arithmetic, height, width, digest, *rest = header.unpack_from(data)
    gain = rest.pop() if entropy.rates else 1.0
    *sides, crc, first, second = rest if hyper else (0, 0, 0, 0, *rest)
    if first + second != len(data) - header.size - _CHECKSUM.size or (arithmetic and not hyper):
        raise BadFile(_CONTRADICTION)
    if hyper and arithmetic != hyper.arithmetic:
        raise BadFile(_OTHER_ARITHMETIC.get(arithmetic, _UNKNOWN_ARITHMETIC))
    _check_codec(digest, entropy.digest)
    if entropy.rates:
        try:
            entropy = entropy.at(gain)
        except (UserError, ValueError):
            raise BadFile(_CONTRADICTION) from None
    tables = entropy.tables
    multiple = factor * entropy.factor
    if not height * width or _padded(height, width, multiple) > MOST_PIXELS:
        raise BadFile(f"declares {width}x{height} pixels, more than {MOST_PIXELS:,} (or none): it is not decoded")
    rows, columns = (-(-side // multiple) for side in (height, width))
    if hyper and sides != [rows, columns]:
        raise BadFile(_CONTRADICTION)
    # refuse a string that is too short for its picture before memory is allocated
    if 8 * (first if hyper else second) + 64 < tables.fewest_bits() * rows * columns:
        raise BadFile(f"is too short for the {width}x{height} pixels that it declares: encode the picture again")
    end = header.size + first
    strings = Strings(data[header.size : end], data[end : -_CHECKSUM.size], crc)
    try:
        return entropy.decode(strings, (rows * entropy.factor, columns * entropy.factor)), (height, width)
    except rans.CorruptString as error:
        raise BadFile(f"is damaged ({error}): encode the picture again") from None
    except OtherIndexes:
        raise BadFile(_OTHER_INDEXES[arithmetic]) from None


def pack(symbols: np.ndarray, size: tuple[int, int], tables: EntropyTables) -> bytes:
    """Write the symbols ``(M, h, w)``, int32, of a factorized prior; ``size`` as in `write`."""
    entropy = EntropyModel(factorized(tables.channels), tables)
    return write(Strings(b"", rans.encode(symbols, tables)), size, entropy, 1)


def unpack(data: bytes, tables: EntropyTables, factor: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read what `pack` wrote; arguments and errors as in `read`."""
    quantized, size = read(data, EntropyModel(factorized(tables.channels), tables), factor)
    return quantized.symbols, size


def _check_complete(data: bytes, version: int, overhead: int) -> None:
    """Refuse a file that is incomplete, damaged or of another version."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadFile("is no picture that codecswap encoded: name a .csw file")
    if len(data) > len(MAGIC) and (found := data[len(MAGIC)]) != version:
        if found in _KINDS:
            raise BadFile(
                f"was written by a codec {_KINDS[found]}, and this one is {_KINDS[version]}: decode it with that one, or a "
                "student of it"
            )
        raise BadFile(f"has version {found} of the format, this program reads 1 to {max(_KINDS)}: update codecswap")
    if len(data) < overhead or zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
        raise BadFile("is truncated or altered (its checksum does not match): copy it again")


def _check_codec(digest: bytes, mine: bytes) -> None:
    if digest != mine[:16]:
        raise BadFile(
            f"was written by another codec (its entropy tables are {digest.hex()[:8]}, this codec has "
            f"{mine.hex()[:8]}): decode it with that one, or a student of it"
        )


def _padded(height: int, width: int, factor: int) -> int:
    """Number of pixels after both sides are padded to multiples of ``factor``."""
    return -(-height // factor) * -(-width // factor) * factor**2
