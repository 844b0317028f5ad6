"""Every option of every command. The command line, YAML files, checkpoints and docs/options.md are made from these classes.

`codecswap --help` reads this file, so it imports nothing heavy.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from codecswap.errors import UserError

Replacement = Literal["upsample", "masked", "subpixel"]
"""Names in `codecswap.swaps.SWAPS`."""
Gdn = Literal["sqrt", "rsqrt", "ramps", "gdn1", "gdnish", "relu", "none"]
"""``sqrt``, and names in `codecswap.swaps.GDN_SWAPS`."""
Part = Literal["decoder", "encoder", "both"]
"""Names in `codecswap.swaps.apply.PARTS`."""
Model = Literal["bmshj2018_factorized", "bmshj2018_hyperprior", "mbt2018_mean", "mbt2018"]
"""Names in `codecswap.codecs.architectures.ARCHITECTURES`."""
ZOO: Model = "bmshj2018_factorized"
"""The architecture that ``--quality`` and ``--metric`` choose from CompressAI's zoo unless ``--model`` says otherwise."""


def check_at_least(options: Any, **least: float) -> None:
    """Refuse options that are below their least values.

    Raises:
        UserError: one is.
    """
    for name, value in least.items():
        if getattr(options, name) < value:
            raise UserError(f"--{name} is at least {value}, not {getattr(options, name)}.")


def _check_share(val_ratio: float, max_images: int | None) -> None:
    """Refuse a share outside (0, 1) and a negative number of pictures."""
    if not 0 < val_ratio < 1:
        raise UserError(f"--val_ratio is a share between 0 and 1 (0.02: two in a hundred), not {val_ratio}.")
    if max_images is not None and max_images < 1:
        raise UserError(f"--max_images is at least 1, or 0 for all pictures, not {max_images}.")


@dataclass(kw_only=True)
class TeacherOptions:
    """The pretrained codec to start from."""

    teacher: str | None = None
    """A codec file (.pth, .pth.tar or .safetensors), or tiny: the codec inside the package. Default: CompressAI's model zoo."""
    model: Model = ZOO
    """Architecture of the model zoo's codec."""
    quality: int = 8
    """Quality of the model zoo's codec, 1 (fewest bits) to 8."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """The metric that the model zoo's codec was trained for."""


@dataclass(kw_only=True)
class GdnOptions:
    """How GDN layers are computed."""

    gdn: Gdn = "sqrt"
    """GDN layers: sqrt as they are, rsqrt with a reciprocal square root (exact), ramps with convolutions and ReLU only.
    gdn1, gdnish, relu and none need training."""
    gdn_tolerance: float = 0.01
    """With --gdn ramps: the loss in dB that is accepted. It decides how many pieces a square root gets (1 to 8)."""

    def __post_init__(self) -> None:
        if not self.gdn_tolerance > 0:
            raise UserError(f"--gdn_tolerance is above 0, not {self.gdn_tolerance}.")


@dataclass(kw_only=True)
class PictureOptions:
    """The pictures to use."""

    coco_dir: str | None = None
    """Folder of pictures: COCO (with train2017/ in it), prepared crops (train/ and val/), or any other pictures."""
    use_prepared: bool = False
    """Accept only prepared crops. Without it the layout is detected."""
    max_images: int | None = None
    """Use N training pictures (those with the lowest name hashes) and a matching number of validation pictures. 0: all."""
    val_ratio: float = 0.02
    """Share of pictures used for validation, between 0 and 1. A hash of the file name decides."""
    num_workers: int = 2
    """Number of processes that read and crop pictures."""

    def __post_init__(self) -> None:
        self.max_images = self.max_images or None
        _check_share(self.val_ratio, self.max_images)


