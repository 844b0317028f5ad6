"""What the tests of `codecswap prepare` have in common."""

from pathlib import Path

import numpy as np
from PIL import Image

from codecswap import cli


def scene(seed, width=320, height=240):
    """Something like a photograph: smooth shapes with some fine detail."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


def run(*arguments, workers=1):
    return cli.main(["prepare", *map(str, arguments), "--val_ratio", "0.2", "--workers", str(workers)])


def tree(folder):
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
