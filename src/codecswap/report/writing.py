"""Write the report once, or repeatedly while a run is in progress."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from codecswap.files import atomic_write
from codecswap.report.measurements import Measurements
from codecswap.report.page import write_page
from codecswap.report.run import Run, read_runs
from codecswap.report.verdict import conclusion

PAUSE = 2.0
"""Seconds between two checks of a watched run's files."""


def write_report(folders: Sequence[str], output: Path, *, pictures: int = 32) -> list[str]:
    """Write the report of one student's runs.

    Args:
        folders: run folders.
        output: the HTML file; its folder must exist.
        pictures: largest number of held-out pictures to measure on; 0: use the metrics of the training.

    Returns: headline and advice of the verdict, line by line; empty if nothing is known.

    Raises:
        UserError: a folder is not a run, the runs are not of one student, or a file is damaged.
    """
    return Report(output, Measurements(pictures)).write(read_runs(folders))


class Report:
    """A report file; measurements and encoded pictures are reused for the next page.

    Args:
        output: the file.
        measurements: measurements of the runs.
    """

    def __init__(self, output: Path, measurements: Measurements) -> None:
        self.output, self.measurements = output, measurements
        self.encoded: dict[str, str] = {}
        """Pictures of earlier pages, by content."""

    def write(self, runs: list[Run], *, watched: bool = False) -> list[str]:
        """Write the page; returns the verdict's headline and advice, line by line, of a page that is not watched."""
        page = write_page(runs, self.measurements, self.encoded, watched=watched)
        with atomic_write(self.output) as beside:
            beside.write_text(page, encoding="utf-8", errors="backslashreplace")
        return [] if watched else conclusion(runs[-1], self.measurements)

    def watch(self, folders: Sequence[str]) -> Iterator[list[str]]:
        """Write the page whenever a run's files change, until the last run is complete and quiet; yields after each page."""
        seen = None
        while True:
            runs = read_runs(folders)
            now = [run.signature for run in runs]
            if now != seen:
                yield self.write(runs, watched=True)
                seen = now
            elif runs[-1].complete:  # its last pictures are saved after its last row, so wait until files stop changing
                yield self.write(runs)
                return
            time.sleep(PAUSE)
