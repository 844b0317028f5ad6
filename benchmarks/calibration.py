"""Time, memory and gain of the calibrated start.

python -m benchmarks.calibration                        # small: the embedded codec on embedded photographs, seconds
python -m benchmarks.calibration --N 192 --M 320        # full size, random weights and latents of 256 crops of 224x224
python -m benchmarks.calibration --teacher small.pth --images DIR --held_out DIR
"""

import argparse
import resource
import time
from importlib.resources import files
from pathlib import Path

import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import encode
from codecswap.codecs.source import load_codec
from codecswap.console import show_table
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import first_readable
from codecswap.metrics import psnr, to_8_bits
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate


def main() -> None:
    """Calibrate and print."""
    photos = Path(str(files("codecswap") / "assets" / "photos"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--N", type=int)
    parser.add_argument("--M", type=int)
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--images", default=photos / "train")
    parser.add_argument("--held_out", default=photos / "val")
    parser.add_argument("--count", type=int, default=256, help="calibration pictures")
    parser.add_argument("--kernel_size", type=int, choices=[3, 5, 7])
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.N:
        teacher = FactorizedPrior(options.N, options.M).eval().requires_grad_(False)
        latents, wanted = torch.randn(options.count, options.M, 14, 14).mul(3).round(), None
        name = f"random weights, N={options.N}, M={options.M}"
    else:
        teacher, name = load_codec(options.teacher), str(options.teacher)
        crops, _ = first_readable(list_pictures(options.images, "--images"), options.count)
        wanted, _ = first_readable(list_pictures(options.held_out, "--held_out"), 64)
        latents = torch.cat([encode(teacher, part) for part in crops.split(8)])
    student, _ = swap(teacher, "upsample", kernel_size=options.kernel_size)

    @torch.no_grad()
    def score(codec: FactorizedPrior) -> str:
        if wanted is None:
            return "-"
        shown = torch.cat([codec.g_s(encode(teacher, part)) for part in wanted.split(8)])
        return f"{psnr(to_8_bits(shown), wanted).mean().item():.2f}"

    before, base = score(student), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    began = time.perf_counter()
    fits = calibrate(teacher, student, latents)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    title = f"{name}, {len(latents)} pictures, {torch.get_num_threads()} threads"
    rows = [[fit.name, f"{fit.error_before_db:.2f}", f"{fit.error_db:.2f}"] for fit in fits]
    show_table(title, ["layer", "error before, dB", "after, dB"], rows)
    print(f"{seconds:.1f} s, peak memory {peak:.2f} GiB ({base:.2f} GiB before)")
    print(f"held-out pictures: weights {before} dB, calibrated {score(student)} dB, teacher {score(teacher)} dB")


if __name__ == "__main__":
    main()
