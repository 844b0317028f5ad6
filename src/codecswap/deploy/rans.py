"""The entropy coder: rANS over 16-bit tables, byte for byte the strings that CompressAI writes and reads.

A range variant of asymmetric numeral systems (Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman
coding with compression rate of arithmetic coding", 2013) with 63 bits of state that is flushed in 32-bit words. A symbol
outside its channel's table is written as the table's last entry, then as an integer in groups of four bits.

Compiled with numba, because the loop is one of single steps: each needs the state that the one before it left.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from codecswap.deploy.tables import PRECISION, EntropyTables

_LOW = 1 << 31
"""The state is never below this between symbols, and starts here."""
_BYPASS = 4
"""Bits in a group of an integer that no table holds."""
_GROUPS = 7
"""Such an integer has 28 bits at most; with more, CompressAI's encoder would not end."""


class CorruptString(ValueError):
    """A string that no encoder with these tables has written."""


def encode(symbols: np.ndarray, tables: EntropyTables) -> bytes:
    """Code ``symbols: (M, h, w)``, int32; the last channel's last symbol is coded first, as a decoder runs forward."""
    values = np.ascontiguousarray(symbols, np.int32).reshape(len(tables.lengths), -1) - tables.offsets[:, None]
    escapes = np.count_nonzero((values < 0) | (values >= tables.lengths[:, None] - 2))
    # at most 16 bits for a table's entry; an escape adds its count of groups, and the groups
    words = np.empty((PRECISION * values.size + _BYPASS * (1 + _GROUPS) * escapes) // 32 + 4, "<u4")
    first = _encode(values, tables.cdf, tables.lengths, words)
    return words[first:].tobytes()


def decode(string: bytes, shape: tuple[int, int], tables: EntropyTables) -> np.ndarray:
    """Read what `encode` wrote back as ``(M, h, w)``, int32.

    Raises:
        CorruptString: the string is too short, too long, or was not written with these tables.
    """
    if len(string) % 4 or len(string) < 8:
        raise CorruptString(f"{len(string)} bytes cannot be a coded string")
    values = np.empty((len(tables.lengths), shape[0] * shape[1]), np.int32)
    if not _decode(np.frombuffer(string, "<u4"), tables.cdf, tables.lengths, values):
        raise CorruptString("the string does not end where its symbols do")
    return (values + tables.offsets[:, None]).reshape(-1, *shape)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # nowhere to keep it (a board that is mounted read-only): compile in every process
        return numba.njit(function)


@_compiled
def _encode(values: np.ndarray, cdf: np.ndarray, lengths: np.ndarray, words: np.ndarray) -> int:
    """Fill ``words`` from its end; returns where they begin."""
    state = np.int64(_LOW)
    place = len(words)
    for channel in range(values.shape[0] - 1, -1, -1):
        row = cdf[channel]
        last = lengths[channel] - 2
        for index in range(values.shape[1] - 1, -1, -1):
            value = np.int64(values[channel, index])
            entry = value
            if value < 0 or value >= last:
                entry = np.int64(last)
                raw = 2 * (value - last) if value >= 0 else -2 * value - 1
                groups = 0
                while raw >> (_BYPASS * groups):
                    groups += 1
                for group in range(groups, -1, -1):  # the count comes first when read, so last here
                    bits = (raw >> (_BYPASS * (group - 1))) & 15 if group else groups
                    if state >= np.int64(1) << (63 - _BYPASS):
                        place -= 1
                        words[place] = state & 0xFFFFFFFF
                        state >>= 32
                    state = (state << _BYPASS) | bits
            start = np.int64(row[entry])
            width = np.int64(row[entry + 1]) - start
            if state >= width << (63 - PRECISION):
                place -= 1
                words[place] = state & 0xFFFFFFFF
                state >>= 32
            state = ((state // width) << PRECISION) + state % width + start
    words[place - 1] = state >> 32
    words[place - 2] = state & 0xFFFFFFFF
    return place - 2


@_compiled
def _decode(words: np.ndarray, cdf: np.ndarray, lengths: np.ndarray, values: np.ndarray) -> bool:
    """Fill ``values: (M, n)``; returns whether the string ended where it should."""
    state = np.int64(words[0]) | np.int64(words[1]) << 32
    place = 2
    if state < _LOW:
        return False
    for channel in range(values.shape[0]):
        row = cdf[channel]
        last = lengths[channel] - 2
        for index in range(values.shape[1]):
            slot = state & ((1 << PRECISION) - 1)
            low = 0
            high = last
            while low < high:  # the last entry that begins at or before the slot
                middle = (low + high + 1) >> 1
                if row[middle] <= slot:
                    low = middle
                else:
                    high = middle - 1
            start = np.int64(row[low])
            state = (np.int64(row[low + 1]) - start) * (state >> PRECISION) + slot - start
            if state < _LOW:
                if place == len(words):
                    return False
                state = state << 32 | np.int64(words[place])
                place += 1
            value = np.int64(low)
            if low == last:
                groups = np.int64(-1)
                raw = np.int64(0)
                group = np.int64(-1)
                while group < groups or group < 0:
                    bits = state & 15
                    state >>= _BYPASS
                    if state < _LOW:
                        if place == len(words):
                            return False
                        state = state << 32 | np.int64(words[place])
                        place += 1
                    if group < 0:
                        if bits > _GROUPS:
                            return False
                        groups = bits
                    else:
                        raw |= bits << (_BYPASS * group)
                    group += 1
                value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + last
            values[channel, index] = value
    return place == len(words) and state == _LOW