@dataclass(kw_only=True)
class TrainingOptions(TeacherOptions, PictureOptions):
    """Options of both distillation and fine-tuning."""

    epochs: int = 15
    """Number of passes over the pictures. 0: save the initial student and stop."""
    save_dir: str = "./checkpoints"
    """Folder for checkpoints, metrics.csv, config.yaml and reconstructions."""
    recon_subdir: str = "recon"
    """Sub-folder of --save_dir for reconstructions."""
    batch_size: int = 16
    """Pictures per step, over all processes."""
    optimizer: Literal["adam", "soap"] = "adam"
    """adam: as in the original recipe. soap: more progress per step with the upsample replacement (try --lr 5e-4)."""
    lr: float = 1e-4
    """Maximum learning rate; it decreases to 0 along a cosine."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises to --lr. A full rate from the first step would undo a good start."""
    lambda_l1: float = 1.0
    """Weight of the absolute error (L1) in the loss."""
    lambda_msssim: float = 0.2
    """Weight of 1 - MS-SSIM in the loss."""
    lambda_mse: float = 0.0
    """Weight of the squared error in the loss, for pictures in [0, 1]. The original recipe has none (0)."""
    lambda_rate: float | None = None
    """With --unfreeze_all: weight of bits per pixel in the loss. Default: adapted at every step to keep the teacher's rate."""
    unfreeze_all: bool = False
    """Train the encoder and the entropy model too. The student then cannot decode the teacher's bitstreams."""
    part: Part = "decoder"
    """Transforms to train (distill: and to replace layers of). With an encoder the teacher's bitstreams still decode, and its
    decoder reads the student's, but the student's encoder writes others."""
    wandb_project: str | None = None
    """Log to this Weights & Biases project, too."""
    recon_every: int = 5
    """Save reconstructions at the start and every N epochs. 0: only at the start."""
    recon_count: int = 16
    """Number of validation pictures to reconstruct, always the same ones. 0: none."""
    save_every_minutes: float = 5.0
    """Save the last checkpoint every N minutes within an epoch. 0: only at the end of each epoch."""
    save_every_steps: int = 0
    """Save the last checkpoint every N steps, too. 0: never."""
    seed: int = 0
    """Seed of all random numbers."""
    deterministic: bool = False
    """Use only deterministic algorithms on a GPU, which are slower. The CPU always uses them."""
    force: bool = False
    """Continue although teacher or pictures differ from the checkpoint's. All later checkpoints record this."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Lightning's precision. The encoder and the loss stay in float32."""
    compile: bool = False
    """Compile both decoders with torch.compile: about a minute at the start, then faster steps."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "auto"
    """Number of devices to train on (on the CPU: processes)."""
    num_nodes: int = 1
    """Number of machines to train on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, epochs=0, batch_size=1, recon_every=0, recon_count=0, num_workers=0, num_nodes=1)
        check_at_least(self, warmup_steps=0, save_every_minutes=0, save_every_steps=0)
        if self.unfreeze_all and self.part in ("encoder", "both"):
            raise UserError(f"--unfreeze_all trains everything, entropy model included: leave out --part {self.part}.")


@dataclass(kw_only=True)
class DistillOptions(TrainingOptions, GdnOptions):
    """Train a student to reproduce its teacher's reconstructions."""

    replacement: Replacement = "upsample"
    """Replacement of each transposed convolution. masked and subpixel equal it and need no training."""
    kernel_size: Literal[3, 5, 7] | None = None
    """Kernel size of the upsample replacement. Default: that of the replaced layer."""
    init: Literal["calibrated", "weights", "random"] = "calibrated"
    """Initial weights: fitted to the outputs of the teacher's layers on pictures, fitted to its kernels, or random."""
    calibration_images: int = 256
    """Number of training pictures for --init calibrated."""
    train_igdn: bool = False
    """Train the inverse GDN layers too, not only the new convolutions."""
    resume: str | None = None
    """Checkpoint (last.pt) to continue from. Options not given are taken from it. auto: the newest in --save_dir, if any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        GdnOptions.__post_init__(self)
        check_at_least(self, calibration_images=1)


@dataclass(kw_only=True)
class FinetuneOptions(TrainingOptions):
    """Train a student further, with the original pictures as the target."""

    lr: float = 5e-5
    """Maximum learning rate; half of distillation's, so that fine-tuning does not undo it."""
    epochs: int = 10
    """Number of passes over the pictures. 0: save the initial student and stop."""
    freeze_igdn: bool = False
    """Do not train the inverse GDN layers and, with --unfreeze_all, the encoder's GDN layers."""
    save_dir: str = "./checkpoints_ft"
    """Folder for checkpoints, metrics.csv, config.yaml and reconstructions."""
    recon_subdir: str = "recon_ft"
    """Sub-folder of --save_dir for reconstructions."""
    resume_student: str | None = None
    """Checkpoint of the distilled student to start from. Teacher, quality and replacement are taken from it."""
    resume_ft: str | None = None
    """Checkpoint (ft_last.pt) to continue from. Options not given are taken from it. auto: the newest in --save_dir, if any."""


