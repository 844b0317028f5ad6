"""Whether every machine computes the same tables and means from the same hyper-latents, by attack.

python -m benchmarks.determinism FOLDER [--count 10000] [--cpus Haswell Nehalem] [--checkpoint FILE]

FOLDER is an exported codec with a hyperprior. The SHA-256 of rows and means of `count` random hyper-latents is computed here
with one thread and with several, with OpenBLAS's kernels for other processors (with AVX-512, AVX2, and none of them), and under
qemu's user emulation (qemu-x86_64, Debian: qemu-user; a hundredth of the count). With --checkpoint the codec's own floating
point is attacked beside it: how many rows change when every value in it moves by one unit in the last place.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from codecswap.console import say, show_table
from codecswap.entropy.model import EntropyModel
from codecswap.inference.folder import read_entropy, read_folder

KERNELS = {"AVX-512": "SkylakeX", "AVX2": "Haswell", "AVX": "Sandybridge", "SSE3": "Prescott"}
"""OpenBLAS's names of processors whose kernels it can be told to take."""
SIDES = (3, 4)
"""Height and width of a random picture in hyper-latents."""
WAIT = 3600
"""Seconds for one digest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--cpus", nargs="*", default=["Haswell", "Nehalem"], help="as qemu-x86_64 -cpu help names them")
    parser.add_argument("--checkpoint", help="the codec that the folder was exported from")
    options = parser.parse_args()
    few = max(1, options.count // 100)
    entropy = open_entropy(options.folder)
    here, here_few = digest(entropy, options.count), digest(entropy, few)
    variants = [(f"{threads} threads", {"OPENBLAS_NUM_THREADS": threads}) for threads in ("1", "8")]
    variants += [(f"{name} kernels", {"OPENBLAS_CORETYPE": core}) for name, core in KERNELS.items()]
    rows = [["here", f"{options.count:,}", here[:16]]]
    for name, environment in variants:
        found = digest_elsewhere(options.folder, options.count, environment)
        rows.append([name, f"{options.count:,}", "the same" if found == here else found])
    for cpu in options.cpus:
        found = digest_elsewhere(options.folder, few, {"OPENBLAS_NUM_THREADS": "1"}, ["qemu-x86_64", "-cpu", cpu])
        rows.append([f"qemu, {cpu}", f"{few:,}", "the same" if found == here_few else found])
    show_table("CDF indexes and means of random hyper-latents, in integers", ["computed", "pictures", "SHA-256"], rows)
    if options.checkpoint:
        attack_floating_point(options.checkpoint, entropy, options.count)


def open_entropy(folder: Path) -> EntropyModel:
    manifest, tables = read_folder(folder)
    entropy = read_entropy(folder, manifest, tables)
    assert entropy.predictor, f"{folder} has no hyperprior"
    return entropy


def hyper_latents(entropy: EntropyModel, count: int) -> list[np.ndarray]:
    """Symbols of random pictures: as wide as each channel's table, some far beyond it."""
    rng = np.random.default_rng(0)
    first, last = entropy.tables.offsets, entropy.tables.offsets + entropy.tables.lengths - 3
    shape = (entropy.tables.channels, *SIDES)
    drawn = [rng.integers(first[:, None, None], last[:, None, None] + 1, shape, dtype=np.int32) for _ in range(count)]
    for one in drawn[::10]:
        one[rng.random(shape) < 0.05] = rng.integers(-(1 << 20), 1 << 20)
    return drawn


def digest(entropy: EntropyModel, count: int) -> str:
    """SHA-256 of CDF indexes and means of so many random pictures."""
    result = hashlib.sha256()
    for symbols in hyper_latents(entropy, count):
        for values in entropy.predictor.in_numpy(symbols):
            result.update(values.tobytes())
    return result.hexdigest()


def digest_elsewhere(
    folder: Path, count: int, environment: dict[str, str], prefix: tuple[str, ...] | list[str] = ()
) -> str:
    """The digest as a process of its own computes it; where it fails, the last line that it says."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path[:0] = {[here, *sys.path]!r}; import determinism as d; from pathlib import Path; "
    code += f"print(d.digest(d.open_entropy(Path({str(folder)!r})), {count}))"
    command = [*prefix, str(Path(sys.executable).resolve()), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, env=os.environ | environment)
    if done.returncode == -signal.SIGILL:
        return "not run, this processor lacks the instructions"
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "TCG" not in line]  # features qemu lacks
    return lines[-1] if lines else f"ended with code {done.returncode}"


def attack_floating_point(checkpoint: str, entropy: EntropyModel, count: int) -> None:
    """Say how many CDF indexes PyTorch's floating point changes where each value moves by one unit in the last place."""
    import torch

    from codecswap.codecs.source import load_codec
    from codecswap.entropy.passes import predicted

    codec = load_codec(checkpoint).hyperprior
    assert codec, f"{checkpoint} has no hyperprior"
    rng = np.random.default_rng(1)

    def moved(values: torch.Tensor) -> torch.Tensor:
        beyond = torch.from_numpy(np.where(rng.random(values.shape) < 0.5, -np.inf, np.inf).astype(np.float32))
        return torch.nextafter(values, beyond)

    def indexes(z_hat: torch.Tensor) -> torch.Tensor:
        side, (step,) = codec.h_s(z_hat), predicted(codec.passes)
        return codec.indexes(codec.gaussians(side, side, step, step.region(*side.shape[-2:]))[0])

    changed = total = pictures = 0
    with torch.inference_mode():
        for symbols in hyper_latents(entropy, count):
            z_hat = torch.from_numpy(entropy.tables.to_latents(symbols))[None]
            before = indexes(z_hat)
            handles = [
                layer.register_forward_hook(lambda module, given, values: moved(values))
                for layer in codec.h_s.children()
            ]
            after = indexes(moved(z_hat))
            for handle in handles:
                handle.remove()
            different = int((before != after).sum())
            changed, total, pictures = changed + different, total + before.numel(), pictures + (different > 0)
    say(
        f"Floating point, every value one unit in the last place off: {changed:,} of {total:,} CDF indexes change, in "
        f"{pictures:,} of {count:,} pictures."
    )


if __name__ == "__main__":
    main()
