"""Pictures of an evaluation: all pictures of a folder, or center crops of the validation split."""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from codecswap.config import EvalOptions
from codecswap.console import bar, warn
from codecswap.data.datasets import ValidationPictures
from codecswap.data.discovery import CROP, find_pictures, list_pictures
from codecswap.data.pictures import UNREADABLE, picture_size
from codecswap.data.transforms import validation_crop, whole_picture
from codecswap.errors import UserError


class EvaluationPictures:
    """Iterates over the pictures of the options; unreadable ones are skipped with a warning."""

    def __init__(self, options: EvalOptions) -> None:
        if not options.images and not options.coco_dir:
            raise UserError(
                "No pictures given: name a folder with --images (taken whole) or --coco_dir (center crops)."
            )
        self.read: Callable[[Path], Tensor]
        if options.images:
            self.folder, self.read = options.images, whole_picture
            self.paths = list_pictures(options.images, "--images")
        else:
            found = find_pictures(
                options.coco_dir,
                val_ratio=options.val_ratio,
                use_prepared=options.use_prepared,
                max_images=options.max_images,
            )
            self.folder, self.read, self.paths = str(options.coco_dir), validation_crop, found.val
        self.workers = options.num_workers
        self.names: list[str] = []
        """Names of the pictures read, relative to the folder."""
        self.sizes: list[tuple[int, int]] = []
        """Height and width of the pictures read."""
        self.unreadable: list[str] = []

    def expected_sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names, heights and widths of the pictures, from their headers; those that cannot be read are left out."""
        for path in self.paths:
            with suppress(*UNREADABLE):
                width, height = (CROP, CROP) if self.read is validation_crop else picture_size(path)
                yield path.name, (height, width)

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        loader = DataLoader(ValidationPictures(self.paths, self.read), batch_size=None, num_workers=self.workers)
        with bar("Evaluate", len(self.paths), unit="pictures") as advance:
            for sample in loader:
                name = sample.path.relative_to(self.folder).as_posix()
                if sample.image is None:
                    warn(f"{sample.path} cannot be read and is skipped.")
                    self.unreadable.append(name)
                else:
                    self.names.append(name)
                    self.sizes.append((sample.image.shape[-2], sample.image.shape[-1]))
                    yield name, sample.image
                advance(1)
