"""Files of runtimes for phones and boards: ncnn, MNN and ExecuTorch, made from ONNX graphs by their own converters."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import ModelProto

from codecswap.environments import Environment
from codecswap.errors import UserError
from codecswap.runner.networks import two_files

CONVERT_FOR_MNN = "import sys, _tools; sys.exit(not _tools.mnnconvert(sys.argv[1:]))"
"""Calls MNN's converter without its command line, which installs packages and reports what it converts to its makers."""


EXECUTORCH_WORKER = Path(__file__).with_name("executorch_worker.py")
"""Program for the environment of ExecuTorch, which asks for another NumPy than CompressAI."""
OUTSIDE = "network.txt"
"""File of the names of `Converted.outside`, one a line."""


class Converted(NamedTuple):
    """A converted network."""

    files: tuple[bytes, ...]
    """In the order of `Engine.suffixes`."""
    outside: tuple[str, ...] = ()
    """Operators that ExecuTorch computes in its portable kernels, not in XNNPACK, by its names; one for each node."""


@dataclass(frozen=True)
class Engine:
    """A runtime with a converter of its own."""

    runtime: str
    """Name in `codecswap.runner.networks.RUNTIMES`."""
    packages: tuple[str, ...]
    """Distributions that it and its converter are in; the runtime's is the first."""
    suffixes: tuple[str, ...]
    """Ends of the names of its files."""
    command: Callable[[str, bool], list[str]]
    """Program that converts network.onnx in its working directory. Arguments: a Python interpreter; with weights in 16-bit
    floats."""
    environment: Environment | None = None
    """Where its packages are; None: with this package."""

    def installed(self, python: Path | None = None) -> str | None:
        """Names and versions, or None if a package is missing; ``python`` and errors as of `Environment.installed`."""
        if self.environment:
            return self.environment.installed(python)
        try:
            return ", ".join(f"{name} {version(name)}" for name in self.packages)
        except PackageNotFoundError:
            return None

    def interpreter(self, python: Path | None = None) -> str:
        """Python interpreter that has its packages; ``python``: the one to take if it has an environment of its own."""
        return str((python or self.environment.python).absolute()) if self.environment else sys.executable

    def convert(self, model: ModelProto, half: bool = False, python: Path | None = None) -> Converted:
        """Convert a graph of fixed sizes to the engine's files.

        Args:
            model: the graph, in float32.
            half: store weights in 16-bit floats.
            python: Python interpreter of its own environment; None: that which ``make`` makes.

        Raises:
            UserError: the engine does not have all of its operators, or is not installed.
        """
        if self.installed(python) is None:
            raise UserError(
                f"The files of {self.runtime} are written with {' and '.join(self.packages)}: {self.install}."
            )
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, Path(folder) / "network.onnx")
            words = self.command(self.interpreter(python), half)
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace")
            made = [Path(folder) / f"network{suffix}" for suffix in self.suffixes]
            if done.returncode or not all(path.is_file() for path in made):
                said = (done.stderr + done.stdout).strip().splitlines()[-1:]
                raise UserError(f"{self.packages[-1]} does not convert it ({''.join(said)[:300]}): try another --form.")
            outside = Path(folder) / OUTSIDE
            names = outside.read_text("utf-8").split() if outside.is_file() else []
            return Converted(tuple(path.read_bytes() for path in made), tuple(names))

    @property
    def install(self) -> str:
        """How to install it, without a full stop."""
        return self.environment.install if self.environment else f"pip install {' '.join(self.packages)}"


def file_of(parts: tuple[bytes, ...]) -> bytes:
    """An engine's files as the one that `codecswap.runner.networks` opens."""
    return two_files(*parts) if len(parts) == 2 else parts[0]


def engine_settings(half: bool) -> dict[str, Any]:
    """``config`` of `codecswap.runner.networks` for an engine: whether it may compute in 16-bit floats where it can."""
    return {"half": half, "precision": "low" if half else "high"}


def _pnnx(python: str, half: bool) -> list[str]:
    found = find_spec("pnnx")  # a program in a package that would import PyTorch
    assert found and found.origin
    return [str(Path(found.origin).with_name("pnnx")), "network.onnx", f"fp16={int(half)}"]


def _mnnconvert(python: str, half: bool) -> list[str]:
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
    return [python, "-c", CONVERT_FOR_MNN, *words, *(["--fp16"] if half else [])]


def _executorch(python: str, half: bool) -> list[str]:
    return [python, str(EXECUTORCH_WORKER), "convert", "network.onnx", "network.pte", OUTSIDE]


ENGINES = {
    "ncnn": Engine("ncnn", ("ncnn", "pnnx"), (".ncnn.param", ".ncnn.bin"), _pnnx),
    "mnn": Engine("mnn", ("MNN",), (".mnn",), _mnnconvert),
    "executorch": Engine(
        "executorch", ("executorch",), (".pte",), _executorch, Environment("executorch", "executorch")
    ),
}
"""By their names."""
