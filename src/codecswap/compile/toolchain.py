"""Interface between `codecswap compile` and an NPU's toolchain."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from codecswap.codecs.protocol import Codec
from codecswap.config import Form
from codecswap.quantize.codec import QuantizedCodec, Samples
from codecswap.targets.target import Target

Network = Literal["decoder", "encoder"]
Run = Callable[[np.ndarray], np.ndarray]
"""Computes a network: its input ``(C, h, w)``, float32, of the compiled size, to its output, float32: the decoder's input to a
picture, not clamped, or a picture to latents before rounding."""


@dataclass(frozen=True)
class Job:
    """A compilation to do."""

    codec: Codec
    name: str
    """Source of the codec, as text."""
    folder: Path
    """Empty folder for the files."""
    target: Target
    precision: str
    """A precision of the target."""
    form: Form
    """Lowering of upsampling layers."""
    size: tuple[int, int]
    """Height and width of the pictures."""
    samples: Samples
    """Samples of that size, for quantization."""
    python: Path | None = None
    """Python interpreter of the compiler's own environment, if it needs one; None: the toolchain looks for one."""
    quantized: QuantizedCodec | None = None
    """The quantized network; None: it is quantized as the target asks."""
    part: Network = "decoder"
    """The network to compile."""


@dataclass(frozen=True)
class CompiledOperator:
    """One operator of the compiled network."""

    layer: str
    """Layer of the codec, e.g. ``g_s.3``; empty if unknown."""
    operator: str
    """The compiler's name of the operator."""
    on_npu: bool
    cycles: float | None = None


@dataclass(frozen=True)
class Compiled:
    """Result of a toolchain."""

    files: tuple[Path, ...]
    """Files in the job's folder; the NPU's runtime loads the first one."""
    compiler: str | None
    """Name and version, e.g. ``ethos-u-vela 5.2.0``; None if it is not installed (nothing was checked)."""
    operators: tuple[CompiledOperator, ...] = ()
    cycles: float | None = None
    """Total cycles, as estimated by the compiler."""
    milliseconds: float | None = None
    """Time as estimated by the compiler, or measured here (a note says so)."""
    memory: int | None = None
    """Peak memory in bytes, as estimated by the compiler."""
    run: Run | None = None
    """The network in the vendor's simulator or runtime, if there is one."""
    notes: tuple[str, ...] = ()
    """Notes for the user: how to install the compiler, what was not checked."""
    computed_by: str = "the simulator"
    """What ``run`` is: the vendor's simulator, or the name of the runtime itself."""


class Toolchain(Protocol):
    """A vendor's compiler and simulator."""

    install: str
    """Name and how to install it, one line without a full stop."""

    def installed(self, python: Path | None) -> str | None:
        """Name and version, or None if it is not installed; ``python`` as in `Job`."""

    def compile(self, job: Job) -> Compiled:
        """Write the files, and run the compiler if it is installed.

        Raises:
            UserError: the codec, the lowering or the size is not supported.
        """


def name_and_version(package: str) -> str | None:
    """Name and version of an installed package, or None."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return None
