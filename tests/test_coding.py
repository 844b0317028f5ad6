"""Encoding and decoding: the promise, any size, whole folders, bad files, and no PyTorch where none is needed."""

import contextlib
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai import models
from PIL import Image

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.coding import files as coding_files
from codecswap.data.pictures import load_picture, pad, to_array
from codecswap.entropy import bitstream
from codecswap.inference.runtime import OnnxCodec
from codecswap.students.checkpoint import read_student
from codecswap.swaps.apply import swap


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert cli.main(["export", "--teacher", "tiny", "--output", str(folder), "--images", str(pictures)]) == 0
    return folder


@pytest.fixture
def picture(pictures: Path) -> Image.Image:
    return load_picture(sorted((pictures / "val").iterdir())[0]).crop((0, 0, 200, 150))


def run(command: str, codec: Path | str, source: Path, target: Path, *more: str) -> int:
    return cli.main([command, "--codec", str(codec), "--input", str(source), "--output", str(target), *more])


def test_strings_are_compressais_and_every_student_reads_them(teacher: FactorizedPrior, picture: Image.Image) -> None:
    data = bitstream.encode(TorchCodec(teacher), picture)
    padded = torch.from_numpy(pad(to_array(picture), teacher.factor))[None]
    assert padded.shape == (1, 3, 160, 208)
    assert data[34:-4] == models.FactorizedPrior.compress(teacher, padded)["strings"][0][0]
    latents = teacher.entropy_bottleneck.decompress([data[34:-4]], (10, 13))[0].numpy()
    reference = bitstream.decode(TorchCodec(teacher), data)
    assert reference.size == picture.size
    for replacement in ("upsample", "masked", "subpixel"):
        student = TorchCodec(swap(teacher, replacement)[0])
        symbols, size = bitstream.unpack(data, student.tables, student.factor)
        assert size == (150, 200)
        assert student.tables.to_latents(symbols).tobytes() == latents.tobytes()
        decoded = bitstream.decode(student, data)
        if replacement != "upsample":
            assert np.abs(np.asarray(decoded, int) - np.asarray(reference, int)).max() <= 1


def test_a_fine_tuned_student_reads_the_teachers_files(
    teacher, picture: Image.Image, pictures: Path, tmp_path: Path
) -> None:
    common = ["--coco_dir", str(pictures), "--batch_size", "4", "--num_workers", "0", "--recon_every", "0"]
    begin = [*common, "--teacher", "tiny", "--epochs", "0", "--init", "weights", "--save_dir", str(tmp_path / "d")]
    assert cli.main(["distill", *begin]) == 0
    tune = [
        *common,
        "--resume_student",
        str(tmp_path / "d" / "last.pt"),
        "--epochs",
        "1",
        "--save_dir",
        str(tmp_path / "f"),
    ]
    assert cli.main(["finetune", *tune]) == 0
    data = bitstream.encode(TorchCodec(teacher), picture)
    student = TorchCodec(read_student(tmp_path / "f" / "ft_last.pt").student)
    symbols, _ = bitstream.unpack(data, student.tables, student.factor)
    wanted, _ = bitstream.unpack(data, TorchCodec(teacher).tables, teacher.factor)
    assert student.tables.to_latents(symbols).tobytes() == TorchCodec(teacher).tables.to_latents(wanted).tobytes()
    assert bitstream.decode(student, data).size == picture.size


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33), (100, 15)])
def test_any_size_comes_back_at_its_size(exported: Path, picture: Image.Image, size: tuple[int, int]) -> None:
    codec = OnnxCodec(exported, threads=1)
    small = picture.resize(size)
    assert bitstream.decode(codec, bitstream.encode(codec, small)).size == size


