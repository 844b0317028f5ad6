"""Teachers: pretrained factorized-prior codecs, from CompressAI's zoo, a local file, or the package itself."""

import hashlib
import pickle
import urllib.error
import warnings
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.errors import UserError

with warnings.catch_warnings():  # what CompressAI imports speaks of deprecations that are not our user's to mend
    warnings.simplefilter("ignore")
    from compressai.layers import GDN
    from compressai.models import FactorizedPrior
    from compressai.zoo import bmshj2018_factorized
    from compressai.zoo.image import model_urls
    from compressai.zoo.pretrained import load_pretrained

__all__ = ["GDN", "FactorizedPrior", "fingerprint", "load_codec", "read_state", "teacher_name"]

EMBEDDED = "tiny"
"""The name under which ``--teacher`` finds the codec inside the package (N=48, M=72)."""


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
        codec = _from_zoo(quality, metric)
    elif teacher == EMBEDDED:
        with as_file(files("codecswap") / "assets" / "tiny.safetensors") as path:
            codec = _from_state(read_state(path), str(path))
    else:
        codec = _from_state(read_state(Path(teacher)), teacher)
    codec.update()  # only where the file holds no entropy tables
    return codec.eval().requires_grad_(False)


def teacher_name(teacher: str | None, quality: int, metric: str) -> str:
    """The teacher in a few words, for tables and messages."""
    return teacher or f"bmshj2018_factorized quality {quality} ({metric})"


def fingerprint(codec: nn.Module) -> str:
    """SHA-256 of a codec's trained weights, by name: equal for equal codecs wherever they are stored."""
    digest = hashlib.sha256()
    for name, parameter in sorted(codec.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint file without executing anything in it: what was saved, on the CPU.

    Raises:
        UserError: there is no such file, or it is no checkpoint.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}: check the path.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no checkpoint that can be read safely (weights only, no code): save the state dict alone and try again."
        ) from error
    except Exception as error:  # every reader has exceptions of its own for damaged bytes
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}): copy it again or name another."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint's dictionary: name another file.")
    return state


def _from_zoo(quality: int, metric: str) -> FactorizedPrior:
    if quality not in range(1, 9):
        raise UserError(f"--quality is 1 to 8, not {quality}.")
    if metric not in ("mse", "ms-ssim"):
        raise UserError(f"--metric is mse or ms-ssim, not {metric}.")
    try:
        return bmshj2018_factorized(quality, metric=metric, pretrained=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        url = model_urls["bmshj2018-factorized"][metric][quality]
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"The pretrained codec {url.rsplit('/', 1)[-1]} could not be downloaded ({error}): fetch {url} on another machine "
            f"and put it into {folder}, or name a codec of your own with --teacher PATH."
        ) from error


def _from_state(state: dict[str, Any], path: str) -> FactorizedPrior:
    if "student_state" in state:
        raise UserError(f"{path} holds a student, not a teacher: give it to --checkpoint or --resume_student instead.")
    state = state.get("state_dict", state)
    state = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    try:
        codec = FactorizedPrior.from_state_dict(load_pretrained(state))
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        parts = sorted({name.split(".")[0] for name in state}) or ["no weights"]
        raise UserError(
            f"{path} is not a codec of the architecture bmshj2018_factorized (it holds {', '.join(parts[:6])}): "
            "name a FactorizedPrior checkpoint."
        ) from error
    return codec
