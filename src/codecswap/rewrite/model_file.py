"""ONNX files: read with care, since anybody may have made them, and written as a whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import uses_external_data

from codecswap.errors import UserError
from codecswap.identify import UNKNOWN, describe, no_file, refusal
from codecswap.rewrite.constants import bodies

MOST_INLINE = (1 << 31) - (1 << 20)
"""Bytes of a file without external data, at most: protobuf's limit is 2 GiB."""
LEAST_EXTERNAL = 1024
"""Bytes of a tensor that is worth storing outside."""
ALIGNED = 4096
"""Offsets in the file of external data are multiples of this, so that runtimes can map it."""
CHUNK = 1 << 24


def _no_onnx(path: Path) -> UserError:
    found = describe(path)
    if found == UNKNOWN or "ONNX" in found:
        return UserError(f"{path} is no ONNX file, or it is damaged: export it again.")
    return refusal(path, "an ONNX file", "export one with torch.onnx.export")


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file; external data stays where it is, and is checked to be there.

    Raises:
        UserError: it is no ONNX file, or its external data is missing, too short, or outside of its folder.
    """
    if not path.is_file():
        raise no_file(path, "ONNX file", "name an exported model")
    if path.stat().st_size >= 1 << 31:
        raise UserError(
            f"{path} has {path.stat().st_size:,} bytes, and an ONNX file at most 2 GiB: save it with external data."
        )
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, RecursionError):
        raise _no_onnx(path) from None
    if not model.graph.node or not model.opset_import:
        raise _no_onnx(path)
    for tensor in _external(model):
        _check(tensor, path)
    return model


@contextmanager
def written(model: ModelProto, source: Path, output: Path) -> Iterator[Path]:
    """Write a model to a folder beside ``output``; when the block ends without an exception, move it into place.

    Args:
        model: its external data is still that of ``source``, and is copied into ``output``'s own file, named NAME.data.
        source: the file that the model was read from.
        output: the file to write.

    Yields:
        The file, to be tried out.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        data = f"{output.name}.data"
        with (Path(scratch) / data).open("wb") as file:
            for tensor in _external(model):
                _move(tensor, file, data, source.parent)
            if model.ByteSize() > MOST_INLINE:
                for tensor in model.graph.initializer:
                    if len(tensor.raw_data) >= LEAST_EXTERNAL:
                        _move(tensor, file, data, source.parent)
            used = file.tell()
        if not used:
            (Path(scratch) / data).unlink()
        onnx.save(model, Path(scratch) / output.name, format="protobuf")
        yield Path(scratch) / output.name
        for name in (data, output.name) if used else (output.name,):
            os.replace(Path(scratch) / name, output.with_name(name))


def _external(model: ModelProto) -> Iterator[TensorProto]:
    """Tensors whose data stands outside."""
    for root in (model.graph, *model.functions):
        for body in bodies(root):
            tensors = list(body.initializer) if isinstance(body, GraphProto) else []
            tensors += [attribute.t for node in body.node for attribute in node.attribute if attribute.HasField("t")]
            yield from (tensor for tensor in tensors if uses_external_data(tensor))


def _where(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Location, offset and length."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    length = entries.get("length")
    return entries.get("location", ""), int(entries.get("offset") or 0), int(length) if length else None


def _check(tensor: TensorProto, path: Path) -> None:
    try:
        location, offset, length = _where(tensor)
        file = path.parent / location
        inside = location and file.resolve().is_relative_to(path.parent.resolve()) and not file.is_symlink()
        if not inside:
            raise UserError(
                f"{path} wants data from {location[:100]!r}, outside of its folder: put model and data in one folder."
            )
        if not file.is_file():
            raise UserError(f"{path} needs the file {location} beside it, which is missing.")
        if min(offset, length or 0) < 0 or offset + (length or 0) > file.stat().st_size:
            raise UserError(f"{path} needs more of {location} than is in it: copy both files again.")
    except (ValueError, OverflowError):
        raise UserError(f"{path} names its external data in a way that cannot be read: export it again.") from None


def _move(tensor: TensorProto, file: BinaryIO, name: str, folder: Path) -> None:
    """Append a tensor's data to a file, and let the tensor refer to it."""
    file.write(b"\0" * (-file.tell() % ALIGNED))
    start = file.tell()
    if uses_external_data(tensor):
        location, offset, length = _where(tensor)
        with (folder / location).open("rb") as old:
            old.seek(offset)
            if length is None:
                shutil.copyfileobj(old, file, CHUNK)
            while length:
                part = old.read(min(length, CHUNK))
                if not part:
                    raise UserError(f"{folder / location} has become shorter: copy it again.")
                file.write(part)
                length -= len(part)
    else:
        file.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", name), ("offset", start), ("length", file.tell() - start)):
        tensor.external_data.add(key=key, value=str(value))
