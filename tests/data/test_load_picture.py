"""What pictures come in: modes, ranges, metadata and shapes."""

import os
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from codecswap.data.pictures import load_picture, picture_size
from codecswap.data.samples import sample_pictures
from codecswap.data.transforms import training_crop, validation_crop

RAMP = np.linspace(0, 1, 256 * 16).reshape(16, 256)
COLORS = (np.random.default_rng(0).integers(0, 256, (12, 20, 3))).astype(np.uint8)
PHOTOMETRIC, BITS, STRIPS = 262, 258, 273


def levels(path: Path) -> np.ndarray:
    pixels = np.asarray(load_picture(path)).astype(int)
    assert (pixels == pixels[..., :1]).all(), "gray stays gray"
    return pixels[..., 0]


def of(values: np.ndarray, kind: type) -> Image.Image:
    return Image.fromarray(values.astype(kind))


@pytest.mark.parametrize(
    ("name", "picture", "off"),
    [
        ("l.png", of(RAMP * 255 + 0.5, np.uint8), 1),
        ("deep.png", of(RAMP * 65535 + 0.5, np.uint16), 1),
        ("deep.tif", of(RAMP * 65535 + 0.5, np.uint16), 1),
        ("float.tif", of(RAMP, np.float32), 1),
        ("la.tif", of(RAMP * 255 + 0.5, np.uint8).convert("LA"), 1),
        ("la.png", of(RAMP * 255 + 0.5, np.uint8).convert("LA"), 1),
        ("p.png", of(RAMP * 255 + 0.5, np.uint8).convert("P"), 1),
        ("cmyk.tif", of(RAMP * 255 + 0.5, np.uint8).convert("CMYK"), 1),
        ("ycbcr.tif", of(RAMP * 255 + 0.5, np.uint8).convert("RGB").convert("YCbCr"), 2),
    ],
)
def test_gray_levels_are_kept(tmp_path: Path, name: str, picture: Image.Image, off: int) -> None:
    picture.save(tmp_path / name)
    assert abs(levels(tmp_path / name) - RAMP * 255).max() <= off


def test_white_is_zero_and_twelve_bits_in_tiff(tmp_path: Path) -> None:
    for kind, white in ((np.uint16, 65535), (np.float32, 1)):
        of(RAMP * white, kind).save(tmp_path / "a.tif", tiffinfo={PHOTOMETRIC: 0})
        assert abs(levels(tmp_path / "a.tif") - (1 - RAMP) * 255).max() <= 1
    values = np.rint(RAMP * 4095).astype(np.uint16).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], -1)
    of(np.zeros(RAMP.shape), np.uint16).save(tmp_path / "b.tif", strip_size=1 << 20)
    with Image.open(tmp_path / "b.tif") as file:
        start = file.tag_v2[STRIPS][0]  # type: ignore[attr-defined]
    content = bytearray((tmp_path / "b.tif").read_bytes())
    content[start : start + packed.size] = packed.astype(np.uint8).tobytes()
    entry = content.index(BITS.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00\x10\x00")
    content[entry + 8] = 12
    (tmp_path / "b.tif").write_bytes(content)
    assert abs(levels(tmp_path / "b.tif") - RAMP * 255).max() <= 1


def test_colors_of_every_mode(tmp_path: Path) -> None:
    picture = Image.fromarray(COLORS)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    assert abs(np.asarray(load_picture(tmp_path / "lab.tif")).astype(int) - COLORS).mean() < 4
    for mode, name in (("RGBX", "x.tif"), ("RGBA", "a.webp"), ("RGBA", "a.png"), ("CMYK", "k.jpg")):
        picture.convert(mode).save(
            tmp_path / name, **({"lossless": True} if name.endswith("webp") else {"quality": 100})
        )
        assert abs(np.asarray(load_picture(tmp_path / name)).astype(int) - COLORS).mean() < 40, mode


@pytest.mark.parametrize(
    "values", [RAMP * 255, RAMP - 1, np.where(RAMP > 0.5, np.nan, RAMP)], ids=["above", "below", "nan"]
)
def test_floats_without_a_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    of(values, np.float32).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="floats are not in"):
        load_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("white", [255, 70_000, 2**31 - 1])
def test_integers_without_a_range_are_refused(tmp_path: Path, white: int) -> None:
    of(RAMP * white, np.int32).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="what white is"):
        load_picture(tmp_path / "a.tif")


def test_a_png_with_much_metadata_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(1 << 21)
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "n" * (1 << 22), zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x>" + "m" * (1 << 22) + "</x>", zip=True)
    Image.fromarray(COLORS).save(tmp_path / "a.png", icc_profile=noise + bytes(1 << 22), pnginfo=text)
    assert (np.asarray(load_picture(tmp_path / "a.png")) == COLORS).all()
    assert picture_size(tmp_path / "a.png") == (20, 12)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40))])
def test_damaged_exif_neither_refuses_nor_warns(tmp_path: Path, exif: bytes) -> None:
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.fromarray(COLORS).save(tmp_path / name, exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load_picture(tmp_path / name).size == picture_size(tmp_path / name) == (20, 12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_every_orientation_is_put_upright(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    dark = np.full((16, 32, 3), 255, np.uint8)
    dark[:8, :16] = 0
    corners = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
    Image.fromarray(dark).save(tmp_path / name, exif=exif)
    picture = load_picture(tmp_path / name)
    assert picture.size == ((16, 32) if orientation >= 5 else (32, 16))
    if name != "a.png":
        assert picture_size(tmp_path / name) == picture.size
    pixels = np.asarray(picture.convert("L"))
    means = [[half.mean() for half in np.array_split(part, 2, 1)] for part in np.array_split(pixels, 2)]
    assert np.unravel_index(np.argmin(means), (2, 2)) == corners[orientation]


@pytest.mark.parametrize("size", [(40_000, 1), (1, 40_000), (1, 1), (3000, 2)])
def test_any_shape_costs_memory_by_its_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "line.png"
    Image.new("RGB", size, (10, 20, 30)).save(path)
    tracemalloc.start()
    for crop in (training_crop(path, seed=0, epoch=0), validation_crop(path)):
        assert crop.shape == (3, 224, 224) and abs(crop[2] * 255 - 30).max() < 1e-3
    assert next(sample_pictures(str(tmp_path), "--calibration_images", "train", (384, 256))).shape == (3, 256, 384)
    assert tracemalloc.get_traced_memory()[1] < 50e6, "Python and NumPy"
    tracemalloc.stop()


def test_usual_shapes_are_scaled_before_they_are_cropped(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 1100, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    whole = load_picture(tmp_path / "a.png").resize((938, 256), Image.Resampling.BILINEAR)
    left, top = round((938 - 224) / 2), 16
    expected = np.asarray(whole.crop((left, top, left + 224, top + 224)))
    assert (np.rint(validation_crop(tmp_path / "a.png").numpy().transpose(1, 2, 0) * 255) == expected).all()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    for read in (load_picture, picture_size):
        with pytest.raises(ValueError, match="no file"):
            read(tmp_path / "a.png")
