"""Files of runtimes for phones and boards, ncnn and MNN, made from ONNX graphs by their own converters."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from codecswap.errors import UserError
from codecswap.runner import two_files

CONVERT_FOR_MNN = "import sys, _tools; sys.exit(not _tools.mnnconvert(sys.argv[1:]))"
"""Calls MNN's converter without its command line, which installs packages and reports what it converts to its makers."""


@dataclass(frozen=True)
class Engine:
    """A runtime with a converter of its own."""

    runtime: str
    """Name in `codecswap.runner.RUNTIMES`."""
    packages: tuple[str, ...]
    """Distributions that it and its converter are in; the runtime's is the first."""
    suffixes: tuple[str, ...]
    """Ends of the names of its files."""
    command: Callable[[bool], list[str]]
    """Program that converts network.onnx in its working directory; the argument: with weights in 16-bit floats."""

    def installed(self) -> str | None:
        """Names and versions, or None if a package is missing."""
        try:
            return ", ".join(f"{name} {version(name)}" for name in self.packages)
        except PackageNotFoundError:
            return None

    def convert(self, model: ModelProto, half: bool = False) -> tuple[bytes, ...]:
        """Convert a graph of fixed sizes to the engine's files, in the order of `suffixes`.

        Args:
            model: the graph, in float32.
            half: store weights in 16-bit floats.

        Raises:
            UserError: the engine does not have all of its operators, or is not installed.
        """
        if self.installed() is None:
            raise UserError(
                f"The files of {self.runtime} are written with {' and '.join(self.packages)}: {self.install}."
            )
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, Path(folder) / "network.onnx")
            done = subprocess.run(self.command(half), cwd=folder, capture_output=True, text=True, errors="replace")
            made = [Path(folder) / f"network{suffix}" for suffix in self.suffixes]
            if done.returncode or not all(path.is_file() for path in made):
                said = (done.stderr + done.stdout).strip().splitlines()[-1:]
                raise UserError(f"{self.packages[-1]} does not convert it ({''.join(said)[:300]}): try another --form.")
            return tuple(path.read_bytes() for path in made)

    @property
    def install(self) -> str:
        """How to install it, without a full stop."""
        return f"pip install {' '.join(self.packages)}"


def file_of(parts: tuple[bytes, ...]) -> bytes:
    """An engine's files as the one that `codecswap.runner` opens."""
    return two_files(*parts) if len(parts) == 2 else parts[0]


def engine_settings(half: bool) -> dict[str, Any]:
    """``config`` of `codecswap.runner` for an engine: whether it may compute in 16-bit floats where it can."""
    return {"half": half, "precision": "low" if half else "high"}


def _pnnx(half: bool) -> list[str]:
    found = find_spec("pnnx")  # a program in a package that would import PyTorch
    assert found and found.origin
    return [str(Path(found.origin).with_name("pnnx")), "network.onnx", f"fp16={int(half)}"]


def _mnnconvert(half: bool) -> list[str]:
    words = [
        "mnnconvert",
        "-f",
        "ONNX",
        "--modelFile",
        "network.onnx",
        "--MNNModel",
        "network.mnn",
        "--bizCode",
        "codecswap",
    ]
    return [sys.executable, "-c", CONVERT_FOR_MNN, *words, *(["--fp16"] if half else [])]


ENGINES = {
    "ncnn": Engine("ncnn", ("ncnn", "pnnx"), (".ncnn.param", ".ncnn.bin"), _pnnx),
    "mnn": Engine("mnn", ("MNN",), (".mnn",), _mnnconvert),
}
"""By their names."""
