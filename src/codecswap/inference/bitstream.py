"""The file of one coded picture (docs/bitstream.md), and the way from a picture to it and back; without PyTorch."""

import struct
import zlib
from typing import Protocol

import numpy as np
from PIL import Image

from codecswap.data.pictures import MOST_PIXELS
from codecswap.errors import UserError
from codecswap.inference import rans
from codecswap.inference.tables import EntropyTables

MAGIC = b"\x89CSW"
"""The first byte is no ASCII: a transfer that takes the file for text is found out."""
VERSION = 1
_HEADER = struct.Struct("<4sBBII16sI")
"""Magic, version, zero, height, width, the tables' digest (its first half), length of the string."""
_CHECKSUM = struct.Struct("<I")
OVERHEAD = _HEADER.size + _CHECKSUM.size
"""Bytes that a file has beside its string."""


class Codec(Protocol):
    """What encoding and decoding need: a codec in PyTorch, or an exported one in ONNX Runtime."""

    tables: EntropyTables
    factor: int
    """Pixels that a latent stands for on either axis."""

    def analyse(self, picture: np.ndarray) -> np.ndarray:
        """Latents ``(M, H/16, W/16)``, before rounding, of ``picture: (3, H, W)``, float32 in [0, 1]."""

    def synthesise(self, symbols: np.ndarray) -> np.ndarray:
        """The picture ``(3, H, W)``, float32, of ``symbols: (M, H/16, W/16)``, int32."""


class BadFile(ValueError):
    """A file that cannot be decoded; the message goes on from the file's name."""


def encode(codec: Codec, picture: Image.Image) -> bytes:
    """Code an RGB picture of any size.

    Raises:
        UserError: the codec cannot take that size.
    """
    if (size := _padded(picture.height, picture.width, codec.factor)) > MOST_PIXELS:
        raise UserError(f"A picture of {size:,} pixels, padded, is more than {MOST_PIXELS:,}: cut it into parts.")
    latents = codec.analyse(pad(to_array(picture), codec.factor))
    return pack(codec.tables.to_symbols(latents), (picture.height, picture.width), codec.tables)


def decode(codec: Codec, data: bytes) -> Image.Image:
    """Decode what `encode` wrote, with this codec or any other that has the same entropy tables.

    Raises:
        BadFile: it is damaged, of another codec, of a newer version, or no such file.
        UserError: the codec cannot take that size.
    """
    symbols, size = unpack(data, codec.tables, codec.factor)
    decoded = codec.synthesise(symbols)
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
    if data[: len(MAGIC)] != MAGIC:
        raise BadFile("is no picture that codecswap encoded: name a .csw file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise BadFile(f"has version {data[len(MAGIC)]} of the format, this program reads {VERSION}: update codecswap")
    whole = (
        len(data) >= OVERHEAD and zlib.crc32(data[: -_CHECKSUM.size]) == _CHECKSUM.unpack(data[-_CHECKSUM.size :])[0]
    )
    if not whole:
        raise BadFile("is truncated or altered (its checksum does not match): copy it again")
    _, _, reserved, height, width, digest, length = _HEADER.unpack_from(data)
    if reserved or length != len(data) - OVERHEAD:
        raise BadFile("is damaged (its header contradicts itself): encode the picture again")
    if digest != tables.digest()[:16]:
        raise BadFile(
            f"was written by another codec (its entropy tables are {digest.hex()[:8]}, this codec has "
            f"{tables.digest().hex()[:8]}): decode it with that one, or a student of it"
        )
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


def _padded(height: int, width: int, factor: int) -> int:
    """Pixels of a picture once both sides are multiples of ``factor``: a long line has that many times its own."""
    return -(-height // factor) * -(-width // factor) * factor**2


def to_array(picture: Image.Image) -> np.ndarray:
    """An RGB picture as ``(3, H, W)``, float32 in [0, 1]."""
    return np.ascontiguousarray(np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255))


def pad(picture: np.ndarray, factor: int) -> np.ndarray:
    """Repeat the lower and right edge of ``picture: (3, H, W)`` until both sides are multiples of ``factor``."""
    height, width = picture.shape[-2:]
    return np.pad(picture, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")


def to_picture(decoded: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Crop ``decoded: (3, H, W)`` to the height and width ``size``, clamp it to [0, 1] and round it to 8 bits."""
    values = decoded[:, : size[0], : size[1]].clip(0, 1)
    values *= 255
    pixels = np.rint(values, out=values).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)), "RGB")
