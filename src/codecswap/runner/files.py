"""Decode .csw files with the C library (c/codecswap.h), a shared library that is sent along and opened in memory."""

from __future__ import annotations

import ctypes
import hashlib
import time
from typing import Any

from codecswap.runner.networks import Network, path_of

REPEATS = 3
"""Times that each file is read."""
FORMS = {"symbols": 1, "latents": 2, "split_inputs": 4}
"""``csw_form`` of a decoder's input, by its name."""
NCHW, FLOAT = 0, 0
"""``csw_layout`` and ``csw_pixels``."""
NUMBER = ctypes.c_uint32


class Size(ctypes.Structure):
    """``csw_size``."""

    _fields_ = [(name, NUMBER) for name in ("height", "width", "rows", "columns", "factor", "margin")]


class Tile(ctypes.Structure):
    """``csw_tile``."""

    _fields_ = [(name, NUMBER) for name in ("top", "left", "rows", "columns")]
    _fields_ += [(name, NUMBER) for name in ("first_row", "end_row", "first_column", "end_column")]


class File(ctypes.Structure):
    """``csw_file``: what is read here, and room for the rest."""

    _fields_ = [("size", Size), ("rest", ctypes.c_char * 256)]


class Codec(ctypes.Structure):
    """``csw_codec``: what is set here, and room for the rest."""

    _fields_ = [(name, NUMBER) for name in ("factor", "margin", "channels", "hyper_factor")]
    _fields_ += [("inputs", ctypes.c_void_p), ("input_bits", NUMBER), ("rest", ctypes.c_char * 4096)]


class Library:
    """The C library with an opened codec.

    Args:
        content: the shared library.
        codec: ``factor``, ``margin`` and ``input`` (the name of the decoder's); for split inputs their ``constant``,
            ``channels`` (how many inputs each channel of the latents has) and ``fractional_bits``.
        binaries: ``entropy.bin`` of the codec's folder and, where it has them, ``gaussians.bin``, ``hyper_decoder.bin`` and
            ``rates.bin``.
    """

    def __init__(self, content: bytes, codec: dict[str, Any], binaries: dict[str, bytes]) -> None:
        self._c = ctypes.CDLL(path_of(content))
        self._c.csw_error_text.restype = ctypes.c_char_p
        for name in ("csw_read_size", "csw_work_size"):
            getattr(self._c, name).restype = ctypes.c_uint64
        self.input = codec["input"]
        self._codec, self._binaries, self._form = Codec(), binaries, FORMS[self.input]
        self._constant = codec["constant"]
        self._call("codec_open", NUMBER(codec["factor"]), NUMBER(codec["margin"]), *self._binary("entropy.bin"))
        if "gaussians.bin" in binaries:
            self._call("codec_hyperprior", *self._binary("gaussians.bin"), *self._binary("hyper_decoder.bin"))
            if codec["channels"]:
                self._inputs = (ctypes.c_uint16 * len(codec["channels"]))(*codec["channels"])
                self._codec.inputs = ctypes.addressof(self._inputs)
        if "rates.bin" in binaries:
            self._call("codec_rates", *self._binary("rates.bin"))
            self._codec.input_bits = codec["fractional_bits"]

    def read(self, content: bytes) -> tuple[File, Any]:
        """Decode a file: its size, and the decoder's input ``(1, C, h, w)``, float32."""
        import numpy as np

        file, size = File(), ctypes.c_size_t
        self._check(self._c.csw_open(ctypes.byref(file), ctypes.byref(self._codec), content, size(len(content))))
        codec, sides = ctypes.byref(self._codec), ctypes.byref(file.size)
        room = self._c.csw_read_size(codec, sides, self._form)
        work = np.empty(self._c.csw_work_size(codec, sides) // 8 + 1, np.uint64)
        found = np.empty(room // 4, np.float32)
        more = (
            found.ctypes.data_as(ctypes.c_void_p),
            size(room),
            work.ctypes.data_as(ctypes.c_void_p),
            size(work.nbytes),
        )
        self._check(self._c.csw_read(codec, ctypes.byref(file), self._form, NCHW, self._constant, *more))
        return file, found.reshape(1, -1, file.size.rows, file.size.columns)

    def to_rgb(self, file: File, decoded: Any) -> Any:
        """The picture ``(H, W, 3)``, uint8, of what the decoder computed, ``(1, 3, H, W)``, float32."""
        import numpy as np

        size = file.size
        tile = Tile(0, 0, size.rows, size.columns, 0, size.rows, 0, size.columns)
        rgb = np.empty((size.height, size.width, 3), np.uint8)
        ends = (array.ctypes.data_as(ctypes.c_void_p) for array in (decoded, rgb))
        self._check(self._c.csw_to_rgb(ctypes.byref(size), ctypes.byref(tile), FLOAT, NCHW, *ends))
        return rgb

    def _binary(self, name: str) -> tuple[bytes, ctypes.c_size_t]:
        return self._binaries[name], ctypes.c_size_t(len(self._binaries[name]))

    def _call(self, name: str, *more: Any) -> None:
        self._check(getattr(self._c, f"csw_{name}")(ctypes.byref(self._codec), *more))

    def _check(self, error: int) -> None:
        if error:
            raise ValueError(f"the C library says that a file {self._c.csw_error_text(error).decode()}")


def decode(library: Library, files: list[bytes], network: Network) -> tuple[list[dict[str, Any]], list[Any]]:
    """Decode files to pictures.

    Args:
        library: the C library.
        files: contents of .csw files.
        network: a decoder for their size.

    Returns: of each file milliseconds of reading it (``read_ms``, of every time) and of making RGB of the network's result
        (``rgb_ms``), and the `digest` of the network's input; and the pictures ``(H, W, 3)``, uint8.
    """
    import numpy as np

    done, pictures = [], []
    for content in files:
        read_ms = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            file, values = library.read(content)
            read_ms.append(1e3 * (time.perf_counter() - began))
        result = np.ascontiguousarray(network.array(network.run(network.given({library.input: values}))), np.float32)
        began = time.perf_counter()
        pictures.append(library.to_rgb(file, result))
        rgb_ms = 1e3 * (time.perf_counter() - began)
        done.append({"read_ms": read_ms, "rgb_ms": rgb_ms, "input_sha256": digest(values)})
    return done, pictures


def digest(values: Any) -> str:
    """SHA-256 of the bytes of values, float32, little-endian; all zeros are positive."""
    return hashlib.sha256((values + 0.0).astype("<f4").tobytes()).hexdigest()
