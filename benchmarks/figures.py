"""Tables under docs/data: CSV files that begin with how they were made, and a list of those older than the code they measure.

python -m benchmarks.figures
"""

import csv
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from codecswap.benchmarking.results import write_csv
from codecswap.runner.respond import describe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DATA = DOCS / "data"
HEAD = ("command", "commit", "date", "machine", "code")
"""What each file begins with, one line of ``# name: value`` each; ``code`` is what the figures depend on."""


def write(
    path: Path,
    rows: Sequence[Mapping[str, object]],
    *,
    command: str,
    code: str,
    begun: Mapping[str, str] | None = None,
) -> None:
    """Write rows as a CSV file.

    Args:
        path: the file.
        rows: by column; all have the same columns.
        command: what measured them.
        code: files and folders whose change may change them, separated by spaces.
        begun: how a file was made some of whose rows are kept; its commit and date stay, those of the oldest rows.
    """
    commit, date = _git("rev-parse", "--short=10", "HEAD") or "unknown", today()
    if begun:
        commit, date = begun["commit"], begun["date"]
    head = (command, commit, date, describe(), code)
    write_csv(path, dict(zip(HEAD, head, strict=True)), rows)


def today() -> str:
    """The date, as files of figures have it."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def read(path: Path) -> tuple[dict[str, str], list[dict[str, str]]]:
    """How a file was made, by the names in `HEAD`, and its rows."""
    lines = path.read_text("utf-8").splitlines()
    notes = [line.removeprefix("# ").partition(": ") for line in lines[: len(HEAD)]]
    return {name: value for name, _, value in notes}, list(csv.DictReader(lines[len(HEAD) :]))


def put(page: str, by: str, content: str) -> None:
    """Replace what a script wrote into a page of docs/, between ``<!-- made by benchmarks/SCRIPT.py -->`` and ``<!-- end -->``.

    Args:
        page: e.g. ``npu.md``.
        by: name of the script.
        content: the text.
    """
    begin, end, document = f"<!-- made by benchmarks/{by}.py -->", "<!-- end -->", DOCS / page
    before, there, rest = document.read_text("utf-8").partition(begin)
    assert there, f"{page} has no {begin}"
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n{content}\n{end}{after}", "utf-8")


def older(path: Path) -> str | None:
    """Commits to the code since a file was made, as one line; None if there are none, or no history to ask."""
    head, _ = read(path)
    if not _git("cat-file", "-t", head["commit"]):
        return None
    since = (_git("log", "--oneline", f"{head['commit']}..HEAD", "--", *head["code"].split()) or "").splitlines()
    return f"{path.name}, of {head['date']}, is older than {len(since)} commits to {head['code']}" if since else None


def main() -> None:
    for path in sorted(DATA.glob("*.csv")):
        print(older(path) or f"{path.name} is up to date (or has no history here)")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    main()
