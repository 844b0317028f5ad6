"""``codecswap encode`` and ``codecswap decode``: files, whole folders, and archives."""

import os
from functools import partial
from pathlib import Path

from codecswap.archives.cluster import run_ray
from codecswap.archives.engine import Task, run_here, run_processes
from codecswap.archives.folder import Archive, Recipe
from codecswap.archives.index import Summary
from codecswap.archives.run import Engine, make_archive
from codecswap.archives.shards import Share
from codecswap.archives.work import CODED, Job, decode_shard, encode_shard
from codecswap.coding.files import SUFFIX, Rate, Work, decode_file, encode_file, pairs, run
from codecswap.coding.source import Source
from codecswap.config import CodingOptions, DecodeOptions, EncodeOptions
from codecswap.console import amount, one_line, say, warn
from codecswap.data.discovery import ENDINGS
from codecswap.data.sources import is_stream, need_pyarrow
from codecswap.errors import UserError
from codecswap.processes import cores

ERRORS = 3
"""Exit code of an archive whose index has pictures that could not be coded."""


def encode(options: EncodeOptions) -> int:
    """``codecswap encode``."""
    return _all(options, partial(encode_file, rate=_rate(options)), SUFFIX)


def decode(options: DecodeOptions) -> int:
    """``codecswap decode``."""
    return _all(options, partial(decode_file, region=options.box), ".png")


def _all(options: CodingOptions, work: Work, suffix: str) -> int:
    if not options.input or options.output is None:
        raise UserError("Name what to read with --input and what to write with --output: two files, or two folders.")
    if options.archive or any(map(is_stream, options.input)):
        return _archive(options, options.output)
    if given := options.given.intersection(options.of_archives):
        raise UserError(f"--{min(given)} is for archives: add --archive tar or --archive tree.")
    todo = pairs([Path(path) for path in options.input], options.output, suffix)
    jobs = min(options.jobs or 1, len(todo))
    source = _source(options, jobs)
    failed = 0
    for (path, target), (done, words) in zip(todo, run(source, work, todo, jobs, force=options.force), strict=True):
        if len(todo) == 1 and not done:
            raise UserError(words)
        say(f"{one_line(str(path if len(todo) > 1 else target))}: {words}.") if done else warn(words)
        failed += not done
    if failed:
        raise UserError(
            f"{failed} of {len(todo)} files could not be done; the others were written to {options.output}."
        )
    if len(todo) > 1:
        say(f"{len(todo)} files written to {options.output}.")
    return 0


def _rate(options: EncodeOptions) -> Rate:
    return Rate(options.gain, options.target_bpp, options.target_bytes)


def _source(options: CodingOptions, jobs: int) -> Source:
    threads = options.threads or max(1, cores() // jobs)
    return Source(options.codec, options.model, options.quality, options.metric, threads, options.runtime)


def _archive(options: CodingOptions, output: Path) -> int:
    """Make an archive, or this worker's share of it."""
    need_pyarrow()
    encodes = isinstance(options, EncodeOptions)
    rate = _rate(options) if isinstance(options, EncodeOptions) else Rate()
    region = options.box if isinstance(options, DecodeOptions) else None
    share = Share.of(options.shard, os.environ)
    jobs = options.jobs or cores()
    source = _source(options, cores() if options.engine == "ray" else jobs)
    recipe = Recipe(
        content="csw" if encodes else "png",
        layout=options.archive or "tree",
        codec=source.identity(),
        shard_size=options.shard_size,
        psnr=isinstance(options, EncodeOptions) and options.psnr,
        rate=str(rate) if rate != Rate() else "",
        region=",".join(map(str, region)) if region else "",
    )
    archive = Archive.start(output, recipe)
    job: Job = partial(encode_shard, rate=rate) if encodes else partial(decode_shard, region=region)
    part = "encoder" if encodes else "decoder"
    task = Task(job, source, part, archive)
    totals = make_archive(
        archive, options.input, ENDINGS if encodes else {CODED}, share, _engine(options, task, jobs), _report
    )
    for why, count in totals.left_out.items():
        warn(f"{count:,} files of the source were left out: {why}.")
    bpp = f", {8 * totals.bytes / totals.pixels:.3f} bits per pixel" if encodes and totals.pixels else ""
    part_of = f" (share {share.index}/{share.count})" if share.count > 1 else ""
    say(
        f"{output}: {totals.made:,} shards made, {totals.before:,} were there, of {totals.shards:,}{part_of}; "
        f"{totals.pictures:,} pictures, {amount(totals.bytes, 'bytes')}{bpp}."
    )
    if totals.errors:
        warn(
            f"{totals.errors:,} pictures could not be done; the column error of {output / 'index'} says why.",
            everywhere=True,
        )
    return ERRORS if totals.errors else 0


def _engine(options: CodingOptions, task: Task, jobs: int) -> Engine:
    if options.engine == "ray":
        return partial(run_ray, task, jobs=options.jobs)
    return partial(run_here, task) if jobs == 1 else partial(run_processes, task, jobs=jobs)


def _report(name: str, summary: Summary, seconds: float) -> None:
    errors = f", {summary.errors:,} of them not done" if summary.errors else ""
    say(f"{name}: {summary.pictures:,} pictures{errors}, after {seconds:,.0f} s.")