@dataclass(kw_only=True)
class EvalOptions(PictureOptions):
    """Compare students with their teacher and with JPEG, WebP and AVIF: quality, real bytes and times."""

    teacher: list[str] = field(default_factory=list)
    """A codec file, or tiny: the codec inside the package. Several make a curve. Default: CompressAI's model zoo."""
    model: Model = ZOO
    """Architecture of the model zoo's codec."""
    quality: int | str = 8
    """Quality of the model zoo's codec, 1 (fewest bits) to 8. Several (1,2,3,4) make a curve."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """The metric that the model zoo's codec was trained for."""
    checkpoint: list[str] = field(default_factory=list)
    """Checkpoint of a student, or several. The teacher is read from it. Default: only the teacher is measured."""
    codec: list[str] = field(default_factory=list)
    """Exported, quantised or compiled folder, or several. One without an encoder takes the teacher's. Given alone, folders are
    measured without a teacher."""
    images: str | None = None
    """Instead of --coco_dir: a folder of pictures of any size. All of them are evaluated, uncropped."""
    anchors: str | None = None
    """Qualities for JPEG, WebP and AVIF, e.g. 30,50, or none. Default: 10,30,50,70,90 with --images."""
    lpips: bool = False
    """Measure LPIPS too (AlexNet). The first time 233 MB are downloaded."""
    output: Path | None = None
    """Folder for summary.json, pictures.csv and curves/ in CompressAI's results format."""
    accelerator: str = "auto"
    """Device to compute on: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.qualities) > 1 and self.teacher:
            raise UserError("--teacher names local codecs and --quality several of the zoo's: give one of the two.")
        self.anchor_qualities  # noqa: B018 - checks it
        if self.accelerator not in ("auto", "cpu", "cuda", "gpu"):
            raise UserError(f"--accelerator is auto, cpu or cuda, not {self.accelerator}.")
        self.accelerator = "cuda" if self.accelerator == "gpu" else self.accelerator

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
    """Whole numbers separated by commas, each once, in the order given.

    Raises:
        UserError: it is something else, or one of them is out of range.
    """
    try:
        numbers = list(dict.fromkeys(int(word) for word in str(text).split(",")))
    except ValueError:
        numbers = []
    if not numbers or not all(low <= number <= high for number in numbers):
        raise UserError(f"{option} takes numbers from {low} to {high}, separated by commas (1,2,4), not {text}.")
    return numbers


@dataclass(kw_only=True)
class ReportOptions:
    """Write an HTML file about a run: the result, curves, reconstructions over time, and how to repeat it."""

    runs: list[str] = field(default_factory=list)
    """Run folders of one student, e.g. checkpoints checkpoints_ft. May be given as positional arguments."""
    output: Path = Path("report.html")
    """HTML file to write, below 20 MB. It needs no network."""
    pictures: int = 32
    """Number of validation pictures to measure the result on, at most. 0: use the training's figures instead."""
    watch: bool = False
    """Write the report again whenever the run's files change, until the run ends or Ctrl-C."""

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise UserError(f"--pictures is at least 0, not {self.pictures}.")
        if self.output.is_dir():
            raise UserError(
                f"--output {self.output} is a folder: name a file in it, e.g. {self.output / 'report.html'}."
            )
        if not self.output.absolute().parent.is_dir():
            raise UserError(
                f"There is no folder {self.output.parent} for --output {self.output}: make it first, or name another."
            )


@dataclass(kw_only=True)
class DemoOptions:
    """Run the whole recipe offline, on the codec and the photographs inside the package."""

    output: Path = Path("demo_run")
    """Folder for all files of the demo."""
    distil_epochs: int = 8
    """Number of epochs of distillation."""
    finetune_epochs: int = 4
    """Number of epochs of fine-tuning."""


