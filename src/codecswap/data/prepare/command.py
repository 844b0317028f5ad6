"""``codecswap prepare``: download COCO, or take a folder of pictures, and make crops for training."""

import sys
from contextlib import ExitStack
from pathlib import Path
from shlex import quote

from codecswap.config import PrepareOptions
from codecswap.console import say
from codecswap.data.prepare.crop_folder import SKIPPED, crop_folder
from codecswap.data.prepare.fetch import fetch
from codecswap.data.prepare.unpack import TOP
from codecswap.data.sources import is_address, is_stream
from codecswap.errors import UserError
from codecswap.files import directory_lock
from codecswap.identify import no_folder

TRAINING_SIZE = 224
"""Side of the crops for training, in pixels."""


def main(options: PrepareOptions) -> int:
    """``codecswap prepare``: download, unpack and (with --out_dir) crop what is still missing."""
    _check(options)
    try:
        with ExitStack() as locks:
            folders = (options.coco_dir, None if options.download_only else options.out_dir)
            for folder in {Path(folder).resolve() for folder in folders if folder is not None}:
                locks.enter_context(directory_lock(folder))
            return _run(options)
    except KeyboardInterrupt:
        print("\nRun the same command again to continue.", file=sys.stderr)
        raise


def _run(options: PrepareOptions) -> int:
    if options.images is not None:
        source = options.images
        label = source if is_address(source) else str(Path(source).resolve())
    else:
        fetched = fetch(options)
        if options.download_only:
            then = f"--coco_dir {quote(options.coco_dir or '')} --out_dir {quote(options.out_dir or 'DIR')}"
            most = "" if options.max_images is None else f" --max_images {options.max_images}"
            say(f"Next: codecswap prepare {then} --val_ratio {options.val_ratio}{most}")
            return 0
        assert fetched is not None
        source, label = str(fetched), TOP
        if options.out_dir is None:
            say(f"Next: codecswap distill --coco_dir {quote(options.coco_dir or '')} --val_ratio {options.val_ratio}")
            return 0
    counts = crop_folder(source, label, options)
    out = str(options.out_dir)
    say(f"{out}: {counts.train:,} crops for training and {counts.val:,} for validation, {options.size}x{options.size}.")
    if counts.skipped:
        say(f"{counts.skipped:,} pictures cannot be read: {Path(out) / SKIPPED} lists them.")
    if options.size == TRAINING_SIZE:
        say(f"Next: codecswap distill --coco_dir {quote(out)} --use_prepared true")
    else:
        say(f"Training needs crops of {TRAINING_SIZE}x{TRAINING_SIZE}: run it again without --size to train on them.")
    return 0


def _check(options: PrepareOptions) -> None:
    """Refuse unusable folders before anything is written."""
    if options.images is None:
        return
    images, out = Path(options.images).resolve(), Path(options.out_dir or "").resolve()
    if not is_stream(options.images) and not images.is_dir():
        raise no_folder(options.images, "name the folder of your pictures with --images")
    if images.is_dir() and out.is_relative_to(images):
        raise UserError(f"--out_dir {out} is inside --images {images}: name a folder outside of it.")
