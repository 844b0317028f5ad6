"""Weights as people keep them: the codec loads, to the same bytes, or the sentence has the difference."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.hyperprior import MeanScaleHyperprior
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import fingerprint, load_codec
from codecswap.errors import UserError

State = dict[str, Any]


@pytest.fixture(scope="module", params=[FactorizedPrior, MeanScaleHyperprior])
def codec(request: pytest.FixtureRequest) -> Codec:
    torch.manual_seed(0)
    codec = request.param(6, 10)
    codec.update()
    return codec.eval()


def renamed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


WRAPPINGS: dict[str, Any] = {
    **{
        name: lambda state, name=name: {name: state, "epoch": 3}
        for name in ("model_state_dict", "model", "net_state_dict", "network", "ema")
    },
    "module": lambda state: renamed(state, "module."),
    "compiled": lambda state: renamed(state, "_orig_mod."),
    "compiled inside": lambda state: {name.replace(".", "._orig_mod.", 1): value for name, value in state.items()},
    "lightning": lambda state: {
        "state_dict": renamed(state, "model.") | {"loss.weight": torch.ones(2)},
        "hyper_parameters": {"lr": 1e-4},
    },
    "several": lambda state: {"checkpoint": {"model": renamed(state, "module._orig_mod.model.")}},
    "averaged beside": lambda state: {
        "model": state,
        "model_ema": {name: torch.zeros_like(value) for name, value in state.items()},
    },
    "numpy": lambda state: {
        "state_dict": state,
        "loss": np.float64(0.5),
        "best": np.float32(1),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-4, out=Path("x")),
    },
    "profiled": lambda state: (
        state | {f"{part}total_{what}": torch.zeros(1) for part in ("", "g_a.0.") for what in ("ops", "params")}
    ),
    "no tables": lambda state: {
        name: value
        for name, value in state.items()
        if not name.endswith(("_offset", "_quantized_cdf", "_cdf_length", "scale_table", "target"))
    },
    "optimizer by names": lambda state: {
        "net": state,
        "optimizer": {name: {"exp_avg": value} for name, value in state.items()},
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_codec_is_found_in_any_wrapping(codec: Codec, tmp_path: Path, wrapping: str) -> None:
    torch.save(WRAPPINGS[wrapping](codec.state_dict()), tmp_path / "a.pth")
    loaded = load_codec(str(tmp_path / "a.pth"))
    assert fingerprint(loaded) == fingerprint(codec)
    x = torch.rand(1, 3, 64, 64)
    assert loaded.compress_latents(loaded.g_a(x)) == codec.compress_latents(codec.g_a(x))


def test_tables_older_than_the_weights_are_made_anew(codec: Codec, tmp_path: Path, capsys: Any) -> None:
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    torch.save(state, tmp_path / "same.pth")
    state["entropy_bottleneck.quantiles"] *= 1.5
    torch.save(state, tmp_path / "old.pth")
    load_codec(str(tmp_path / "same.pth"))
    assert "older than its weights" not in capsys.readouterr().err
    loaded = load_codec(str(tmp_path / "old.pth"))
    assert "older than its weights" in capsys.readouterr().err
    before = loaded.entropy_tables()
    loaded.update(force=True)
    assert (before.cdf == loaded.entropy_tables().cdf).all()


def test_the_packages_own_tables_are_up_to_date(capsys: Any) -> None:
    for name in ("tiny", "tiny_hyper", "tiny_vbr"):
        load_codec(name)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: {name: value for name, value in state.items() if name != "g_s.2.bias"},
            "g_s.2.bias missing",
        ),
        (lambda state: state | {"g_s.9.weight": torch.ones(3)}, "g_s.9.weight unexpected"),
        (lambda state: state | {"g_s.2.bias": torch.ones(7)}, r"g_s.2.bias is \(7,\) where \(6,\) are needed"),
        (lambda state: {"model": state, "teacher": dict(state)}, r"holds several codecs \(model, teacher\)"),
        (
            lambda state: {name: value for name, value in state.items() if not name.startswith("g_s.")},
            "g_s.0.weight, g_s.0.bias, g_s.1.beta and [0-9]+ more missing",
        ),
        (
            lambda state: {name: value for name, value in state.items() if not name.startswith("g_a.0.")},
            r"its g_a has g_a.1.beta, g_a.1",
        ),
        (lambda state: {"conv1.weight": torch.ones(2), "fc": {"bias": torch.ones(2)}}, r"it holds conv1, fc"),
    ],
)
def test_what_is_no_codec_is_told_by_the_difference(codec: Codec, tmp_path: Path, change: Any, sentence: str) -> None:
    torch.save(change(dict(codec.state_dict())), tmp_path / "a.pth")
    with pytest.raises(UserError, match=sentence):
        load_codec(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "wrap", [lambda state: [state], lambda state: ({"net": state}, {"epoch": 3}), lambda state: (3, state)]
)
def test_a_codec_in_a_list_is_found(codec: Codec, tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(codec.state_dict()), tmp_path / "a.pth")
    assert fingerprint(load_codec(str(tmp_path / "a.pth"))) == fingerprint(codec)


@pytest.mark.parametrize("name", ["a.safetensors", "a.SAFETENSORS", "a.pth", "a"])
def test_safetensors_are_known_by_their_content(codec: Codec, tmp_path: Path, name: str) -> None:
    save_file({key: value.contiguous() for key, value in codec.state_dict().items()}, tmp_path / name)
    assert fingerprint(load_codec(str(tmp_path / name))) == fingerprint(codec)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_are_computed_with_in_float32(
    codec: Codec, tmp_path: Path, kind: torch.dtype
) -> None:
    state = {name: value.to(kind) if value.is_floating_point() else value for name, value in codec.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    loaded = load_codec(str(tmp_path / "a.pth"))
    for name, value in loaded.named_parameters():
        assert value.dtype == torch.float32 and torch.equal(value, state[name].float())


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_truncated_file_of_weights_is_damaged(codec: Codec, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    state = {key: value.contiguous() for key, value in codec.state_dict().items()}
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    for length in (len(content) // 2, 40, 9):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"damaged|of no kind that is known"):
            load_codec(str(path))
