"""libFuzzer on the C library, for a bounded time, from valid tables and files."""

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from csw_library import HERE, LIBRARY, SANITIZED, SOURCES, WARNINGS, tool

from codecswap.entropy import bitstream
from codecswap.entropy.tables import EntropyTables

SECONDS = 60


@pytest.mark.slow
def test_no_input_harms(tmp_path: Path, random_tables: Callable[..., EntropyTables]) -> None:
    program = tmp_path / "fuzz"
    command = [tool("clang"), *SANITIZED, "-fsanitize=fuzzer", *WARNINGS, f"-I{LIBRARY}", str(HERE / "fuzz.c")]
    command += [str(LIBRARY / name) for name in SOURCES[1:]]  # it includes the first
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    rng, seeds = np.random.default_rng(0), tmp_path / "seeds"
    seeds.mkdir()
    for number in range(40):
        tables = random_tables(rng, int(rng.integers(1, 5)))
        size = tuple(map(int, rng.integers(1, 150, 2)))
        shape = (tables.channels, *(-(-side // 16) for side in size))
        symbols = (rng.standard_normal(shape) * 10 ** rng.uniform(0, 5)).astype(np.int32)
        binary, data = tables.binary, bitstream.pack(symbols, size, tables)
        (seeds / str(number)).write_bytes(struct.pack("<HB", len(binary), number % 8) + binary + data)
    limits = [
        f"-max_total_time={SECONDS}",
        "-max_len=8192",
        "-timeout=10",
        "-malloc_limit_mb=256",
        "-rss_limit_mb=6144",
        "-seed=1",
    ]
    # memory that is freed counts as used while AddressSanitizer keeps it, by sizes: a limit for each allocation is the test
    environment = os.environ | {"ASAN_OPTIONS": "quarantine_size_mb=16"}
    done = subprocess.run(
        [str(program), *limits, str(seeds)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "DONE" in done.stderr
