"""Codecs that a user's own Python code builds: ``--teacher file.py:function`` or ``package.module:function``.

The function takes no arguments and returns a module with ``g_a``, ``g_s`` and CompressAI's entropy models, under CompressAI's
names: ``entropy_bottleneck`` alone (a table for each channel), or also ``h_a``, ``h_s`` and ``gaussian_conditional``, where h_s
gives scales (h_a reads magnitudes, as in its ``ScaleHyperprior``) or scales, then means (``MeanScaleHyperprior``). All else
(channels, factors, the radius of the receptive field) is measured.
"""

import copy
import importlib
import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codecswap.codecs.architectures import check
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from codecswap.codecs.protocol import Codec
from codecswap.errors import UserError
from codecswap.inference.tiles import TILE
from codecswap.layers.compressai import EntropyBottleneck

SIDE = 256
"""Side of the picture on which a codec is tried."""
REACHES = (8, 16, min(TILE) // 2 - 1)
"""Radii of receptive fields in latents that are tried, one after the other."""
PICTURE, BITS = 1e-3, 0.02
"""Tolerances against the module's own ``forward``: largest error of the picture, and share of the estimated bits."""
CONTEXT = ("context_prediction", "latent_codec", "entropy_parameters")
"""Attributes of modules that predict latents from latents."""


class _Built(Codec):
    """What codecs of a user's code have in common: their parts are the user's modules, and no weights tell their sizes."""

    factor: int  # type: ignore[misc]
    margin: int  # type: ignore[misc]
    zoo = {}  # noqa: RUF012

    def __init__(self, module: nn.Module, parts: tuple[str, ...]) -> None:
        nn.Module.__init__(self)
        for part in parts:
            self.add_module(part, getattr(module, part))


class BuiltFactorizedPrior(_Built, FactorizedPrior):
    """A factorized prior."""


class BuiltScaleHyperprior(_Built, ScaleHyperprior):
    """A hyperprior that predicts scales."""


class BuiltMeanScaleHyperprior(_Built, MeanScaleHyperprior):
    """A hyperprior that predicts scales and means."""


def from_code(name: str) -> Codec:
    """Run a user's function, and make a codec of the module that it returns.

    Args:
        name: ``file.py:function`` or ``package.module:function``.

    Returns: the codec, in eval mode, with entropy tables; its parts are the module's own.

    Raises:
        UserError: there is no such file or function, it raises an exception, or what it returns is no such codec.
    """
    module = _called(name)
    if not isinstance(module, nn.Module):
        raise UserError(f"{name} returned {type(module).__name__}, not a torch.nn.Module: return the codec itself.")
    missing = [part for part in ("g_a", "g_s") if not isinstance(getattr(module, part, None), nn.Module)]
    if not isinstance(getattr(module, "entropy_bottleneck", None), EntropyBottleneck):
        missing.append("entropy_bottleneck (CompressAI's EntropyBottleneck)")
    hyper = ("h_a", "h_s", "gaussian_conditional")
    found = [part for part in hyper if isinstance(getattr(module, part, None), nn.Module)]
    if found and len(found) < len(hyper):
        missing += [part for part in hyper if part not in found]
    if missing:
        raise UserError(f"The {type(module).__name__} that {name} returned has no {', '.join(missing)}: give it these.")
    if context := [part for part in CONTEXT if hasattr(module, part)]:
        raise UserError(
            f"The {type(module).__name__} that {name} returned has {context[0]}: latents that are predicted from latents are "
            "known of CompressAI's own classes alone; save its state dict, and name that file."
        )
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            codec = _codec(module.eval(), bool(found))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The {type(module).__name__} that {name} returned does not code a picture of {SIDE}x{SIDE} pixels as g_a, an "
            f"entropy model and g_s ({reason}): correct it."
        ) from error
    check(codec, name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _compare(codec, module, name)
        codec.margin = _margin(codec, name)  # type: ignore[misc]
    return codec


def _called(name: str) -> Any:
    """What the function of that name returns."""
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place).resolve()
            if str(path.parent) not in sys.path:
                sys.path.insert(0, str(path.parent))  # its own imports work as in `python file.py`
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec and spec.loader
            code = importlib.util.module_from_spec(spec)
            before = sys.modules.setdefault(path.stem, code)  # classes are pickled by their module
            if before is not code and getattr(before, "__file__", None) == code.__file__:
                sys.modules[path.stem] = code
            spec.loader.exec_module(code)
        else:
            code = importlib.import_module(place)
        call = getattr(code, function, None)
        if not callable(call):
            raise UserError(f"{place} has no function {function}: name one after the colon.")
        return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # it is a user's code
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot be run ({type(error).__name__}: {reason}): correct that code.") from error


