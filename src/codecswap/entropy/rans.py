"""The entropy coder: rANS over 16-bit tables, strings are byte for byte those of CompressAI.

A range variant of asymmetric numeral systems (Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman
coding with compression rate of arithmetic coding", 2013) with 63 bits of state that is flushed in 32-bit words. A symbol
outside its channel's table is written as the table's last entry, then as an integer in groups of four bits.

The work is done in C (c/codecswap.c, the library for boards). Where the package was installed without a compiler, the same
loops run here in Python: equal bytes, some 100 times as slow.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import numpy as np

from codecswap.console import warn
from codecswap.entropy.extension import coder
from codecswap.entropy.tables import PRECISION, EntropyTables

_LOW = 1 << 31
"""Initial state, and its minimum between symbols."""
_BYPASS = 4
"""Bits per group of an escaped integer."""
_CORRUPT = "the string does not end where its symbols do"
_GROUPS = 7
"""Most groups of an escaped integer (28 bits); with more, CompressAI's encoder would not terminate."""


class CorruptString(ValueError):
    """A string that no encoder with these tables can have written."""


def encode(symbols: np.ndarray, tables: EntropyTables) -> bytes:
    """Code ``symbols: (M, h, w)``, int32; the last channel's last symbol is coded first, as a decoder runs forward."""
    symbols = np.ascontiguousarray(symbols, np.int32)
    if coder:
        return coder.encode(_opened(tables.binary), symbols)
    _say_slow()
    return _encode(symbols, _channels(tables, symbols.shape[1:]), tables)


def decode(string: bytes, shape: tuple[int, int], tables: EntropyTables) -> np.ndarray:
    """Read what `encode` wrote back as ``(M, h, w)``, int32.

    Raises:
        CorruptString: the string is too short, too long, or was not written with these tables.
    """
    _check_length(string)
    symbols = np.empty((tables.channels, *shape), np.int32)
    if coder:
        with _refusing():
            coder.decode(_opened(tables.binary), string, symbols)
        return symbols
    _say_slow()
    return _decode(string, _channels(tables, shape), tables)


def encode_indexes(symbols: np.ndarray, indexes: np.ndarray, tables: EntropyTables) -> bytes:
    """Code ``symbols``, int32 of any shape, each with the table of its CDF index in ``indexes``, uint8 of the same shape."""
    symbols, indexes = np.ascontiguousarray(symbols, np.int32), np.ascontiguousarray(indexes, np.uint8)
    if coder:
        return coder.encode_rows(_opened(tables.binary), indexes, symbols)
    _say_slow()
    return _encode(symbols, indexes, tables)


def decode_indexes(string: bytes, indexes: np.ndarray, tables: EntropyTables) -> np.ndarray:
    """Read what `encode_indexes` wrote with the same ``indexes``.

    Raises:
        CorruptString: the string is too short, too long, or was not written with these tables and indexes.
    """
    _check_length(string)
    indexes = np.ascontiguousarray(indexes, np.uint8)
    if coder:
        symbols = np.empty(indexes.shape, np.int32)
        with _refusing():
            coder.decode_rows(_opened(tables.binary), indexes, string, symbols)
        return symbols
    _say_slow()
    return _decode(string, indexes, tables)


def _check_length(string: bytes) -> None:
    if len(string) % 4 or len(string) < 8:
        raise CorruptString(f"{len(string)} bytes cannot be a coded string")


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise CorruptString(_CORRUPT) from None


def _channels(tables: EntropyTables, shape: tuple[int, ...]) -> np.ndarray:
    """The CDF index of each symbol where every channel has its own table, ``(M, h, w)``."""
    return np.broadcast_to(np.arange(tables.channels)[:, None, None], (tables.channels, *shape))


@lru_cache(8)
def _opened(binary: bytes) -> Any:
    return coder.open(binary)


@cache
def _say_slow() -> None:
    warn(
        "codecswap was installed where no C compiler was, so entropy coding runs in Python, some 100 times as slow. Install "
        "one (Debian: apt-get install gcc python3-dev), then codecswap again, with pip's options --force-reinstall --no-deps "
        "--no-cache-dir."
    )


def _cdfs(tables: EntropyTables) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(tables.cdf, tables.lengths, strict=True)]


def _encode(symbols: np.ndarray, indexes: np.ndarray, tables: EntropyTables) -> bytes:
    """Code symbols, each with the table of its CDF index."""
    state, words = _LOW, []  # the last word first
    cdfs = _cdfs(tables)
    values = symbols - tables.offsets[indexes]
    for value, index in zip(values.ravel()[::-1].tolist(), indexes.ravel()[::-1].tolist(), strict=True):
        cdf = cdfs[index]
        entry, last = value, len(cdf) - 2
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
        start = cdf[entry]
        width = cdf[entry + 1] - start
        if state >= width << (63 - PRECISION):
            words.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // width << PRECISION) + state % width + start
    words += [state >> 32, state & 0xFFFFFFFF]
    return np.array(words[::-1], "<u4").tobytes()


def _decode(string: bytes, indexes: np.ndarray, tables: EntropyTables) -> np.ndarray:
    """The symbols of a string, in the shape of ``indexes``."""
    reader = Reader(string, tables)
    symbols = reader.read(indexes)
    reader.finish()
    return symbols


class Reader:
    """Reads a string of `encode_indexes` step by step, for CDF indexes that depend on earlier symbols; always in Python.

    Raises:
        CorruptString: this is not a coded string.
    """

    def __init__(self, string: bytes, tables: EntropyTables) -> None:
        _check_length(string)
        words = np.frombuffer(string, "<u4").tolist()
        self._state = words[0] | words[1] << 32
        self._words = words[:1:-1]  # the next word last
        if not _LOW <= self._state < 1 << 63:
            raise CorruptString(_CORRUPT)
        self._cdfs, self._offsets = _cdfs(tables), tables.offsets

    def read(self, indexes: np.ndarray) -> np.ndarray:
        """The next symbols, int32, in the shape of ``indexes``.

        Raises:
            CorruptString: the string ends before they do.
        """
        state, words, cdfs, read = self._state, self._words, self._cdfs, []
        try:
            for index in indexes.ravel().tolist():
                cdf = cdfs[index]
                last = len(cdf) - 2
                slot = state & 0xFFFF
                value = bisect_right(cdf, slot) - 1  # the last entry that begins at or before the slot
                start = cdf[value]
                state = (cdf[value + 1] - start) * (state >> PRECISION) + slot - start
                if state < _LOW:
                    state = state << 32 | words.pop()
                if value == last:
                    raw, groups, state = 0, state & 15, state >> _BYPASS
                    if state < _LOW:
                        state = state << 32 | words.pop()
                    if groups > _GROUPS:
                        raise CorruptString(_CORRUPT)
                    for group in range(groups):
                        raw, state = raw | (state & 15) << (_BYPASS * group), state >> _BYPASS
                        if state < _LOW:
                            state = state << 32 | words.pop()
                    value = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + last
                read.append(value)
        except IndexError:  # the string ends before its symbols do
            raise CorruptString(_CORRUPT) from None
        self._state = state
        return np.array(read, np.int32).reshape(indexes.shape) + self._offsets[indexes]

    def finish(self) -> None:
        """Check that the string has been read to its end.

        Raises:
            CorruptString: it does not.
        """
        if self._words or self._state != _LOW:
            raise CorruptString(_CORRUPT)
