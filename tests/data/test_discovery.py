"""The split by names."""

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from codecswap.data.discovery import choose, find_pictures, list_pictures, position, scan
from codecswap.errors import UserError

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


def make(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in scan(root)}


def test_a_composed_name_and_a_decomposed_one_fall_on_the_same_side(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "\u00e9t\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart and position(f"{composed}.jpg") == position(f"{apart}.jpg")
    names = [*(f"{i}.jpg" for i in range(9)), "%s.jpg"]
    identities = []
    for kind in (composed, apart):
        make(tmp_path / kind, *(name % kind if "%" in name else name for name in names))
        pictures = find_pictures(tmp_path / kind, val_ratio=0.3)
        identities.append(pictures.identity(tmp_path / kind)["sha256"])
    assert identities[0] == identities[1]


def test_every_ending_in_any_case_is_found_and_hidden_files_are_not(tmp_path: Path) -> None:
    make(tmp_path, "a.JPG", "b.jfif", "c.jpe", "s/d.dib", ".e.jpg", "s/._d.dib", ".git/f.png")
    assert found(tmp_path) == {"a.JPG", "b.jfif", "c.jpe", "s/d.dib"}


def test_links_are_followed_once_and_loops_end(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path, "there/x.png", "here/a.png", "here/sub/b.png")
    here = tmp_path / "here"
    (here / "linked").symlink_to(tmp_path / "there")
    (here / "sub" / "up").symlink_to(here)
    (here / "link.png").symlink_to(tmp_path / "there" / "x.png")
    assert found(here) == {"a.png", "link.png", "linked/x.png", "sub/b.png"}
    assert "up (a folder read already)" in capsys.readouterr().err


def test_whatever_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path, "a.png", "notes.txt", "more.csv")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert found(tmp_path) == {"a.png"}
    said = capsys.readouterr().err
    assert "more.csv and 1 more (another ending)" in said and said.count("\n") == 1
    assert "gone.png and 1 more (a link that leads nowhere)" in said
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"gone\.png and 1 more"):
        list_pictures(tmp_path, "--images")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything may be read")
def test_a_folder_without_permission_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    try:
        assert found(tmp_path) == {"a.png"}
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert "closed (cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("base", [".", "images", "coco", "coco/images"])
def test_coco_is_found_as_others_lay_it_out(tmp_path: Path, base: str) -> None:
    make(tmp_path, *(f"{base}/{side}2017/{index}.jpg" for side in ("train", "val", "test") for index in range(30)))
    make(tmp_path, "annotations/panoptic_train2017/1.png", "labels/train2017/2.png")
    pictures = find_pictures(tmp_path, val_ratio=0.2)
    assert pictures.layout == "coco" and len(pictures.train) + len(pictures.val) == 30
    assert {path.parent for path in pictures.train + pictures.val} == {tmp_path / base / "train2017"}


@pytest.mark.parametrize("base", [".", "images"])
def test_train_and_val_of_pictures_are_the_two_sides(tmp_path: Path, base: str) -> None:
    make(tmp_path, *(f"{base}/{side}/{index}.jpg" for side in ("train", "val") for index in range(9)))
    pictures = find_pictures(tmp_path)
    assert [{path.parent.name for path in side} for side in (pictures.train, pictures.val)] == [{"train"}, {"val"}]


def test_validation_pictures_and_annotations_are_trained_on_only_when_named(tmp_path: Path, capsys) -> None:
    make(tmp_path, *(f"{side}/{index}.jpg" for side in ("mine", "val2017", "Annotations") for index in range(20)))
    pictures = find_pictures(tmp_path, val_ratio=0.3)
    assert {path.parent.name for path in pictures.train + pictures.val} == {"mine"}
    assert "40 pictures in Annotations, val2017 are not taken" in capsys.readouterr().err
    named = find_pictures(tmp_path / "val2017", val_ratio=0.3)
    assert len(named.train) + len(named.val) == 20
    for path in (tmp_path / "mine").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no pictures but those in Annotations, val2017"):
        find_pictures(tmp_path)
