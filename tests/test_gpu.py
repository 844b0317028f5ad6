"""What runs on a GPU and needs no gradients there, on an imitated one: the same results as on the CPU, and no mixed devices."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from imitated_gpu import OnGpu, imitated_gpu
from small_codecs import small_codec

from codecswap import devices
from codecswap.cli import run
from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import encode
from codecswap.errors import UserError
from codecswap.evaluation.measure import compress
from codecswap.swaps.apply import swap
from codecswap.swaps.calibrate import calibrate
from codecswap.swaps.closed_form import measure

pytestmark = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="needs a PyTorch that knows CUDA; no GPU")


def test_the_imitation_refuses_what_a_gpu_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with imitated_gpu(monkeypatch):
        x = torch.rand(2, 3).to("cuda")
        assert isinstance(x, OnGpu) and (x + 1)[0].device.type == "cuda" and x.cpu().device.type == "cpu"
        for mix in (lambda: x + torch.rand(2, 3), lambda: torch.cat([x, torch.rand(2, 3)]), x.numpy):
            with pytest.raises(RuntimeError):
                mix()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_strings_latents_and_calibration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, x = small_codec(name), torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    try:
        student, _ = swap(codec, "upsample")
    except UserError:  # nothing to swap
        student = None

    def found(codec: Any, student: Any, x: torch.Tensor) -> list[Any]:
        strings = compress(codec, x[:1, :, :64, :64])
        read = [strings, codec.decompress_latents(*strings).cpu()]
        if student is not None:
            calibrate(codec, student, torch.cat([encode(codec, one) for one in x.split(1)]), seed=0, transform="g_s")
            read.append(measure(codec, student, x.split(1)).psnr)
        return read

    with imitated_gpu(monkeypatch):
        there = found(codec.to("cuda"), student and student.to("cuda"), x.to("cuda"))
        assert next(codec.parameters()).device.type == "cuda"
        codec.cpu(), student and student.cpu()
    here = found(codec, student and swap(codec, "upsample")[0], x)
    assert there[0] == here[0] and torch.equal(there[1], here[1])
    assert there[2:] == pytest.approx(here[2:], abs=0.01)


@pytest.mark.parametrize("teacher", ["tiny", "tiny_vbr"])
def test_eval(teacher: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_try_cuda", lambda: None)
    words = ["--teacher", teacher, "--images", str(pictures / "val"), "--anchors", "none"]
    assert not run("eval", [*words, "--accelerator", "cpu", "--output", str(tmp_path / "cpu")])
    with imitated_gpu(monkeypatch):
        assert not run("eval", [*words, "--output", str(tmp_path / "gpu")])
    here, there = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("cpu", "gpu"))
    assert here["hardware"]["device"] == "cpu" and there["hardware"]["device"] == "Imitated"
    for one, other in zip(here["codecs"], there["codecs"], strict=True):
        for name in ("psnr", "ms_ssim", "bpp"):
            assert other["mean"][name] == pytest.approx(one["mean"][name], rel=1e-4)
