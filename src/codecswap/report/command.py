"""``codecswap report``: write the page once, or again and again while a run goes on."""

import contextlib
import time
from pathlib import Path

from rich.filesize import decimal

from codecswap.config import ReportOptions
from codecswap.console import say
from codecswap.files import atomic_write
from codecswap.report.measurements import Measurements
from codecswap.report.page import write_page
from codecswap.report.run import Run, read_runs
from codecswap.report.verdict import conclusion

PAUSE = 2.0
"""Seconds between two checks of a watched run's files."""


def main(options: ReportOptions) -> int:
    """Write the report of one or several runs of a student."""
    report = Report(options.output, Measurements(options.pictures))
    runs = read_runs(options.runs)
    if not options.watch:
        report.write(runs)
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        report.watch(options.runs)
        return 0
    report.write(read_runs(options.runs))  # a page that does not wait for a next one
    return 0


class Report:
    """The file of a report.

    Args:
        output: the file.
        measurements: of the runs.
    """

    def __init__(self, output: Path, measurements: Measurements) -> None:
        self.output, self.measurements = output, measurements
        self.encoded: dict[str, str] = {}
        """Pictures of earlier pages, by content."""

    def write(self, runs: list[Run], *, watched: bool = False) -> None:
        """Write the whole page, and say so."""
        began = time.perf_counter()
        page = write_page(runs, self.measurements, self.encoded, watched=watched)
        with atomic_write(self.output) as beside:
            beside.write_text(page, encoding="utf-8")
        size, seconds = decimal(self.output.stat().st_size), time.perf_counter() - began
        say(f"Written: {self.output} ({size}, {seconds:.0f} s).")
        if not watched:
            for line in conclusion(runs[-1], self.measurements):
                say(line)

    def watch(self, folders: list[str]) -> None:
        """Write the page whenever a run's files change, until the last run is complete and quiet."""
        say("Watching; Ctrl-C stops.")
        seen = None
        while True:
            runs = read_runs(folders)
            now = [run.signature for run in runs]
            if now != seen:
                self.write(runs, watched=True)
                seen = now
            elif runs[-1].complete:  # its last pictures are saved after its last row: hence the quiet
                self.write(runs)
                return
            time.sleep(PAUSE)
