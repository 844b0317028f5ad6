"""Options of eval, report, demo, advise and benchmark."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from codecswap.config.shared import (
    ZOO,
    Form,
    Model,
    Options,
    PictureOptions,
    TeacherOptions,
    check_at_least,
    check_codec,
    check_file,
    check_folder,
    check_source,
    check_teacher,
)
from codecswap.errors import UserError
from codecswap.identify import no_folder


@dataclass(kw_only=True)
class EvalOptions(PictureOptions):
    """Compare students with their teacher and with JPEG, WebP and AVIF: quality, real bytes and times."""

    teacher: list[str] = field(default_factory=list)
    """A codec file, tiny, tiny_hyper or tiny_vbr (in the package), or file.py:function (code of yours that is run). Several
    make a curve. Default: CompressAI's model zoo."""
    model: Model = ZOO
    """Architecture of the model zoo's codec."""
    quality: int | str = 8
    """Quality of the model zoo's codec, 1 (fewest bits) to 8. Several (1,2,3,4) make a curve."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """The metric that the model zoo's codec was trained for."""
    checkpoint: list[str] = field(default_factory=list)
    """Checkpoint of a student, or several. The teacher is read from it. Default: only the teacher is measured."""
    codec: list[str] = field(default_factory=list)
    """Exported, quantized or compiled folder, or several. One without an encoder takes the teacher's. Without --teacher and
    --checkpoint only folders are measured."""
    images: str | None = None
    """Instead of --coco_dir: pictures of any size, all of them, uncropped: a folder, a tar file or a folder of them, a list of
    paths (.txt, .csv, .parquet), an address (s3://...) or an archive of decoded pictures."""
    archive: Path | None = None
    """An archive that `codecswap encode --archive` made of --images: its files are decoded with each --codec and compared with
    the pictures; nothing is encoded."""
    anchors: str | None = None
    """Qualities for JPEG, WebP and AVIF, e.g. 30,50, or none. Default: 10,30,50,70,90 with --images."""
    metrics: list[str] = field(default_factory=list)
    """Metrics to measure besides PSNR and MS-SSIM: lpips (AlexNet; the first time 233 MB are downloaded)."""
    output: Path | None = None
    """Folder for summary.json, pictures.csv and curves/ in CompressAI's results format."""
    accelerator: str = "auto"
    """Device to compute on: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.qualities) > 1 and self.teacher:
            raise UserError("--teacher names local codecs and --quality several of the zoo's: give one of the two.")
        self.anchor_qualities  # noqa: B018 - checks it
        if (self.archive and not (self.images and self.codec)) or (self.archive and (self.teacher or self.checkpoint)):
            raise UserError(
                "--archive needs the pictures that it was made of, with --images, and folders that decode it, with --codec, "
                "without --teacher and --checkpoint."
            )
        if self.accelerator not in ("auto", "cpu", "cuda", "gpu"):
            raise UserError(f"--accelerator is auto, cpu or cuda, not {self.accelerator}.")
        self.accelerator = "cuda" if self.accelerator == "gpu" else self.accelerator

    def check_paths(self) -> None:  # noqa: D102
        check_source(self, "images")
        check_folder(self, "archive", "the coded pictures")
        check_teacher(self)
        check_file(self, "checkpoint")
        check_codec(self)
        super().check_paths()

    @property
    def qualities(self) -> list[int]:
        """``quality`` as numbers."""
        return _numbers(self.quality, "--quality", 1, 8)

    @property
    def anchor_qualities(self) -> list[int]:
        """``anchors`` as numbers; crops have none by default, since most of their bytes would be headers."""
        default = "10,30,50,70,90" if self.images else "none"
        anchors = default if self.anchors is None else self.anchors
        return [] if anchors == "none" else _numbers(anchors, "--anchors", 1, 100)


def _numbers(text: int | str, option: str, low: int, high: int) -> list[int]:
    """Parse integers separated by commas; duplicates are dropped.

    Raises:
        UserError: it is not a list of integers, or one is out of range.
    """
    try:
        numbers = list(dict.fromkeys(int(word) for word in str(text).split(",")))
    except ValueError:
        numbers = []
    if not numbers or not all(low <= number <= high for number in numbers):
        raise UserError(f"{option} takes numbers from {low} to {high}, separated by commas (1,2,4), not {text}.")
    return numbers


@dataclass(kw_only=True)
class ReportOptions(Options):
    """Write an HTML file about a run: the result, curves, reconstructions over time, and how to repeat it."""

    runs: list[str] = field(default_factory=list)
    """Run folders of one student, e.g. checkpoints checkpoints_ft, or folders of `codecswap benchmark`, and of
    `codecswap compile` to stand beside them. May be given as positional arguments."""
    output: Path = Path("report.html")
    """HTML file to write, or a folder for report.html; below 20 MB. It needs no network."""
    pictures: int = 32
    """Number of validation pictures to measure the result on, at most. 0: use the metrics of the training instead."""
    watch: bool = False
    """Update the report whenever the run's files change, until the run ends or Ctrl-C."""
    writes: ClassVar[str | None] = "a web page"

    def check_paths(self) -> None:  # noqa: D102
        for run in self.runs:
            if not Path(run).is_dir():
                raise no_folder(run, "name the folder that a run wrote to (its --save_dir)")
        super().check_paths()

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise UserError(f"--pictures is at least 0, not {self.pictures}.")
        if self.output.is_dir():
            self.output = self.output / "report.html"
        if not self.output.absolute().parent.is_dir():
            raise UserError(
                f"There is no folder {self.output.parent} for --output {self.output}: make it first, or name another."
            )


