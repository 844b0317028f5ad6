"""Find, test and report the device of a run."""

import os
import subprocess

import torch

from codecswap.console import say, warn
from codecswap.errors import UserError
from codecswap.processes import cores


def check_device(accelerator: str, amp: str) -> None:
    """Print which device a run will use, and warn if it may be unexpected.

    Args:
        accelerator: Lightning's: ``auto``, ``cpu``, ``gpu``, ``cuda``, ...
        amp: Lightning's precision: ``32``, ``bf16-mixed`` or ``16-mixed``.

    Raises:
        UserError: a CUDA device is asked for, or would be taken, and does not compute.
    """
    if use_cuda(accelerator):
        count = torch.cuda.device_count()
        say(f"Device: {torch.cuda.get_device_name()} (CUDA)" + (f", the first of {count}." if count > 1 else "."))
        return
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        say("Device: Apple's GPU (MPS).")
        return
    if accelerator not in ("auto", "cpu"):
        say(f"Device: {accelerator}.")
        return
    say(f"Device: the CPU (threads: {torch.get_num_threads()}, cores: {cores()}).")
    if torch.cuda.is_available():
        warn(
            f"{torch.cuda.get_device_name()} is there and not used: leave --accelerator {accelerator} out to train on it."
        )
    elif reason := _why_not():
        warn(f"a GPU is there and not used: {reason}.")
    if amp == "16-mixed":
        warn("--amp 16-mixed needs a GPU: on the CPU Lightning computes in bf16-mixed; use 32 for exact results.")
    if amp != "32" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warn(
            f"--amp {amp}: PyTorch has no fast bfloat16 for this processor, where a step takes many times as long; use 32."
        )


def be_deterministic() -> None:
    """Use only algorithms that give the same result every time, in the whole program; called before anything is computed.

    cuBLAS reads its variable when it is first used on a device.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)


def use_cuda(accelerator: str) -> bool:
    """Whether to compute on a CUDA device.

    Raises:
        UserError: a GPU is asked for and there is none, or the CUDA device does not compute.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        _try_cuda()
        return True
    if accelerator == "cuda" or (accelerator == "gpu" and not torch.backends.mps.is_available()):
        raise UserError(
            f"--accelerator {accelerator}: {_why_not() or 'this machine has no GPU with CUDA'}; use --accelerator cpu."
        )
    return False


def _try_cuda() -> None:
    """Run a small computation: a listed GPU can be too old for this PyTorch, or in use by another process."""
    try:
        if torch.ones(2, device="cuda").sum().item() != 2:
            raise RuntimeError("1 + 1 is not 2 on it")
    except (RuntimeError, AssertionError) as error:  # PyTorch has no narrower exception for it
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(
            f"CUDA is there but does not compute ({reason}): install a PyTorch that fits this GPU and its driver, free the "
            "GPU, or train on the CPU with --accelerator cpu."
        ) from error


def _why_not() -> str | None:
    """Why PyTorch cannot use an NVIDIA GPU that its driver lists; None if there is no such GPU."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    if "GPU 0" not in listed:
        return None
    name = listed.split("\n")[0].removeprefix("GPU 0: ").split(" (UUID")[0]
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this PyTorch ({torch.__version__}) is built without CUDA and cannot use the {name}; install one with it"
        )
    return f"PyTorch ({torch.__version__}) finds no usable CUDA device although the driver lists the {name}; update the driver"
