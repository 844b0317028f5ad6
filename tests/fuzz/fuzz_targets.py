"""What each format is fed to: the package's own entry points, as its commands call them."""

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz_seeds import EXPORTED
from PIL import Image

from codecswap import cli
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.coding.files import decode_file
from codecswap.data.pictures import UNREADABLE, load_picture
from codecswap.data.prepare import crop_folder as prepared
from codecswap.data.prepare.crops import crop_picture
from codecswap.data.prepare.remote import RemoteFile, extents
from codecswap.data.prepare.unpack import missing, open_zip, pictures, unpack
from codecswap.data.transforms import whole_picture
from codecswap.entropy import bitstream, rans
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError
from codecswap.export.operators import complaints
from codecswap.inference.runtime import OnnxCodec
from codecswap.students.checkpoint import read_student
from codecswap.targets.target import load_target


class Targets:
    """The entry points, in a folder of their own.

    Args:
        seeds: what `fuzz_seeds.make_seeds` wrote.
        room: the one folder that may be written to.

    Every method is a format's; it takes the damaged file, returns when it was accepted, and raises `UserError` (for a
    picture, one of `UNREADABLE`) when it was refused. What it has written on purpose it takes away again.
    """

    def __init__(self, seeds: Path, room: Path) -> None:
        self.seeds, self.room = seeds, room
        self.codec = OnnxCodec(seeds / EXPORTED, threads=1)
        self.folders: dict[str, Path] = {}
        for name in (EXPORTED, "split_inputs"):
            self.folders[name] = room.parent / f"{room.name}.{name}"
            shutil.copytree(seeds / name, self.folders[name])

    def of(self, format: str) -> Callable[[str, Path], None]:
        """The method of a format: takes the name of the valid input, and the damaged one."""
        return getattr(self, "picture" if format in ("jpeg", "png", "webp", "tiff") else format)

    def csw(self, name: str, path: Path) -> None:
        target = self.room / "x.png"
        decode_file(self.codec, path, target)
        target.unlink()

    def pt(self, name: str, path: Path) -> None:
        loaded = read_student(path)
        _ = loaded.config
        self._code(loaded.student)

    def pth(self, name: str, path: Path) -> None:
        self._code(load_codec(str(path)))

    def _code(self, codec: FactorizedPrior) -> None:
        native = TorchCodec(codec)
        try:
            bitstream.decode(native, bitstream.encode(native, _GRAY))
        except bitstream.BadFile as error:  # weights so large that pictures are not finite
            raise UserError(f"{error}.") from None

    def safetensors(self, name: str, path: Path) -> None:
        self.pth(name, path)

    def tables(self, name: str, path: Path) -> None:
        tables = EntropyTables.from_json(path.read_bytes())
        tables.digest()
        with contextlib.suppress(rans.CorruptString):
            rans.decode(_STRING, (4, 4), tables)
        if tables.channels < 1000:
            zeros = np.zeros((tables.channels, 2, 2), np.int32)
            assert (rans.decode(rans.encode(zeros, tables), (2, 2), tables) == 0).all()

    def manifest(self, name: str, path: Path) -> None:
        folder = self.folders[name]
        shutil.copyfile(path, folder / "codec.json")
        codec = OnnxCodec(folder, threads=1)
        codec.synthesize(np.ones((codec.tables.channels, 2, 3), np.int32))
        if name == EXPORTED:
            codec.analyze(np.full((3, 32, 48), 0.5, np.float32))

    def onnx(self, name: str, path: Path) -> None:
        folder = self.folders[EXPORTED]
        content = json.loads((self.seeds / EXPORTED / "codec.json").read_bytes())
        content[name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        content[name]["file"] = "damaged.onnx"
        shutil.copyfile(path, folder / "damaged.onnx")
        (folder / "codec.json").write_text(json.dumps(content), "utf-8")
        codec = OnnxCodec(folder, threads=1)
        if name == "decoder":
            codec.synthesize(np.ones((codec.tables.channels, 2, 3), np.int32))
        else:
            codec.analyze(np.full((3, 32, 48), 0.5, np.float32))

    def yaml(self, name: str, path: Path) -> None:
        cli.parse("distill", ["--config", str(path)])

    def toml(self, name: str, path: Path) -> None:
        target = load_target(str(path))
        complaints(self.seeds / EXPORTED / "decoder.onnx", target)

    def prepared(self, name: str, path: Path) -> None:
        folder = self.room / "crops"
        folder.mkdir()
        try:
            shutil.copyfile(path, folder / prepared.MANIFEST)
            before = prepared._read(folder)
            prepared._check(folder, before, {"settings": {"size": 224}, "max_images": 100})
        finally:
            shutil.rmtree(folder)

    def zip(self, name: str, path: Path) -> None:
        out = self.room / "out"
        out.mkdir()
        try:
            for source in (path, io.BufferedReader(RemoteFile(_Here(path)))):  # type: ignore[arg-type]
                with open_zip(source, path.name) as archive:
                    members = missing(pictures(archive, path.name), out)
                    extents(archive, members)
                    unpack(archive, members, out, lambda size: None)
            assert not list(out.rglob("*.part")), "half a file was left"
        finally:
            shutil.rmtree(out)

    def picture(self, name: str, path: Path) -> None:
        refusals = 0
        for read in (load_picture, whole_picture):
            try:
                read(path)
            except UNREADABLE:
                refusals += 1
        crop = self.room / "crop.jpg"
        if crop_picture(path, crop, size=32, format="jpg") is None:
            crop.unlink()
        if refusals:
            raise UserError(f"{refusals} of 2 readers refused it.")


class _Here:
    """A file of this disk with the interface of `codecswap.data.prepare.download.Remote`."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.length = len(self.data)

    def blocks(self, start: int, end: int) -> list[bytes]:
        """As a server would: bytes that it has, or an error."""
        if not 0 <= start < self.length:
            raise UserError("The server answers 416.")
        return [self.data[start:end]]


_STRING = np.random.default_rng(0).integers(0, 256, 4000, np.uint8).tobytes()
_GRAY = Image.new("RGB", (40, 30), "gray")