@dataclass(kw_only=True)
class DemoOptions(Options):
    """Run the whole recipe offline, on the codec and the photographs inside the package."""

    output: Path = Path("demo_run")
    """Folder for all files of the demo."""
    distil_epochs: int = 8
    """Number of epochs of distillation."""
    finetune_epochs: int = 4
    """Number of epochs of fine-tuning."""


@dataclass(kw_only=True)
class AdviseOptions(TeacherOptions):
    """Compare the replacements for a teacher, and say which one to use."""

    images: str | None = None
    """Folder of pictures: half for calibration, half for measuring. Default: photographs inside the package."""
    operators: str | None = None
    """ONNX operators that the target supports, separated by commas, e.g. Conv,Resize,Mul,Sqrt. Default: all."""
    target: str | None = None
    """Instead of --operators: an NPU, e.g. rk3588. Its compiler, where it is installed, says which replacement is fastest."""

    def __post_init__(self) -> None:
        if self.operators and self.target:
            raise UserError("--operators and --target both say what the NPU has: give one of them.")

    def check_paths(self) -> None:  # noqa: D102
        check_folder(self, "images", "the pictures")
        super().check_paths()


RuntimeName = Literal[
    "pytorch",
    "pytorch-cuda",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-qnn",
    "openvino",
    "litert",
    "litert-ethos-u",
    "rknnlite",
    "ncnn",
    "mnn",
    "executorch",
]
"""Names in `codecswap.benchmarking.runtimes.RUNTIMES`."""
PrecisionName = Literal["float32", "float16", "w8a8", "mixed", "w8a16"]
LONGEST_SIDE = 8192
"""Pixels of a picture that is timed."""


@dataclass(kw_only=True)
class BenchmarkOptions(TeacherOptions):
    """Measure a decoder in every form, precision and runtime of this machine: file size, loss, time and memory."""

    checkpoint: str | None = None
    """Checkpoint of a student, instead of a teacher."""
    codec: list[str] = field(default_factory=list)
    """Only these exported, quantized or compiled folders of the teacher or student."""
    onnx: Path | None = None
    """Any ONNX file, instead: as it is, and with its transposed convolutions rewritten."""
    form: list[Form | Literal["phases"]] = field(default_factory=lambda: [*get_args(Form), "phases"])
    """Lowerings of upsampling layers, e.g. native,subpixel. phases is for --onnx. Default: all."""
    precision: list[PrecisionName] = field(default_factory=lambda: list(get_args(PrecisionName)))
    """Precisions, e.g. float32,w8a8. Default: all that a runtime has."""
    runtime: list[RuntimeName] = field(default_factory=lambda: list(get_args(RuntimeName)))
    """Runtimes, e.g. onnxruntime,openvino. Default: all; those that are not installed are listed. Those of NPUs
    (rknnlite, litert-ethos-u, onnxruntime-qnn) run folders that were compiled for them."""
    sizes: list[str] = field(default_factory=lambda: ["256x256", "768x512"])
    """Widths and heights of the pictures to time. The loss is measured at the largest."""
    images: str | None = None
    """Folder of pictures to measure the loss on. Default: photographs inside the package."""
    threads: int = 1
    """Threads of each runtime."""
    host: str | None = None
    """A board with Python 3, NumPy and a runtime, as ssh knows it (user@board, with a key). It is measured instead of this
    machine; nothing is written there."""
    rounds: int = 3
    """Number of times that each decoder has its turn, of three runs each."""
    output: Path = Path("benchmark")
    """Folder for benchmark.json and benchmark.csv."""

    def __post_init__(self) -> None:
        check_at_least(self, threads=1, rounds=1)
        self.chosen_sizes  # noqa: B018 - checks them
        if self.onnx and (others := self.given & {"teacher", "checkpoint", "codec", "images", "precision"}):
            raise UserError(f"--onnx is measured alone: leave out --{min(others)}.")

    def check_paths(self) -> None:  # noqa: D102
        check_file(self, "checkpoint")
        check_folder(self, "images", "the pictures")
        check_codec(self)
        super().check_paths()

    @property
    def chosen_sizes(self) -> list[tuple[int, int]]:
        """``sizes`` as widths and heights."""
        found = []
        for entry in self.sizes:
            match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", entry.strip())
            size = (int(match[1]), int(match[2])) if match else (0, 0)
            if not all(16 <= side <= LONGEST_SIDE for side in size):
                raise UserError(
                    f"--sizes takes widths and heights of 16 to {LONGEST_SIDE} pixels, e.g. 256x256,768x512, not {entry}."
                )
            found.append(size)
        return list(dict.fromkeys(found))
