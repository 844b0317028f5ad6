"""Damage to zips, and to what PyTorch writes: directories, names, checksums, pickles, tensors, and code."""

import io
import math
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable

from fuzz_bytes import NUMBERS, packed
from fuzz_texts import VALUES, places

CODE = [
    b"cposix\nsystem\n(S'touch PWNED'\ntR.",
    b'cbuiltins\neval\n(S\'open("PWNED", "w")\'\ntR.',
    b"cbuiltins\nexec\n(S'import os'\ntR.",
    b"csubprocess\nPopen\n(S'id'\ntR.",
    b"ctorch.hub\nload\n(S'x'\ntR.",
    b"ctorch\nload\n(S'x'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0dtouch PWNED12\x85R.",
    b"c__main__\nNone\n.",
    b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.",
]

NAMES = ["../../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "C:\\evil.jpg", "train2017/" + "x" * 300 + ".jpg"]
NAMES += [
    "train2017/a.jpg/b.jpg",
    "train2017/\n.jpg",
    "train2017/\x1b[31m.jpg",
    "a\0b.jpg",
    "train2017/000000000001.jpg",
]


def _rezipped(
    data: bytes, change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> bytes:
    """The same zip with its members changed, and all its checksums right."""
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", method) as target:
            for name in source.namelist():
                name, content = change(name, source.read(name))
                target.writestr(zipfile.ZipInfo(name), content, method)  # (without the time of day)
    except Exception:
        return data
    return buffer.getvalue()


def seal_zip(data: bytes) -> bytes:
    """The same zip with its members as they are now, and all its checksums right."""
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
            for member in source.infolist():
                member.CRC = None  # type: ignore[assignment]  # not looked at
                target.writestr(zipfile.ZipInfo(member.filename), source.read(member), member.compress_type)
    except Exception:
        return data
    return buffer.getvalue()


def _directory(rng: random.Random, data: bytes) -> bytes:
    """A field of the central directory, of its end, or of a member's own header."""
    mark = rng.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"))
    found = [match.start() for match in re.finditer(re.escape(mark), data)]
    if not found:
        return data
    return packed(rng, data, rng.choice(("<H", "<I")), rng.choice(found) + rng.randrange(4, 44, 2))


def zip_file(rng: random.Random, data: bytes) -> bytes:
    choice = rng.randrange(4)
    if choice < 2:
        return _directory(rng, data)
    if choice == 2:
        return _rezipped(data, lambda name, content: (rng.choice(NAMES) if rng.random() < 0.3 else name, content))
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    size = rng.choice((0, 1000, 3 << 20))  # (70 MB of zeros, in the regression tests, is refused by its size)
    return _rezipped(data, lambda name, content: (name, content + bytes(size)), method)


def torch_file(rng: random.Random, data: bytes) -> bytes:
    if not data.startswith(b"PK"):  # the format before zips: pickles, one behind the other
        return _pickle(rng, data)
    choice = rng.randrange(7)
    if choice == 0:
        return _directory(rng, data)
    if choice == 1:
        return _rezipped(data, lambda name, content: (name, content), zipfile.ZIP_DEFLATED)
    if choice > 4:
        return _resaved(rng, data)

    def change(name: str, content: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl"):
            return name, _pickle(rng, content)
        if choice == 2 and rng.random() < 0.2:
            return rng.choice((name + "x", "../" + name, name)), content[: rng.randrange(len(content) + 1)]
        return name, content

    return _rezipped(data, change)


def _resaved(rng: random.Random, data: bytes) -> bytes:
    """Written by PyTorch itself, with one tensor or value that belongs to nothing else in the file."""
    import torch

    try:
        content = torch.load(io.BytesIO(data), weights_only=True)
        place = rng.choice(places(content)[1:])
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        old = holder[place[-1]]
        holder[place[-1]] = rng.choice(VALUES)
        if isinstance(old, torch.Tensor):
            shapes = [
                (100_000, 100_000),
                (30_000, 3, 5, 5),
                (8, 12, 1001, 1001),
                (0,),
                (),
                (1, 1, 1, 1 << 20),
                (12, 1 << 22),
            ]
            number = rng.choice((0.0, math.nan, math.inf, 1e38, -1.0, 65536.0))
            made = torch.full((), number).expand(rng.choice([*shapes, tuple(old.shape)]))
            if made.numel() < 1 << 23 and rng.random() < 0.5:
                made = made.contiguous()
            elif rng.random() < 0.5:
                made = old.to(rng.choice((torch.float16, torch.int8, torch.complex64, torch.bool, torch.float8_e5m2)))
            holder[place[-1]] = rng.choice((made, made, old * number, old.to_sparse(), [old], old[..., :1]))
        buffer = io.BytesIO()
        torch.save(content, buffer)
    except Exception:
        return data
    return buffer.getvalue()


def _pickle(rng: random.Random, data: bytes) -> bytes:
    """Another number, name, or operation, or code in place of what is there; all else as PyTorch wrote it."""
    if rng.random() < 0.1:
        return rng.choice(CODE)
    try:
        operations = [(place, operation, argument) for operation, argument, place in pickletools.genops(data)]
    except Exception:
        return data
    operations.append((operations[-1][0] + 1, operations[-1][1], None))
    index = rng.randrange(len(operations) - 1)
    place, operation, argument = operations[index]
    end = operations[index + 1][0]
    if isinstance(argument, int) and not isinstance(argument, bool) and operation.name.startswith("BIN"):
        number = rng.choice([*NUMBERS, argument + 1, argument * 1000]) & 0x7FFFFFFF
        new = b"J" + struct.pack("<i", number)
    elif operation.name == "GLOBAL":
        new = b"c" + rng.choice((b"posix\nsystem\n", b"torch\nDoubleStorage\n", b"torch\nload\n", b"builtins\neval\n"))
    elif isinstance(argument, str):
        new = b"X" + struct.pack("<I", 3) + rng.choice((b"cpu", b"met", b"xyz", b"g_a"))
    else:
        new = rng.choice((b"", b"N", data[place:end] * 2, b"}", b"]", rng.choice(CODE)[:-1]))
    return data[:place] + new + data[end:]
