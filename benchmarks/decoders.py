"""Tables of docs/ from folders of `codecswap benchmark`, through docs/data/decoders.csv.

codecswap benchmark --teacher tiny --form native,subpixel --rounds 1 --output a
codecswap benchmark --teacher tiny --form masked --precision float32 --rounds 1 --output b
python -m benchmarks.decoders a b
python -m benchmarks.decoders           (only the tables from the file)
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures

from codecswap.benchmarking.results import write_csv

RESULTS = figures.DATA / "decoders.csv"
CODE = (
    "src/codecswap/runner src/codecswap/benchmarking src/codecswap/export src/codecswap/inference src/codecswap/quantize "
    "src/codecswap/quantized"
)
SIZES = ("256x256", "768x512")
ENGINES = ("ncnn", "mnn", "executorch")
"""Runtimes with a page of their own."""
PAGES: Mapping[str, Callable[[Mapping[str, str]], bool]] = {
    "benchmarks.md": lambda row: row["runtime"] not in ENGINES,
    "phones.md": lambda row: (
        row["runtime"] in ENGINES or (row["runtime"], row["precision"]) == ("onnxruntime", "float32")
    ),
}
"""Pages, and the rows that each has."""
TITLES = (
    f"| form, precision | runtime | MB | dB lost | {', '.join(SIZES).replace(', ', ', ms | ')}, ms | memory, MB |\n"
    + "|---" * 7
    + "|\n"
)


def main() -> None:
    if sys.argv[1:]:
        write([json.loads((Path(folder) / "benchmark.json").read_bytes()) for folder in sys.argv[1:]])
    for page in PAGES:
        figures.put(page, "decoders", f"{made()}\n{table(page)}")


def write(found: Sequence[Mapping[str, Any]]) -> None:
    """Write the file from the contents of some benchmark.json, which must be of one commit and machine."""
    commit, date, machine = ({content[name] for content in found} for name in ("commit", "date", "machine"))
    assert len(commit) == len(machine) == 1, f"{commit} on {machine}"
    commands = [re.sub(r" --output \S+", "", content["command"]) for content in found]
    head = ("; ".join(commands), *commit, max(date), *machine, CODE)
    rows = [_row(row) for content in found for row in content["rows"] if row["status"] == "ok"]
    write_csv(RESULTS, dict(zip(figures.HEAD, head, strict=True)), rows)


def made() -> str:
    """How the file was made."""
    head, _ = figures.read(RESULTS)
    return (
        f"Made by `{head['command']}`, {head['machine']}, {head['date']}, commit {head['commit']}: median of three runs, "
        "milliseconds of **processor time** on one thread; every row: [data/decoders.csv](data/decoders.csv).\n"
    )


def table(page: str) -> str:
    """A page's rows."""
    lines = []
    for row in filter(PAGES[page], figures.read(RESULTS)[1]):
        times = (f"{float(row[f'cpu_ms_{size}']):,.0f}" for size in SIZES)
        size, memory = f"{int(row['bytes']) / 1e6:.2f}", f"{int(row['memory']) / 1e6:,.0f}"
        cells = (f"{row['form']}, {row['precision']}", row["runtime"], size, row["lost"], *times, memory)
        lines.append(f"| {' | '.join(cells)} |\n")
    return TITLES + "".join(lines)


def _row(row: Mapping[str, Any]) -> dict[str, object]:
    kept = {name: row[name] for name in ("form", "precision", "runtime", "version", "bytes", "memory")}
    kept |= {"lost": f"{round(row['lost'], 3) + 0:.3f}", "to_reference": f"{row['to_reference']:.1f}"}
    return kept | {f"cpu_ms_{size}": f"{row['times'][size]['cpu']:.1f}" for size in SIZES}


if __name__ == "__main__":
    main()
