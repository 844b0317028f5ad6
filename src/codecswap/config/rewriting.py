"""Options of `codecswap rewrite`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from codecswap.config.shared import Options, check_output
from codecswap.errors import UserError


@dataclass(kw_only=True)
class RewriteOptions(Options):
    """Replace every ConvTranspose of any ONNX file by operators that NPUs run, exactly. Needs no PyTorch."""

    file: Path | None = None
    """ONNX file. May be given as a positional argument."""
    output: Path | None = None
    """File to write. Default: NAME.rewritten.onnx beside the file."""
    form: Literal["subpixel", "masked", "phases", "native"] | None = None
    """subpixel: Conv and DepthToSpace. masked: Resize, Mul and Conv, for fixed sizes. phases: one Conv per phase, Reshape and
    Concat. native: ConvTranspose with explicit pads. Default: subpixel, or the target's."""
    operators: list[str] = field(default_factory=list)
    """ONNX operators that may be used, e.g. Conv,Resize,Mul. Each node gets the cheapest form that needs no others."""
    target: str | None = None
    """The NPU whose operators may be used: a name that docs/npu.md lists or a TOML file. cpu: the form measured as fastest."""
    inputs: Path | None = None
    """File .npz of real inputs to verify on, with arrays named like the model's inputs."""
    time: bool = False
    """Also measure the time of both files."""
    report: Path | None = None
    """JSON file to write the figures to."""
    writes: ClassVar[str | None] = "an ONNX model"

    def __post_init__(self) -> None:
        if self.file is None:
            raise UserError("Name the ONNX file, e.g. codecswap rewrite model.onnx -o out.onnx.")
        self.operators = [name.strip() for entry in self.operators for name in entry.split(",") if name.strip()]

    def check_paths(self) -> None:  # noqa: D102
        super().check_paths()
        if self.report is not None:
            check_output(self, "report", "a JSON file")
