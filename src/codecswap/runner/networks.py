"""Networks in the runtimes that machines have, all with one interface."""

from __future__ import annotations

import io
import os
import platform
import tempfile
from importlib.util import find_spec
from typing import Any

QNN = "QNNExecutionProvider"
"""ONNX Runtime's execution provider for Qualcomm's NPUs."""
EMULATED = "emulated"
"""Last word of the version of a runtime that emulates an NPU, so that its times are not those of one."""


class Network:
    """An opened network. ``run`` alone is timed."""

    version = ""

    def given(self, feeds: dict[str, Any]) -> Any:
        """Convert inputs ``(1, C, H, W)``, float32, to what ``run`` takes."""
        return feeds

    def run(self, given: Any) -> Any:
        """Compute the first output."""
        raise NotImplementedError

    def array(self, result: Any) -> Any:
        """Convert a result to a NumPy array as ONNX has it."""
        return result

    def peak(self) -> int | None:
        """Peak memory of an accelerator in bytes; None: that of the process counts."""
        return None


class PyTorch(Network):
    """A pickled module; ``config`` has its ``device`` and ``dtype``."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.version = torch, f"torch {torch.__version__}"
        self.device, self.dtype = torch.device(config["device"]), getattr(torch, config["dtype"])
        module = torch.load(io.BytesIO(content), weights_only=False)
        self.module = module.eval().to(self.device, self.dtype)

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        (values,) = feeds.values()
        return self.torch.from_numpy(values)

    def run(self, given: Any) -> Any:  # noqa: D102
        with self.torch.inference_mode():
            return self.module(given.to(self.device, self.dtype)).float().cpu()

    def array(self, result: Any) -> Any:  # noqa: D102
        return result.numpy()

    def peak(self) -> int | None:  # noqa: D102
        return self.torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


class OnnxRuntime(Network):
    """``config`` has the execution ``provider``, the session's ``entries`` and, for an NPU, the provider's ``settings``."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        for key, value in config["entries"].items():
            options.add_session_config_entry(key, value)
        self.version = f"onnxruntime {onnxruntime.__version__}"
        provider, settings = config["provider"], config.get("settings", {})
        if provider == QNN and find_spec("onnxruntime_qnn"):  # a plugin, whose libraries are where it is
            import onnxruntime_qnn

            onnxruntime.register_execution_provider_library(QNN, onnxruntime_qnn.get_library_path())
            devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == QNN]
            settings = {**settings, "backend_path": onnxruntime_qnn.get_qnn_htp_path()}
            options.add_provider_for_devices(devices[:1], settings)
            self.session = onnxruntime.InferenceSession(content, options)
            self.version += f", QNN {EMULATED}" if platform.machine() in ("x86_64", "AMD64") else ", QNN"
        else:
            if provider not in onnxruntime.get_available_providers():
                raise RuntimeError(f"this onnxruntime has no {provider}")
            self.session = onnxruntime.InferenceSession(content, options, providers=[(provider, settings)])
            if self.session.get_providers()[0] != provider:
                raise RuntimeError(f"{provider} cannot be used here")
        self.outputs = [self.session.get_outputs()[0].name]

    def run(self, given: Any) -> Any:  # noqa: D102
        return self.session.run(self.outputs, given)[0]


class OpenVino(Network):
    """``config`` has OpenVINO's settings."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        import openvino

        core = openvino.Core()
        settings = {**config, "INFERENCE_NUM_THREADS": threads}
        self.request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()
        self.version = f"openvino {openvino.__version__.partition('-')[0]}"

    def run(self, given: Any) -> Any:  # noqa: D102
        self.request.infer(given)
        return self.request.get_output_tensor(0).data.copy()


class LiteRt(Network):
    """A TFLite file, ``(1, H, W, C)``, of one input and one output, in integers or float.

    ``config`` may have a ``delegate``, the name of the shared library that runs it on an NPU.
    """

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        try:
            import ai_edge_litert as package
            from ai_edge_litert.interpreter import Interpreter, load_delegate
        except ImportError:  # the older package, which boards have
            import tflite_runtime as package
            from tflite_runtime.interpreter import Interpreter, load_delegate

        delegates = [load_delegate(config["delegate"])] if "delegate" in config else None
        self.interpreter = Interpreter(model_content=content, num_threads=threads, experimental_delegates=delegates)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]
        self.version = f"{package.__name__} {getattr(package, '__version__', '')}".strip()

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        import numpy as np

        (values,) = feeds.values()
        values, dtype = values.transpose(0, 2, 3, 1), self.input["dtype"]
        scale, zero = self.input["quantization"]
        if scale:
            limits = np.iinfo(dtype)
            values = (np.rint(values / scale) + zero).clip(limits.min, limits.max)
        return np.ascontiguousarray(values, dtype)

    def run(self, given: Any) -> Any:  # noqa: D102
        self.interpreter.set_tensor(self.input["index"], given)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output["index"])

    def array(self, result: Any) -> Any:  # noqa: D102
        scale, zero = self.output["quantization"]
        values = result.astype("float32")
        return ((values - zero) * scale if scale else values).transpose(0, 3, 1, 2).astype("float32")


class RknnLite(Network):
    """Rockchip's runtime for Python on its boards, with a network of `codecswap compile`, ``(1, H, W, C)`` in."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        from importlib.metadata import version

        from rknnlite.api import RKNNLite

        self.rknn, self.version = RKNNLite(), f"rknn-toolkit-lite2 {version('rknn-toolkit-lite2')}"
        if self.rknn.load_rknn(path_of(content)) or self.rknn.init_runtime():
            raise RuntimeError("RKNNLite does not open the network")

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        import numpy as np

        (values,) = feeds.values()
        return np.ascontiguousarray(values.transpose(0, 2, 3, 1))

    def run(self, given: Any) -> Any:  # noqa: D102
        results = self.rknn.inference(inputs=[given], data_format=["nhwc"])
        if results is None:
            raise RuntimeError("RKNNLite does not compute the network")
        return results[0]

    def array(self, result: Any) -> Any:  # noqa: D102
        return result.astype("float32")


