"""The C library as a process (runner.c), built with every compiler that is there, and run on every machine that can be had."""

import os
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from codecswap.entropy.tables import EntropyTables

HERE = Path(__file__).parent
LIBRARY = HERE.parents[1] / "c"
SOURCES = ("codecswap.c", "hyperprior.c", "network.c", "rates.c")
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wno-sign-conversion"]
SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
VALGRIND = ["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full"]
BUILDS: dict[str, tuple[list[str], list[str]]] = {  # how it is compiled, and what runs it
    "gcc": (["gcc", "-O2"], []),
    "clang": (["clang", "-O2"], []),
    "gcc sanitized": (["gcc", *SANITIZED], []),
    "clang sanitized": (["clang", *SANITIZED], []),
    "valgrind": (["gcc", "-g", "-O1"], VALGRIND),
    "arm64": (["aarch64-linux-gnu-gcc", "-O2", "-static"], ["qemu-aarch64"]),
    "armhf": (["arm-linux-gnueabihf-gcc", "-O2", "-static"], ["qemu-arm"]),  # 32 bits
    "riscv64": (["riscv64-linux-gnu-gcc", "-O2", "-static"], ["qemu-riscv64"]),
    "s390x": (["s390x-linux-gnu-gcc", "-O2", "-static"], ["qemu-s390x"]),  # big-endian
}
SLOW = ("valgrind",)


class Form(IntEnum):
    """`csw_form`."""

    SYMBOLS, SYMBOLS_FLOAT, LATENTS, SPLIT_INPUTS, SPLIT_INPUTS_FLOAT = range(5)

    @property
    def dtype(self) -> str:
        return {Form.SYMBOLS: "<i4", Form.SPLIT_INPUTS: "i1"}.get(self, "<f4")


NCHW, NHWC = range(2)
FLOAT, UINT8 = range(2)
# `csw_error`, in lower case and without its prefix
ERRORS = ["ok", "tables_damaged", "tables_newer", "no_csw", "newer", "altered", "contradicts", "other_tables", "size"]
ERRORS += ["too_short", "corrupt", "room", "not_finite", "range", "hyperprior", "no_hyperprior", "floating_point"]
ERRORS += ["other_indexes", "network_damaged", "network_newer", "mixed"]
ERRORS += ["variable_rate", "rates_damaged", "rates_newer", "no_gain"]
OPERATIONS = [
    "tables",
    "read",
    "write",
    "tiles",
    "cut",
    "to_rgb",
    "from_rgb",
    "to_symbols",
    "sha256",
    "encode",
    "decode",
    "predict",
    "write_hyper",
    "paste",
]


class CswError(Exception):
    """An error of the library: `csw_error` in lower case, without its prefix."""


class Library:
    """The process."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ask(
        self,
        operation: str,
        *arguments: int,
        tables: bytes = b"",
        gaussians: bytes = b"",
        network: bytes = b"",
        rates: bytes = b"",
        data: bytes = b"",
        factor: int = 16,
        margin: int = 2,
    ) -> bytes:
        """One answer; raises `CswError` where it is an error."""
        pipe_in, pipe_out = self.process.stdin, self.process.stdout
        assert pipe_in and pipe_out
        parts = (tables, gaussians, network, rates, data)
        numbers = [OPERATIONS.index(operation) + 1, *arguments, *[0] * (6 - len(arguments)), factor, margin]
        try:
            pipe_in.write(struct.pack("<14I", *numbers, *map(len, parts)) + b"".join(parts))
            pipe_in.flush()
            error, length = struct.unpack("<2I", pipe_out.read(8))
        except (BrokenPipeError, struct.error):
            raise AssertionError(f"{operation} {arguments} ended the process: {self.close()}") from None
        if error:
            raise CswError(ERRORS[error])
        return pipe_out.read(length)

    def close(self) -> tuple[int, str]:
        """End the process; its exit code and what it said."""
        _, said = self.process.communicate()
        return self.process.returncode, said.decode()[-4000:]

    def read(
        self, tables: EntropyTables, data: bytes, form: Form = Form.SYMBOLS, layout: int = NCHW, constant: int = 1
    ) -> tuple[np.ndarray, tuple[int, int]]:
        """What `csw_read` gives, always as (channels, rows, columns), and the picture's size."""
        answer = self.ask("read", form, layout, constant, tables=tables.binary, data=data)
        size = struct.unpack("<2I", answer[:8])
        shape = [-(-side // 16) for side in size]
        values = np.frombuffer(answer[8:], form.dtype)
        return (values.reshape(-1, *shape) if layout == NCHW else values.reshape(*shape, -1).transpose(2, 0, 1)), size


def missing(what: str) -> None:
    """Skip, or fail where CI says that everything is there."""
    if os.environ.get("CODECSWAP_REQUIRE_C") == "1":
        pytest.fail(f"{what}, and CODECSWAP_REQUIRE_C is set")
    pytest.skip(what)


def tool(name: str) -> str:
    """The same name, where there is such a program."""
    if not shutil.which(name):
        missing(f"there is no {name}")
    return name


def compile_with(command: list[str], sources: list[Path], target: Path) -> Path:
    """Build a program with the library; its path."""
    files = [*map(str, [*sources, *(LIBRARY / name for name in SOURCES)]), "-o", str(target)]
    arguments = [tool(command[0]), *command[1:], *WARNINGS, f"-I{LIBRARY}", *files]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target
