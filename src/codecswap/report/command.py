"""``codecswap report``: write the page once, or repeatedly while a run is in progress."""

import contextlib

from rich.filesize import decimal

from codecswap.config import ReportOptions
from codecswap.console import say
from codecswap.errors import UserError
from codecswap.files import atomic_write
from codecswap.report.benchmark import is_benchmark, write_benchmarks
from codecswap.report.measurements import Measurements
from codecswap.report.run import read_runs
from codecswap.report.writing import Report


def main(options: ReportOptions) -> int:
    """Write the report of one or several runs of a student, or of benchmarks."""
    if any(map(is_benchmark, options.runs)):
        if options.watch:
            raise UserError("--watch is for runs: a benchmark's files are written once, at its end.")
        page = write_benchmarks(options.runs)
        with atomic_write(options.output) as beside:
            beside.write_text(page, encoding="utf-8", errors="backslashreplace")
        say(f"Written: {options.output} ({decimal(options.output.stat().st_size)}).")
        return 0
    report = Report(options.output, Measurements(options.pictures))
    runs = read_runs(options.runs)
    if options.watch:
        say("Watching; Ctrl-C stops.")
        with contextlib.suppress(KeyboardInterrupt):
            for lines in report.watch(options.runs):
                _say(report, lines)
            return 0
        runs = read_runs(options.runs)  # a page that does not wait for a next one
    _say(report, report.write(runs))
    return 0


def _say(report: Report, lines: list[str]) -> None:
    for line in (f"Written: {report.output} ({decimal(report.output.stat().st_size)}).", *lines):
        say(line)
