"""Options of prepare."""

from dataclasses import dataclass
from typing import Literal

from codecswap.config.shared import Options, check_output, check_share
from codecswap.errors import UserError


@dataclass(kw_only=True)
class PrepareOptions(Options):
    """Download COCO, or take a folder of pictures, and make crops for training."""

    coco_dir: str | None = None
    """Folder for COCO. It is downloaded and unpacked to train2017/ in it, if that is not there."""
    images: str | None = None
    """Instead of COCO: pictures of your own: a folder, tar files, a list of paths (.txt, .csv, .parquet) or an address."""
    out_dir: str | None = None
    """Folder for the crops (train/ and val/). Without it COCO is only downloaded and unpacked."""
    val_ratio: float = 0.02
    """Share of pictures used for validation, between 0 and 1. A hash of the file name decides."""
    max_images: int | None = None
    """Take N training pictures (those with the lowest name hashes) and a matching number of validation pictures, and
    download only these. A second run with a larger N adds the missing ones. 0: all."""
    size: int = 224
    """Side of the crops in pixels. Training needs 224."""
    format: Literal["jpg", "png"] = "jpg"
    """Format of the crops: JPEG of quality 95, or lossless PNG (three times as large)."""
    workers: int | None = None
    """Number of processes that crop. Default: one per core."""
    url: str | None = None
    """Address of train2017.zip or of another zip of pictures. Default: COCO's server."""
    md5: str | None = None
    """MD5 checksum of the zip at --url, in hexadecimal digits. Default: COCO's for COCO's server, else not checked."""
    download_only: bool = False
    """Only download: the zip, or with --max_images the pictures."""
    keep_zip: bool = False
    """Keep the downloaded zip after unpacking. A train2017.zip that was there before is always kept."""

    def __post_init__(self) -> None:
        self.max_images = self.max_images or None
        if (self.coco_dir is None) == (self.images is None):
            raise UserError(
                "Name the folder for COCO with --coco_dir, or one of your own pictures with --images (not both)."
            )
        if self.images is not None:
            if only_coco := [
                f"--{name}" for name in ("download_only", "keep_zip", "url", "md5") if getattr(self, name)
            ]:
                raise UserError(f"{', '.join(only_coco)} is for COCO: use --coco_dir, or leave it out.")
            if self.out_dir is None:
                raise UserError("Name the folder for the crops with --out_dir.")
        check_share(self.val_ratio, self.max_images)
        for name in ("size", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} is at least 1, not {value}.")

    def check_paths(self) -> None:  # noqa: D102
        if self.coco_dir is not None:
            check_output(self, "coco_dir", "a folder")
        super().check_paths()
