"""Exported and quantized folders in `codecswap eval`, beside teachers and alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codecswap.cli import run
from codecswap.codecs.source import load_codec
from codecswap.data.pictures import load_picture, picture_size, to_array
from codecswap.entropy import bitstream
from codecswap.evaluation import command
from codecswap.export.codec import quantize
from codecswap.export.folder import write_float
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import swap


def evaluate(folder: Path, *words: object) -> int:
    always = ["--images", str(folder), "--num_workers", "0", "--accelerator", "cpu", "--anchors", "none"]
    return run("eval", [*always, *map(str, words)])


def codecs_of(folder: Path) -> dict[str, dict]:
    """The codecs of a summary by name, in their order."""
    return {codec["name"]: codec for codec in json.loads((folder / "summary.json").read_text("utf-8"))["codecs"]}


def export(folder: Path, teacher: str = "tiny", rough: float = 0, **options: object) -> Path:
    codec, _ = swap(load_codec(teacher), "subpixel")
    with torch.no_grad():
        torch.manual_seed(0)
        last = list(codec.g_s.parameters())[-2]
        last *= 1 + rough * torch.randn_like(last)
    write_float(codec.requires_grad_(False), folder, name=teacher, **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded codec, exported with both halves."""
    return export(tmp_path_factory.mktemp("exported") / "codec")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Its decoder in INT8, calibrated on one small picture."""
    folder = tmp_path_factory.mktemp("exported") / "int8"
    sample = to_array(load_picture(photos[0]).crop((100, 100, 260, 260)))
    codec, _ = swap(load_codec("tiny"), "subpixel")
    quantize(codec.requires_grad_(False), folder, calibration_images=[sample], name="tiny")
    return folder


def psnr(x: Image.Image, y: Image.Image) -> float:
    return float(-10 * np.log10(np.square(to_array(x).astype(float) - to_array(y)).mean()))


def test_folders_stand_beside_the_teacher(folder: Path, tmp_path: Path, both: Path, int8: Path, capsys) -> None:
    words = ["--teacher", "tiny", "--codec", both, "--codec", int8, "--output", tmp_path]
    assert evaluate(folder, *words) == 0
    said = capsys.readouterr().out
    assert "Teacher and exported codecs against the picture: tiny, 2 pictures" in said
    assert "int8 has no encoder: it decodes what teacher encodes" in said and "codec has no encoder" not in said
    found = codecs_of(tmp_path)
    teacher, mine, quantized = (found[name]["mean"] for name in ("teacher", "codec", "int8"))
    assert [codec["kind"] for codec in found.values()] == ["teacher", "exported", "exported"]
    assert mine["psnr"] == pytest.approx(teacher["psnr"], abs=0.002) and mine["psnr_to_teacher"] > 75
    assert mine["bpp"] == pytest.approx(teacher["bpp"], rel=1e-3) and quantized["bpp"] == teacher["bpp"]
    assert 35 < quantized["psnr_to_teacher"] < 60 and quantized["psnr"] < teacher["psnr"]
    facts = {key: found["int8"][key] for key in ("folder", "precision", "replacement", "encoder")}
    precision = OnnxCodec(int8).manifest.precision
    assert facts == {"folder": str(int8), "precision": precision, "replacement": "subpixel", "encoder": "teacher"}
    rows = (tmp_path / "pictures.csv").read_text("utf-8")
    assert rows.count("\nint8,exported,") == rows.count("\ncodec,exported,") == 2
    assert all(0 < mean[f"{way}_time"] < 60 for mean in (mine, quantized) for way in ("encoding", "decoding"))


def test_an_encoder_alone_is_judged_with_the_teachers_decoder(folder: Path, tmp_path: Path, both: Path, capsys) -> None:
    alone = export(tmp_path / "encoder", part="encoder")
    assert evaluate(folder, "--teacher", "tiny", "--codec", alone, "--codec", both, "--output", tmp_path / "out") == 0
    assert "encoder has no decoder: teacher decodes its files" in capsys.readouterr().out
    found = codecs_of(tmp_path / "out")
    mine, whole = found["encoder"]["mean"], found["codec"]["mean"]
    assert mine["bpp"] == whole["bpp"] and mine["psnr"] == pytest.approx(whole["psnr"], abs=0.01)
    assert (found["encoder"]["encoder"], found["encoder"]["decoder"]) == ("encoder", "teacher")
    assert evaluate(folder, "--codec", both, "--codec", alone, "--output", tmp_path / "alone") == 0
    assert codecs_of(tmp_path / "alone")["encoder"]["decoder"] == "codec"


def test_figures_are_of_the_files_that_encode_writes(folder: Path, tmp_path: Path, both: Path, int8: Path) -> None:
    assert evaluate(folder, "--codec", both, "--codec", int8, "--output", tmp_path) == 0
    found, pictures = codecs_of(tmp_path), [load_picture(path) for path in sorted(folder.rglob("*.png"))]
    assert list(found) == ["codec", "int8"], "no teacher from the zoo, which would be a download"
    assert "psnr_to_teacher" not in found["int8"]["mean"] and found["int8"]["encoder"] == "codec"
    files = [bitstream.encode(OnnxCodec(both), picture) for picture in pictures]
    bits = [8 * (len(file) - bitstream.OVERHEAD) / (200 * 180) for file in files]
    for name, path in (("codec", both), ("int8", int8)):
        decoded = [bitstream.decode(OnnxCodec(path), file) for file in files]
        wanted = [psnr(x, y) for x, y in zip(decoded, pictures, strict=True)]
        assert found[name]["mean"]["psnr"] == pytest.approx(sum(wanted) / 2, abs=1e-3)
        assert found[name]["mean"]["bpp"] == pytest.approx(sum(bits) / 2)


def test_folders_of_several_rates_make_curves(folder: Path, tmp_path: Path, local_teachers: list[Path], capsys) -> None:
    words: list[object] = []
    for teacher in local_teachers:
        words += [
            "--teacher",
            teacher,
            "--codec",
            export(tmp_path / teacher.stem / "half", str(teacher), part="decoder"),
        ]
        words += ["--codec", export(tmp_path / teacher.stem / "rough", str(teacher), rough=0.05)]
    assert evaluate(folder, *words, "--output", tmp_path / "out") == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert set(summary["curves"]) == {"teacher", "subpixel, float32", "subpixel, float32 (2)"}
    same, rough = (
        {entry["curve"]: entry for entry in summary["bjontegaard"]}[name] for name in list(summary["curves"])[1:]
    )
    assert same["against"] == rough["against"] == "teacher"
    assert same["bd_rate"]["value"] == pytest.approx(0, abs=0.05) and rough["bd_rate"]["value"] > 0.2
    assert [codec["encoder"] for codec in summary["codecs"] if codec["name"].endswith("half")] == [
        f"teacher q{number}.pth" for number in range(1, 5)
    ]
    floats = [word for word in words if str(word).endswith("rough")]
    exact = [export(tmp_path / teacher.stem / "exact", str(teacher)) for teacher in local_teachers]
    capsys.readouterr()
    assert evaluate(folder, *(word for path in [*exact, *floats] for word in ("--codec", path))) == 0
    assert "subpixel, float32 (2) against subpixel, float32: BD-rate +" in capsys.readouterr().out


def test_a_fixed_size_is_measured_in_tiles(folder: Path, tmp_path: Path, int8: Path) -> None:
    fixed = export(tmp_path / "fixed", size=(112, 96))
    assert evaluate(folder, "--teacher", "tiny", "--codec", fixed, "--output", tmp_path / "out") == 0
    mean = codecs_of(tmp_path / "out")["fixed"]["mean"]
    assert mean["psnr_to_teacher"] > 75, "tiles equal the whole picture"


def test_a_folder_named_as_a_teacher_is_told_from_it(folder: Path, tmp_path: Path, both: Path) -> None:
    (tmp_path / "teacher").symlink_to(both)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "codec").symlink_to(both)
    words = ["--codec", tmp_path / "teacher", "--codec", both, "--codec", f"{both}/", "--teacher", "tiny"]
    assert evaluate(folder, *words, "--output", tmp_path / "out") == 0
    assert list(codecs_of(tmp_path / "out")) == ["teacher", "teacher (folder)", "codec"]
    words = ["--codec", tmp_path / "more" / "codec", "--codec", both, "--output", tmp_path / "out"]
    assert evaluate(folder, *words) == 0
    assert list(codecs_of(tmp_path / "out")) == ["more/codec", f"{both.parent.name}/codec"]


@pytest.mark.parametrize(
    ("make", "words", "sentence"),
    [
        (lambda path: path.mkdir() or path, [], "is no exported codec (it has no codec.json)"),
        (lambda path: export(path, part="encoder"), [], "holds no decoder: name its teacher with --teacher"),
        (lambda path: export(path, part="decoder"), [], "holds no encoder: name its teacher with --teacher"),
        (lambda path: export(path, size=(208, 208)), [], "fixed at 208x208 pixels and takes no smaller picture"),
        (lambda path: export(path, size=(64, 64)), [], "too small for tiles of a larger picture"),
    ],
)
def test_folders_that_cannot_be_measured_are_refused_in_one_sentence(
    make: Callable[[Path], Path],
    words: list[str],
    sentence: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.setattr(command, "measure_all", lambda *_, **__: pytest.fail("pictures were measured"))
    assert evaluate(folder, "--codec", make(tmp_path / "mine"), *words, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and str(tmp_path / "mine") in said
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_decoder_of_other_tables_is_refused(folder: Path, local_teachers: list[Path], int8: Path, capsys) -> None:
    assert evaluate(folder, "--teacher", local_teachers[0], "--codec", int8) == 2
    said = capsys.readouterr().err
    assert f"{int8} holds no encoder, and its entropy tables" in said and "are not those of teacher (" in said
    assert said.count("\n") == 1


def test_a_codec_that_fails_on_a_picture_is_told_with_it(folder: Path, both: Path, monkeypatch, capsys) -> None:
    def overflow(self: OnnxCodec, symbols: np.ndarray, *_: object) -> np.ndarray:
        return np.full((3, 16 * symbols.shape[1], 16 * symbols.shape[2]), np.nan, np.float32)

    monkeypatch.setattr(OnnxCodec, "synthesize", overflow)
    assert evaluate(folder, "--codec", both) == 2
    said = capsys.readouterr().err
    assert "codec cannot code a.png: decodes to values that are no picture's" in said and said.count("\n") == 1


def test_headers_give_upright_sizes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.webp", "a.png"):
        Image.new("RGB", (40, 20)).save(tmp_path / name, exif=exif)
        if name != "a.png":
            assert picture_size(tmp_path / name) == load_picture(tmp_path / name).size == (20, 40)


def test_the_encoder_runs_once_for_all_that_take_it(folder: Path, both: Path, int8: Path, monkeypatch) -> None:
    encoded: list[object] = []
    analyze = OnnxCodec.analyze
    monkeypatch.setattr(OnnxCodec, "analyze", lambda self, x: encoded.append(self.folder) or analyze(self, x))
    assert evaluate(folder, "--codec", both, "--codec", int8) == 0
    assert encoded == [both] * 3, "two pictures, and the first to warm up"
