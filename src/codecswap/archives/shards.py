"""Cut a source into shards, and share them among workers that do not know of each other."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from codecswap.data.sources import TARS, Item
from codecswap.errors import UserError

CUT = "pictures-"
"""How names of shards begin that are cut from files; shards of tar files keep their names."""


@dataclass(frozen=True)
class Shard:
    """The unit of work: files of a source in order, or one tar file of it."""

    name: str
    """Path of its files in the archive, without extension."""
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of its files' names: a shard of other files is another shard, whatever its name."""
        names = "\0".join(item.name for item in self.items)
        return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def cut(items: Iterable[Item], size: int) -> Iterator[Shard]:
    """Shards of ``size`` files each, in order; each tar file is a shard of its own, whatever its size.

    Files that differ only in their extension stay together, so a shard may have more than ``size``.

    Raises:
        UserError: two shards have the same name.
    """
    pending: list[Item] = []
    count, tars = 0, set()
    for item in items:
        if item.is_tar:
            name = item.name[: -len(next(ending for ending in TARS if item.name.lower().endswith(ending)))]
            if name in tars or (name.startswith(CUT) and pending):
                raise UserError(f"Two tar files of the source are called {name}: rename one of them.")
            tars.add(name)
            yield Shard(name, (item,))
            continue
        if len(pending) >= size and _stem(item) != _stem(pending[-1]):
            yield Shard(f"{CUT}{count:06d}", tuple(pending))
            pending, count = [], count + 1
        pending.append(item)
    if pending:
        yield Shard(f"{CUT}{count:06d}", tuple(pending))


def _stem(item: Item) -> str:
    return os.path.splitext(item.name)[0]


def tree_folder(shard: Shard) -> str:
    """Folder for the files of a shard where they are written as single files; empty if their names are unique anyway."""
    name = PurePosixPath(shard.name)
    return "" if name.name.startswith(CUT) else f"{name}/"


@dataclass(frozen=True)
class Share:
    """The part of all shards that a worker makes."""

    index: int
    """0 to count - 1."""
    count: int

    def takes(self, name: str) -> bool:
        """Whether the shard of this name is in the share; each is in exactly one."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str]) -> "Share":
        """The share that ``--shard`` names; without it that of SLURM's job array, or of torchrun and its like.

        Args:
            text: ``3/16``: the fourth of sixteen shares, as they are counted from 0.
            environment: ``SLURM_ARRAY_TASK_ID`` and ``SLURM_ARRAY_TASK_COUNT``, or ``RANK`` and ``WORLD_SIZE``.

        Raises:
            UserError: it is no such share.
        """
        if text is not None:
            index, _, count = text.partition("/")
            return cls._checked(index, count, f"--shard {text}")
        for of, among, first in (
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", environment.get("SLURM_ARRAY_TASK_MIN", "0")),
            ("RANK", "WORLD_SIZE", "0"),
        ):
            if of in environment and among in environment:
                index = environment[of]
                if index.isdigit() and first.isdigit():  # an array may begin at 1
                    index = str(int(index) - int(first))
                words = f"{of}={environment[of]} with {among}={environment[among]}"
                return cls._checked(index, environment[among], words)
        return cls(0, 1)

    @classmethod
    def _checked(cls, index: str, count: str, words: str) -> "Share":
        if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
            raise UserError(f"{words} is no share of the work: the first of sixteen is 0/16, the last 15/16.")
        return cls(int(index), int(count))
