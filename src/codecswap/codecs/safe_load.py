"""Read a checkpoint without executing code in it, with memory bounded by a few times its size."""

import contextlib
import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codecswap.errors import UserError
from codecswap.identify import UNKNOWN, describe, no_file, refusal

BESIDE = [
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
]
"""Objects that people keep beside the weights; they are left out, and nothing of their classes runs."""


class _Inert:
    """Placeholder for an object that is not loaded."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _inert(name: str) -> type:
    """A class that PyTorch finds where a file says ``name``."""
    module, _, own = name.rpartition(".")
    return type(own, (_Inert,), {"__module__": module, "__qualname__": own})


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint file onto the CPU without executing code in it.

    Memory is bounded by a few times the file's size: compressed files, and tensors that are larger than what the file
    stores, are refused.

    Raises:
        UserError: the file is missing, is not a checkpoint, or contains code (which is named).
    """
    if not path.is_file():
        raise no_file(path, "checkpoint", "name a .pth, .pth.tar, .pt or .safetensors file")
    try:
        if "a .safetensors file" in describe(path):
            from safetensors.torch import load_file

            return load_file(path)
        _check_zip(path)
        with warnings.catch_warnings():  # warnings about pickles that are refused below
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals([_inert(name) for name in BESIDE]):
                state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, list | tuple):  # a codec and what is beside it, without names
            state = dict(enumerate(state))
        if isinstance(state, dict) and not all(_is_plain(tensor) for tensor in _tensors(state)):
            raise UserError(
                f"{path} holds a tensor that is not stored in full: save its contiguous copy and try again."
            )
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        _refuse_other(path)
        wanted = _code(path, error)
        raise UserError(
            f"{path} holds code ({wanted}), which is never run: save the state dict alone and try again."
            if wanted
            else f"{path} is no checkpoint that can be read safely (weights only, no code): save the state dict alone."
        ) from error
    except Exception as error:  # each reader has its own exceptions for damaged bytes
        _refuse_other(path)
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}): copy it again or name another."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint's dictionary: name another file.")
    return state


def _refuse_other(path: Path) -> None:
    """Refuse a file of another kind by its name; one that looks like a checkpoint is damaged."""
    found = describe(path)
    if found != UNKNOWN and not any(word in found for word in ("checkpoint of", "weights, ", "older versions")):
        raise refusal(path, "a checkpoint", "name a .pth, .pth.tar, .pt or .safetensors file")


def _code(path: Path, error: pickle.UnpicklingError) -> str | None:
    """Full name of the function that a refused pickle calls; None if it is only damaged."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))  # PyTorch names what it refuses, builtins without their module
    if found and "." in found[1]:
        return found[1]
    names = list(_globals(path))
    ending = f".{found[1]}" if found else ""
    wanted = [name for name in names if name.endswith(ending) and not name.startswith(("torch.", "collections."))]
    return ascii(wanted[0][:80])[1:-1] if wanted else found and found[1]


def _globals(path: Path) -> Iterator[str]:
    """Names of all functions and classes in a file's pickles, in order; nothing is loaded."""
    with contextlib.suppress(Exception):  # at the end of the pickles, or where they are damaged
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                streams = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        else:
            streams = [path.read_bytes()]
        for stream in map(io.BytesIO, streams):
            strings: list[str] = []
            while stream.tell() < len(stream.getbuffer()):
                for operation, argument, _ in pickletools.genops(stream):
                    if operation.name in ("GLOBAL", "INST"):
                        yield str(argument).replace(" ", ".")
                    elif operation.name == "STACK_GLOBAL":
                        yield ".".join(strings[-2:])
                    elif isinstance(argument, str):
                        strings.append(argument)


def _check_zip(path: Path) -> None:
    """Refuse zips that are compressed or have wrong checksums, which PyTorch does not check.

    PyTorch writes uncompressed zips, so a compressed one is not its own and may be a zip bomb.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise UserError(f"{path} is compressed, as no checkpoint is: it is not unpacked; name another.")
        if altered := archive.testzip():
            member = ascii(altered[:80])[1:-1]
            raise UserError(
                f"{path} is damaged (the checksum of {member} does not match): copy it again or name another."
            )


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors in nested containers, which may be recursive."""
    todo, seen = [content], set()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping):
            todo += item.values()
        elif isinstance(item, list | tuple | set):
            todo += item


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and all its values are stored; expanded tensors are not."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
