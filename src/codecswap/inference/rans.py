"""The entropy coder: rANS over 16-bit tables, byte for byte the strings that CompressAI writes and reads.

A range variant of asymmetric numeral systems (Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman
coding with compression rate of arithmetic coding", 2013) with 63 bits of state that is flushed in 32-bit words. A symbol
outside its channel's table is written as the table's last entry, then as an integer in groups of four bits.

The work is done in C (c/codecswap.c, the library for boards). Where the package was installed without a compiler, the same
loops run here in Python: equal bytes, some 100 times as slow.
"""

from bisect import bisect_right
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from codecswap.console import warn
from codecswap.inference.tables import PRECISION, EntropyTables

_coder: Any
try:
    _coder = import_module("codecswap._coder")
except ImportError:
    _coder = None

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
    symbols = np.ascontiguousarray(symbols, np.int32)
    if _coder:
        return _coder.encode(_opened(tables.binary), symbols)
    _say_slow()
    return _encode(symbols.reshape(tables.channels, -1) - tables.offsets[:, None], tables)


def decode(string: bytes, shape: tuple[int, int], tables: EntropyTables) -> np.ndarray:
    """Read what `encode` wrote back as ``(M, h, w)``, int32.

    Raises:
        CorruptString: the string is too short, too long, or was not written with these tables.
    """
    if len(string) % 4 or len(string) < 8:
        raise CorruptString(f"{len(string)} bytes cannot be a coded string")
    symbols = np.empty((tables.channels, *shape), np.int32)
    if _coder:
        try:
            _coder.decode(_opened(tables.binary), string, symbols)
        except ValueError:
            raise CorruptString("the string does not end where its symbols do") from None
        return symbols
    _say_slow()
    if not _decode(np.frombuffer(string, "<u4").tolist(), tables, symbols.reshape(tables.channels, -1)):
        raise CorruptString("the string does not end where its symbols do")
    return symbols + tables.offsets[:, None, None]


@lru_cache(8)
def _opened(binary: bytes) -> Any:
    return _coder.open(binary)


@cache
def _say_slow() -> None:
    warn(
        "codecswap was installed where no C compiler was, so entropy coding runs in Python, some 100 times as slow. Install "
        "one (Debian: apt-get install gcc python3-dev), then codecswap again, with pip's options --force-reinstall --no-deps "
        "--no-cache-dir."
    )


def _encode(values: np.ndarray, tables: EntropyTables) -> bytes:
    """Code ``values: (M, n)``, symbols less their offsets."""
    state, words = _LOW, []  # the last word first
    for channel in range(len(values) - 1, -1, -1):
        last = int(tables.lengths[channel]) - 2
        row = tables.cdf[channel, : last + 2].tolist()
        for value in values[channel, ::-1].tolist():
            entry = value
            if value < 0 or value >= last:
                entry = last
                raw = 2 * (value - last) if value >= 0 else -2 * value - 1
                groups = -(-raw.bit_length() // _BYPASS)
                if groups > _GROUPS:
                    raise ValueError(f"a symbol of more than {_BYPASS * _GROUPS} bits")
                for group in range(groups, -1, -1):  # the count comes first when read, so last here
                    bits = raw >> (_BYPASS * (group - 1)) & 15 if group else groups
                    if state >= 1 << (63 - _BYPASS):
                        words.append(state & 0xFFFFFFFF)
                        state >>= 32
                    state = state << _BYPASS | bits
            start = row[entry]
            width = row[entry + 1] - start
            if state >= width << (63 - PRECISION):
                words.append(state & 0xFFFFFFFF)
                state >>= 32
            state = (state // width << PRECISION) + state % width + start
    words += [state >> 32, state & 0xFFFFFFFF]
    return np.array(words[::-1], "<u4").tobytes()


def _decode(words: list[int], tables: EntropyTables, values: np.ndarray) -> bool:
    """Fill ``values: (M, n)``; returns whether the string ended where it should."""
    state = words[0] | words[1] << 32
    if not _LOW <= state < 1 << 63:
        return False
    words = words[:1:-1]  # the next word last
    try:
        for channel in range(len(values)):
            last = int(tables.lengths[channel]) - 2
            row = tables.cdf[channel, : last + 2].tolist()
            read = []
            for _ in range(values.shape[1]):
                slot = state & 0xFFFF
                value = bisect_right(row, slot) - 1  # the last entry that begins at or before the slot
                start = row[value]
                state = (row[value + 1] - start) * (state >> PRECISION) + slot - start
                if state < _LOW:
                    state = state << 32 | words.pop()
                if value == last:
                    raw, groups, state = 0, state & 15, state >> _BYPASS
                    if state < _LOW:
                        state = state << 32 | words.pop()
                    if groups > _GROUPS:
                        return False
                    for group in range(groups):
                        raw, state = raw | (state & 15) << (_BYPASS * group), state >> _BYPASS
                        if state < _LOW:
                            state = state << 32 | words.pop()
                    value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + last
                read.append(value)
            values[channel] = read
    except IndexError:  # the string ends before its symbols do
        return False
    return not words and state == _LOW