def test_the_command_line_goes_from_picture_to_picture(exported: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    for codec in ("tiny", exported):
        assert run("encode", codec, tmp_path / "a.png", tmp_path / "a.csw") == 0
        for other in ("tiny", exported):
            assert run("decode", other, tmp_path / "a.csw", tmp_path / "b.png") == 0
            with Image.open(tmp_path / "b.png") as decoded:
                error = np.asarray(decoded, float) - np.asarray(picture, float)
            assert 10 * np.log10(255**2 / np.square(error).mean()) > 25


def test_a_student_checkpoint_is_a_codec_too(picture: Image.Image, tmp_path: Path) -> None:
    student = swap(load_codec("tiny"), "subpixel")[0]
    torch.save({"student_state": student.state_dict()}, tmp_path / "student.pt")
    picture.save(tmp_path / "a.webp", lossless=True)
    assert run("encode", "tiny", tmp_path / "a.webp", tmp_path / "a.csw") == 0
    files = [str(tmp_path / "a.csw"), "-o", str(tmp_path / "a.png")]
    assert cli.main(["decode", "--codec", str(tmp_path / "student.pt"), *files]) == 0


def test_folders_are_done_whole_and_bad_files_named(
    exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("encode", exported, pictures, tmp_path / "coded", "--jobs", "2") == 0
    coded = sorted((tmp_path / "coded").rglob("*.csw"))
    assert len(coded) == 10
    assert {path.parent.name for path in coded} == {"train", "val"}
    coded[3].write_bytes(coded[3].read_bytes()[:-9])
    capsys.readouterr()
    assert run("decode", exported, tmp_path / "coded", tmp_path / "out") == 2
    assert len(list((tmp_path / "out").rglob("*.png"))) == 9
    error = capsys.readouterr().err
    assert f"{coded[3]} is truncated" in error and "1 of 10 files" in error
    (pictures / "val").joinpath("x.png").write_bytes(b"")
    (pictures / "val").joinpath("x.jpg").write_bytes(b"")
    assert run("encode", exported, pictures / "val", tmp_path / "coded") == 2
    assert "would both become" in capsys.readouterr().err
    for ending in ("png", "jpg"):
        (pictures / "val" / f"x.{ending}").unlink()


def test_several_inputs_and_an_existing_folder(exported: Path, picture: Image.Image, tmp_path: Path) -> None:
    for name in ("a.png", "b.jfif", "more/c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name, "JPEG" if name.endswith("jfif") else None)
    out, codec = tmp_path / "out", ["--codec", str(exported)]
    files = [str(tmp_path / name) for name in ("a.png", "b.jfif", "more")]
    assert cli.main(["encode", *codec, *files, "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"a.csw", "b.csw", "c.csw"}
    assert cli.main(["encode", *codec, files[0], "-o", str(tmp_path / "more")]) == 0
    assert (tmp_path / "more" / "a.csw").read_bytes() == (out / "a.csw").read_bytes()
    assert cli.main(["encode", *codec, *files, "-o", str(tmp_path / "x.csw")]) == 2
    assert cli.main(["encode", *codec, *files, "-o", files[0]]) == 2


def test_a_folder_of_coded_files_is_found_as_pictures_are(exported: Path, picture, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    folder, there = tmp_path / "coded", tmp_path / "there"
    assert run("encode", exported, tmp_path / "a.png", folder / "A.CSW") == 0
    assert run("encode", exported, tmp_path / "a.png", there / "b.csw") == 0
    (folder / "linked").symlink_to(there)
    (folder / "._a.csw").write_bytes(b"junk of another system")
    assert run("decode", exported, folder, tmp_path / "out") == 0
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")} == {
        "A.png",
        "linked/b.png",
    }


def test_nothing_is_overwritten_that_was_not_written_here(
    exported: Path, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture.save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert run("encode", exported, tmp_path / "a.png", tmp_path / "a.png") == 2
    assert run("encode", exported, tmp_path / "a.png", tmp_path / "a.csw") == 0
    assert run("encode", exported, tmp_path / "a.png", tmp_path / "a.csw") == 0
    capsys.readouterr()
    assert run("decode", exported, tmp_path / "a.csw", tmp_path / "a.png") == 2
    assert "was not written by codecswap" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before
    for more in ([], [], ["--force"]):
        assert run("decode", exported, tmp_path / "a.csw", tmp_path / ("a.png" if more else "b.png"), *more) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() != before


def test_what_is_wrong_with_one_file_costs_that_file(exported: Path, picture: Image.Image, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "x" * 251):
        picture.save(folder / f"{name}.jpe", "JPEG")
    (tmp_path / "coded" / f"{'x' * 251}.csw").mkdir(parents=True)
    assert run("encode", exported, folder, tmp_path / "coded") == 2
    assert (tmp_path / "coded" / "a.csw").is_file()
    assert run("encode", tmp_path / "no codec", folder, tmp_path / "unwritten" / "deep") == 2
    assert not (tmp_path / "unwritten").exists(), "a failed command leaves no folder"


def test_a_part_of_an_exported_folder_is_told(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with zipfile.ZipFile(tmp_path / "codec.zip", "w") as archive:
        archive.write(exported / "codec.json", "codec/codec.json")
    (tmp_path / "a.csw").write_bytes(b"")
    for codec, words in (
        (exported / "codec.json", f"name its folder, {exported}"),
        (tmp_path / "codec.zip", "unpack it"),
    ):
        assert run("decode", codec, tmp_path / "a.csw", tmp_path / "a.png") == 2
        assert words in capsys.readouterr().err


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def test_bad_files_are_one_sentence_and_no_picture(
    exported: Path, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    codec = OnnxCodec(exported, threads=1)
    good = bitstream.encode(codec, picture)
    header, body = bytearray(good[:34]), good[34:-4]
    huge, empty = header.copy(), header.copy()
    huge[6:14] = struct.pack("<II", 1 << 30, 1 << 30)
    empty[6:14] = struct.pack("<II", 0, 5)
    large, foreign = header.copy(), header.copy()
    large[6:14] = struct.pack("<II", 8192, 8192)
    foreign[14] ^= 1
    bad = {
        "altered": good[:60] + bytes([good[60] ^ 1]) + good[61:],
        "truncated": good[:-5],
        "of the format": good[:4] + b"\x09" + good[5:],
        "not a picture that codecswap encoded": b"\x89PNG\r\n\x1a\n" + bytes(50),
        "an empty file": b"",
        "another codec": sealed(bytes(foreign) + body),
        "more than": sealed(bytes(huge) + body),
        "or none": sealed(bytes(empty) + body),
        "too short for": sealed(bytes(large) + body),
        "contradicts itself": sealed(bytes(header) + body + b"1234"),
    }
    for words, data in bad.items():
        (tmp_path / "bad.csw").write_bytes(data)
        assert run("decode", exported, tmp_path / "bad.csw", tmp_path / "bad.png") == 2
        error = capsys.readouterr().err.strip()
        assert words in error and "\n" not in error, words
    assert {path.name for path in tmp_path.iterdir()} == {"bad.csw"}
    rng = np.random.default_rng(0)
    for _ in range(200):  # damage that a checksum happens to fit
        content = bytearray(good[:-4])
        content[rng.integers(len(content))] = rng.integers(256)
        with contextlib.suppress(bitstream.BadFile):
            bitstream.unpack(sealed(bytes(content)), codec.tables, codec.factor)


def test_a_mixed_up_folder_is_refused(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("entropy.json", "entropy.bin", "decoder.onnx", "codec.json"):
        folder = tmp_path / name
        folder.mkdir()
        for path in exported.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"0", b"1", 1) if name != "codec.json" else content[:-20])
        (tmp_path / "x.csw").write_bytes(
            bitstream.pack(np.zeros((80, 1, 1), np.int32), (9, 9), OnnxCodec(exported).tables)
        )
        assert run("decode", folder, tmp_path / "x.csw", tmp_path / "x.png") == 2
        assert "export the codec again" in capsys.readouterr().err
    assert run("decode", tmp_path, tmp_path / "x.csw", tmp_path / "x.png") == 2
    assert "no exported codec" in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "compressai", "onnx", "lightning", "safetensors", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from codecswap import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_an_exported_folder_needs_no_pytorch(exported: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")

    def bare(command: str, codec: Path | str, source: str, target: str) -> subprocess.CompletedProcess:
        files = ["--input", str(tmp_path / source), "--output", str(tmp_path / target)]
        arguments = [sys.executable, "-c", WITHOUT_TORCH, command, "--codec", str(codec), *files]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60)

    assert bare("encode", exported, "a.png", "a.csw").returncode == 0
    assert bare("decode", exported, "a.csw", "b.png").returncode == 0
    assert bitstream.unpack((tmp_path / "a.csw").read_bytes(), load_codec("tiny").entropy_tables(), 16)[1] == (150, 200)
    refused = bare("decode", "tiny", "a.csw", "c.png")
    assert refused.returncode == 2
    assert "pip install" in refused.stderr and "Traceback" not in refused.stderr


def test_names_that_differ_in_case_only_do_not_overwrite_each_other(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.png", "A.jpg"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    for ignores in (True, False):
        monkeypatch.setattr(coding_files, "ignores_case", lambda folder, ignores=ignores: ignores)
        assert run("encode", exported, tmp_path, tmp_path / "out") == (2 if ignores else 0)
        assert (tmp_path / "out").exists() != ignores
    assert "names that differ only in case are one file in" in capsys.readouterr().err
