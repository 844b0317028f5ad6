"""Order, cutting and sharing: each file once, whoever works."""

import random
import tracemalloc
from pathlib import Path

import pytest
from making import folder

from codecswap.archives.shards import Share, cut
from codecswap.data import walk
from codecswap.data.sources import Item, find_items
from codecswap.errors import UserError


def test_names_are_sorted_in_the_memory_of_one_run() -> None:
    rng = random.Random(0)
    names = [f"{rng.random()}\n\udcff" for _ in range(3500)]
    assert list(walk.in_order(iter(names), 500)) == sorted(names)
    assert list(walk.in_order(names[:500], 500)) == sorted(names[:500])
    tracemalloc.start()
    try:
        count = sum(1 for _ in walk.in_order((f"{rng.random()}" for _ in range(100_000)), 2_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 100_000
    assert peak < 8_000_000, "all names would take 7 MB and more, without the list"


def test_a_folder_is_walked_in_the_order_of_paths(tmp_path: Path) -> None:
    root = folder(tmp_path / "root")
    (root / "sub-x").mkdir()
    (root / "sub-x" / "a.png").write_bytes(b"")
    (root / "loop").symlink_to(root)
    reasons: list[str] = []
    names = [item.name for item in find_items([str(root)], {".png"}, lambda why, name: reasons.append(why))]
    assert names == sorted(names) and len(names) == 12
    assert "a folder read already" in reasons


def test_pictures_of_one_name_stay_in_one_shard() -> None:
    names = ["a.jpg", "b.jpg", "b.png", "c.jpg", "t/x.tar", "d.jpg"]
    shards = list(cut((Item(name, name) for name in names), 2))
    assert [[item.name for item in shard.items] for shard in shards] == [
        ["a.jpg", "b.jpg", "b.png"],
        ["t/x.tar"],
        ["c.jpg", "d.jpg"],
    ]
    assert [shard.name for shard in shards] == ["pictures-000000", "t/x", "pictures-000001"]
    with pytest.raises(UserError, match="Two tar files"):
        list(cut([Item("a.tar", ""), Item("a.tgz", "")], 2))


def test_each_shard_is_in_one_share() -> None:
    names = [f"pictures-{number:06d}" for number in range(2000)]
    shares = [Share.of(f"{number}/16", {}) for number in range(16)]
    taken = [[name for name in names if share.takes(name)] for share in shares]
    assert sorted(name for part in taken for name in part) == names
    assert min(map(len, taken)) > 80


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 16)),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4", "RANK": "1", "WORLD_SIZE": "2"}, (0, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"RANK": "1"}, (0, 1)),
    ],
)
def test_the_environment_names_the_share(environment: dict[str, str], expected: tuple[int, int]) -> None:
    share = Share.of(None, environment)
    assert (share.index, share.count) == expected
    assert Share.of("0/1", environment) == Share(0, 1)


@pytest.mark.parametrize("text", ["16/16", "3", "a/b", "-1/4", "1/0", ""])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="the first of sixteen is 0/16"):
        Share.of(text, {})
