"""Pictures per second of one training step, ours against the recipe as usually written, interleaved in one run.

    python -m benchmarks.training_step                      # small: the embedded codec, a minute
    python -m benchmarks.training_step --N 192 --M 320      # full size (random weights: the time does not depend on them)

Prints a table, and the peak of the process's memory with and without the recipe's step.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from benchmarks.recipe import Recipe

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.console import show_table
from codecswap.swaps.apply import swap
from codecswap.training.losses import reconstruction_loss
from codecswap.training.student import TeacherStudent


def ours(teacher: FactorizedPrior, precision: torch.dtype | None, compiled: bool) -> Callable[[torch.Tensor], object]:
    """One step of `codecswap distill`, without the loop around it."""
    student, _ = swap(teacher, "upsample")
    pair = TeacherStudent(teacher, student).to(memory_format=torch.channels_last)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    if compiled:
        student.g_s.compile()
        teacher.g_s.compile()

    def step(x: torch.Tensor) -> None:
        with torch.autocast(x.device.type, dtype=precision, enabled=precision is not None):
            decoded = pair(x, distill=True)
            loss = reconstruction_loss(decoded.student, decoded.target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss.item()

    return step


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
    print(f"peak memory: ours {mine:.2f} GiB, with the recipe's step {peak(device):.2f} GiB")


def peak(device: torch.device) -> float:
    """Most memory used so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