class Ncnn(Network):
    """ncnn's two files (`two_files`), of one input and one output; ``config`` has ``half``: 16-bit floats where it can."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        import ncnn

        length, _, files = content.partition(b"\n")
        param, weights = files[: int(length)], files[int(length) :]
        self.net, self.matrix, self.version = ncnn.Net(), ncnn.Mat, f"ncnn {ncnn.__version__}"
        self.net.opt.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self.net.opt, name, config["half"])
        if self.net.load_param_mem(param.decode()) or self.net.load_model(path_of(weights)):
            raise RuntimeError("ncnn cannot read the network")

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        (values,) = feeds.values()
        return self.matrix(values[0]).clone()

    def run(self, given: Any) -> Any:  # noqa: D102
        extractor = self.net.create_extractor()
        extractor.input(self.net.input_names()[0], given)
        failed, result = extractor.extract(self.net.output_names()[0])
        if failed:
            raise RuntimeError("ncnn cannot compute the network")
        return result

    def array(self, result: Any) -> Any:  # noqa: D102
        import numpy as np

        return np.array(result)[None]


class Mnn(Network):
    """An MNN file of one input and one output; ``config`` has MNN's ``precision``, ``high`` or ``low``."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        import MNN

        self.mnn, self.version = MNN, f"MNN {MNN.version()}"
        self.network = MNN.Interpreter(path_of(content))
        self.session = self.network.createSession(
            {"backend": "CPU", "numThread": threads, "precision": config["precision"]}
        )
        self.input, self.output = (
            find(self.session) for find in (self.network.getSessionInput, self.network.getSessionOutput)
        )

    def _tensor(self, values: Any) -> Any:
        return self.mnn.Tensor(values.shape, self.mnn.Halide_Type_Float, values, self.mnn.Tensor_DimensionType_Caffe)

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        import numpy as np

        (values,) = feeds.values()
        return self._tensor(np.ascontiguousarray(values, np.float32))

    def run(self, given: Any) -> Any:  # noqa: D102
        import numpy as np

        self.input.copyFrom(given)
        self.network.runSession(self.session)
        result = np.empty(self.output.getShape(), np.float32)
        tensor = self._tensor(result)
        self.output.copyToHostTensor(tensor)
        return tensor

    def array(self, result: Any) -> Any:  # noqa: D102
        return result.getNumpyData().copy()


class ExecuTorch(Network):
    """An ExecuTorch program of one method, of one input and one output."""

    def __init__(self, content: bytes, threads: int, config: dict[str, Any]) -> None:
        from importlib.metadata import version

        import torch
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(threads)
        self.torch, self.version = torch, f"executorch {version('executorch')}"
        self.program = Runtime.get().load_program(content)
        self.method = self.program.load_method("forward")

    def given(self, feeds: dict[str, Any]) -> Any:  # noqa: D102
        (values,) = feeds.values()
        return [self.torch.from_numpy(values).contiguous()]

    def run(self, given: Any) -> Any:  # noqa: D102
        return self.method.execute(given)[0]

    def array(self, result: Any) -> Any:  # noqa: D102
        return result.detach().numpy().copy()


def two_files(first: bytes, second: bytes) -> bytes:
    """Two files as one: a line with the length of the first, then both."""
    return b"%d\n%s%s" % (len(first), first, second)


def path_of(content: bytes) -> str:
    """A path that libraries can open ``content`` at, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("network")
        os.write(file, content)
        return f"/proc/self/fd/{file}"
    with tempfile.NamedTemporaryFile(delete=False) as kept:
        kept.write(content)
    return kept.name


RUNTIMES = {
    "pytorch": PyTorch,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRt,
    "rknnlite": RknnLite,
    "ncnn": Ncnn,
    "mnn": Mnn,
    "executorch": ExecuTorch,
}
"""By the ``runtime`` of a request."""
