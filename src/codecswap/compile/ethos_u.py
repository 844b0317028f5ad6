"""Arm's Ethos-U: our TFLite file is compiled by Vela and simulated by LiteRT, whose integer kernels Ethos-U follows.

One operator differs: Ethos-U uses a table of 512 linear pieces, made by Vela, for a 16-bit RSQRT; LiteRT computes
it. `rsqrt_table` is the same table; the simulator uses it.
"""

import csv
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from codecswap.compile.folder import write_quantized
from codecswap.compile.toolchain import Compiled, CompiledOperator, Job, Run, name_and_version
from codecswap.errors import UserError
from codecswap.graph.onnx_graph import layer_in
from codecswap.quantized.representation import TransformGraph

NAME = "ethos-u-vela"
SIDES = (256, 192, 128, 96)
"""Sides in pixels of square tiles whose memory is reported, too."""


class Vela:
    """ethos-u-vela and LiteRT."""

    install = "pip install codecswap[npu]"

    def installed(self, python: Path | None) -> str | None:
        """Name and version of Vela, if Vela and LiteRT are installed."""
        return name_and_version(NAME) if find_spec("ai_edge_litert") else None

    def compile(self, job: Job) -> Compiled:
        """Write e.g. decoder.onnx (QDQ); with Vela, decoder.tflite and decoder_vela.tflite, which the NPU's driver loads."""
        (written, transform), compiler = write_quantized(job), self.installed(job.python)
        path = written.path
        if compiler is None:  # TFLite files are written with LiteRT's schema
            return Compiled((path,), None, notes=written.notes)
        from codecswap.export.backends.tflite import write_tflite

        tflite = path.with_suffix(".tflite")
        write_tflite(transform, tflite)
        found = run_vela(tflite, job.target.chip)
        made = path.with_name(f"{path.stem}_vela.tflite")
        made.write_bytes(found.content)
        last = transform.operations[-1].layer
        return Compiled(
            (made, tflite, path),
            compiler,
            tuple(replace(one, layer=one.layer or last) for one in found.operators),
            cycles=found.cycles,
            milliseconds=found.milliseconds,
            memory=found.sram + found.dram,
            run=simulator(transform),
            notes=(*written.notes, f"Estimated for {found.configuration}.", *_tiles(job, transform, found)),
        )


@dataclass(frozen=True)
class VelaReport:
    """Result of Vela for a network."""

    content: bytes
    """The compiled file."""
    operators: list[CompiledOperator]
    """Operators; those that compute the network's output have no layer."""
    cycles: float
    milliseconds: float
    sram: int
    """Peak memory in bytes."""
    dram: int
    """Bytes, including weights."""
    configuration: str
    """System, clock and memory mode, as text."""


def run_vela(path: Path, chip: str) -> VelaReport:
    """Compile a TFLite file for an accelerator configuration of Vela's, e.g. ``ethos-u55-256``.

    Raises:
        UserError: Vela fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--accelerator-config", chip, "--output-dir", scratch, "--verbose-performance"]
        command = [sys.executable, "-m", "ethosu.vela", str(path.resolve()), *words]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        made = Path(scratch) / f"{path.stem}_vela.tflite"
        if done.returncode or not made.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UserError(
                f"{NAME} does not compile {path.name} for {chip} ({''.join(said)[:300]}): try another size."
            )
        rows = _table(next(Path(scratch).glob("*_per-layer.csv")))
        total = _table(next(Path(scratch).glob("*_summary_*.csv")))[0]
        return VelaReport(
            made.read_bytes(),
            [
                CompiledOperator(
                    layer_in(one["Name"]), one["Original Operator"], one["Target"] == "NPU", float(one["Op Cycles"])
                )
                for one in rows
            ],
            cycles=float(total["cycles_total"]),
            milliseconds=1e3 * float(total["inference_time"]),
            sram=round(1024 * float(total["sram_memory_used"])),
            dram=round(1024 * float(total["dram_memory_used"])),
            configuration=f"{total['system_config']} at {float(total['core_clock']) / 1e6:.0f} MHz with {total['memory_mode']}",
        )


def simulator(transform: TransformGraph) -> Run:
    """A network of a fixed size in LiteRT, with Ethos-U's table."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from codecswap.export.backends.tflite import tflite

    content = tflite(transform, rsqrt_table)
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # XNNPACK rounds differently
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    given, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    (scale_in, zero_in), (scale_out, zero_out) = given["quantization"], result["quantization"]
    limits = np.iinfo(given["dtype"])

    def run(x: np.ndarray) -> np.ndarray:
        levels = np.rint(x / scale_in) + zero_in
        integers = levels.clip(limits.min, limits.max).astype(given["dtype"])
        interpreter.set_tensor(given["index"], integers.transpose(1, 2, 0)[None])
        interpreter.invoke()
        output = interpreter.get_tensor(result["index"])[0].transpose(2, 0, 1)
        return (output.astype(np.float32) - zero_out) * np.float32(scale_out)

    return run


