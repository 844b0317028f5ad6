"""What Arm's compiler says of the integer TFLite files of a benchmark: their time and memory on an Ethos-U."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codecswap.benchmarking.contenders import Contender, Size
from codecswap.benchmarking.measure import text
from codecswap.benchmarking.runtimes import RUNTIMES
from codecswap.compile.ethos_u import run_vela
from codecswap.errors import UserError
from codecswap.quantized.precision import PRECISIONS
from codecswap.targets.target import load_target

TARGETS = ("ethos-u", "ethos-u85")
"""Targets on whose first chip files are estimated."""


@dataclass(frozen=True)
class Estimate:
    """An estimate for one file."""

    source: str
    form: str
    precision: str
    chip: str
    """Vela's name of the accelerator's configuration."""
    size: str
    """Size of the picture, ``WIDTHxHEIGHT``."""
    cycles: float
    milliseconds: float
    memory: int
    """Peak of SRAM and DRAM, in bytes."""
    on_cpu: int
    """Number of operators that the NPU does not run."""
    compiler: str
    """Name and version."""


def has_files(contender: Contender) -> bool:
    """Whether a contender is a TFLite file in integers."""
    return RUNTIMES[contender.runtime].file == "tflite" and not contender.refused and contender.precision in PRECISIONS


def estimate(contenders: Sequence[Contender], sizes: Sequence[Size], compiler: str) -> list[Estimate]:
    """Estimates for all files that have them, for each size and each of `TARGETS`; those that Vela refuses have none.

    Args:
        contenders: the rows.
        sizes: widths and heights of pictures.
        compiler: Vela's name and version.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decoder.tflite"
        for contender in filter(has_files, contenders):
            for size in (one for one in sizes if contender.size in (None, one)):
                for chip in (load_target(name).chip for name in TARGETS):
                    try:
                        path.write_bytes(contender.network(size))
                        made = run_vela(path, chip)
                    except UserError:
                        continue
                    found.append(
                        Estimate(
                            contender.source,
                            contender.form,
                            contender.precision,
                            chip,
                            text(size),
                            made.cycles,
                            made.milliseconds,
                            made.sram + made.dram,
                            sum(not one.on_npu for one in made.operators),
                            compiler,
                        )
                    )
    return found
