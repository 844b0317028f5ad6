"""``codecswap verify``: check an archive."""

from codecswap.archives.folder import Archive
from codecswap.archives.verify import advice, verify
from codecswap.coding.source import Source
from codecswap.config import VerifyOptions
from codecswap.console import say
from codecswap.data.sources import need_pyarrow
from codecswap.errors import UserError
from codecswap.processes import cores

DAMAGED = 3
"""Exit code if something is missing or damaged."""


def main(options: VerifyOptions) -> int:
    """``codecswap verify``."""
    need_pyarrow()
    if options.archive is None:
        raise UserError("Name the folder of an archive: codecswap verify ARCHIVE.")
    archive, codec = Archive.open(options.archive), None
    if options.decode:
        if archive.recipe.content != "csw":
            raise UserError(f"{options.archive} holds decoded pictures: omit --decode.")
        source = Source(
            options.codec, options.model, options.quality, options.metric, options.threads or cores(), "onnxruntime"
        )
        codec = source.open()
    shards = pictures = faults = 0
    for name, count, wrong in verify(archive, codec):
        shards, pictures, faults = shards + bool(name), pictures + count, faults + len(wrong)
        for sentence in wrong:
            say(sentence)
        if wrong and name:
            say(advice(archive, name))
    how = "decoded" if codec else "compared with the index"
    say(f"{options.archive}: {pictures:,} pictures in {shards:,} shards {how}, {faults or 'no'} faults.")
    return DAMAGED if faults else 0
