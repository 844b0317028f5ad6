"""Damage to each format, by its name: bytes at random, and what somebody with an intention would change."""

import random
import re
import struct
import zlib
from pathlib import Path

from fuzz_archives import seal_zip, torch_file, zip_file
from fuzz_bytes import Damage, packed, plain
from fuzz_pictures import jpeg, png, riff, seal_png, tiff
from fuzz_texts import json_text, lines, safetensors


def read_seeds(root: Path, format: str) -> dict[str, bytes]:
    """The valid inputs of a format, by name, as `fuzz_seeds.make_seeds` wrote them."""
    return {path.name: path.read_bytes() for path in sorted((root / format).iterdir())}


def mutate(format: str, rng: random.Random, seeds: dict[str, bytes]) -> tuple[str, bytes]:
    """One damaged input: the name of the valid one that it began as, and the bytes."""
    name = rng.choice(sorted(seeds))
    data = seeds[name]
    special = SPECIAL.get(format)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        own = special is not None and rng.random() < 0.6
        data = special(rng, data) if own and special else plain(rng, data, seeds[rng.choice(sorted(seeds))])
    if format in SEALS and rng.random() < 0.6:
        data = SEALS[format](data)
    return name, data


def _csw(rng: random.Random, data: bytes) -> bytes:
    if len(data) < 39:
        return data
    choice = rng.randrange(4)
    if choice == 0:
        return packed(rng, data, "<I", rng.choice((6, 10, 30)))
    body = bytearray(data[34:-4])
    if choice == 1:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif choice == 2:
        body = bytearray(rng.randbytes(4 * rng.randrange(2, 400)))
    else:
        del body[rng.randrange(len(body)) :]
    return data[:30] + struct.pack("<I", len(body)) + bytes(body) + data[-4:]


def _seal_csw(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def _onnx(rng: random.Random, data: bytes) -> bytes:
    """The graph lies at the end, behind and between the weights: names, types, attributes, sizes."""
    words = [match.span() for match in re.finditer(rb"[A-Za-z_][A-Za-z_0-9.]{2,}", data)]
    if not words or rng.random() < 0.3:
        return data
    start, end = rng.choice(words)
    if rng.random() < 0.5:  # a word of the same length elsewhere in the file
        fitting = [data[a:b] for a, b in words if b - a == end - start]
        return data[:start] + rng.choice(fitting) + data[end:]
    place = max(0, start - rng.randrange(1, 6))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


SPECIAL: dict[str, Damage] = {
    "csw": _csw,
    "jpeg": jpeg,
    "manifest": json_text,
    "onnx": _onnx,
    "png": png,
    "prepared": json_text,
    "pt": torch_file,
    "pth": torch_file,
    "safetensors": safetensors,
    "tables": json_text,
    "tiff": tiff,
    "toml": lines,
    "webp": riff,
    "yaml": lines,
    "zip": zip_file,
}
SEALS = {"csw": _seal_csw, "png": seal_png, "pt": seal_zip, "pth": seal_zip, "zip": seal_zip}
"""What makes a checksum right again, so that damage gets past it."""
