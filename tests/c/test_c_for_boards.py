"""The library that `codecswap benchmark --host` makes with Zig for a board of another processor, in an emulator."""

import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from csw_library import HERE, LIBRARY, NCHW, Form, Library, tool

from codecswap.benchmarking.c_library import shared_library
from codecswap.entropy import bitstream
from codecswap.entropy.tables import EntropyTables

BOARDS = {"aarch64-linux-gnu": "qemu-aarch64", "arm-linux-gnueabihf": "qemu-arm"}


@pytest.mark.slow
@pytest.mark.parametrize("triple", BOARDS)
def test_a_board_reads_files(triple: str, random_tables: Callable[..., EntropyTables], tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    emulator, compiler = tool(BOARDS[triple]), tool(f"{triple}-gcc")
    made = tmp_path / "libcodecswap.so"
    made.write_bytes(shared_library(triple, sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"))
    words = [compiler, f"-I{LIBRARY}", HERE / "runner.c", made, f"-Wl,-rpath,{tmp_path}", "-o", tmp_path / "runner"]
    subprocess.run(words, check=True)
    library = Library([emulator, "-L", f"/usr/{triple}", str(tmp_path / "runner")])
    rng = np.random.default_rng(1)
    tables = random_tables(rng, 7)
    symbols = (rng.standard_normal((7, 4, 3)) * 20).astype(np.int32)
    found, size = library.read(tables, bitstream.pack(symbols, (64, 48), tables), Form.SYMBOLS, NCHW)
    assert size == (64, 48) and np.array_equal(found, symbols)
    assert library.close()[0] == 0
