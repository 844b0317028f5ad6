"""Pictures on the page: lossless, once each, and no more than fit."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from codecswap.data.transforms import validation_crop
from codecswap.report.measurements import Measurements
from codecswap.report.pictures import PictureStore, make_gallery, plan, to_pixels
from codecswap.report.run import read_runs


def decode(uri: str) -> np.ndarray:
    head, body = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB"))


def noise(seed: int) -> Tensor:
    return torch.randint(0, 256, (3, 20, 30), generator=torch.Generator().manual_seed(seed)) / 255


def test_pictures_are_lossless_and_equal_ones_are_stored_once() -> None:
    store = PictureStore()
    assert [store.add(noise(seed)) for seed in (0, 1, 0)] == [0, 1, 0]
    for seed, uri in enumerate(store.uris):
        np.testing.assert_array_equal(decode(uri), to_pixels(noise(seed)))
    assert store.size == sum(map(len, store.uris))


def test_the_viewer_has_every_picture_of_every_time(runs: tuple[Path, Path], hostile: Path) -> None:
    read = read_runs([str(folder) for folder in runs])
    measurements = Measurements(0)
    shown = make_gallery(read, measurements, [], {})
    assert len(shown.pictures) == 3 and not shown.notes and not measurements.notes
    for index, picture in enumerate(shown.pictures):
        path = next(path for path in (hostile / "val").rglob("*.png") if path.name == picture["name"])
        np.testing.assert_array_equal(decode(shown.uris[picture["original"]]), to_pixels(validation_crop(path)))
        assert [frame["tag"] for frame in picture["frames"]] == ["pre_e000", "e000", "e001", "pre_e000", "e000"]
        assert [frame["run"] for frame in picture["frames"]] == [0, 0, 0, 1, 1]
        for frame, folder in zip(picture["frames"], ["recon"] * 3 + ["recon_ft"] * 2, strict=True):
            saved = np.array(Image.open(runs[frame["run"]] / folder / frame["tag"] / f"{index:05d}.png"))
            np.testing.assert_array_equal(decode(shown.uris[frame["picture"]]), saved)
            error = np.square(saved.astype(float) - decode(shown.uris[picture["original"]])).mean()
            assert frame["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.006)
        assert picture["teacher_psnr"] > picture["frames"][-1]["psnr"]


def test_originals_must_be_the_ones(runs: tuple[Path, Path], hostile: Path) -> None:
    read = read_runs([str(folder) for folder in runs])
    shown = read[0].record["shown"]
    path = Path(shown[0]["path"])
    kept = path.read_bytes()
    try:
        Image.open(path).rotate(180).save(path)
        measurements = Measurements(0)
        pictures = measurements.references(read[0])
        assert pictures[0].original is None and pictures[0].teacher is None and pictures[1].teacher is not None
        assert [note.key for note in measurements.notes] == ["note_picture_changed"] and str(
            path
        ) in measurements.notes[0].to("en")
        path.unlink()
        measurements = Measurements(0)
        assert measurements.references(read[0])[0].original is None
        assert [note.key for note in measurements.notes] == ["note_picture_gone"]
        alone = make_gallery(read, measurements, [], {}).pictures[0]
        assert alone["original"] is None and alone["frames"][0]["picture"] is not None, (
            "the reconstruction is still shown"
        )
    finally:
        path.write_bytes(kept)


def test_damaged_reconstructions_are_left_out_and_said(copy: tuple[Path, Path]) -> None:
    (copy[0] / "recon" / "e000" / "00001.png").write_bytes(b"\x89PNG")
    shown = make_gallery(read_runs([str(copy[0])]), Measurements(0), [], {})
    assert [len(picture["frames"]) for picture in shown.pictures] == [3, 2, 3]
    assert [(note.key, note.values) for note in shown.notes] == [("note_unreadable_frames", {"count": 1})]


def test_fewer_pictures_then_fewer_tags() -> None:
    assert plan(16, 8, 100, 16 * 10 * 100) == (16, 8)
    assert plan(16, 8, 100, 16 * 10 * 100 - 1) == (15, 8)
    assert plan(16, 8, 100, 4 * 10 * 100) == (4, 8)
    assert plan(16, 8, 100, 4 * 10 * 100 - 1) == (4, 7), "a time is given up before the last pictures"
    assert plan(16, 8, 100, 2 * 5 * 100) == (2, 3)
    assert plan(2, 1, 100, 600) == (2, 1) and plan(2, 1, 100, 599) == (1, 1) and plan(2, 1, 100, 10) == (0, 1)


@pytest.mark.parametrize("share", [0.85, 0.4, 0.2, 0.0])
def test_a_page_stays_under_its_limit_and_says_what_it_left_out(runs: tuple[Path, Path], share: float) -> None:
    read, measurements, encoded = read_runs([str(folder) for folder in runs]), Measurements(0), {}
    everything = make_gallery(read, measurements, [], encoded)
    limit = int(share * sum(map(len, everything.uris)))
    shown = make_gallery(read, measurements, [], encoded, limit)
    assert sum(map(len, shown.uris)) <= limit
    assert {note.key for note in shown.notes} <= {"note_fewer_pictures", "note_fewer_tags"} and shown.notes
    for picture in shown.pictures:
        tags = [(frame["run"], frame["tag"]) for frame in picture["frames"]]
        assert tags[0] == (0, "pre_e000") and tags[-1] == (1, "e000"), "the beginning and the end are kept"
