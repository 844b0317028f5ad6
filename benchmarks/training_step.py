"""Pictures per second of one training step, ours against the recipe as usually written, interleaved in one run.

    python -m benchmarks.training_step                      # small: the embedded codec, a minute
    python -m benchmarks.training_step --N 192 --M 320      # full size (random weights: the time does not depend on them)

Prints a table, the operators and reads of a step, the time that arithmetic alone would take on some GPUs (and the ratio to it,
if one of them is at hand), and the peak of the process's memory with and without the recipe's step.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.recipe import Recipe
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.config import DistillOptions
from codecswap.console import show_table
from codecswap.swaps.apply import swap
from codecswap.training.rotated_adam import RotatedAdam
from codecswap.training.state import TrainingState
from codecswap.training.step import TrainingStep
from codecswap.training.student import TeacherStudent

PEAKS = {  # float32, TF32 (None: none) and 16 bits, dense, as NVIDIA's data sheets say
    "T4": (8.1e12, None, 65e12),
    "L4": (30.3e12, 60e12, 121e12),
    "A100": (19.5e12, 156e12, 312e12),
    "H100": (67e12, 495e12, 989e12),
}
"""Floating-point operations a second of GPUs, by a word in the device's name."""
READS = ("_local_scalar_dense", "nonzero", "equal")
"""Operators for which the host waits for the device."""


def ours(teacher: FactorizedPrior, precision: torch.dtype | None, compiled: bool) -> Callable[[torch.Tensor], object]:
    """One step of `codecswap distill`, without the loop around it."""
    student, _ = swap(teacher, "upsample")
    pair = TeacherStudent(teacher, student).to(memory_format=torch.channels_last)
    trained = [p for p in student.parameters() if p.requires_grad]
    device = trained[0].device
    optimizer = RotatedAdam([{"params": trained, "lr": torch.tensor(1e-4, device=device)}], {})
    if compiled:
        student.g_s.compile()
        teacher.g_s.compile()
    rate_weight = torch.tensor(0.01, device=device)
    step = TrainingStep(pair, DistillOptions(), optimizer, TrainingState(), distill=True, rate_weight=rate_weight)

    def run(x: torch.Tensor) -> None:
        with torch.autocast(x.device.type, dtype=precision, enabled=precision is not None):
            step(x)

    return run


class Counter(TorchDispatchMode):
    """Counts operators that compute something (about one launch each) and those that read the device."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = self.read = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read += func.overloadpacket.__name__ in READS
        self.computed += not func.is_view
        return func(*args, **(kwargs or {}))


def count(step: Callable[[torch.Tensor], object], x: torch.Tensor) -> tuple[int, int, int]:
    """Operators, reads and floating-point operations of a step."""
    with Counter() as counter:
        step(x)
    with FlopCounterMode(display=False) as flops:
        step(x)
    return counter.computed, counter.read, flops.get_total_flops()


def floors(step_flops: int, encoder_flops: int) -> list[list[str]]:
    """Milliseconds that arithmetic alone takes: the encoder in float32, all else in TF32 and in 16 bits."""
    rows = []
    for name, (full, tf32, half) in PEAKS.items():
        times = [encoder_flops / full + (step_flops - encoder_flops) / (peak or full) for peak in (tf32, half)]
        rows.append([name, *(f"{1000 * time:.1f}" for time in times)])
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--N", type=int)
    parser.add_argument("--M", type=int)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)

    def codec() -> FactorizedPrior:
        made = load_codec("tiny") if options.N is None else FactorizedPrior(options.N, options.M).eval()
        return made.requires_grad_(False).to(device)

    x = torch.rand(options.batch_size, 3, 224, 224, device=device)
    contenders: dict[str, Callable[[torch.Tensor], object]] = {
        "ours, float32": ours(codec(), None, False),
        "ours, bfloat16": ours(codec(), torch.bfloat16, False),
    }
    if options.compile:
        contenders["ours, bfloat16, compiled"] = ours(codec(), torch.bfloat16, True)
    computed, read, flops = count(ours(codec(), None, False), x)
    with FlopCounterMode(display=False) as encoder:
        encode(codec(), x)
    for step in contenders.values():
        step(x)
    mine = peak(device)
    contenders["recipe"] = Recipe(codec()).step
    contenders["recipe"](x)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, step in contenders.items():
            start = time.perf_counter()
            step(x)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["recipe"])
    rows = []
    for name, values in times.items():
        middle = statistics.median(values)
        rows.append([name, f"{middle:.3f}", f"{options.batch_size / middle:.2f}", f"{base / middle:.2f}"])
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    size = "tiny (N=48, M=80)" if options.N is None else f"N={options.N}, M={options.M}"
    title = f"{size}, batch {options.batch_size} of 224x224, {where}, median of {options.rounds}"
    show_table(title, ["step", "seconds", "pictures/s", "against the recipe"], rows)
    print(
        f"a step: {computed} operators (about one launch each), {read} reads of the device, "
        f"{flops / 1e9:,.0f} GFLOP, {encoder.get_total_flops() / 1e9:,.0f} of them the encoder's"
    )
    bounds = floors(flops, encoder.get_total_flops())
    show_table("Arithmetic alone, ms", ["GPU", "float32 (decoders TF32)", "16 bits"], bounds)
    for name, *bound in bounds:
        if name in where:
            for milliseconds, contender in zip(bound, ("ours, float32", "ours, bfloat16"), strict=True):
                ratio = 1000 * statistics.median(times[contender]) / float(milliseconds)
                print(f"{contender}: {ratio:.1f} times the arithmetic alone of {name}")
    print(f"peak memory: ours {mine:.2f} GiB, with the recipe's step {peak(device):.2f} GiB")


def peak(device: torch.device) -> float:
    """Most memory used so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
