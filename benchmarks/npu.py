"""Every NPU whose compiler is installed, in every form and precision: docs/data/npu.csv, and the tables of docs/ from it.

python -m benchmarks.npu [--teacher tiny] [--images FOLDER] [--targets rk3588 ...] [--height 256 --width 256]
                         [--toolchain_python PATH] [--results docs/data/npu.csv]
python -m benchmarks.npu --channels 192 320 --forms subpixel --height 512 --width 768     (rows are printed only)
python -m benchmarks.npu --targets                                                        (only the table from the file)

Rows that the results file has already are not made again, so an interrupted run goes on; each has its date. Quality is
measured on the first chip of each target file; the others of that file compute the same. ``--channels N M`` takes a codec of
that size with random weights, whose pictures mean nothing.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.ethos_u import random_codec

from codecswap.codecs.source import load_codec
from codecswap.compile import TOOLCHAINS
from codecswap.compile.compiler import compile
from codecswap.console import say
from codecswap.data.discovery import list_pictures
from codecswap.data.pictures import load_picture
from codecswap.errors import UserError
from codecswap.targets.target import chips, load_target

PAGES = {
    "rockchip.md": ("rknn",),
    "qualcomm.md": ("qnn",),
    "openvino.md": ("openvino",),
    "phones.md": ("ncnn", "mnn", "executorch"),
}
"""Pages of families, and their target files."""
NO_NPU = (*PAGES["phones.md"], "coreml")
"""Target files that are left out where no targets are named: those of CPUs have files of results of their own."""
RESULTS = figures.DATA / "npu.csv"
ALL_RESULTS = (RESULTS, figures.DATA / "phones.csv", figures.DATA / "executorch.csv")
"""Files that the tables are made from."""
FLOAT_CODE = (
    "src/codecswap/compile/engines.py src/codecswap/compile/executorch.py src/codecswap/export/backends "
    "src/codecswap/graph"
)
"""What float files of runtimes depend on."""
CODE = "src/codecswap/compile src/codecswap/quantize src/codecswap/quantized src/codecswap/export src/codecswap/targets"
FORMS = ("native", "masked", "subpixel")
KEY = ("target", "form", "precision")
MEASURED = (
    "on_npu",
    "on_cpu",
    "cpu_operators",
    "cycles",
    "milliseconds",
    "kib",
    "psnr",
    "psnr_to_float",
    "error",
    "date",
)
"""Columns of the file beside `KEY` and ``compiles``."""
CLOSE = 0.02
"""Decibels within which the faster form or precision is the better one."""
TITLES = (
    "| family | compiled for | best | NPU / CPU | 10^6 cycles | ms | KiB | dB | to float, dB | measured | compile |\n"
    + "|---" * 11
    + "|\n"
)
MEASURED_TITLES = (
    "| `codecswap compile --target ...` | NPU / CPU | 10^6 cycles | ms | KiB | dB | to float, dB | measured |\n"
    + "|---" * 8
    + "|\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="tiny")
    parser.add_argument("--channels", type=int, nargs=2, help="N and M of a codec with random weights, instead")
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    parser.add_argument("--images", help="folder of pictures whose middle is measured on; default: the package's five")
    parser.add_argument("--targets", nargs="*", default=[chip for chip, name in chips().items() if name not in NO_NPU])
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--toolchain_python", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(given, middles(given, Path(folder)))
    if given.results in ALL_RESULTS and not given.channels:
        write_tables()


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
    begun, kept = figures.read(given.results) if given.results.exists() else (None, [])
    rows: list[dict[str, Any]] = list(kept)
    there = set() if given.channels else {tuple(row[name] for name in KEY) for row in rows}
    codec, of = random_codec(*given.channels) if given.channels else load_codec(given.teacher), chips()
    folder = Path(given.images).name if given.images else "(the package's)"
    command = f"python -m benchmarks.npu --teacher {given.teacher} --images {folder}"
    command += f" --height {given.height} --width {given.width}"
    if given.results != RESULTS:
        command += f" --targets {' '.join(given.targets)} --results {given.results.resolve().relative_to(figures.ROOT)}"
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
                if (chip, form, precision) in there:
                    continue
                how = {"precision": precision, "form": form, "height": given.height, "width": given.width}
                how |= {"toolchain_python": given.toolchain_python, "images": images, "name": given.teacher}
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        report = compile(codec, chip, folder, **how, measured=first).report
                    except UserError as error:
                        report = {"error": str(error)}
                rows.append(dict(zip(KEY, (chip, form, precision), strict=True)) | row(report))
                say(", ".join(f"{name} {value}" for name, value in rows[-1].items() if value))
                if not given.channels:
                    in_float = all(row["precision"] in ("float32", "float16") for row in rows)
                    code = FLOAT_CODE if in_float else CODE
                    figures.write(given.results, rows, command=command, code=code, begun=begun)


def row(report: dict[str, Any]) -> dict[str, str]:
    """The columns of a compiled decoder's report, or of its error."""
    if "error" in report:
        return {"compiles": "no", **dict.fromkeys(MEASURED, ""), "error": report["error"], "date": figures.today()}
    placed = [one["on_npu"] for one in report["operators"]]
    quality = report["quality"] or {"compiled": None, "to_float": None}
    values = (
        sum(placed) if placed else "whole",
        len(placed) - sum(placed),
        " ".join(sorted({one["operator"] for one in report["operators"] if not one["on_npu"]})),
        _number(report["cycles"], 1, 0),
        _number(report["milliseconds"], 1, 1),
        _number(report["memory"], 1024, 0),
        _number(quality["compiled"], 1, 3),
        _number(quality["to_float"], 1, 1),
        "",
        figures.today(),
    )
    return {"compiles": "yes", **{name: str(value) for name, value in zip(MEASURED, values, strict=True)}}


