"""Where teachers come from."""

import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai import models
from safetensors.torch import save_file

from codecswap.codecs import source as codecs
from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.protocol import Codec
from codecswap.codecs.source import fingerprint, load_codec
from codecswap.codecs.variable_rate import VariableRate
from codecswap.data.transforms import whole_picture
from codecswap.errors import UserError


def test_the_embedded_codec_is_a_trained_one_with_its_tables(teacher: FactorizedPrior) -> None:
    assert (teacher.N, teacher.M) == (48, 80) and not teacher.training
    assert teacher.entropy_bottleneck.quantized_cdf.shape[0] == 80
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_embedded_hyperprior_shares_the_transforms_and_saves_bits(
    teacher: FactorizedPrior, photos: list[Path]
) -> None:
    codec = load_codec("tiny_hyper")
    assert (codec.N, codec.M) == (48, 80) and not codec.training
    for part in ("g_a", "g_s"):
        mine, theirs = (getattr(one, part).state_dict() for one in (codec, teacher))
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    x = whole_picture(photos[0])[None, :, :256, :256]
    size, mine, theirs = x.shape[-2:], codec.g_a(x), teacher.g_a(x)
    strings = [one.compress_latents(y) for one, y in ((codec, mine), (teacher, theirs))]
    spent, before = (sum(len(string) for string in each) for each in strings)
    assert spent < 0.97 * before
    decoded = codec.decompress_latents(strings[0], [side // 16 for side in size])
    torch.testing.assert_close(decoded, mine, rtol=0, atol=0.501)


def test_the_embedded_variable_rate_covers_a_range_and_reaches_the_hyperprior(photos: list[Path]) -> None:
    codec, one_rate = load_codec("tiny_vbr"), load_codec("tiny_hyper")
    assert isinstance(codec, VariableRate) and (codec.N, codec.M, len(codec.gains)) == (48, 80, 6)
    x = whole_picture(photos[0])[None, :, :256, :256]

    def measured(which: Codec) -> tuple[float, float]:
        y = which.g_a(x)
        return which.bits(y).item(), (which.g_s(which.quantize(y)).clamp(0, 1) - x).square().mean().item()

    points = []
    for gain in codec.gains:
        codec.gain = gain
        points.append(measured(codec))
    bits, errors = np.array(points).T
    assert (np.diff(bits) > 0).all() and bits[-1] > 2.5 * bits[0]
    assert (np.diff(errors) < 0).all() and errors[-1] < 0.7 * errors[0]
    wanted, error = measured(one_rate)
    assert np.interp(wanted, bits, errors) < 1.05 * error


@pytest.mark.parametrize("form", ["safetensors", "plain", "compressai", "parallel", "no tables"])
def test_local_files_of_any_size_and_form(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    codec = FactorizedPrior(6, 10)
    if form != "no tables":
        codec.update()
    state = {name: value.clone() for name, value in codec.state_dict().items()}
    path = tmp_path / "codec.pth.tar"
    if form == "safetensors":
        path = tmp_path / "codec.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif form == "compressai":
        torch.save({"epoch": 3, "state_dict": state, "loss": torch.tensor(1.0), "optimizer": {}}, path)
    elif form == "parallel":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        torch.save(state, path)
    loaded = load_codec(str(path))
    assert (loaded.N, loaded.M) == (6, 10) and fingerprint(loaded) == fingerprint(codec)
    assert len(models.FactorizedPrior.compress(loaded, torch.rand(1, 3, 32, 32))["strings"][0][0]) > 0


def test_the_fingerprint_sees_every_weight(teacher: FactorizedPrior) -> None:
    before = fingerprint(teacher)
    with torch.no_grad():
        teacher.g_s[6].bias[2] += 1e-6
    assert fingerprint(teacher) != before == fingerprint(load_codec("tiny"))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_what_is_no_codec_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("text.pth", "evil.pth", "list.pth", "other.pth", "student.pth", "x.safetensors")
    files = {name: tmp_path / name for name in names}
    files["text.pth"].write_text("hello")
    files["evil.pth"].write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save([1, 2], files["list.pth"])
    torch.save({"g_a.stem.weight": torch.zeros(4, 3, 5, 5)}, files["other.pth"])
    torch.save({"student_state": {}}, files["student.pth"])
    files["x.safetensors"].write_bytes(b"\x00" * 64)
    sentences = {
        "text.pth": "is a text file, not a checkpoint",
        "evil.pth": r"holds code \(pathlib(\._local)?\.Path\.touch\), which is never run",
        "list.pth": "it holds no weights",
        "other.pth": "is not a codec of the architecture bmshj2018_factorized or .* its g_a has g_a.stem.weight",
        "student.pth": "holds a student, not a teacher",
        "x.safetensors": "damaged or no checkpoint",
        "missing.pth": "There is no checkpoint",
    }
    for name, sentence in sentences.items():
        with pytest.raises(UserError, match=sentence):
            load_codec(str(tmp_path / name))
    assert not (tmp_path / "evil").exists(), "code inside a checkpoint was run"


def test_a_failed_download_names_the_file_its_place_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(codecs, "download_url_to_file", refuse)
    with pytest.raises(UserError) as caught:
        load_codec(quality=3)
    for part in ("bmshj2018-factorized-prior-3-5c6f152b.pth.tar", "hub/checkpoints", "--teacher", "no route"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="1 to 8, not 9"):
        load_codec(quality=9)


def test_a_web_page_in_place_of_a_checkpoint_is_told(tmp_path: Path) -> None:
    (tmp_path / "codec.pth").write_text("\n<!DOCTYPE html><html><title>Download</title></html>")
    with pytest.raises(UserError, match="is a web page"):
        load_codec(str(tmp_path / "codec.pth"))
