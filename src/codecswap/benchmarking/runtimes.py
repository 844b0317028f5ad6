"""The runtimes that a benchmark knows, and which of them this machine has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codecswap.benchmarking.machines import Machine
from codecswap.errors import how_to_install
from codecswap.export.backends.engines import ENGINES, engine_settings
from codecswap.inference.openvino import SETTINGS
from codecswap.inference.runtime import session_entries
from codecswap.quantized.precision import PRECISIONS
from codecswap.runner.networks import QNN

CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Runtime:
    """One runtime, on one device."""

    runner: str
    """Name in `codecswap.runner.networks.RUNTIMES`."""
    package: str
    """Its Python module."""
    file: str
    """What it opens: ``module`` (PyTorch's), or a name in `codecswap.benchmarking.contenders.SUFFIXES`."""
    precisions: tuple[str, ...]
    install: str
    """What to do where it is missing, without a full stop."""
    other: str = ""
    """Another module that the runner can use in its place."""
    target: str | None = None
    """Target whose quantization scheme fits it; None: that of `codecswap quantize`."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Settings for the runner."""
    toolchain: str = ""
    """It runs nothing but folders that `codecswap compile` wrote with this toolchain, on an NPU."""


RUNTIMES = {
    "pytorch": Runtime("pytorch", "torch", "module", ("float32",), how_to_install("train"), config={"device": "cpu"}),
    "pytorch-cuda": Runtime(
        "pytorch",
        "torch",
        "module",
        ("float32", "float16"),
        "it needs an NVIDIA GPU, its driver, and a PyTorch with CUDA (pytorch.org)",
        config={"device": "cuda"},
    ),
    "onnxruntime": Runtime(
        "onnxruntime",
        "onnxruntime",
        "onnx",
        ("float32", "float16", *PRECISIONS),
        "pip install onnxruntime",
        config={"provider": "CPUExecutionProvider"},
    ),
    "onnxruntime-cuda": Runtime(
        "onnxruntime",
        "onnxruntime",
        "onnx",
        ("float32", "float16"),
        "it needs an NVIDIA GPU, and pip install onnxruntime-gpu in place of onnxruntime",
        config={"provider": CUDA_PROVIDER},
    ),
    "openvino": Runtime(
        "openvino",
        "openvino",
        "onnx",
        ("float32", "w8a8"),
        "pip install openvino",
        target="openvino",
        config=SETTINGS,
    ),
    "litert": Runtime(
        "litert",
        "ai_edge_litert",
        "tflite",
        ("float32", "w8a8", "w8a16"),
        "pip install ai-edge-litert",
        other="tflite_runtime",
        target="ethos-u",
    ),
    "rknnlite": Runtime(
        "rknnlite",
        "rknnlite",
        "rknn",
        (),
        "pip install rknn-toolkit-lite2 on the board, and Rockchip's librknnrt.so of the same version",
        toolchain="rknn",
    ),
    "litert-ethos-u": Runtime(
        "litert",
        "ai_edge_litert",
        "vela",
        (),
        "pip install ai-edge-litert on the board, and libethosu_delegate.so of its Linux's driver of the Ethos-U",
        other="tflite_runtime",
        toolchain="vela",
        config={"delegate": "libethosu_delegate.so"},
    ),
    "onnxruntime-qnn": Runtime(
        "onnxruntime",
        "onnxruntime",
        "qnn",
        (),
        "an onnxruntime with QNNExecutionProvider (pip install onnxruntime-qnn) on the board, and Qualcomm's driver of the HTP",
        toolchain="qnn",
        config={
            "provider": QNN,
            "settings": {"backend_path": "libQnnHtp.so"},
            "entries": {"session.disable_cpu_ep_fallback": "1"},
        },
    ),
    "ncnn": Runtime("ncnn", "ncnn", "ncnn", ("float32", "float16"), ENGINES["ncnn"].install),
    "mnn": Runtime("mnn", "MNN", "mnn", ("float32", "float16"), ENGINES["mnn"].install),
    "executorch": Runtime("executorch", "executorch", "executorch", ("float32",), ENGINES["executorch"].install),
}
"""By their names in ``--runtime``."""
MODULES = sorted({name for one in RUNTIMES.values() for name in (one.package, one.other) if name})
"""Python modules to ask a machine for."""


def missing(name: str, machine: Machine) -> str | None:
    """Why a machine cannot use a runtime and how to install it, as a sentence; None: it can, or only trying it tells.

    Args:
        name: the runtime.
        machine: asked for `MODULES`.
    """
    runtime = RUNTIMES[name]
    if not machine.is_board and own_python(name):
        return None if ENGINES[runtime.file].installed() else f"Not installed: {runtime.install}."
    if not machine.modules & {runtime.package, runtime.other}:
        return f"Not installed: {runtime.install}."
    if machine.is_board:
        return None
    if runtime.config.get("device") == "cuda":
        import torch

        return None if torch.cuda.is_available() else f"No CUDA device: {runtime.install}."
    if runtime.config.get("provider") == CUDA_PROVIDER:
        import onnxruntime

        there = CUDA_PROVIDER in onnxruntime.get_available_providers()
        return None if there else f"No CUDA device, or an ONNX Runtime without CUDA: {runtime.install}."
    return None


def own_python(name: str) -> Path | None:
    """Python interpreter of a runtime's own environment on this machine; None: it needs none."""
    engine = ENGINES.get(RUNTIMES[name].file)
    return Path(engine.interpreter()) if engine and engine.environment else None


def configuration(name: str, precision: str, wide_sums: bool) -> dict[str, Any]:
    """Settings of a runtime for the runner."""
    runtime = RUNTIMES[name]
    config = dict(runtime.config)
    if runtime.runner == "onnxruntime" and not runtime.toolchain:
        config["entries"] = session_entries(wide_sums)
    if runtime.runner == "pytorch":
        config["dtype"] = precision
    if runtime.file in ENGINES:
        config |= engine_settings(half=precision == "float16")
    return config
