"""Pictures of an evaluation: all pictures of a folder or another source, or center crops of the validation split."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from codecswap.archives.ahead import ahead
from codecswap.archives.folder import Archive
from codecswap.archives.pairs import pairs
from codecswap.config import EvalOptions
from codecswap.console import bar, warn
from codecswap.data.datasets import ValidationPictures
from codecswap.data.discovery import CROP, ENDINGS, find_pictures, list_pictures
from codecswap.data.pictures import UNREADABLE, picture_size
from codecswap.data.sources import ARCHIVE, Content, contents, find_items, holds_tars, is_stream
from codecswap.data.transforms import validation_crop, whole_picture
from codecswap.errors import UserError

READERS, READ_AHEAD = 2, 4
"""Threads that decode the pictures of a stream, and how many pictures they are ahead."""


Coded = tuple[bytes, float]
"""The file that an archive has of a picture, and the seconds that coding it took."""


@dataclass(frozen=True)
class _Loaded:
    name: str
    """Path inside the source."""
    image: Tensor | None
    why: str = ""
    """Why there is none: a clause."""
    coded: Coded | None = None


class EvaluationPictures:
    """Iterates over the pictures of the options; unreadable ones are skipped with a warning."""

    def __init__(self, options: EvalOptions) -> None:
        if not options.images and not options.coco_dir:
            raise UserError(
                "No pictures given: name a folder with --images (taken whole) or --coco_dir (center crops)."
            )
        self.read: Callable[[Path], Tensor] = whole_picture
        self.archive = Archive.open(options.archive) if options.archive else None
        """The archive whose files are measured; None: codecs encode."""
        self.paths: list[Path] | None = None
        """The pictures; None for a stream, which is read as it comes."""
        self.folder = str(options.images or options.coco_dir)
        if not options.images:
            self.read = validation_crop
            self.paths = find_pictures(
                options.coco_dir,
                val_ratio=options.val_ratio,
                use_prepared=options.use_prepared,
                max_images=options.max_images,
            ).val
        elif (Path(self.folder) / ARCHIVE).is_file() and Archive.open(Path(self.folder)).recipe.content == "csw":
            raise UserError(
                f"{self.folder} holds coded pictures: name it with --archive, and the pictures that it was made of with "
                "--images."
            )
        elif not (self.archive or is_stream(self.folder) or holds_tars(self.folder)):
            self.paths = list_pictures(self.folder, "--images")
        self.workers = options.num_workers
        self.names: list[str] = []
        """Names of the pictures read, relative to the folder."""
        self.sizes: list[tuple[int, int]] = []
        """Height and width of the pictures read."""
        self.unreadable: list[str] = []
        self._coded: tuple[str, Coded] | None = None

    @property
    def found(self) -> int:
        """Number of pictures; of a stream those that were read so far."""
        return len(self.names) + len(self.unreadable) if self.paths is None else len(self.paths)

    def coded(self, name: str) -> Coded:
        """The archive's file of the picture that was yielded last."""
        assert self._coded and self._coded[0] == name
        return self._coded[1]

    def expected_sizes(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names, heights and widths of the pictures, from their headers; those that cannot be read are left out.

        A stream is not read in advance: a picture that a codec cannot take stops the evaluation.
        """
        for path in self.paths or ():
            with suppress(*UNREADABLE):
                width, height = (CROP, CROP) if self.read is validation_crop else picture_size(path)
                yield path.name, (height, width)

    def __iter__(self) -> Generator[tuple[str, Tensor], None, None]:
        total = None if self.paths is None else len(self.paths)
        with bar("Evaluate", total, unit="pictures") as advance:
            for each in self._stream() if self.paths is None else self._files(self.paths):
                if each.image is None:
                    place = each.name if self.paths is None else Path(self.folder, each.name)
                    warn(f"{place} {each.why or 'cannot be read'} and is skipped.")
                    self.unreadable.append(each.name)
                else:
                    self.names.append(each.name)
                    self.sizes.append((each.image.shape[-2], each.image.shape[-1]))
                    self._coded = (each.name, each.coded) if each.coded else None
                    yield each.name, each.image
                advance(1)

    def _files(self, paths: list[Path]) -> Iterator[_Loaded]:
        for sample in DataLoader(ValidationPictures(paths, self.read), batch_size=None, num_workers=self.workers):
            yield _Loaded(sample.path.relative_to(self.folder).as_posix(), sample.image)

    def _stream(self) -> Iterator[_Loaded]:
        left_out: Counter[str] = Counter()

        def leave_out(why: str, name: str) -> None:
            left_out[why] += 1

        files: Iterable[tuple[str, Content, Coded | None]]
        if self.archive:
            files = (
                (f"{pair.row.shard}/{pair.row.key}", pair.original, (pair.coded, pair.row.seconds))
                for pair in pairs(self.archive, self.folder, leave_out)
            )
        else:
            files = (
                (f"{item.name}/{content.name}" if item.is_tar else content.name, content, None)
                for item in find_items([self.folder], ENDINGS, leave_out)
                for content in contents(item)
                if content.error or Path(content.name).suffix.lower() in ENDINGS
            )
        with ThreadPoolExecutor(READERS) as readers:
            yield from ahead(_load, files, readers, READ_AHEAD)
        for why, count in left_out.items():
            warn(f"{count:,} files of {self.folder} were left out: {why}.")


def _load(file: tuple[str, Content, Coded | None]) -> _Loaded:
    name, content, coded = file
    if content.error or (coded and not coded[0]):
        return _Loaded(name, None, content.error or "has no file in the archive")
    try:
        return _Loaded(name, whole_picture(content.data), "", coded)
    except UNREADABLE:
        return _Loaded(name, None)
