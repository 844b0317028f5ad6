"""benchmark.json and benchmark.csv: rows, and how they were made."""

import csv
import io
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import codecswap
from codecswap.benchmarking.measure import Row
from codecswap.files import atomic_write

JSON, CSV = "benchmark.json", "benchmark.csv"
FORMAT = "codecswap benchmark"


def facts(command: str, machine: str) -> dict[str, str]:
    """How a benchmark is made.

    Args:
        command: the command line.
        machine: what it is made on.
    """
    return {
        "command": command,
        "codecswap": codecswap.__version__,
        "commit": commit(Path(__file__).parents[3]) or "unknown",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
    }


def commit(root: Path) -> str | None:
    """Commit of a folder that is the top of a Git checkout; None: it is none, or there is no Git."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=root, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write(folder: Path, head: Mapping[str, str], settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write both files, each at once.

    Args:
        folder: made if it is missing.
        head: of `facts`.
        settings: what else was measured with (threads, rounds), for the JSON file.
        rows: results.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "version": 1, **head, **settings, "rows": [asdict(row) for row in rows]}
    with atomic_write(folder / JSON) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    write_csv(folder / CSV, head, [_flat(row) for row in rows])


def write_csv(path: Path, head: Mapping[str, str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file that begins with one line ``# name: value`` for each entry of ``head``.

    Args:
        path: the file.
        head: how it was made.
        rows: by column; columns that a row lacks are empty.
    """
    text = io.StringIO()
    for name, value in head.items():
        text.write(f"# {name}: {' '.join(str(value).split())}\n")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue(), "utf-8", errors="backslashreplace")


def _flat(row: Row) -> dict[str, object]:
    flat: dict[str, object] = {key: "" if value is None else value for key, value in asdict(row).items()}
    for name in ("times", "energy", "files"):
        del flat[name]
    for size, times in row.times.items():
        for name, value in asdict(times).items():
            flat[f"ms_{size}_{name}"] = f"{value:.3f}"
    for size, energy in row.energy.items():
        flat[f"joules_{size}"], flat[f"joules_{size}_above_idle"] = f"{energy.joules:.4f}", f"{energy.above_idle:.4f}"
    if row.files:
        flat |= {f"files_{name}": value for name, value in asdict(row.files).items()}
    for name in ("lost", "to_reference", "to_here"):
        if (known := getattr(row, name)) is not None:
            flat[name] = f"{known:.3f}"
    return flat
