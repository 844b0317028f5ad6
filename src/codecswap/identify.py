"""Identify a file or folder and the command that reads it, for error messages."""

import json
import zipfile
from contextlib import suppress
from itertools import islice
from pathlib import Path

from codecswap.errors import UserError

PICTURE = "which `codecswap encode` reads"
STARTS = {
    b"\x89CSW": "a coded picture, which `codecswap decode` reads",
    b"\x89PNG": f"a PNG picture, {PICTURE}",
    b"\xff\xd8\xff": f"a JPEG picture, {PICTURE}",
    b"BM": f"a BMP picture, {PICTURE}",
    b"II*\0": f"a TIFF picture, {PICTURE}",
    b"MM\0*": f"a TIFF picture, {PICTURE}",
    b"GIF8": "a GIF, which nothing here reads (convert it to PNG)",
    b"\xff\x0a": "a JPEG XL picture, which nothing here reads (convert it to PNG)",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip file (unpack it first)",
    b"7z\xbc\xaf": "a 7z archive (unpack it first)",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}
"""Kinds of files by their first bytes."""
AT_4 = {b"TFL3": "a TensorFlow Lite model", b"ftyp": "a HEIC, AVIF or video file, which nothing here reads"}
"""Kinds of files by their bytes from the fifth."""
ENTRIES = {
    "codec.json": "an exported codec's folder, which --codec and `codecswap page` read",
    "run.json": "a run's folder, which `codecswap report` reads; its checkpoints (.pt) are what others read",
    "metrics.csv": "a run's folder, which `codecswap report` reads; its checkpoints (.pt) are what others read",
    "manifest.json": "a folder of prepared crops, which --coco_dir of `codecswap distill` reads",
    "train2017": "COCO's folder, which --coco_dir reads",
}
"""Kinds of folders by a name in them."""
UNKNOWN = "of no kind that is known here, or damaged"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def describe(path: Path) -> str:
    """Describe what is at ``path``, with an article, and the command that reads it; never raises."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            return "a pipe, a socket or a device, which is not read"
        return _folder(path) if path.is_dir() else _file(path)
    except OSError as error:
        return f"not there, or cannot be read ({error.strerror})"
    except Exception:  # readers of zips and JSON have exceptions of their own for damaged bytes
        return UNKNOWN


def refusal(path: Path, wanted: str, advice: str) -> UserError:
    """The error about a file or folder of another kind than ``wanted``, which has its article."""
    return UserError(f"{path} is {describe(path)}, not {wanted}: {advice}.")


def no_folder(path: str | Path, advice: str) -> UserError:
    """The error about a folder that is not there, or is a file."""
    if Path(path).exists():
        return refusal(Path(path), "a folder", advice)
    return UserError(f"There is no folder {path}: {advice}.")


def no_file(path: Path, what: str, advice: str) -> UserError:
    """The error about a file that is not there, or is a folder, a pipe or a device; ``what`` has no article."""
    if path.exists():
        return refusal(path, f"{'an' if what[0] in 'aeiouAEIOU' else 'a'} {what}", advice)
    return UserError(f"There is no {what} {path}: {advice}.")


def _folder(path: Path) -> str:
    names = {entry.name for entry in islice(path.iterdir(), 10_000)}
    for name, words in ENTRIES.items():
        if name in names:
            return words
    if not names:
        return "an empty folder"
    for ending, words in (
        (".pt", "checkpoints"),
        (".pth", "checkpoints"),
        (".onnx", "ONNX files"),
        (".csw", "coded pictures"),
    ):
        if found := sorted(name for name in names if name.lower().endswith(ending)):
            return f"a folder of {words} ({ascii(found[0])[1:-1]}): name one of them"
    return (
        "a folder of pictures"
        if any(name.lower().endswith(PICTURES) for name in names)
        else "a folder of something else"
    )


def _file(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "an empty file"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return f"a WebP picture, {PICTURE}"
    for known, words in STARTS.items():
        if start.startswith(known):
            return words
    if start[4:8] in AT_4:
        return AT_4[start[4:8]]
    if start[:2] == b"PK":
        return _zip(path)
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML; download the file itself)"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return "a .safetensors file of weights, which --teacher and --codec read"
    if start[0] == 8 and path.suffix.lower() == ".onnx":
        return "an ONNX model, which `codecswap rewrite` reads"
    if start[0] == 0x80 and start[1] < 6:
        return "a pickle, as older versions of PyTorch write checkpoints"
    if b"\0" in start:
        return UNKNOWN
    with suppress(UnicodeDecodeError, ValueError):
        text = start.decode().lstrip()
        if path.name == "codec.json":
            return f"a file of an exported codec: its folder, {path.resolve().parent}, is what is read"
        if text[:1] in "[{" and json.loads(path.read_bytes()[: 1 << 20]) is not None:
            return "a JSON file"
        return "a text file"
    return UNKNOWN


def _zip(path: Path) -> str:
    with suppress(zipfile.BadZipFile, ValueError, NotImplementedError), zipfile.ZipFile(path) as archive:
        names = {name.rsplit("/", 1)[-1] for name in islice(archive.namelist(), 100_000)}
        if "codec.json" in names:
            return "a zip of an exported codec: unpack it, and name the folder"
        if "constants.pkl" in names:
            return "a TorchScript program, not weights: save the codec's state_dict"
        if "data.pkl" in names:
            return "a checkpoint of PyTorch, which --teacher, --checkpoint and --codec read"
        if any(name.endswith(".npy") for name in names):
            return "an archive of NumPy arrays (.npz)"
        return "a zip archive (unpack it first)"
    return "a damaged zip archive"
