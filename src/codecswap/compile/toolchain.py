"""What `codecswap compile` gives to an NPU's toolchain, and what it gets back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from codecswap.codecs.protocol import Codec
from codecswap.config import Form
from codecswap.quantize.codec import Samples
from codecswap.targets.target import Target

Decode = Callable[[np.ndarray], np.ndarray]
"""Symbols ``(M, h, w)``, int32, of the compiled size, to a picture ``(3, H, W)``, float32, not clamped."""


@dataclass(frozen=True)
class Job:
    """What a toolchain is asked for."""

    codec: Codec
    name: str
    """Where the codec comes from, in words."""
    folder: Path
    """Empty; where the files go."""
    target: Target
    precision: str
    """One of the target's."""
    form: Form
    """How upsampling layers are written."""
    size: tuple[int, int]
    """Height and width of the pictures."""
    samples: Samples
    """To calibrate on, of that size."""
    python: Path | None = None
    """The Python that has the compiler, where it needs an environment of its own; None: the toolchain looks for one."""


@dataclass(frozen=True)
class Placed:
    """One operator of the compiled network."""

    layer: str
    """The codec's, e.g. ``g_s.3``; empty where the compiler does not say."""
    operator: str
    """The compiler's word for it."""
    on_npu: bool
    cycles: float | None = None


@dataclass(frozen=True)
class Compiled:
    """What a toolchain made and said."""

    files: tuple[Path, ...]
    """In the job's folder; the first is the one that the NPU's runtime loads."""
    compiler: str | None
    """With its version, e.g. ``ethos-u-vela 5.2.0``; None: it is not installed, and nothing was checked."""
    operators: tuple[Placed, ...] = ()
    cycles: float | None = None
    """Of all operators together, as the compiler estimates."""
    milliseconds: float | None = None
    """As the compiler estimates, or as measured here, which a note then says."""
    memory: int | None = None
    """Bytes at the peak, as the compiler says."""
    decode: Decode | None = None
    """The decoder in the vendor's simulator; None: there is none."""
    notes: tuple[str, ...] = ()
    """Said to whoever compiles: how to install, what was not checked."""


class Toolchain(Protocol):
    """A vendor's compiler and simulator."""

    install: str
    """Its name, a colon and how to install it, one line without a full stop."""

    def installed(self, python: Path | None) -> str | None:
        """Its name and version; None: it is not installed. ``python`` is that of a `Job`."""

    def compile(self, job: Job) -> Compiled:
        """Write the files, and run the compiler if it is installed.

        Raises:
            UserError: the job cannot be done: the codec, the form or the size does not fit.
        """
