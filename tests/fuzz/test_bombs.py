"""Each input that once did harm, or would have: small files that ask for much, and what Pillow or PyTorch let pass."""

import io
import json
import struct
import subprocess
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fuzz_seeds import EXPORTED, SPLIT_INPUTS
from fuzz_texts import LAUGHS
from PIL import Image

from codecswap import cli
from codecswap.codecs.source import load_codec
from codecswap.data.pictures import MOST_PIXELS, UNREADABLE, load_picture
from codecswap.data.prepare import crop_folder as prepared
from codecswap.data.prepare.crops import crop_picture
from codecswap.data.prepare.remote import LARGEST, RemoteFile, extents
from codecswap.data.prepare.unpack import open_zip, pictures, unpack
from codecswap.entropy import bitstream
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.export.operators import complaints
from codecswap.inference.runtime import OnnxCodec
from codecswap.students.checkpoint import read_student
from codecswap.targets.target import load_target


@pytest.fixture
def content(seeds: Path) -> dict:
    return torch.load(seeds / "pt" / "upsample", weights_only=True)


# --- pictures ------------------------------------------------------------------------------------------------------------


def test_a_picture_that_is_postscript_starts_no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow tells formats by content, and has Ghostscript draw PostScript."""
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(a))
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UNREADABLE):
        load_picture(path)
    assert not started


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    """A black PNG, written without ever holding it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    kinds = {"RGB": (2, 3 * width), "L": (0, width)}
    row = bytes(1 + kinds[mode][1])
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, kinds[mode][0], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (1 << 20, 100), (100, 1 << 20)])
def test_a_bomb_is_refused_by_its_size_and_a_large_picture_is_not(tmp_path: Path, size: tuple[int, int]) -> None:
    """81 million pixels in 0.3 MB would take 1.6 GB as numbers between 0 and 1."""
    (tmp_path / "x.png").write_bytes(png(*size))
    with pytest.raises(ValueError, match="more than"):
        load_picture(tmp_path / "x.png")
    reason = crop_picture(tmp_path / "x.png", tmp_path / "y.jpg", size=32, format="jpg")
    assert reason and "more than" in reason and not (tmp_path / "y.jpg").exists()
    (tmp_path / "z.png").write_bytes(png(4096, 4096))
    assert load_picture(tmp_path / "z.png").size == (4096, 4096)


