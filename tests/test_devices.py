"""The device that a run finds, on machines that these tests do not have."""

import subprocess

import pytest
import torch

from codecswap import devices
from codecswap.cli import run
from codecswap.errors import UserError


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: (_ for _ in ()).throw(FileNotFoundError()))


def with_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = subprocess.CompletedProcess([], 0, "GPU 0: NVIDIA T4 (UUID: GPU-1)\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: listed)


def with_cuda(monkeypatch: pytest.MonkeyPatch, ones: object) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T4")
    monkeypatch.setattr(torch, "ones", ones)


def test_a_machine_without_a_gpu(
    cpu_only: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    devices.check_device("auto", "32")
    said = capsys.readouterr()
    assert said.out.startswith("Device: the CPU") and said.out.count("\n") == 1 and not said.err
    devices.check_device("cpu", "16-mixed")
    assert "16-mixed needs a GPU" in capsys.readouterr().err
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    devices.check_device("cpu", "bf16-mixed")
    assert "no fast bfloat16 for this processor" in capsys.readouterr().err
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    devices.check_device("cpu", "bf16-mixed")
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="has no GPU"):
        devices.check_device("gpu", "32")


def test_a_gpu_that_pytorch_cannot_use(cpu_only: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with_driver(monkeypatch)
    for build, reason in ((None, "built without CUDA"), ("12.6", "update the driver")):
        monkeypatch.setattr(torch.version, "cuda", build)
        devices.check_device("auto", "32")
        said = capsys.readouterr().err
        assert "a GPU is there and not used" in said and "NVIDIA T4" in said and reason in said
        with pytest.raises(UserError, match="NVIDIA T4"):
            devices.check_device("cuda", "32")


def test_a_gpu_that_works_or_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    ones = torch.ones
    with_cuda(monkeypatch, lambda size, device: ones(size))
    devices.check_device("auto", "16-mixed")
    said = capsys.readouterr()
    assert said.out == "Device: NVIDIA T4 (CUDA), the first of 2.\n" and not said.err
    devices.check_device("cpu", "32")
    assert "NVIDIA T4 is there and not used" in capsys.readouterr().err


def test_cuda_that_does_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(size: int, device: str) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors")

    with_cuda(monkeypatch, fail)
    with pytest.raises(UserError) as caught:
        devices.check_device("auto", "32")
    sentence = str(caught.value)
    assert "no kernel image is available" in sentence and "--accelerator cpu" in sentence and "\n" not in sentence


def test_evaluation_finds_its_device_in_the_same_place(cpu_only: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert not devices.use_cuda("auto") and not devices.use_cuda("cpu")
    assert run("eval", ["--images", ".", "--teacher", "tiny", "--accelerator", "cuda"]) == 2
    assert "this machine has no GPU with CUDA" in capsys.readouterr().err
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert not devices.use_cuda("gpu"), "Lightning takes Apple's"
    with pytest.raises(UserError, match="has no GPU with CUDA"):
        devices.use_cuda("cuda")
