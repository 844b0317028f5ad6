"""Python environments of packages that cannot be installed beside this one, and processes of them."""

import subprocess
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from codecswap.errors import UserError


@dataclass(frozen=True)
class Environment:
    """The environment that ``make`` makes for one package."""

    package: str
    """The distribution."""
    make: str
    """Target of the Makefile."""

    @property
    def python(self) -> Path:
        """Python interpreter that ``make`` installs, in the working directory."""
        return Path(f".venv-{self.make}/bin/python")

    @property
    def install(self) -> str:
        """How to make it, without a full stop."""
        return f"{self.package}: `make {self.make}` makes an environment with it"

    def installed(self, python: Path | None = None) -> str | None:
        """Name and version of the package; None: it is not there.

        Args:
            python: another Python interpreter that must have it.

        Raises:
            UserError: ``python`` is not a Python interpreter, or does not have it.
        """
        asked = f"from importlib.metadata import version; print(version({self.package!r}))"
        try:
            answer = subprocess.run(
                [str(python or self.python), "-c", asked], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            if python:
                raise UserError(
                    f"--toolchain_python {python} is no Python with {self.package}: name another, or make one with "
                    f"`make {self.make}`."
                ) from None
            return None
        return f"{self.package} {answer.stdout.strip()}"


class Worker:
    """A process that answers in lines, and computes one network.

    Every line that it gets names a .npy file, float32 ``(1, C, h, w)``; it writes the result to a file and answers its path.
    It ends with its input.

    Args:
        command: the program and its arguments.
        folder: its working directory, for its files and the arrays.
        failed: what to raise where there is no answer.
    """

    def __init__(self, command: Sequence[str], folder: Path, failed: Callable[[], UserError]) -> None:
        self._folder, self._failed = folder, failed
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, text=True
        )
        weakref.finalize(self, _end, self._process)

    def answer(self) -> str:
        """Wait for its next line."""
        assert self._process.stdout
        if not (line := self._process.stdout.readline()):
            raise self._failed()
        return line.rstrip("\n")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Compute the network's output, float32, for its input ``(C, h, w)``."""
        path = self._folder / "given.npy"
        np.save(path, x[None])
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return np.load(self.answer())[0]


def _end(process: "subprocess.Popen[str]") -> None:
    pipes: list[IO[str] | None] = [process.stdin, process.stdout]
    for pipe in pipes:
        if pipe:
            pipe.close()
    process.wait()