def rsqrt_table(scale_in: np.ndarray, scale_out: np.ndarray) -> np.ndarray:
    """Results ``(32768,)``, int16, of a 16-bit RSQRT on an Ethos-U for 0 to 32767, interpolated between `rsqrt_nodes`."""
    bases, slopes = (part[256:].astype(int) for part in rsqrt_nodes(scale_in, scale_out))
    values = np.arange(32768)
    piece, place = values >> 7, values & 127
    return (bases[piece] + ((slopes[piece] * place + 64) >> 7)).astype(np.int16)


def rsqrt_nodes(scale_in: np.ndarray, scale_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and slope of each of the 512 linear pieces, int16, in Vela's float32 arithmetic."""
    single = np.float32
    low, high = single(scale_in) * single(-32768), single(scale_in) * single(32767)
    step = (high - low) / single(512)
    unit = single(65536) / (single(scale_out) * single(32767) - single(scale_out) * single(-32768))

    def wanted(x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(x > 0, single(1) / np.sqrt(x), single(32767) * single(scale_out)) * unit

    starts = low + np.arange(512, dtype=np.float32) * step
    ends = low + np.arange(1, 513, dtype=np.float32) * step
    nodes = _rounded(wanted(starts))
    # subtract half of the error at the middle of a piece from its start
    middle = _rounded((wanted(ends) + nodes) / single(2)) - _rounded(wanted(starts + step / single(2)))
    nodes = np.append(nodes - _rounded(middle / single(2)), _rounded(wanted(np.array([high]))))
    nodes = nodes.clip(-32768, 32767).astype(int)
    return nodes[:-1].astype(np.int16), np.diff(nodes).astype(np.int16)


def _rounded(x: np.ndarray) -> np.ndarray:
    """Round half away from zero."""
    return np.trunc(x + np.copysign(np.float32(0.5), x))


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _tiles(job: Job, transform: TransformGraph, whole: VelaReport) -> list[str]:
    """Memory of the compiled size and of smaller tiles, as sentences."""
    masks = (name for step in transform.operations if step.operator == "Mul" for name in step.inputs)
    if any(name in transform.constants and transform.constants[name].values.shape[-1] > 1 for name in masks):
        return []  # masks have a fixed size
    from codecswap.export.backends.tflite import write_tflite

    factor = job.codec.factor if job.part == "decoder" else 1
    overlap = 2 * job.codec.margin * job.codec.factor
    height, width = job.size
    said = []
    for rows, columns in ((height, width), *((side, side) for side in SIDES if overlap < side < min(height, width))):
        found = whole
        if (rows, columns) != (height, width):
            shape = (*transform.input_shape[:2], rows // factor, columns // factor)
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "tile.tflite"
                write_tflite(replace(transform, input_shape=shape), path)
                found = run_vela(path, job.target.chip)
        rate = (rows - overlap) * (columns - overlap) / found.milliseconds / 1e3
        dram = f" and {found.dram / 1024:,.0f} KiB of DRAM" if found.dram else ""
        said.append(f"{columns}x{rows}: {found.sram / 1024:,.0f} KiB of SRAM{dram}, {rate:.2f} million pixels a second")
    return [f"As tiles of larger pictures, {overlap} pixels of which overlap: {'; '.join(said)}."]


VELA = Vela()
