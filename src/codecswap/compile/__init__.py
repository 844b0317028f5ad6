"""Table of toolchains. To add one, add a file here and a line in the table."""

from codecswap.compile.coreml import COREML
from codecswap.compile.drp_ai import DRP_AI
from codecswap.compile.engines import MNN, NCNN
from codecswap.compile.ethos_u import VELA
from codecswap.compile.executorch import EXECUTORCH
from codecswap.compile.openvino import OPENVINO
from codecswap.compile.pack import PACK
from codecswap.compile.qnn import QNN
from codecswap.compile.rknn import RKNN
from codecswap.compile.tensorrt import TENSORRT
from codecswap.compile.toolchain import Toolchain

TOOLCHAINS: dict[str, Toolchain] = {
    "coreml": COREML,
    "drp-ai": DRP_AI,
    "executorch": EXECUTORCH,
    "mnn": MNN,
    "ncnn": NCNN,
    "pack": PACK,
    "qnn": QNN,
    "openvino": OPENVINO,
    "rknn": RKNN,
    "tensorrt": TENSORRT,
    "vela": VELA,
}
"""Toolchains by their names in the files of targets (targets/*.toml)."""
