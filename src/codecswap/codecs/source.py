"""Teachers: pretrained codecs from CompressAI's zoo, a local file, or the package itself."""

import hashlib
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file

from codecswap.codecs.architectures import ARCHITECTURES, check, untrained
from codecswap.codecs.bottleneck import rebuild_outdated
from codecswap.codecs.from_code import from_code
from codecswap.codecs.protocol import Codec
from codecswap.codecs.safe_load import read_state
from codecswap.codecs.weights import find_weights, load_weights, no_codec
from codecswap.config import ZOO, names_code
from codecswap.console import warn
from codecswap.errors import UserError

EMBEDDED, EMBEDDED_HYPERPRIOR, EMBEDDED_VARIABLE_RATE = "tiny", "tiny_hyper", "tiny_vbr"
"""Values of ``--teacher`` for the codecs inside the package (N=48, M=80): a factorized prior, the same
transforms with a mean-scale hyperprior, whose file holds only the entropy model, and one with variable rate that was
trained from it."""


@dataclass(frozen=True)
class Teacher:
    """A pretrained codec, as named by the options ``--teacher``, ``--model``, ``--quality`` and ``--metric``."""

    path: str | None = None
    """``tiny``, ``tiny_hyper`` or ``tiny_vbr`` (embedded), a ``.pth``, ``.pth.tar`` or ``.safetensors`` file of any N and M,
    code (`codecswap.codecs.from_code`), or None: zoo."""
    quality: int = 8
    """Quality in the zoo, 1 to 8."""
    metric: str = "mse"
    """``mse`` or ``ms-ssim``, what the zoo's codec was trained for."""
    model: str = ZOO
    """The zoo's architecture, a name in `codecswap.codecs.architectures.ARCHITECTURES`."""
    run_code: bool = field(default=False, compare=False)
    """Whether code that ``path`` names is run: only if the user named it, never because a file does."""

    @classmethod
    def of(cls, options: Any) -> "Teacher":
        """Build from the attributes ``teacher``, ``model``, ``quality`` and ``metric`` of options or of a student's record."""
        typed = "teacher" in getattr(options, "given", ())
        return cls(options.teacher, options.quality, options.metric, options.model, typed)

    @property
    def name(self) -> str:
        """Short name for tables and messages."""
        return self.path or f"{self.model} quality {self.quality} ({self.metric})"

    def load(self) -> Codec:
        """Load the codec; returns and raises as `load_codec`."""
        if self.path and names_code(self.path):
            if not self.run_code:
                raise UserError(
                    f"{self.path} is code, which runs only if you name it yourself: add --teacher {self.path}."
                )
            codec = from_code(self.path)
        elif self.path in (EMBEDDED, EMBEDDED_HYPERPRIOR, EMBEDDED_VARIABLE_RATE):
            codec = _from_state(_embedded(self.path), self.path)
        else:
            file = _from_zoo(self.model, self.quality, self.metric) if self.path is None else Path(self.path)
            codec = _from_state(read_state(file), str(file) if self.path is None else self.path)
        codec.source = self
        return codec.eval().requires_grad_(False)


def load_codec(teacher: str | None = None, quality: int = 8, metric: str = "mse", model: str = ZOO) -> Codec:
    """Load a pretrained codec.

    Args:
        teacher: ``tiny``, ``tiny_hyper`` or ``tiny_vbr`` (inside the package), or a ``.pth``, ``.pth.tar`` or ``.safetensors``
            file of any N and M; ``file.py:function`` or ``package.module:function``, which is run
            (`codecswap.codecs.from_code`); None: CompressAI's model zoo, which is downloaded once.
        quality: of the zoo, 1 (fewest bits) to 8.
        metric: what the zoo's codec was trained for, ``mse`` or ``ms-ssim``.
        model: the zoo's architecture, a name in `codecswap.codecs.architectures.ARCHITECTURES`.

    Returns: the codec, in eval mode, with entropy tables ready for real coding.

    Raises:
        UserError: the file is missing, is not a checkpoint, has an unknown architecture, the download failed, or the code
            cannot be run or returns no such codec.
    """
    return Teacher(teacher, quality, metric, model, run_code=True).load()


def fingerprint(codec: nn.Module) -> str:
    """SHA-256 of a codec's trained weights and their names; it does not depend on the file format."""
    return state_digest(dict(codec.named_parameters()))


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _embedded(name: str) -> dict[str, Any]:
    """State dict of a codec inside the package."""
    with as_file(files("codecswap") / "assets" / f"{name}.safetensors") as path:
        state = read_state(path)
    if name == EMBEDDED_HYPERPRIOR:
        state |= {key: value for key, value in _embedded(EMBEDDED).items() if key.startswith(("g_a.", "g_s."))}
    return state


def _from_zoo(model: str, quality: int, metric: str) -> Path:
    """Path of the zoo's file, downloaded if missing. (CompressAI's loader would unpickle, and so execute, code in it.)"""
    if model not in ARCHITECTURES:
        raise UserError(f"--model is {' or '.join(ARCHITECTURES)}, not {model}.")
    zoo = ARCHITECTURES[model].zoo
    if not zoo:
        raise UserError(
            f"CompressAI publishes no weights of {model}: name a checkpoint of your own with --teacher PATH."
        )
    if metric not in zoo:
        raise UserError(f"--metric of {model} is {' or '.join(zoo)}, not {metric}.")
    if quality not in zoo[metric] and len(zoo[metric]) == 1:
        raise UserError(f"{model} has one checkpoint for all rates: leave --quality out.")
    if quality not in zoo[metric]:
        raise UserError(f"--quality of {model} is {min(zoo[metric])} to {max(zoo[metric])}, not {quality}.")
    url = zoo[metric][quality]
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


def _from_state(state: dict[str, Any], path: str) -> Codec:
    if "student_state" in state:
        raise UserError(f"{path} holds a student, not a teacher: give it to --checkpoint or --resume_student instead.")
    weights = find_weights(state, path)
    try:
        codec = untrained(weights)
    except ValueError as error:
        raise no_codec(weights, path) from error
    load_weights(codec, weights, path)
    check(codec, path)
    if rebuild_outdated(codec):
        warn(f"{path} has entropy tables that are older than its weights: they were made anew.")
    return codec
