"""Teachers: pretrained factorized-prior codecs, from CompressAI's zoo, a local file, or the package itself."""

import contextlib
import hashlib
import io
import pickle
import pickletools
import re
import urllib.error
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file

from codecswap.errors import UserError
from codecswap.inference.tables import EntropyTables

with warnings.catch_warnings():  # what CompressAI imports speaks of deprecations that are not our user's to mend
    warnings.simplefilter("ignore")
    from compressai.layers import GDN
    from compressai.models import FactorizedPrior
    from compressai.zoo.image import model_urls
    from compressai.zoo.pretrained import load_pretrained

__all__ = [
    "GDN",
    "FactorizedPrior",
    "channels",
    "fingerprint",
    "load_codec",
    "read_state",
    "state_digest",
    "teacher_name",
    "with_tables",
]

EMBEDDED = "tiny"
"""The name under which ``--teacher`` finds the codec inside the package (N=48, M=72)."""
WIDEST = 1 << 15
"""Symbols that one channel's entropy table may hold; trained ones hold a few hundred."""


def load_codec(teacher: str | None = None, quality: int = 8, metric: str = "mse") -> FactorizedPrior:
    """Load a codec in eval mode, its entropy tables ready for real coding.

    Args:
        teacher: ``tiny`` (the embedded codec), a local ``.pth``, ``.pth.tar`` or ``.safetensors`` file of any N and M, or
            None for CompressAI's zoo.
        quality: 1 to 8, of the zoo's ``bmshj2018_factorized``.
        metric: ``mse`` or ``ms-ssim``, what the zoo's codec was trained for.

    Raises:
        UserError: the file is missing, is no checkpoint or holds another architecture; or the download failed.
    """
    if teacher is None:
        path = _from_zoo(quality, metric)
        codec = _from_state(read_state(path), str(path))
    elif teacher == EMBEDDED:
        with as_file(files("codecswap") / "assets" / "tiny.safetensors") as path:
            codec = _from_state(read_state(path), str(path))
    else:
        codec = _from_state(read_state(Path(teacher)), teacher)
    return codec.eval().requires_grad_(False)


def teacher_name(teacher: str | None, quality: int, metric: str) -> str:
    """The teacher in a few words, for tables and messages."""
    return teacher or f"bmshj2018_factorized quality {quality} ({metric})"


def fingerprint(codec: nn.Module) -> str:
    """SHA-256 of a codec's trained weights, by name: equal for equal codecs wherever they are stored."""
    return state_digest(dict(codec.named_parameters()))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint file without executing anything in it: what was saved, on the CPU.

    It takes no more memory than a few times the file's size: compressed files, and tensors that claim more than the file
    holds of them, are refused.

    Raises:
        UserError: there is no such file, or it is no checkpoint; code inside it is named.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}: check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _check_zip(path)
        with warnings.catch_warnings():  # about pickles that are refused below
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and not all(_is_plain(tensor) for tensor in _tensors(state)):
            raise UserError(
                f"{path} holds a tensor that is not stored in full: save its contiguous copy and try again."
            )
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        wanted = _code(path, error)
        raise UserError(
            f"{path} holds code ({wanted}), which is never run: save the state dict alone and try again."
            if wanted
            else f"{path} is no checkpoint that can be read safely (weights only, no code): save the state dict alone."
        ) from error
    except Exception as error:  # every reader has exceptions of its own for damaged bytes
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}): copy it again or name another."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint's dictionary: name another file.")
    return state


def channels(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """N and M of a codec's weights, read off them before anything of that size is built.

    Raises:
        KeyError, ValueError, AttributeError: these are no weights of a factorized prior.
    """
    n, m = state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]
    shapes = [tuple(state[f"g_a.{index}.weight"].shape) for index in (0, 2, 4, 6)]
    if shapes != [(n, 3, 5, 5), (n, n, 5, 5), (n, n, 5, 5), (m, n, 5, 5)] or not n * m:
        raise ValueError(f"the encoder's kernels are {shapes}")
    return n, m


def with_tables(codec: FactorizedPrior, path: str | Path) -> FactorizedPrior:
    """Check what was read from ``path``, and compute the entropy tables where the file held none.

    Raises:
        UserError: a weight is not finite, or the entropy tables are none.
    """
    if not all(parameter.isfinite().all() for parameter in codec.parameters()):
        raise UserError(f"{path} holds weights that are not finite numbers: name an earlier checkpoint.")
    quantiles = codec.entropy_bottleneck.quantiles.detach()
    try:
        if quantiles.diff().abs().max() > WIDEST:
            raise ValueError("the quantiles are too far apart")
        codec.update()
        if EntropyTables.of(codec).channels != codec.M:
            raise ValueError("there is not one table for each channel")
    except (UserError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise UserError(f"{path} has damaged entropy tables: copy it again or name another.") from error
    return codec


def _code(path: Path, error: pickle.UnpicklingError) -> str | None:
    """What a refused pickle wanted to call, by its full name; None where it is only damaged."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))  # PyTorch names what it refuses, builtins without their module
    if found and "." in found[1]:
        return found[1]
    names = list(_globals(path))
    ending = f".{found[1]}" if found else ""
    wanted = [name for name in names if name.endswith(ending) and not name.startswith(("torch.", "collections."))]
    return ascii(wanted[0][:80])[1:-1] if wanted else found and found[1]


def _globals(path: Path) -> Iterator[str]:
    """Names of all functions and classes in a file's pickles, in their order; nothing is loaded."""
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
    """Refuse what PyTorch does not look at: that the zip is not compressed, and that its checksums hold.

    PyTorch writes uncompressed zips: what is small on the disk and large in memory is none of its own.
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
    """All tensors in nested containers, which may contain themselves."""
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
    """Whether a tensor is dense and every value of it is stored: one number expanded to a million is not."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _from_zoo(quality: int, metric: str) -> Path:
    """The zoo's file, downloaded unless it is there. (CompressAI's own loader would unpickle it with whatever is inside.)"""
    if quality not in range(1, 9):
        raise UserError(f"--quality is 1 to 8, not {quality}.")
    if metric not in ("mse", "ms-ssim"):
        raise UserError(f"--metric is mse or ms-ssim, not {metric}.")
    url = model_urls["bmshj2018-factorized"][metric][quality]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(url, str(path))
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"The pretrained codec {path.name} could not be downloaded ({error}): fetch {url} on another machine "
            f"and put it into {path.parent}, or name a codec of your own with --teacher PATH."
        ) from error
    return path


def _from_state(state: dict[str, Any], path: str) -> FactorizedPrior:
    if "student_state" in state:
        raise UserError(f"{path} holds a student, not a teacher: give it to --checkpoint or --resume_student instead.")
    state = state.get("state_dict", state)
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(state).__name__} for a state_dict: name a codec's checkpoint.")
    state = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    try:
        state = load_pretrained(state)
        codec = FactorizedPrior(*channels(state))
        codec.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        parts = sorted({name.split(".")[0] for name in state}) or ["no weights"]
        raise UserError(
            f"{path} is not a codec of the architecture bmshj2018_factorized (it holds {_shown(parts)}): "
            "name a FactorizedPrior checkpoint."
        ) from error
    return with_tables(codec, path)


def _shown(names: list[str]) -> str:
    """The first names, on one line, none of them longer than a word."""
    return ", ".join(ascii(name[:30])[1:-1] for name in names[:6])