@dataclass(kw_only=True)
class PrepareOptions:
    """Download COCO, or take a folder of pictures, and make crops for training."""

    coco_dir: str | None = None
    """Folder for COCO. It is downloaded and unpacked to train2017/ in it, if that is not there."""
    images: str | None = None
    """Instead of COCO: a folder of your own pictures, with sub-folders."""
    out_dir: str | None = None
    """Folder for the crops (train/ and val/). Without it COCO is only downloaded and unpacked."""
    val_ratio: float = 0.02
    """Share of pictures used for validation, between 0 and 1. A hash of the file name decides."""
    max_images: int | None = None
    """Take N training pictures (those with the lowest name hashes) and a matching number of validation pictures, and
    download only these. A second run with a larger N adds the missing ones. 0: all."""
    size: int = 224
    """Side of the crops in pixels. Training needs 224."""
    format: Literal["jpg", "png"] = "jpg"
    """Format of the crops: JPEG of quality 95, or lossless PNG (three times as large)."""
    workers: int | None = None
    """Number of processes that crop. Default: one per core."""
    url: str | None = None
    """Address of train2017.zip or of another zip of pictures. Default: COCO's server."""
    md5: str | None = None
    """MD5 checksum of the zip at --url, in hexadecimal digits. Default: COCO's for COCO's server, else not checked."""
    download_only: bool = False
    """Only download: the zip, or with --max_images the pictures."""
    keep_zip: bool = False
    """Keep the downloaded zip after unpacking. A train2017.zip that was there before is always kept."""

    def __post_init__(self) -> None:
        self.max_images = self.max_images or None
        if (self.coco_dir is None) == (self.images is None):
            raise UserError(
                "Name the folder for COCO with --coco_dir, or one of your own pictures with --images (not both)."
            )
        if self.images is not None:
            if only_coco := [
                f"--{name}" for name in ("download_only", "keep_zip", "url", "md5") if getattr(self, name)
            ]:
                raise UserError(f"{', '.join(only_coco)} is for COCO: use --coco_dir, or leave it out.")
            if self.out_dir is None:
                raise UserError("Name the folder for the crops with --out_dir.")
        _check_share(self.val_ratio, self.max_images)
        for name in ("size", "workers"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--{name} is at least 1, not {value}.")


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


@dataclass(kw_only=True)
class DeployOptions(TeacherOptions, GdnOptions):
    """What export, quantise and compile have in common."""

    checkpoint: str | None = None
    """Checkpoint of a student. Default: the teacher given by --teacher or --quality, with --replacement."""
    replacement: Literal["none", Replacement] = "none"
    """Replacement of a teacher's transposed convolutions, without training. masked and subpixel are exact."""
    output: Path = Path("exported")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    height: int | None = None
    """Fixed height of the pictures, a multiple of 16. Needs --width. Default: any size."""
    width: int | None = None
    """Fixed width of the pictures, a multiple of 16. Needs --height."""
    images: str | None = None
    """Folder of pictures to verify or measure on. Default: photographs inside the package."""
    gdn_part: Part = "decoder"
    """Transforms whose GDN layers --gdn replaces. Another encoder writes other bitstreams, which the same decoders read."""
    calibration_images: str | None = None
    """Folder of pictures to calibrate on. Default: 13 photographs inside the package."""
    calibration_count: int = 32
    """Number of calibration pictures, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, calibration_count=1)
        if (self.height is None) != (self.width is None):
            raise UserError("--height and --width go together: give both, or neither for pictures of any size.")
        for name in ("height", "width"):
            side = getattr(self, name)
            if side is not None and (side < 16 or side % 16):
                padded = max(1, -(-side // 16)) * 16
                raise UserError(f"--{name} is a multiple of 16, not {side}: take {padded} and pad pictures to it.")

    @property
    def size(self) -> tuple[int, int] | None:
        """The fixed width and height of the pictures."""
        return (self.width, self.height) if self.width and self.height else None


@dataclass(kw_only=True)
class OnnxOptions(DeployOptions):
    """What export and quantise have in common."""

    form: Literal["native", "resize", "subpixel"] = "native"
    """How to write upsampling layers: as they are, as Resize and Conv, or as Conv and DepthToSpace."""
    parts: Literal["all", "encoder", "decoder"] = "all"
    """Networks to write."""
    opset: int = 13
    """ONNX opset, 11 to 20; quantise: 13 to 20."""

    opsets: ClassVar[range] = range(11, 21)
    """DepthToSpace has its CRD order since 11; PyTorch's exporter ends at 20."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opset not in self.opsets:
            raise UserError(f"--opset is {self.opsets[0]} to {self.opsets[-1]}, not {self.opset}.")


@dataclass(kw_only=True)
class ExportOptions(OnnxOptions):
    """Write a codec as ONNX files and entropy tables, to encode and decode without PyTorch."""

    input: Literal["latents", "symbols"] = "latents"
    """Input of the decoder: rounded latents, or the entropy coder's integers."""
    fp16: bool = False
    """Weights and arithmetic in float16. Inputs and outputs stay float32."""
    target: str | None = None
    """Check the operators against a list: opset13, rknn or another (docs/deploy.md), or a TOML file. Exit code 3 if one is
    refused."""


@dataclass(kw_only=True)
class CodingOptions:
    """Options of both encoding and decoding."""

    codec: str | None = None
    """An exported folder (needs no PyTorch), a student's checkpoint, a codec file, or tiny. Default: the model zoo's codec."""
    model: Model = ZOO
    """Without --codec: architecture of the model zoo's codec."""
    quality: int = 8
    """Without --codec: quality of the model zoo's codec, 1 (fewest bits) to 8."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """The metric that the model zoo's codec was trained for."""
    input: Path | None = None
    """File, or folder with sub-folders. May be given as a positional argument."""
    output: Path | None = None
    """File to write, or a folder if --input is a folder."""
    jobs: int = 1
    """Number of processes for a folder."""
    threads: int | None = None
    """Threads per process. Default: the number of cores divided by --jobs."""
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """What computes an exported folder. OpenVINO, a package of its own, is faster on many x86 processors."""


@dataclass(kw_only=True)
class EncodeOptions(CodingOptions):
    """Encode pictures of any size (PNG, JPEG, WebP, ...) as .csw files."""


@dataclass(kw_only=True)
class DecodeOptions(CodingOptions):
    """Decode .csw files to PNG. Needs the codec that wrote them, or one with the same entropy tables."""


@dataclass(kw_only=True)
class QuantiseOptions(OnnxOptions):
    """Write a codec as ONNX files of 8-bit weights and 8- or 16-bit activations. The folder is like that of export."""

    replacement: Literal["none", Replacement] = "subpixel"
    """Replacement of a teacher's transposed convolutions, without training. subpixel gains the most speed from INT8."""
    output: Path = Path("quantised")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    parts: Literal["all", "encoder", "decoder"] = "decoder"
    """Networks to write. A quantised encoder writes other bitstreams than a float encoder; a quantised decoder changes none."""
    precision: Literal["w8a8", "mixed", "w8a16"] = "w8a8"
    """8-bit weights and 8-bit activations, 16-bit activations, or mixed: 16 bits except inside GDN layers."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How the range of an activation is chosen from the calibration values."""
    percentile: float = 99.99
    """With --method percentile: percentage of the values inside the range."""
    activations: Literal["uint8", "int8"] = "uint8"
    """Type of 8-bit activations; 16-bit ones are uint16, or int16 around 0. uint8 is faster on x86 processors with VNNI."""
    weight_bits: Literal[7, 8] | None = None
    """Bits of the weights. Default: 7 between 8-bit activations, where 8 overflow on many x86 processors without VNNI; or 8."""
    equalise: bool = True
    """First scale the channels around GDN layers to the same range. This does not change the float codec."""
    refit: bool = True
    """Refit the weights to quantised inputs, then round them with GPTQ-style error compensation."""
    keep: list[str] = field(default_factory=list)
    """Layers to keep in float, e.g. g_s.6. With w8a8 the encoder's last layer always stays in float."""

    opsets: ClassVar[range] = range(13, 21)
    """Scales per channel came with 13."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile <= 100:
            raise UserError(f"--percentile is above 0 and at most 100, not {self.percentile}.")


@dataclass(kw_only=True)
class CompileOptions(DeployOptions):
    """Write the decoder for an NPU, run its compiler where it is installed, and measure in its arithmetic."""

    target: str | None = None
    """The NPU: a name that docs/npu.md lists, e.g. rk3588 or ethos-u55, or a TOML file. Exit code 3 if the CPU is needed."""
    precision: str | None = None
    """float32, float16, w8a8, w8a16 or mixed. Default: the best one for the target."""
    form: Literal["native", "resize", "subpixel"] | None = None
    """How to write upsampling layers: as they are, as Resize and Conv, or as Conv and DepthToSpace. Default: the target's."""
    output: Path = Path("compiled")
    """Folder for the files, with report.json."""
    height: int | None = 256
    """Height of the pictures, or of the tiles that larger ones are decoded in; a multiple of 16."""
    width: int | None = 256
    """Width of the pictures or tiles, a multiple of 16."""
    toolchain_python: Path | None = None
    """Python that has the compiler, where it needs an environment of its own (rknn-toolkit2). Default: that of `make rknn`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is None:
            raise UserError("Name the NPU with --target, e.g. --target rk3588.")


@dataclass(kw_only=True)
class PageOptions:
    """Write one HTML file that decodes .csw files, and encodes pictures, in any browser; nothing leaves the browser."""

    codec: Path | None = None
    """Folder of `codecswap export` or `codecswap quantise`; with its encoder, if it has one."""
    output: Path = Path("decoder.html")
    """The file to write."""
    onnxruntime_web: Path | None = None
    """Folder dist of the unpacked npm package onnxruntime-web 1.30.0. Default: downloaded once, its hash checked."""
