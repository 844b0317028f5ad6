"""Damage to pictures: sizes in headers, lengths of chunks, and everything twice, with checksums that are right."""

import random
import re
import struct
import zlib

from fuzz_bytes import packed, plain


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    result, place = [], 8
    while place + 12 <= len(data):
        size = struct.unpack_from(">I", data, place)[0]
        result.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return result


def png(rng: random.Random, data: bytes) -> bytes:
    chunks = _chunks(data)
    if not chunks:
        return data
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    choice = rng.randrange(6)
    if choice < 2 and len(chunks[0][1]) >= 13:  # IHDR: width, height, depth, colors, compression, filter, interlace
        place = rng.randrange(13)
        header = packed(rng, chunks[0][1], ">I", 4 * rng.randrange(2)) if choice else chunks[0][1]
        chunks[0] = (
            chunks[0][0],
            header if choice else header[:place] + bytes([rng.randrange(20)]) + header[place + 1 :],
        )
    elif choice == 2:
        bomb = zlib.compress(bytes(rng.choice((100, 1 << 20, 1 << 26))), 9)
        kinds = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"IDAT": b"", b"eXIf": b""}
        name = rng.choice(sorted(kinds))
        chunks.insert(min(index + 1, len(chunks) - 1), (name, kinds[name] + bomb))
    elif choice == 3:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks.pop(index))
    elif choice == 4:
        names = [b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"pHYs", b"eXIf", b"IDAT", b"IEND"]
        chunks[index] = rng.choice(names), content
    else:
        chunks[index] = kind, plain(rng, content, content or b"\0")
    return data[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def seal_png(data: bytes) -> bytes:
    return data[:8] + b"".join(_chunk(*chunk) for chunk in _chunks(data))


def jpeg(rng: random.Random, data: bytes) -> bytes:
    """Sizes in the frame's header, lengths and contents of segments, scans and segments that come twice."""
    marks = [match.start() for match in re.finditer(rb"\xff[\xc0-\xcf\xda-\xfe]", data)]
    if not marks:
        return data
    frames = [mark for mark in marks if data[mark + 1] in (0xC0, 0xC2)] or marks
    choice = rng.randrange(4)
    if choice == 0:
        return packed(rng, data, ">H", rng.choice(frames) + rng.choice((5, 7)))
    mark = rng.choice(marks)
    if choice == 1:
        return packed(rng, data, ">H", mark + 2)
    if choice == 2:
        return packed(rng, data, "B", mark + rng.randrange(1, 24))
    end = rng.choice([*marks, len(data)])
    return data[:end] + data[mark:end] * rng.choice((1, 3, 60)) + data[end:]


def riff(rng: random.Random, data: bytes) -> bytes:
    """WebP: sizes of chunks, and of the picture (VP8X: 24 bits each, VP8 and VP8L: 14)."""
    found = [match.start() for match in re.finditer(rb"RIFF|VP8[ LX]|ALPH|ANIM|ANMF|EXIF|ICCP", data)]
    if not found:
        return data
    place = rng.choice(found)
    return packed(rng, data, rng.choice(("<H", "<I")), place + rng.choice((4, 8, 9, 12, 14, 15, 16)))


def tiff(rng: random.Random, data: bytes) -> bytes:
    """An entry of the directory: tag 2, type 2, count 4, value 4. (BMP: its header's fields.)"""
    if data[:2] == b"BM" or len(data) < 20:
        return packed(rng, data, "<I", rng.choice((10, 14, 18, 22, 26, 30, 34, 46)))
    start = struct.unpack_from("<I", data, 4)[0]
    if start + 2 > len(data):
        return data
    entry = start + 2 + 12 * rng.randrange(max(1, struct.unpack_from("<H", data, start)[0]))
    layout, offset = rng.choice((("<H", 0), ("<H", 2), ("<I", 4), ("<I", 8), ("<I", 8)))
    return packed(rng, data, layout, entry + offset)
