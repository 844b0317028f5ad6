"""The file of one coded picture (docs/bitstream.md), and the way from a picture to it and back; without PyTorch."""

import struct
import zlib
from typing import Protocol

import numpy as np
from PIL import Image

from codecswap.data.pictures import MOST_PIXELS, pad, to_array, to_picture
from codecswap.entropy import rans
from codecswap.entropy.side_information import FLOAT, INTEGER, OtherRows, SideInformation, Strings
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError

MAGIC = b"\x89CSW"
"""The first byte is no ASCII: a transfer that takes the file for text is found out."""
VERSION = 1
"""Of the files of codecs with one string a picture."""
HYPER_VERSION = 2
"""Of the files of codecs with hyper-latents."""
_HYPER_HEADER = struct.Struct("<4sBBII16sIIIII")
"""Magic, version, arithmetic, height, width, digest, rows and columns of the hyper-latents, CRC-32 of the latents' rows,
lengths of the hyper-latents' and the latents' string."""
_HEADER = struct.Struct("<4sBBII16sI")
"""Magic, version, zero, height, width, the tables' digest (its first half), length of the string."""
_CHECKSUM = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CHECKSUM.size
"""Bytes that a file has beside its string."""
HYPER_OVERHEAD = _HYPER_HEADER.size + _CHECKSUM.size
"""Bytes that a file of version 2 has beside its strings."""


def overhead(data: bytes) -> int:
    """Bytes that a file has beside its strings."""
    return HYPER_OVERHEAD if data[len(MAGIC)] == HYPER_VERSION else OVERHEAD


class Codec(Protocol):
    """What encoding and decoding need: a codec in PyTorch, or an exported one in ONNX Runtime."""

    tables: EntropyTables
    """Of the latents; of the hyper-latents, where there is side information."""
    factor: int
    """Pixels that a latent stands for on either axis."""

    @property
    def side(self) -> SideInformation | None:
        """How latents are coded by hyper-latents; None: each channel has its table."""

    def analyze(self, picture: np.ndarray) -> np.ndarray:
        """Latents ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, float32 in [0, 1]."""

    def hyper_analyze(self, latents: np.ndarray) -> np.ndarray:
        """Hyper-latents ``(N, h/4, w/4)``, before rounding, of latents ``(M, h, w)`` before rounding; with side information."""

    def synthesize(self, symbols: np.ndarray, means: np.ndarray | None = None) -> np.ndarray:
        """The picture ``(3, H, W)``, float32, of ``symbols: (M, H/16, W/16)``, int32, and, with side information, means."""


class BadFile(ValueError):
    """A file that cannot be decoded; the message goes on from the file's name."""


_OTHER_ARITHMETIC = {
    FLOAT: "was written in PyTorch, whose floating point an exported folder does not repeat: decode it with the checkpoint of "
    "the codec that wrote it, or encode the picture with this folder",
    INTEGER: "needs the integer arithmetic of the exported folder that wrote it: name that folder with --codec",
}
_UNKNOWN_ARITHMETIC = "needs an arithmetic that this program does not have: update codecswap"
_OTHER_ROWS = {
    FLOAT: "cannot be decoded on this machine: its floating point chooses other entropy tables than the encoder's did. Decode "
    "it where it was encoded, or encode the picture with a folder of `codecswap export`, which chooses them in integers",
    INTEGER: "is damaged (its latents' tables do not follow from its hyper-latents): encode the picture again",
}


