"""OpenVINO instead of ONNX Runtime, if it is installed (`codecswap encode --runtime openvino`)."""

import numpy as np

from codecswap.errors import UserError, how_to_install

SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",  # or it computes in bfloat16 where the processor has it
    "PERFORMANCE_HINT": "LATENCY",
}
"""How OpenVINO compiles a network."""


class OpenVinoSession:
    """A model compiled for the CPU, with the part of ONNX Runtime's interface that `codecswap.inference.runtime` uses.

    Args:
        content: bytes of an ONNX file.
        threads: number of threads; None: OpenVINO's default.

    Raises:
        UserError: OpenVINO is not installed.
    """

    def __init__(self, content: bytes, threads: int | None = None) -> None:
        try:
            import openvino
        except ModuleNotFoundError:
            raise UserError(
                f"--runtime openvino needs openvino: pip install openvino, or {how_to_install('npu')}."
            ) from None
        settings: dict[str, str | int] = SETTINGS | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        core = openvino.Core()
        self._request = core.compile_model(core.read_model(content), "CPU", settings).create_infer_request()

    def run(self, outputs: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute ``outputs`` from the inputs in ``feeds``, by name."""
        self._request.infer(feeds)
        return [self._request.get_tensor(name).data.copy() for name in outputs]


def version() -> str | None:
    """Version of OpenVINO; None if it is not installed."""
    try:
        import openvino
    except ModuleNotFoundError:
        return None
    return str(openvino.__version__).partition("-")[0]
