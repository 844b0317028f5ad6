"""``codecswap encode`` and ``codecswap decode``: files and whole folders."""

from functools import partial

from codecswap.coding.files import SUFFIX, Rate, Work, decode_file, encode_file, pairs, run
from codecswap.coding.source import Source
from codecswap.config import CodingOptions, EncodeOptions
from codecswap.console import one_line, say, warn
from codecswap.errors import UserError
from codecswap.processes import cores


def encode(options: EncodeOptions) -> int:
    """``codecswap encode``."""
    rate = Rate(options.gain, options.target_bpp, options.target_bytes)
    return _all(options, partial(encode_file, rate=rate), SUFFIX)


def decode(options: CodingOptions) -> int:
    """``codecswap decode``."""
    return _all(options, decode_file, ".png")


def _all(options: CodingOptions, work: Work, suffix: str) -> int:
    if not options.input or options.output is None:
        raise UserError("Name what to read with --input and what to write with --output: two files, or two folders.")
    todo = pairs(options.input, options.output, suffix)
    jobs = min(options.jobs, len(todo))
    threads = options.threads or max(1, cores() // jobs)
    source = Source(options.codec, options.model, options.quality, options.metric, threads, options.runtime)
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
