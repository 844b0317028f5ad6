"""Damage to JSON, YAML and TOML, and to the JSON inside of safetensors: other values, other forms, and bombs."""

import itertools
import json
import math
import random
import struct
from typing import Any

from fuzz_bytes import NUMBERS, packed

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


def json_text(rng: random.Random, data: bytes) -> bytes:
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


def safetensors(rng: random.Random, data: bytes) -> bytes:
    """The header is JSON, behind its length in 8 bytes."""
    if rng.random() < 0.2 or len(data) < 8:
        return packed(rng, data, "<Q", 0)
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


def lines(rng: random.Random, data: bytes) -> bytes:
    found = data.decode("utf-8", "replace").splitlines(keepends=True) or [""]
    place = rng.randrange(len(found))
    choice = rng.randrange(8)
    if choice < 2:
        found.insert(place, rng.choice(LINES))
    elif choice < 6:
        key, colon, _ = found[place].partition(":" if ":" in found[place] else "=")
        found[place] = f"{key}{colon} {json.dumps(rng.choice(VALUES))}\n"
    elif choice == 6:
        found[place] = " " * rng.randrange(1, 9) + found[place]
    else:
        return "".join(found).encode(rng.choice(("utf-16", "utf-32", "utf-8")), "surrogatepass")
    return "".join(found).encode("utf-8", "surrogatepass")
