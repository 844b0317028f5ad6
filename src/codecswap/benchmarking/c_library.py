"""The C library as a shared library for a machine, made here."""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from codecswap.errors import UserError

SOURCES = Path(__file__).parents[3] / "c"
NAMES = ("codecswap.c", "hyperprior.c", "network.c", "rates.c")
OPTIONS = ("-O2", "-shared", "-fPIC")
GLIBC = {"x86_64-linux-gnu": "2.17", "aarch64-linux-gnu": "2.17", "arm-linux-gnueabihf": "2.17"}
"""Oldest version that Zig links with, where it is not the newest."""


@cache
def shared_library(triple: str, here: str) -> bytes:
    """Compile the C library.

    Args:
        triple: the machine's processor and system, as Python and compilers name it, e.g. ``aarch64-linux-gnu``.
        here: that of this machine; its compiler makes it where both are equal, else Zig does.

    Raises:
        UserError: the sources are not there, or no compiler for it.
    """
    if "linux" not in triple:
        raise UserError("The C library is tried on Linux only.")
    if not (SOURCES / NAMES[0]).is_file():
        raise UserError(
            "The C library is made from the folder c/ of codecswap's sources: run the command of a checkout."
        )
    compiler = [shutil.which("cc") or ""] if triple == here else [""]
    if not compiler[0]:
        if find_spec("ziglang") is None:
            raise UserError(f"A C compiler for {triple} is needed here: pip install ziglang.")
        target = f"{triple}.{GLIBC[triple]}" if triple in GLIBC else triple
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "codecswap.so"
        words = [*compiler, *OPTIONS, "-o", str(made), *(str(SOURCES / name) for name in NAMES)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        if done.returncode:
            last = "".join(done.stderr.strip().splitlines()[-1:])[:200]
            raise UserError(f"The C library cannot be compiled for {triple} ({last}).")
        return made.read_bytes()
