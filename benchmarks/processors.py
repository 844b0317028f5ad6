"""Whether other processors decode what this one does: `codecswap decode` under qemu's user emulation.

python -m benchmarks.processors [--cpus Haswell Nehalem] [--codecs float 7 8]

Needs qemu-x86_64 (Debian: qemu-user). Prints the PSNR of each decoded picture (128x128, of the embedded codec) against the one
that is decoded here from float, and against the INT8 file's reference execution. A CPU takes half a minute.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from codecswap.codecs.source import load_codec
from codecswap.console import say, show_table
from codecswap.data.pictures import to_picture
from codecswap.data.samples import sample_pictures
from codecswap.entropy import bitstream
from codecswap.export.codec import export, quantize
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap

WAIT = 600
"""Seconds for one picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", nargs="+", default=["Haswell", "Nehalem"], help="as qemu-x86_64 -cpu help names them")
    parser.add_argument("--codecs", nargs="+", default=["float", "7", "8"], help="float, or bits of INT8 weights")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folders = {name: write(name, root / name) for name in dict.fromkeys(["float", *options.codecs])}
        picture = to_picture(next(sample_pictures(None, "", "val", (128, 128))), (128, 128))
        coded = root / "picture.csw"
        coded.write_bytes(bitstream.encode(OnnxCodec(folders["float"]), picture))
        references = {name: decoded_here(folder, coded) for name, folder in folders.items()}
        for cpu in options.cpus:
            for name in options.codecs:
                shown = root / f"{cpu}-{name}.png"
                said = decode_there(cpu, folders[name], coded, shown)
                found = np.asarray(Image.open(shown)) if shown.exists() else None
                figures = [said, ""] if found is None else [decibels(found, references[key]) for key in ("float", name)]
                rows.append([cpu, name, *figures])
                say(" ".join(rows[-1]))
    show_table(
        "Decoded under qemu, PSNR in dB",
        ["processor", "codec", "against float", "against the reference execution"],
        rows,
    )


def write(name: str, folder: Path) -> Path:
    codec, _ = swap(load_codec("tiny"), "subpixel")
    if name == "float":
        export(codec, folder)
    else:
        quantize(codec, folder, calibration_count=4, weight_bits=int(name))
    return folder


def decoded_here(folder: Path, coded: Path) -> np.ndarray:
    return np.asarray(bitstream.decode(OnnxCodec(folder, threads=1, reference=True), coded.read_bytes()))


def decode_there(cpu: str, folder: Path, coded: Path, shown: Path) -> str:
    """Decode on another processor; returns the last line that is said."""
    arguments = ["decode", "--codec", str(folder), "--input", str(coded), "--output", str(shown), "--threads", "1"]
    code = f"import sys; sys.path[:0] = {sys.path!r}; from codecswap.cli import main; sys.exit(main({arguments!r}))"
    interpreter = str(Path(sys.executable).resolve())
    done = subprocess.run(
        ["qemu-x86_64", "-cpu", cpu, interpreter, "-c", code], capture_output=True, text=True, timeout=WAIT
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "TCG" not in line]  # features qemu lacks
    return lines[-1] if lines else f"ended with code {done.returncode}"


def decibels(a: np.ndarray, b: np.ndarray) -> str:
    error = float(np.square(a.astype(float) - b).mean())
    return f"{10 * np.log10(255**2 / error):.1f}" if error else "equal"


if __name__ == "__main__":
    main()
