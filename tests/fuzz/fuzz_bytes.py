"""Damage to any bytes: what happens to them on broken disks and lines."""

import random
import struct
from collections.abc import Callable

Damage = Callable[[random.Random, bytes], bytes]
NUMBERS = [0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31]
NUMBERS += [(1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def plain(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Flips, numbers, cuts, repeats and splices, of any bytes; the beginning, where headers are, twice as often."""
    content = bytearray(data or b"\0")
    within = len(content) if rng.random() < 0.5 else min(len(content), 128)
    place = rng.randrange(within)
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            content[rng.randrange(within)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[place] = rng.randrange(256)
    elif kind == 2:
        size, order = rng.choice("BHIQ"), rng.choice("<>")
        packed = struct.pack(order + size, rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(size)) - 1))
        content[place : place + len(packed)] = packed
    elif kind == 3:
        del content[place:]
    elif kind == 4:
        end = place + rng.choice((1, 4, 16, 256, 4096))
        if rng.random() < 0.5:
            del content[place:end]
        else:
            content[place:place] = content[place:end] * rng.choice((1, 1, 9))
    elif kind == 5:
        end = min(len(content), place + rng.choice((1, 4, 16, 256)))
        content[place:end] = bytes([rng.choice((0, 255, 32))]) * (end - place)
    elif kind == 6:
        content[place:] = other[rng.randrange(len(other)) if rng.random() < 0.5 else place :]
    else:
        content += rng.randbytes(rng.choice((1, 4, 100, 10_000)))
    return bytes(content)


def packed(rng: random.Random, data: bytes, layout: str, place: int) -> bytes:
    """One field of a header, overwritten with a number of note or a random one."""
    top = 1 << 8 * struct.calcsize(layout)
    value = rng.choice([*NUMBERS, top - 1, rng.randrange(top), rng.randrange(1, 5000)]) % top
    return data[:place] + struct.pack(layout, value) + data[place + struct.calcsize(layout) :]