def _codec(module: nn.Module, hyper: bool) -> Codec:
    """The codec of a module; its margin is not known yet.

    Raises:
        ValueError: shapes do not fit.
    """
    x = torch.rand(1, 3, SIDE, SIDE)
    parts: Any = module
    y = parts.g_a(x)
    factor = SIDE // y.shape[-1]
    if y.ndim != 4 or y.shape[-2:] != (SIDE // factor, SIDE // factor) or factor * y.shape[-1] != SIDE:
        raise ValueError(f"g_a gives {tuple(y.shape)}")
    if (shown := parts.g_s(y)).shape != x.shape:
        raise ValueError(f"g_s gives {tuple(shown.shape)} for latents {tuple(y.shape)}")
    codec: Any
    if not hyper:
        codec = BuiltFactorizedPrior(module, ("g_a", "g_s", "entropy_bottleneck"))
        codec.N = y.shape[1]
    else:
        z = parts.h_a(y)
        side = parts.h_s(z)
        if side.shape[-2:] != y.shape[-2:] or side.shape[1] not in (y.shape[1], 2 * y.shape[1]):
            raise ValueError(f"h_s gives {tuple(side.shape)} for latents {tuple(y.shape)}")
        kind = BuiltScaleHyperprior if side.shape[1] == y.shape[1] else BuiltMeanScaleHyperprior
        names = ("g_a", "g_s", "h_a", "h_s", "entropy_bottleneck", "gaussian_conditional")
        codec = kind(module, names)
        codec.N, codec.hyper_factor = z.shape[1], y.shape[-1] // z.shape[-1]
    codec.M, codec.factor, codec.margin = y.shape[1], factor, 0
    return codec.eval()


def _compare(codec: Codec, module: nn.Module, name: str) -> None:
    """Refuse a module whose own ``forward`` codes otherwise, if it has one that returns what CompressAI's do."""
    x = torch.rand(1, 3, SIDE, SIDE)
    try:
        theirs: Any = module(x)
        shown, likelihoods = theirs["x_hat"], theirs["likelihoods"].values()
    except (NotImplementedError, KeyError, TypeError, IndexError):
        return  # it has none
    y = codec.g_a(x)
    error = (codec.g_s(codec.quantize(y)) - shown).abs().max() / shown.abs().max().clamp(min=1)
    bits, wanted = codec.bits(y), -sum(one.log2().sum() for one in likelihoods)
    if not (error <= PICTURE and (bits - wanted).abs() <= BITS * wanted):
        raise UserError(
            f"The forward of the {type(module).__name__} that {name} returned gives another picture or other bits "
            f"({wanted:,.0f}) than g_a, its entropy model and g_s ({bits:,.0f}): only such codecs are known."
        )


def _margin(codec: Codec, name: str) -> int:
    """The radius of the receptive field in latents, of all transforms (in hyper-latents for h_a).

    Raises:
        UserError: it is too large for tiles.
    """
    found = [_reach(codec.g_s, codec.M, 1, codec.factor), _reach(codec.g_a, 3, codec.factor, 1)]
    if codec.hyperprior:
        found.append(_reach(codec.hyperprior.h_a, codec.M, codec.hyperprior.hyper_factor, 1))
    if None in found:
        raise UserError(
            f"The codec that {name} returned has a transform that reaches more than {REACHES[-1]} latents far (attention over "
            "the whole picture?): it cannot be computed in tiles."
        )
    return max(reach for reach in found if reach is not None)


@torch.enable_grad()
def _reach(transform: nn.Module, channels: int, fine: int, shown: int) -> int | None:
    """How many latents away an output may be affected; None: more than `REACHES`.

    A copy with positive weights, in float64, has a gradient wherever there is a dependence.

    Args:
        transform: g_a, g_s or h_a.
        channels: of its input.
        fine, shown: elements per latent of its input and of its output.
    """
    positive = copy.deepcopy(transform).double().eval()
    for parameter in positive.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.uniform_(0.5, 1.5).div_(math.prod(parameter.shape[1:]))
        else:
            parameter.fill_(0.1)
    for most in REACHES:
        x = (
            torch.empty(1, channels, *[(2 * most + 1) * fine] * 2, dtype=torch.float64)
            .uniform_(0.5, 1.5)
            .requires_grad_()
        )
        middle = slice(most * shown, (most + 1) * shown)
        result = positive(x)[..., middle, middle]
        (slope,) = torch.autograd.grad((result * torch.rand_like(result)).sum(), x)
        reach = max(_farthest(slope.abs().amax((0, 1, axis)), most, fine) for axis in (2, 3))
        if reach < most:
            return reach
    return None


def _farthest(changed: Tensor, middle: int, fine: int) -> int:
    """Distance in latents of the farthest element that is not 0."""
    latents = (changed.nonzero().flatten() // fine - middle).abs()
    return int(latents.max()) if len(latents) else 0
