"""Find a codec's weights in a checkpoint, and explain why weights are not of a codec."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from codecswap.codecs.architectures import ARCHITECTURES, name_of
from codecswap.codecs.checkerboard import Checkerboards
from codecswap.codecs.cheng2020 import Cheng2020Anchor
from codecswap.codecs.elic2022 import compressai_names
from codecswap.codecs.factorized import encoder_sizes
from codecswap.codecs.protocol import Codec
from codecswap.errors import UserError
from codecswap.layers.compressai import zoo

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that data parallelism, `torch.compile` and the like add."""
PROFILED = ("total_ops", "total_params")
"""Buffers that profilers leave."""
USUAL = ("", "state_dict")
"""Preferred keys of a codec's weights in a checkpoint with several codecs."""
MOST_CHANNELS = 4096
"""Most channels of weights for which other architectures are built, to compare them."""
SHOWN = 3
"""Names in a list of differences."""


def find_weights(content: Mapping[Any, Any], path: str) -> dict[str, Tensor]:
    """The weights of the one codec in a checkpoint: in nested tables, with prefixes, beside anything else.

    Args:
        content: what the file holds.
        path: the file, for the error.

    Raises:
        UserError: there is no codec in it, or several.
    """
    named = {
        name: value
        for parts, value in _tensors(content)
        if (name := tuple(part for part in parts if part not in WRAPPERS)) and name[-1] not in PROFILED
    }
    places = {name[: name.index("g_a")] for name in named if "g_a" in name and name[-1] == "weight"}
    found = {
        ".".join(place): {
            ".".join(name[len(place) :]): value for name, value in named.items() if name[: len(place)] == place
        }
        for place in sorted(places)
    }
    if len(found) > 1:  # running means of the weights are not what was asked for, where the weights are there too
        found = {place: state for place, state in found.items() if "ema" not in place.lower()} or found
        found = {place: state for place, state in found.items() if place in USUAL} or found
    if len(found) > 1:
        raise UserError(f"{path} holds several codecs ({_list(found)}): save the state dict of one alone.")
    if not found:
        raise UserError(
            f"{path} is not a codec of the architecture {' or '.join(ARCHITECTURES)} "
            f"(it holds {_list(dict.fromkeys(name[0] for name in named)) or 'no weights'}): name a checkpoint of one of these."
        )
    return compressai_names(next(iter(found.values())))


def load_weights(codec: Codec, state: dict[str, Tensor], path: str) -> None:
    """Load all weights into a codec; buffers that are not there keep the codec's values, and entropy tables are empty.

    Raises:
        UserError: the weights are not the codec's; the sentence has the differences.
    """
    own, parameters = codec.state_dict(), dict(codec.named_parameters())
    given = {name: value for name, value in own.items() if name not in parameters} | state
    tables = ("_offset", "_quantized_cdf", "_cdf_length")
    for model in {name.rpartition(".")[0] for name in own if name.endswith(tables)}:
        names = [f"{model}.{table}" for table in tables]
        if any(name not in state for name in names):
            given |= {name: own[name] for name in names}
    shapes = [
        f"{name} is {tuple(state[name].shape)} where {tuple(value.shape)} are needed"
        for name, value in parameters.items()
        if name in state and state[name].shape != value.shape
    ]
    missing, more = [], []
    if not shapes:
        missing, more = codec.load_state_dict(given, strict=False)
    if shapes or missing or more:
        raise _difference(path, str(name_of(codec)), missing, more, shapes)


def no_codec(state: Mapping[str, Tensor], path: str) -> UserError:
    """The error about weights of no architecture that is known, with the differences to the closest one."""
    with contextlib.suppress(KeyError, ValueError, IndexError), torch.random.fork_rng(devices=[]):
        n, m = encoder_sizes(state)
        if max(n, m) > MOST_CHANNELS:
            raise ValueError("no codec has so many")
        given = {
            name: tuple(value.shape)
            for name, value in zoo.pretrained.load_pretrained(dict(state)).items()
            if not name.startswith("entropy_")
        }
        closest = []
        for architecture, make in ARCHITECTURES.items():
            if issubclass(make, Cheng2020Anchor | Checkerboards):
                continue  # these have other encoders
            weights = make(n, m).state_dict()
            own = {name: tuple(value.shape) for name, value in weights.items() if not name.startswith("entropy_b")}
            shapes = [
                f"{name} is {given[name]} where {own[name]} are needed"
                for name in own.keys() & given.keys()
                if own[name] != given[name]
            ]
            missing, more = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
            closest.append((len(missing) + len(more) + len(shapes), architecture, missing, more, sorted(shapes)))
        _, architecture, missing, more, shapes = min(closest)
        return _difference(path, architecture, missing, more, shapes)
    parts = dict.fromkeys(name.split(".")[0] for name in sorted(state))
    return UserError(
        f"{path} is not a codec of the architecture {' or '.join(ARCHITECTURES)} (it holds {_list(parts)}; its g_a has "
        f"{_list(name for name in sorted(state) if name.startswith('g_a.'))}): name a checkpoint of one of these."
    )


def _difference(path: str, architecture: str, missing: list[str], more: list[str], shapes: list[str]) -> UserError:
    words = [f"{_list(missing)} missing"] if missing else []
    words += [f"{_list(more)} unexpected"] if more else []
    words += shapes[:SHOWN]
    return UserError(
        f"{path} is not a codec that is known; the closest architecture is {architecture}, and the difference: "
        f"{'; '.join(words)}. Save all of the codec's weights, and nothing else under its names."
    )


def _tensors(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """All tensors in nested tables, which may contain themselves, with the parts of their names."""
    todo: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen = set()
    for place, here in todo:
        if isinstance(here, Tensor):
            yield place, here
        elif isinstance(here, Mapping) and id(here) not in seen:
            seen.add(id(here))
            todo += [((*place, *str(name).split(".")), value) for name, value in here.items()]


def _list(names: Iterable[str]) -> str:
    """The first names, in plain letters, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(ascii(name[:60])[1:-1] or "the top" for name in names[:SHOWN]) + more