def write_tables() -> None:
    """Put one row for each family of chips into docs/npu.md, and a family's measured rows into its own page."""
    found = {path: figures.read(path) for path in ALL_RESULTS}
    rows = [row for _, some in found.values() for row in some]
    figures.put(
        "npu.md",
        "npu",
        f"{_made(ALL_RESULTS)}\n{TITLES}{''.join(family(name, rows, of) for name, of in families().items())}",
    )
    for page, names in PAGES.items():
        of = [chip for name in names for chip in families()[name]]
        paths = [path for path, (_, some) in found.items() if any(row["target"] in of for row in some)]
        figures.put(page, "npu", f"{_made(paths)}\n{MEASURED_TITLES}{measured(rows, of)}")


def _made(paths: Sequence[Path]) -> str:
    """How files were made, a line each."""
    heads = [(figures.read(path)[0], path.name) for path in paths]
    return "".join(
        f"Made by `{head['command']}` on the middle of each picture; every row: [data/{name}](data/{name}).\n"
        for head, name in heads
    )


def families() -> dict[str, list[str]]:
    """Chips by the target file that describes them, whose name the family has."""
    found: dict[str, list[str]] = {}
    for chip, name in chips().items():
        found.setdefault(name, []).append(chip)
    return found


def family(name: str, rows: list[dict[str, str]], of: list[str]) -> str:
    """One line of the table: the best form and precision on the chip whose quality was measured.

    The best is the fastest of those within `CLOSE` dB of the closest to the picture.
    """
    all_rows = [row for row in rows if row["target"] in of]
    measured = [row for row in all_rows if row["psnr"]]
    if not measured:
        return ""
    most = max(float(row["psnr"]) for row in measured)
    near = [row for row in measured if float(row["psnr"]) > most - CLOSE]
    best = min(near, key=lambda row: (float(row["cycles"] or 0), float(row["milliseconds"] or 0), -float(row["psnr"])))
    compiled = sum(row["compiles"] == "yes" for row in all_rows)
    chips_of = ", ".join(f"`{chip}`" for chip in dict.fromkeys(row["target"] for row in all_rows))
    how = f"`--form {best['form']} --precision {best['precision']}` on `{best['target']}`"
    return f"| {' | '.join((f'`{name}`', chips_of, how, *_figures(best), f'{compiled} of {len(all_rows)}'))} |\n"


def measured(rows: list[dict[str, str]], of: list[str]) -> str:
    """Lines of all forms and precisions on the family's chip whose quality was measured, the others' where cycles differ."""
    lines = []
    for row in rows:
        if row["target"] in of and (row["psnr"] or row["cycles"]):
            how = f"`{row['target']} --form {row['form']} --precision {row['precision']}`"
            lines.append(f"| {' | '.join((how, *_figures(row)))} |\n")
    return "".join(lines)


def _figures(row: dict[str, str]) -> tuple[str, ...]:
    return (
        row["on_npu"] if row["on_npu"] == "whole" else f"{row['on_npu']} / {row['on_cpu']}",
        f"{float(row['cycles']) / 1e6:,.2f}" if row["cycles"] else "",
        row["milliseconds"],
        f"{int(row['kib']):,}" if row["kib"] else "",
        row["psnr"],
        row["psnr_to_float"],
        row["date"],
    )


def _number(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


if __name__ == "__main__":
    main()
