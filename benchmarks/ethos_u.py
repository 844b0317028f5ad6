"""A decoder on every Ethos-U in Vela's estimate: by form, precision and size.

python -m benchmarks.ethos_u [--teacher tiny] [--channels 192 320] [--sizes 256x256 768x512] [--forms subpixel none masked]
                             [--precisions w8a8 w8a16] [--chips ethos-u55-256 ...]

``--channels N M`` takes a codec of that size with random weights: cycles and memory depend on the weights' values only by how
well Vela compresses them. Prints cycles, milliseconds, memory and operators left to the CPU. A row takes about 3 seconds.
"""

import argparse
import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import load_codec
from codecswap.compile.ethos_u import run_vela
from codecswap.console import say, show_table
from codecswap.data.samples import sample_pictures
from codecswap.errors import UserError
from codecswap.export.backends.tflite import write_tflite
from codecswap.export.codec import quantize
from codecswap.quantized.representation import TransformGraph
from codecswap.swaps.apply import swap

CHIPS = ("ethos-u55-32", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512")
CHIPS += ("ethos-u85-128", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048")
CALIBRATED_AT = 64
"""Side of the pictures that scales come from, where the form goes with every size."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--channels", type=int, nargs=2, help="N and M of a codec with random weights, instead")
    parser.add_argument("--sizes", nargs="+", default=["256x256"], help="width x height, in pixels")
    parser.add_argument("--forms", nargs="+", default=["subpixel"], help="subpixel, none (transposed) or masked")
    parser.add_argument("--precisions", nargs="+", default=["w8a8", "w8a16"])
    parser.add_argument("--chips", nargs="+", default=CHIPS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for form in options.forms:
            codec = random_codec(*options.channels) if options.channels else load_codec(options.teacher)
            codec = codec if form == "none" else swap(codec, form)[0]
            for precision in options.precisions:
                for size in options.sizes:
                    width, height = map(int, size.split("x"))
                    path = Path(scratch) / f"{form}_{precision}_{size}.tflite"
                    write_tflite(quantized(codec, form, precision, width, height), path)
                    rows += [[form, precision, size, chip, *row(path, chip)] for chip in options.chips]
    columns = ["form", "precision", "size", "chip", "Mcycles", "ms", "SRAM, KiB", "DRAM, KiB", "on the CPU"]
    show_table("Vela's estimates, with its default system of each chip", columns, rows)


def random_codec(n: int, m: int) -> Codec:
    """A codec of N and M channels as it is before training."""
    torch.manual_seed(0)
    codec = FactorizedPrior(n, m)
    codec.update()
    return codec.eval()


def quantized(codec: Codec, form: str, precision: str, width: int, height: int) -> TransformGraph:
    """The decoder for pictures of a size."""
    side = (width, height) if form == "masked" else (CALIBRATED_AT, CALIBRATED_AT)
    samples = list(islice(sample_pictures(None, "", "train", side), 2))
    how = {"precision": precision, "activations": "int8", "weight_bits": 8, "width": side[0], "height": side[1]}
    made, _ = quantize(codec.requires_grad_(False), calibration_images=samples, **how)
    transform = made.networks["decoder"].transform
    return replace(transform, input_shape=(*transform.input_shape[:2], height // codec.factor, width // codec.factor))


def row(path: Path, chip: str) -> list[str]:
    """What Vela says of one file on one chip."""
    try:
        found = run_vela(path, chip)
    except UserError as error:
        say(str(error))
        return ["-"] * 5
    on_cpu = sum(not one.on_npu for one in found.operators)
    memory = (f"{size / 1024:,.0f}" for size in (found.sram, found.dram))
    return [f"{found.cycles / 1e6:.2f}", f"{found.milliseconds:.1f}", *memory, str(on_cpu)]


if __name__ == "__main__":
    main()