def to_symbols(codec: Codec, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Symbols of a padded picture ``(3, H, W)``, and their means; None: the tables' medians."""
    latents = codec.analyze(picture)
    if codec.side is None:
        return codec.tables.to_symbols(latents), None
    symbols, _, _, means = codec.side.quantize(latents, codec.hyper_analyze(latents))
    return symbols, means


def encode(codec: Codec, picture: Image.Image) -> bytes:
    """Code an RGB picture of any size.

    Raises:
        UserError: the codec cannot take that size.
    """
    multiple = codec.factor * codec.side.factor if codec.side else codec.factor
    if (padded := _padded(picture.height, picture.width, multiple)) > MOST_PIXELS:
        raise UserError(f"A picture of {padded:,} pixels, padded, is more than {MOST_PIXELS:,}: cut it into parts.")
    latents = codec.analyze(pad(to_array(picture), multiple))
    size = (picture.height, picture.width)
    if codec.side:
        return pack_hyper(codec.side.encode(latents, codec.hyper_analyze(latents)), size, codec.side, codec.factor)
    return pack(codec.tables.to_symbols(latents), size, codec.tables)


def decode(codec: Codec, data: bytes) -> Image.Image:
    """Decode what `encode` wrote, with this codec or any other that has the same entropy tables.

    Raises:
        BadFile: it is damaged, of another codec, of a newer version, or no such file.
        UserError: the codec cannot take that size.
    """
    if codec.side:
        symbols, means, size = unpack_hyper(data, codec.side, codec.factor)
        decoded = codec.synthesize(symbols, means)
    else:
        symbols, size = unpack(data, codec.tables, codec.factor)
        decoded = codec.synthesize(symbols)
    if not np.isfinite(decoded).all():
        raise BadFile("decodes to values that are no picture's: encode the picture again")
    return to_picture(decoded, size)


def pack(symbols: np.ndarray, size: tuple[int, int], tables: EntropyTables) -> bytes:
    """Write a file's bytes.

    Args:
        symbols: ``(M, ceil(height / 16), ceil(width / 16))``, int32.
        size: height and width of the picture, in pixels, as it was before padding.
    """
    string = rans.encode(symbols, tables)
    content = _HEADER.pack(MAGIC, VERSION, 0, *size, tables.digest()[:16], len(string)) + string
    return content + _CHECKSUM.pack(zlib.crc32(content))


def unpack(data: bytes, tables: EntropyTables, factor: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read a file's bytes.

    Args:
        tables: of the codec that decodes.
        factor: its pixels per latent (16).

    Returns: symbols ``(M, ceil(height / 16), ceil(width / 16))``, int32; the picture's height and width in pixels.

    Raises:
        BadFile: see there. Nothing is allocated before the file has been found whole and plausible.
    """
    _check_whole(data, VERSION, OVERHEAD)
    _, _, reserved, height, width, digest, length = _HEADER.unpack_from(data)
    if reserved or length != len(data) - OVERHEAD:
        raise BadFile("is damaged (its header contradicts itself): encode the picture again")
    _check_codec(digest, tables.digest())
    if not height * width or _padded(height, width, factor) > MOST_PIXELS:
        raise BadFile(f"speaks of {width}x{height} pixels, more than {MOST_PIXELS:,} (or none): it is not decoded")
    shape = (-(-height // factor), -(-width // factor))
    # a short string cannot fill a huge picture: found out before memory is taken for it
    if 8 * length + 64 < tables.fewest_bits() * shape[0] * shape[1]:
        raise BadFile(f"is too short for the {width}x{height} pixels it speaks of: encode the picture again")
    try:
        return rans.decode(data[_HEADER.size : -_CHECKSUM.size], shape, tables), (height, width)
    except rans.CorruptString as error:
        raise BadFile(f"is damaged ({error}): encode the picture again") from None


def pack_hyper(strings: Strings, size: tuple[int, int], side: SideInformation, factor: int) -> bytes:
    """Write a file of version 2.

    Args:
        strings: of `SideInformation.encode`.
        size: height and width of the picture, in pixels, as it was before padding.
        factor: pixels per latent.
    """
    shape = (-(-length // (factor * side.factor)) for length in size)
    lengths = len(strings.hyper), len(strings.latents)
    start = (MAGIC, HYPER_VERSION, side.predict.arithmetic, *size, side.digest[:16], *shape, strings.rows_crc, *lengths)
    content = _HYPER_HEADER.pack(*start) + strings.hyper + strings.latents
    return content + _CHECKSUM.pack(zlib.crc32(content))


def unpack_hyper(data: bytes, side: SideInformation, factor: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Read a file of version 2.

    Returns: symbols and means ``(M, h, w)``; the picture's height and width in pixels.

    Raises:
        BadFile: see there. Nothing is allocated before the file has been found whole and plausible.
    """
    _check_whole(data, HYPER_VERSION, HYPER_OVERHEAD)
    _, _, arithmetic, height, width, digest, rows, columns, crc, *lengths = _HYPER_HEADER.unpack_from(data)
    if sum(lengths) != len(data) - HYPER_OVERHEAD:
        raise BadFile("is damaged (its header contradicts itself): encode the picture again")
    if arithmetic != side.predict.arithmetic:
        raise BadFile(_OTHER_ARITHMETIC.get(arithmetic, _UNKNOWN_ARITHMETIC))
    _check_codec(digest, side.digest)
    multiple = factor * side.factor
    if not height * width or _padded(height, width, multiple) > MOST_PIXELS:
        raise BadFile(f"speaks of {width}x{height} pixels, more than {MOST_PIXELS:,} (or none): it is not decoded")
    if (rows, columns) != (-(-height // multiple), -(-width // multiple)):
        raise BadFile("is damaged (its header contradicts itself): encode the picture again")
    if 8 * lengths[0] + 64 < side.tables.fewest_bits() * rows * columns:
        raise BadFile(f"is too short for the {width}x{height} pixels it speaks of: encode the picture again")
    end = _HYPER_HEADER.size + lengths[0]
    strings = Strings(data[_HYPER_HEADER.size : end], data[end : -_CHECKSUM.size], crc)
    try:
        symbols, means = side.decode(strings, (rows, columns))
    except rans.CorruptString as error:
        raise BadFile(f"is damaged ({error}): encode the picture again") from None
    except OtherRows:
        raise BadFile(_OTHER_ROWS[arithmetic]) from None
    return symbols, means, (height, width)


def _check_whole(data: bytes, version: int, overhead: int) -> None:
    """Refuse what is no file of this version, or not as it was written."""
    if data[: len(MAGIC)] != MAGIC:
        raise BadFile("is no picture that codecswap encoded: name a .csw file")
    if len(data) > len(MAGIC) and (found := data[len(MAGIC)]) != version:
        if found in (VERSION, HYPER_VERSION):
            kinds = {VERSION: "without", HYPER_VERSION: "with"}
            raise BadFile(
                f"was written by a codec {kinds[found]} a hyperprior, and this one is {kinds[version]} one: decode it with "
                "that one, or a student of it"
            )
        raise BadFile(
            f"has version {found} of the format, this program reads {VERSION} and {HYPER_VERSION}: update codecswap"
        )
    if len(data) < overhead or zlib.crc32(data[: -_CHECKSUM.size]) != _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]:
        raise BadFile("is truncated or altered (its checksum does not match): copy it again")


def _check_codec(digest: bytes, mine: bytes) -> None:
    if digest != mine[:16]:
        raise BadFile(
            f"was written by another codec (its entropy tables are {digest.hex()[:8]}, this codec has "
            f"{mine.hex()[:8]}): decode it with that one, or a student of it"
        )


def _padded(height: int, width: int, factor: int) -> int:
    """Pixels of a picture once both sides are multiples of ``factor``: a long line has that many times its own."""
    return -(-height // factor) * -(-width // factor) * factor**2