def test_a_jpeg_with_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    """Each takes 40 bytes of the file and passes over all pixels: a minute for 0.3 MB."""
    buffer = io.BytesIO()
    Image.new("RGB", (4096, 4096)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    (tmp_path / "x.jpg").write_bytes(data)
    assert load_picture(tmp_path / "x.jpg").size == (4096, 4096)
    scan = data[data.rfind(b"\xff\xc4") : -2]
    (tmp_path / "x.jpg").write_bytes(data[:-2] + 5000 * scan + b"\xff\xd9")
    with pytest.raises(ValueError, match="scanned too many times"):
        load_picture(tmp_path / "x.jpg")


def test_whatever_pillow_raises_is_an_unreadable_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AssertionError over one damaged PNG ended a training run."""

    def fail(self: object) -> None:
        raise AssertionError

    Image.new("RGB", (8, 8)).save(tmp_path / "x.bmp")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UNREADABLE, match="AssertionError"):
        load_picture(tmp_path / "x.bmp")


# --- checkpoints ---------------------------------------------------------------------------------------------------------


def refused(content: object, path: Path, match: str) -> None:
    torch.save(content, path)
    with pytest.raises(UserError, match=match):
        read_student(path)


def test_a_tensor_that_claims_more_than_the_file_holds(content: dict, tmp_path: Path) -> None:
    content["student_state"]["g_a.0.weight"] = torch.zeros(1).expand(100_000, 3, 5, 5)
    refused(content, tmp_path / "x.pt", "not stored in full")
    torch.save(content["student_state"], tmp_path / "x.pth")
    with pytest.raises(UserError, match="not stored in full"):
        load_codec(str(tmp_path / "x.pth"))


def test_channels_and_kernels_are_those_of_the_weights(content: dict, tmp_path: Path) -> None:
    """A codec of 20,000 channels would take 70 GB, a kernel of 10,001 more."""
    path, record, state = tmp_path / "x.pt", content["codec"], content["student_state"]
    for key, value in (("N", 20_000), ("M", 1 << 40), ("N", "8"), ("kernel_size", 10_001), ("replacement", "x")):
        refused(content | {"codec": record | {key: value}}, path, "another architecture")
    for shape in ((20_000, 3, 5, 5), (8, 3, 5), (0, 3, 5, 5), (8,)):
        altered = {"student_state": state | {"g_a.0.weight": torch.zeros(shape)}}
        refused(altered, path, "another architecture")
        torch.save(altered["student_state"], tmp_path / "x.pth")
        with pytest.raises(UserError, match="not a codec of the architecture"):
            load_codec(str(tmp_path / "x.pth"))
    refused({"student_state": state | {"g_s.0.1.weight": torch.zeros(8, 12, 1, 4001)}}, path, "another architecture")
    refused({"student_state": {1: 2}}, path, "another architecture")
    refused(content | {"config": 3}, path, "config")


def test_compressed_checkpoints_are_not_unpacked(seeds: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(seeds / "pth" / "plain") as source,
        zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name) + bytes(1 << 20))
    with pytest.raises(UserError, match="compressed"):
        load_codec(str(tmp_path / "x.pth"))


def test_entropy_models_that_no_table_can_hold(content: dict, tmp_path: Path) -> None:
    """Quantiles 10^8 apart: tables of 10^8 entries for each channel."""
    state, path = content["student_state"], tmp_path / "x.pt"
    empty = {f"entropy_bottleneck.{name}": torch.empty(0, dtype=torch.int32) for name in ("_offset", "_quantized_cdf")}
    empty["entropy_bottleneck._cdf_length"] = torch.empty(0, dtype=torch.int32)
    far = {"entropy_bottleneck.quantiles": state["entropy_bottleneck.quantiles"] * 1e8}
    refused({"student_state": state | empty | far}, path, "damaged entropy tables")
    nan = {"g_a.0.bias": state["g_a.0.bias"] * float("nan")}
    refused({"student_state": state | nan}, path, "not finite")
    cdf = state["entropy_bottleneck._quantized_cdf"].clone()
    cdf[3, 1] = 70000
    refused({"student_state": state | {"entropy_bottleneck._quantized_cdf": cdf}}, path, "damaged entropy tables")


# --- tables, bitstreams, exported folders --------------------------------------------------------------------------------


def tables_json(**changed: object) -> str:
    content = {"precision": 16, "cdf": [[0, 5, 65536]] * 2, "offsets": [0, 0], "medians": [0, 0]}
    return json.dumps(content | changed)


def test_tables_that_overflow_or_swell() -> None:
    assert EntropyTables.from_json(tables_json()).channels == 2
    swelling = [list(range(65537)), *[[0, 5, 65536]] * 10_000]  # 2.6 GB, each row as long as the longest
    bad = [
        tables_json(
            cdf=[[0, 5, 65536], [0, 2147483647, -2147483648, -10, 65536]]
        ),  # ascending, if differences overflow
        tables_json(cdf=swelling, offsets=[0] * 10_001, medians=[0] * 10_001),
        tables_json(offsets=[0, -(1 << 31)]),
        tables_json(medians=[0, 1e30]),
        tables_json(medians=[0, float("nan")]),
        tables_json(medians=[[0], [0]]),
        tables_json(offsets=[0]),
        "[" * 100_000,
    ]
    tracemalloc.start()
    for text in bad:
        with pytest.raises(UserError, match="damaged"):
            EntropyTables.from_json(text)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
    with pytest.raises(UserError, match="damaged"):
        EntropyTables.from_json(b"\xff\xfe\x00")


def test_a_line_of_pixels_counts_with_its_padding(seeds: Path) -> None:
    """1 x 10,000,000 pixels are 160 million once both sides are multiples of 16."""
    codec = OnnxCodec(seeds / EXPORTED, threads=1)
    length = MOST_PIXELS // 16 + 1
    header = struct.pack("<4sBBII16sI", bitstream.MAGIC, 1, 0, 1, length, codec.tables.digest()[:16], 8)
    data = header + bytes(8)
    with pytest.raises(bitstream.BadFile, match="more than"):
        bitstream.unpack(data + struct.pack("<I", zlib.crc32(data)), codec.tables, codec.factor)
    with pytest.raises(UserError, match="padded"):
        bitstream.encode(codec, Image.new("RGB", (length, 1)))


def test_symbols_that_overflow_the_decoder_are_no_picture(seeds: Path) -> None:
    codec = OnnxCodec(seeds / EXPORTED, threads=1)
    symbols = np.full((codec.tables.channels, 1, 1), (1 << 24) - 1, np.int32)
    with pytest.raises(bitstream.BadFile, match="no picture's"):
        bitstream.decode(codec, bitstream.pack(symbols, (16, 16), codec.tables))


@pytest.mark.parametrize(
    "change",
    [
        {"M": 1 << 40},
        {"M": "12"},
        {"height": -16, "width": 16},
        {"height": 100, "width": 100},
        {"height": 64},
        {"decoder": {"file": "../exported/decoder.onnx", "sha256": "", "input": "latents", "output": "picture"}},
        {"decoder": {"file": "decoder.onnx", "sha256": "", "input": ["x"], "output": "picture"}},
        {"split_inputs": {"channels": [0] * 10, "shift": [0], "constant": 1}},
        {"split_inputs": {"channels": "x", "shift": None, "constant": -5}},
        {"tables_sha256": None},
    ],
)
@pytest.mark.parametrize("name", [EXPORTED, SPLIT_INPUTS])
def test_manifests_are_refused_before_anything_is_run(seeds: Path, tmp_path: Path, name: str, change: dict) -> None:
    for path in (seeds / name).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert OnnxCodec(tmp_path).manifest.M
    content = json.loads((tmp_path / "codec.json").read_bytes())
    (tmp_path / "codec.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match="export the codec again"):
        OnnxCodec(tmp_path)


def test_a_folder_of_small_fixed_size_says_so(seeds: Path, tmp_path: Path) -> None:
    """A tile of 64x64 pixels has no inside: that was a ValueError."""
    for path in (seeds / EXPORTED).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "codec.json").read_bytes())
    (tmp_path / "codec.json").write_text(json.dumps(content | {"height": 64, "width": 64}))
    with pytest.raises(UserError, match="sides of more than 64"):
        bitstream.encode(OnnxCodec(tmp_path), Image.new("RGB", (200, 100)))


# --- zips ----------------------------------------------------------------------------------------------------------------


def zipped(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.zip", {"a.jpg": bytes(70 << 20)})
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="100 times its own size"), open_zip(path, "x.zip") as archive:
        unpack(archive, pictures(archive, "x.zip"), tmp_path / "out", lambda size: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a/../../\n\x1b[31m.jpg", "../\n.jpg"])
def test_names_in_a_zip_do_not_write_to_the_terminal(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "x.zip", {name: b"x"})
    with pytest.raises(UserError, match="leave its folder") as caught, open_zip(path, "x.zip") as archive:
        pictures(archive, "x.zip")
    assert str(caught.value).isprintable()


def test_a_picture_on_a_server_is_read_in_parts_whatever_its_zip_says(tmp_path: Path) -> None:
    """Without the other members' entries, one picture would seem to be all of the 19 GB, and be read into memory."""
    path = zipped(tmp_path / "x.zip", {f"{n}.jpg": bytes(3 << 20) for n in range(3)}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        del archive.filelist[1:]
        found = extents(archive, archive.filelist)
        assert found[0][0] == 0 and found[-1][1] == archive.start_dir
        assert all(end - start <= LARGEST for start, end in found)
    with pytest.raises(ValueError, match="byte -1"):
        RemoteFile(SimpleNamespace(length=10)).seek(-1)  # type: ignore[arg-type]


# --- options, targets, manifests of crops --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "an alias"),
        ("a: &a [*a]\n", "an alias"),
        ("save_dir: !!python/object/apply:os.system ['touch PWNED']\n", "os.system, which no option takes"),
        ("save_dir: !!binary aGVsbG8=\n", "binary, which no option takes"),
        ("lr: {a: 1}\n", "a value inside a value"),
        ("x: {}\n", "a value inside a value"),
        ("keep: " + "[" * 50 + "]" * 50, "a value inside a value"),
        ("epochs: null\n", "--epochs is an integer, not null"),
        ("epochs: " + "9" * 5000 + "\n", "4300 digits"),
        ("lr: " + "9" * 400 + "\n", "too large"),
        ("lr: " + "x" * 5000 + "\n", r"\[\.\.\.\]"),
        ("epochs: \x01\n", "cannot be read as YAML"),
        ("[1, 2", "cannot be read as YAML"),
        ("# " + "x" * (1 << 20), "too many for options"),
    ],
)
def test_options_that_expand_execute_or_mean_nothing(tmp_path: Path, monkeypatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        cli.parse("distill", ["--config=x.yaml"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert {path.name for path in tmp_path.iterdir()} == {"x.yaml"}


def test_options_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("epochs: 3\n".encode("utf-16"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        cli.parse("distill", ["--config", str(tmp_path / "x.yaml")])


@pytest.mark.parametrize("text", ["max_opset = '13'", "x = " + "[" * 5000, "name = " + "9" * 5000, "notes = 3"])
def test_targets_of_the_wrong_kind(seeds: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(f'operators = ["Conv"]\n{text}\n')
    with pytest.raises(UserError, match="no target file"):
        complaints(seeds / EXPORTED / "decoder.onnx", load_target(str(tmp_path / "x.toml")))


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, '{"settings": 3, "max_images": 1}', '{"settings": {}, "max_images": "1"}', "[]", "\ud800"],
)
def test_manifests_of_crops_of_the_wrong_kind(tmp_path: Path, content: str) -> None:
    (tmp_path / prepared.MANIFEST).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="is damaged"):
        prepared._read(tmp_path)
