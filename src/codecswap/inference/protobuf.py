"""Read and write the wire format of Protocol Buffers, which ONNX files have, without the package ``onnx``."""

from collections.abc import Iterable
from typing import Any

VARINT, LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
"""Bytes of fields of a fixed size, by wire type."""
Field = tuple[int, int, Any]
"""Number, wire type, and value: an integer if the type is `VARINT`, else bytes."""


def parse(message: bytes) -> list[Field]:
    """The fields of a message, in their order.

    Raises:
        ValueError, IndexError: it is damaged.
    """
    found: list[Field] = []
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            found.append((number, kind, value))
            continue
        size = _FIXED.get(kind, 0)
        if kind == LENGTH:
            size, at = _varint(message, at)
        if not (size or kind == LENGTH) or at + size > len(message):
            raise ValueError(f"wire type {kind} at byte {at}")
        found.append((number, kind, message[at : at + size]))
        at += size
    return found


def serialize(fields: Iterable[Field]) -> bytes:
    """The message with these fields."""
    parts = []
    for number, kind, value in fields:
        parts.append(_encoded(number << 3 | kind))
        if isinstance(value, int):
            parts.append(_encoded(value))
        else:
            parts += [_encoded(len(value)), value] if kind == LENGTH else [value]
    return b"".join(parts)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError(f"an integer without an end at byte {at}")


def _encoded(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])
