"""Damage: what happens to bytes on broken disks, and what somebody with an intention does to each format."""

import io
import itertools
import json
import math
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[random.Random, bytes], bytes]
NUMBERS = [0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31]
NUMBERS += [(1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
VALUES: list[Any] = [
    *NUMBERS,
    -1,
    -(1 << 31),
    -(1 << 63),
    10**400,
    0.5,
    -0.0,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
]
VALUES += [
    None,
    True,
    False,
    "",
    "0",
    "1e9",
    "\0",
    "../../x",
    "/etc/passwd",
    "x" * 5000,
    "<script>",
    "\ud800",
    [],
    [[]],
    {},
]
VALUES += [[0] * 5000, [[0, 65536]] * 2000, {"a": 1}, ["x"], [None], list(range(9000))]
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
        data = special(rng, data) if own and special else _plain(rng, data, seeds[rng.choice(sorted(seeds))])
    if format in SEALS and rng.random() < 0.6:
        data = SEALS[format](data)
    return name, data


def _plain(rng: random.Random, data: bytes, other: bytes) -> bytes:
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


def _packed(rng: random.Random, data: bytes, layout: str, place: int) -> bytes:
    """One field of a header, overwritten with a number of note or a random one."""
    top = 1 << 8 * struct.calcsize(layout)
    value = rng.choice([*NUMBERS, top - 1, rng.randrange(top), rng.randrange(1, 5000)]) % top
    return data[:place] + struct.pack(layout, value) + data[place + struct.calcsize(layout) :]


# --- csw: magic 4, version 1, zero 1, height 4, width 4, digest 16, length 4, string, CRC 4 -----------------------------


def _csw(rng: random.Random, data: bytes) -> bytes:
    if len(data) < 39:
        return data
    choice = rng.randrange(4)
    if choice == 0:
        return _packed(rng, data, "<I", rng.choice((6, 10, 30)))
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


# --- JSON, and what has JSON in it ---------------------------------------------------------------------------------------


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """The ways to every value inside a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, child in items for place in places(child, (*at, key)))]


def changed(rng: random.Random, value: Any) -> Any:
    """A value of JSON with something else in one of its places."""
    place = rng.choice(places(value))
    if not place:
        return rng.choice(VALUES)
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    old = holder[place[-1]]
    choice = rng.randrange(6)
    if choice == 0:
        del holder[place[-1]]
    elif choice == 1 and isinstance(old, int):
        holder[place[-1]] = old + rng.choice((-1, 1, 1 << 16, 1 << 32))
    elif choice == 2 and isinstance(old, list):
        holder[place[-1]] = old * rng.choice((0, 2, 100)) if rng.random() < 0.5 else old[::-1]
    elif choice == 3:
        holder[place[-1]] = [old]
    else:
        holder[place[-1]] = rng.choice(VALUES)
    return value


def _json(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.03:
        depth = rng.choice((500, 5000, 200_000))
        return rng.choice((b"[", b'{"cdf":', b'{"format":[')) * depth
    try:
        text = json.dumps(changed(rng, json.loads(data)))
    except (ValueError, RecursionError):
        return data
    if rng.random() < 0.05:
        text = text.replace(":", ":" + "[" * 3000, 1)
    return text.encode()


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    """The header is JSON, behind its length in 8 bytes."""
    if rng.random() < 0.2 or len(data) < 8:
        return _packed(rng, data, "<Q", 0)
    size = struct.unpack_from("<Q", data)[0]
    try:
        header = json.loads(data[8 : 8 + size])
        name = rng.choice(sorted(header))
        if rng.random() < 0.5 and isinstance(header[name], dict):
            field = rng.choice(("dtype", "shape", "data_offsets"))
            kinds = ["F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X"]
            header[name][field] = rng.choice(kinds) if field == "dtype" else [rng.choice(NUMBERS) for _ in range(4)]
        else:
            changed(rng, header[name])
        text = json.dumps(header).encode()
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return data
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


# --- zips: pictures, and PyTorch's checkpoints ---------------------------------------------------------------------------

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
                target.writestr(*change(name, source.read(name)))
    except Exception:
        return data
    return buffer.getvalue()


def _seal_zip(data: bytes) -> bytes:
    """The same zip with its members as they are now, and all its checksums right."""
    buffer = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
            for member in source.infolist():
                member.CRC = None  # type: ignore[assignment]  # not looked at
                target.writestr(member.filename, source.read(member), member.compress_type)
    except Exception:
        return data
    return buffer.getvalue()


def _directory(rng: random.Random, data: bytes) -> bytes:
    """A field of the central directory, of its end, or of a member's own header."""
    mark = rng.choice((b"PK\x01\x02", b"PK\x05\x06", b"PK\x03\x04"))
    found = [match.start() for match in re.finditer(re.escape(mark), data)]
    if not found:
        return data
    return _packed(rng, data, rng.choice(("<H", "<I")), rng.choice(found) + rng.randrange(4, 44, 2))


def _zip(rng: random.Random, data: bytes) -> bytes:
    choice = rng.randrange(4)
    if choice < 2:
        return _directory(rng, data)
    if choice == 2:
        return _rezipped(data, lambda name, content: (rng.choice(NAMES) if rng.random() < 0.3 else name, content))
    method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    size = rng.choice((0, 1000, 3 << 20))  # (70 MB of zeros, in the regression tests, is refused by its size)
    return _rezipped(data, lambda name, content: (name, content + bytes(size)), method)


def _torch(rng: random.Random, data: bytes) -> bytes:
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


# --- pictures ------------------------------------------------------------------------------------------------------------


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    result, place = [], 8
    while place + 12 <= len(data):
        size = struct.unpack_from(">I", data, place)[0]
        result.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return result


def _png(rng: random.Random, data: bytes) -> bytes:
    chunks = _chunks(data)
    if not chunks:
        return data
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    choice = rng.randrange(6)
    if choice < 2 and len(chunks[0][1]) >= 13:  # IHDR: width, height, depth, colours, compression, filter, interlace
        place = rng.randrange(13)
        header = _packed(rng, chunks[0][1], ">I", 4 * rng.randrange(2)) if choice else chunks[0][1]
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
        chunks[index] = kind, _plain(rng, content, content or b"\0")
    return data[:8] + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _seal_png(data: bytes) -> bytes:
    return data[:8] + b"".join(_chunk(*chunk) for chunk in _chunks(data))


def _jpeg(rng: random.Random, data: bytes) -> bytes:
    """Sizes in the frame's header, lengths and contents of segments, scans and segments that come twice."""
    marks = [match.start() for match in re.finditer(rb"\xff[\xc0-\xcf\xda-\xfe]", data)]
    if not marks:
        return data
    frames = [mark for mark in marks if data[mark + 1] in (0xC0, 0xC2)] or marks
    choice = rng.randrange(4)
    if choice == 0:
        return _packed(rng, data, ">H", rng.choice(frames) + rng.choice((5, 7)))
    mark = rng.choice(marks)
    if choice == 1:
        return _packed(rng, data, ">H", mark + 2)
    if choice == 2:
        return _packed(rng, data, "B", mark + rng.randrange(1, 24))
    end = rng.choice([*marks, len(data)])
    return data[:end] + data[mark:end] * rng.choice((1, 3, 60)) + data[end:]


def _riff(rng: random.Random, data: bytes) -> bytes:
    """WebP: sizes of chunks, and of the picture (VP8X: 24 bits each, VP8 and VP8L: 14)."""
    found = [match.start() for match in re.finditer(rb"RIFF|VP8[ LX]|ALPH|ANIM|ANMF|EXIF|ICCP", data)]
    if not found:
        return data
    place = rng.choice(found)
    return _packed(rng, data, rng.choice(("<H", "<I")), place + rng.choice((4, 8, 9, 12, 14, 15, 16)))


def _tiff(rng: random.Random, data: bytes) -> bytes:
    """An entry of the directory: tag 2, type 2, count 4, value 4. (BMP: its header's fields.)"""
    if data[:2] == b"BM" or len(data) < 20:
        return _packed(rng, data, "<I", rng.choice((10, 14, 18, 22, 26, 30, 34, 46)))
    start = struct.unpack_from("<I", data, 4)[0]
    if start + 2 > len(data):
        return data
    entry = start + 2 + 12 * rng.randrange(max(1, struct.unpack_from("<H", data, start)[0]))
    layout, offset = rng.choice((("<H", 0), ("<H", 2), ("<I", 4), ("<I", 8), ("<I", 8)))
    return _packed(rng, data, layout, entry + offset)


# --- YAML and TOML -------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")
)
LINES = [
    LAUGHS,
    "a: &a [*a]\n",
    "<<: *a\n",
    "save_dir: !!python/object/apply:os.system ['touch PWNED']\n",
    "save_dir: !!python/object/new:subprocess.Popen [[id]]\n",
    "seed: !!python/name:os.system\n",
    "save_dir: !!binary aGVsbG8=\n",
    "epochs: !!set {a, b}\n",
    "epochs: !!float .nan\n",
    "config: other.yaml\n",
    "print_config: true\n",
    "? [a, b]\n: 3\n",
    "1: 2\n",
    "null: 3\n",
    "epochs: 3\nepochs: 4\n",
    "--- \nepochs: 3\n---\nepochs: 4\n",
    "epochs: 99999999999999999999999999\n",
    "epochs: " + "9" * 5000 + "\n",
    "lr: 1:30:00\n",
    "lr: .inf\n",
    "seed: 0x_\n",
    "coco_dir: 2020-01-01\n",
    "save_dir: {class_path: os.system}\n",
    "lr: {a: " * 200 + "\n",
    "lr: " + "[" * 5000 + "\n",
    "- " * 3000 + "\n",
    "%YAML 9.9\n---\n",
    "\ttab: 1\n",
    "seed: \x01\n",
    "teacher: \ufeff\n",
    "devices: \U0001f600\n",
    "x" * 100_000 + ": 1\n",
    "limits.Resize.mode = 3\n",
    "a = " + "[" * 5000 + "\n",
    "max_opset = '13'\n",
    "notes = 3\n",
    "name = " + "9" * 5000 + "\n",
]


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.decode("utf-8", "replace").splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    choice = rng.randrange(8)
    if choice < 2:
        lines.insert(place, rng.choice(LINES))
    elif choice < 6:
        key, colon, _ = lines[place].partition(":" if ":" in lines[place] else "=")
        lines[place] = f"{key}{colon} {json.dumps(rng.choice(VALUES))}\n"
    elif choice == 6:
        lines[place] = " " * rng.randrange(1, 9) + lines[place]
    else:
        return "".join(lines).encode(rng.choice(("utf-16", "utf-32", "utf-8")), "surrogatepass")
    return "".join(lines).encode("utf-8", "surrogatepass")


# --- ONNX: protocol buffers ----------------------------------------------------------------------------------------------


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
    "jpeg": _jpeg,
    "manifest": _json,
    "onnx": _onnx,
    "png": _png,
    "prepared": _json,
    "pt": _torch,
    "pth": _torch,
    "safetensors": _safetensors,
    "tables": _json,
    "tiff": _tiff,
    "toml": _lines,
    "webp": _riff,
    "yaml": _lines,
    "zip": _zip,
}
SEALS = {"csw": _seal_csw, "png": _seal_png, "pt": _seal_zip, "pth": _seal_zip, "zip": _seal_zip}
"""What makes a checksum right again, so that damage gets past it."""
