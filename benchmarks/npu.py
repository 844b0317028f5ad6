"""Every NPU whose compiler is installed, in every form and precision: the table of docs/npu.md.

python -m benchmarks.npu [--teacher tiny] [--images FOLDER] [--targets rk3588 ...] [--height 256 --width 256]
                         [--toolchain_python PATH] [--results npu.json]
python -m benchmarks.npu --channels 192 320 --forms subpixel --height 512 --width 768     (rows are printed only)

Rows that the results file has already are not made again, so an interrupted run goes on. Quality is measured on the first
chip of each target file; the others of that file compute the same. ``--channels N M`` takes a codec of that size with random
weights, whose pictures mean nothing.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ethos_u import random_codec

from codecswap.codecs.source import load_codec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.compiler import compile
from codecswap.console import say
from codecswap.data.discovery import list_pictures
from codecswap.data.pictures import load_picture
from codecswap.errors import UserError
from codecswap.targets.target import chips, load_target

DOCUMENT = Path(__file__).parents[1] / "docs" / "npu.md"
BEGIN, END = "<!-- made by benchmarks/npu.py -->", "<!-- end -->"
FORMS = ("native", "masked", "subpixel")
COLUMNS = (
    "| `codecswap compile ...` | compiles | NPU / CPU | 10^6 cycles | ms | KiB | dB | to float, dB |\n"
    + "|---|---" * 4
    + "|\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--channels", type=int, nargs=2, help="N and M of a codec with random weights, instead")
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--images", help="folder of pictures whose middle is measured on; default: the package's five")
    parser.add_argument("--targets", nargs="+", default=list(chips()))
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--toolchain_python", type=Path)
    parser.add_argument("--results", type=Path, default=Path("npu.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(given, middles(given, Path(folder)))


def middles(given: argparse.Namespace, folder: Path) -> str | None:
    """The pictures cut to the compiled size, since some simulators take minutes for a whole one; returns their folder."""
    if given.images is None:
        return None
    for path in list_pictures(given.images, "--images"):
        picture = load_picture(path)
        left, top = (picture.width - given.width) // 2, (picture.height - given.height) // 2
        picture.crop((left, top, left + given.width, top + given.height)).save(folder / f"{path.stem}.png")
    return str(folder)


def make(given: argparse.Namespace, images: str | None) -> None:
    """Compile and measure every row."""
    rows = json.loads(given.results.read_bytes()) if given.results.exists() else {}
    codec, of = random_codec(*given.channels) if given.channels else load_codec(given.teacher), chips()
    whole = not given.channels and given.forms == list(FORMS)
    for chip in given.targets:
        target = load_target(chip)
        if target.toolchain not in TOOLCHAINS:
            continue
        toolchain = TOOLCHAINS[target.toolchain]
        if toolchain.installed(given.toolchain_python) is None:
            say(f"{chip}: left out. {toolchain.install}.")
            continue
        first = not given.channels and (chip not in of or next(name for name in of if of[name] == of[chip]) == chip)
        for precision in target.precisions:
            for form in given.forms:
                key = f"--target {chip} --form {form} --precision {precision}"
                if key in rows:
                    continue
                how = {"precision": precision, "form": form, "height": given.height, "width": given.width}
                how |= {"toolchain_python": given.toolchain_python, "images": images, "name": given.teacher}
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        rows[key] = compile(codec, chip, folder, **how, measured=first).report
                    except UserError as error:
                        rows[key] = {"error": str(error), "toolchain": target.toolchain}
                say(row(key, rows[key]))
                given.results.write_text(json.dumps(rows, indent=1), "utf-8")
                if whole:
                    write(given, rows)


def write(given: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Put the rows into the document, in place of its table."""
    made = f"python -m benchmarks.npu --teacher {given.teacher} --height {given.height} --width {given.width}"
    table = COLUMNS + "".join(f"{row(key, values)}\n" for key, values in rows.items())
    before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{summary(made, given.images, rows)}\n{table}\n{END}{after}", "utf-8")


def summary(command: str, images: str | None, rows: dict[str, Any]) -> str:
    """What the table was made with."""
    compilers = sorted({values["compiler"] for values in rows.values() if values.get("compiler")})
    measured = next((values["quality"] for values in rows.values() if values.get("quality")), None)
    folder = "the package's pictures" if images is None else f"the middle of each picture of `{Path(images).name}`"
    quality = (
        measured and f", {measured['pictures']} in number; in float32 they are decoded at {measured['float32']:.3f} dB"
    )
    return f"Made by `{command}` on {folder}{quality or ''}, with {', '.join(compilers)}.\n"


def row(key: str, values: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in values:
        return f"| `{key}` | no: {values['error'][:160]} | | | | | | |"
    placed = [one["on_npu"] for one in values["operators"]]
    on_cpu = sorted({one["operator"] for one in values["operators"] if not one["on_npu"]})
    where = f"{sum(placed)} / {len(placed) - sum(placed)}" if placed else "whole"
    cells = [
        f"{where} ({', '.join(on_cpu)})" if on_cpu else where,
        _number(values["cycles"], 1e6, 2),
        _number(values["milliseconds"], 1, 1),
        _number(values["memory"], 1024, 0),
        _number(values["quality"] and values["quality"]["compiled"], 1, 3),
        _number(values["quality"] and values["quality"]["to_float"], 1, 1),
    ]
    return f"| `{key}` | yes | {' | '.join(cells)} |"


def _number(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}"


if __name__ == "__main__":
    main()
