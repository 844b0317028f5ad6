"""Pictures for training: finding them, splitting them by a hash of their names, reading and cropping them.

Nothing here depends on where a picture lies, on the other pictures of the folder, or on how many processes and workers
read it: the side of the split and every random crop are functions of the picture's base name (and seed and epoch).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision.transforms import v2

from codecswap.data.pictures import ENDINGS, UNREADABLE, load_picture, picture_size, scan
from codecswap.data.split import choose
from codecswap.errors import UserError

CROP = 224
"""Side of a training picture, in pixels."""


@dataclass(frozen=True)
class Pictures:
    """The pictures that a run uses, found in one folder."""

    layout: str
    """``coco`` (train2017/), ``prepared`` (224x224 crops in train/, val/) or ``folder`` (any other pictures)."""
    train: list[Path]
    """Training side, by ascending hash."""
    val: list[Path]
    """Validation side, by file name."""

    @property
    def prepared(self) -> bool:
        """Pictures are used as they are, neither cropped nor flipped."""
        return self.layout == "prepared"

    def identity(self, root: str | Path) -> dict[str, Any]:
        """What tells this data set from another, wherever its folder ``root`` lies: counts, and a hash.

        Returns: ``folder``, ``layout``, ``train``, ``val`` (numbers of pictures) and ``sha256`` of the sides, paths below
            ``root`` and sizes in bytes. Contents are not read: COCO's would take minutes.
        """
        digest = hashlib.sha256()
        for side, paths in (("train", self.train), ("val", self.val)):
            for path in paths:
                place = os.path.relpath(path, root).replace(os.sep, "/")
                digest.update(f"{side}/{place}/{path.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return {
            "folder": str(Path(root).resolve()),
            "layout": self.layout,
            "train": len(self.train),
            "val": len(self.val),
            "sha256": digest.hexdigest(),
        }


def find_pictures(
    root: str | Path | None, *, val_ratio: float = 0.02, use_prepared: bool = False, max_images: int | None = None
) -> Pictures:
    """Find the pictures below ``root``, detect the layout and split them.

    Args:
        root: raw COCO (``train2017/``), prepared crops (``train/``, ``val/``, sub-folders too) or any folder of pictures.
        val_ratio: share of pictures on the validation side, in (0, 1); not used where there is a ``val/``.
        use_prepared: insist on prepared crops.
        max_images: take the N training pictures with the lowest hashes, and their share of validation pictures.

    Raises:
        UserError: no such folder, no pictures in it, no prepared crops although asked for, or an empty validation side.
    """
    if root is None:
        raise UserError(
            "No pictures given: name a folder of pictures (or COCO's, with train2017/ in it) with --coco_dir."
        )
    root = Path(root)
    if not 0 < val_ratio < 1:
        raise UserError(f"--val_ratio is a share between 0 and 1 (0.02: two in a hundred), not {val_ratio}.")
    if max_images is not None and max_images < 1:
        raise UserError(f"--max_images is at least 1, or 0 for all pictures, not {max_images}.")
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: name the folder that holds the pictures with --coco_dir.")
    split = (root / "train").is_dir()
    layout, where = (
        ("coco", root / "train2017") if (root / "train2017").is_dir() and not use_prepared else ("folder", root)
    )
    if split and layout != "coco":
        where = root / "train"
        layout = "prepared" if _is_crop(where) else "folder"
    found = scan(where)
    if not found:
        raise UserError(f"There are no pictures in {where} ({', '.join(sorted(ENDINGS))}): check --coco_dir.")
    if use_prepared and layout != "prepared":
        raise UserError(
            f"--use_prepared needs {CROP}x{CROP} crops in {root / 'train'} and there are none: "
            "make them with `codecswap prepare`, or leave --use_prepared out."
        )
    held_out = scan(root / "val") if split and layout != "coco" and (root / "val").is_dir() else []
    train, val = choose(found, val_ratio=val_ratio, max_images=max_images, held_out=held_out)
    if not train:
        raise UserError(
            f"All {len(found)} pictures of {where} fall on the validation side: lower --val_ratio ({val_ratio})."
        )
    if not val:
        raise UserError(
            f"None of the {len(found)} pictures of {where} falls on the validation side: raise --val_ratio ({val_ratio})."
        )
    return Pictures(layout, train, val)


def _is_crop(folder: Path) -> bool:
    """Whether the first picture that opens has the size of a prepared crop."""
    for path in scan(folder):
        try:
            return picture_size(path) == (CROP, CROP)
        except UNREADABLE:
            continue
    return False


_to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
_train_crop = v2.Compose(
    [
        v2.RandomResizedCrop(CROP, scale=(0.8, 1.0), ratio=(0.9, 1.1), antialias=True),
        v2.RandomHorizontalFlip(),
        _to_tensor,
    ]
)
_val_crop = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(CROP), _to_tensor])


def training_crop(path: Path, *, seed: int, epoch: int) -> Tensor:
    """A random crop ``(3, 224, 224)`` in [0, 1], half the time flipped, drawn from (seed, epoch, base name)."""
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f"{seed}/{epoch}/{path.stem}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return _train_crop(load_picture(path))


def validation_crop(path: Path) -> Tensor:
    """The centre of a picture, ``(3, 224, 224)`` in [0, 1]; a prepared crop as it is."""
    picture = load_picture(path)
    return _to_tensor(picture) if picture.size == (CROP, CROP) else _val_crop(picture)


def whole_picture(path: Path) -> Tensor:
    """A picture as it is, ``(3, H, W)`` in [0, 1]."""
    return _to_tensor(load_picture(path))


def list_pictures(folder: str | Path, option: str) -> list[Path]:
    """All pictures below a folder, by path; ``option`` is the one that named it.

    Raises:
        UserError: no such folder, or no pictures in it.
    """
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {folder}: name the folder that holds the pictures with {option}.")
    if not (found := scan(folder)):
        raise UserError(f"There are no pictures in {folder} ({', '.join(sorted(ENDINGS))}): check {option}.")
    return found


@dataclass
class Sample:
    """One picture as the loader hands it on."""

    image: Tensor | None
    """``(3, 224, 224)`` in [0, 1]; None where it could not be read."""
    path: Path
    unreadable: list[Path]
    """Pictures that could not be read on the way to this one."""


@dataclass
class Batch:
    """Pictures ``(B, 3, 224, 224)`` in [0, 1], their paths, and those left out because they could not be read."""

    images: Tensor
    paths: list[Path]
    unreadable: list[Path]

    def pin_memory(self) -> "Batch":
        """Move the pictures to page-locked memory, from which a GPU copies without waiting."""
        return Batch(self.images.pin_memory(), self.paths, self.unreadable)


def collate(samples: list[Sample]) -> Batch:
    """Stack what could be read."""
    unreadable = [path for sample in samples for path in sample.unreadable]
    images = [sample.image for sample in samples if sample.image is not None]
    paths = [sample.path for sample in samples if sample.image is not None]
    return Batch(torch.stack(images) if images else torch.empty(0, 3, CROP, CROP), paths, unreadable)


class TrainingPictures(Dataset):
    """Random crops, indexed by (epoch, index); an unreadable picture gives way to the next one."""

    def __init__(self, paths: list[Path], *, seed: int, prepared: bool) -> None:
        self.paths, self.seed, self.prepared = paths, seed, prepared

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        unreadable: list[Path] = []
        for step in range(len(self.paths)):
            path = self.paths[(index + step) % len(self.paths)]
            try:
                image = validation_crop(path) if self.prepared else training_crop(path, seed=self.seed, epoch=epoch)
                return Sample(image, path, unreadable)
            except UNREADABLE:
                unreadable.append(path)
        raise UserError("None of the training pictures can be read any more: is their disk still there?")


class ValidationPictures(Dataset):
    """Pictures in the order of ``paths``: their centre crops, unless ``read`` reads them otherwise."""

    def __init__(self, paths: list[Path], read: Callable[[Path], Tensor] = validation_crop) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        try:
            return Sample(self.read(path), path, [])
        except UNREADABLE:
            return Sample(None, path, [path])


class EpochSampler(Sampler[tuple[int, int]]):
    """The one order of training pictures, shared out over any number of processes.

    Each epoch is a permutation drawn from (seed, epoch), cut into batches of ``batch_size`` over all processes (what is
    left over waits for another epoch); every process takes its part of every batch, so the steps do not depend on their
    number.

    Args:
        length: number of pictures.
        batch_size: pictures in a step, over all processes.
        start: the epoch to begin with, and how many of its batches are done already.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, start: tuple[int, int] = (0, 0)
    ) -> None:
        self.length, self.batch_size, self.seed, self.rank, self.world = length, batch_size, seed, rank, world
        self.start, self.epoch = start, start[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this before every epoch."""
        self.epoch = epoch

    @property
    def batches(self) -> int:
        """Steps in an epoch."""
        return self.length // self.batch_size

    def __len__(self) -> int:
        return self.batches * (self.batch_size // self.world)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        share = self.batch_size // self.world
        done = self.start[1] if self.epoch == self.start[0] else 0
        for batch in range(done, self.batches):
            start = batch * self.batch_size + self.rank * share
            for index in order[start : start + share]:
                yield self.epoch, index


def first_readable(paths: list[Path], count: int) -> tuple[Tensor, list[Path]]:
    """Validation crops of the first ``count`` pictures that can be read, ``(n, 3, 224, 224)``, and their paths."""
    images: list[Tensor] = []
    taken: list[Path] = []
    for path in paths:
        if len(images) == count:
            break
        try:
            images.append(validation_crop(path))
            taken.append(path)
        except UNREADABLE:
            continue
    return torch.stack(images) if images else torch.empty(0, 3, CROP, CROP), taken
