"""The split by names."""

from pathlib import Path

import pytest

from codecswap.data.discovery import choose, position

NAMES = [Path(f"/somewhere/{i:012d}.jpg") for i in range(4000)]


def test_a_name_stands_where_it_stands() -> None:
    assert position("000000000009.jpg") == position("/other/place/000000000009.png")
    assert position("a~2.jpg") == position("a.jpg") != position("b.jpg")
    assert position("000000000009") == pytest.approx(0.8257763, abs=1e-6)  # the same on every machine, for ever


def test_sides_do_not_depend_on_the_company() -> None:
    train, val = choose(NAMES, val_ratio=0.1)
    assert 320 < len(val) < 480 and len(train) + len(val) == 4000
    few_train, few_val = choose(NAMES[::7], val_ratio=0.1)
    assert set(few_train) <= set(train) and set(few_val) <= set(val)


def test_order_of_the_sides() -> None:
    train, val = choose(NAMES[::-1], val_ratio=0.1)
    assert [position(path) for path in train] == sorted(position(path) for path in train)
    assert val == sorted(val)


def test_max_images_takes_the_lowest_hashes_and_their_share() -> None:
    train, val = choose(NAMES, val_ratio=0.1)
    some_train, some_val = choose(NAMES, val_ratio=0.1, max_images=90)
    assert some_train == train[:90]
    assert len(some_val) == 10 and max(map(position, some_val)) < min(map(position, set(val) - set(some_val)))
    again = choose([*some_train, *some_val], val_ratio=0.1, max_images=90)
    assert again == (some_train, some_val), "a folder made from these gives these again"


def test_a_folder_split_already_stays_split() -> None:
    held = [Path(f"/v/{i}.jpg") for i in range(5)]
    train, val = choose(NAMES[:50], val_ratio=0.1, held_out=held)
    assert len(train) == 50 and val == held
