"""Every option of every command: the command line, YAML files and a checkpoint's record all come from here.

Light on purpose: `codecswap --help` reads this file and must not wait for PyTorch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from codecswap.errors import UserError


@dataclass(kw_only=True)
class TeacherOptions:
    """Which pretrained codec to start from."""

    teacher: str | None = None
    """A local codec (.pth, .pth.tar or .safetensors), or tiny: the one inside the package. Default: CompressAI's zoo."""
    quality: int = 8
    """Quality of the zoo's bmshj2018_factorized, 1 (fewest bits) to 8."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """What the zoo's codec was trained for."""


@dataclass(kw_only=True)
class PictureOptions:
    """Which pictures to use."""

    coco_dir: str | None = None
    """Folder with pictures: raw COCO (train2017/), prepared crops (train/, val/), or any folder of pictures."""
    use_prepared: bool = False
    """Insist on prepared crops (the layout is detected anyway)."""
    max_images: int | None = None
    """Use only the N training pictures whose names hash lowest, and their share of validation pictures (0: all)."""
    val_ratio: float = 0.02
    """Share of the pictures held out for validation, chosen by a hash of their names."""
    num_workers: int = 2
    """Processes that read and crop pictures while the codec is at work."""

    def __post_init__(self) -> None:
        self.max_images = self.max_images or None


@dataclass(kw_only=True)
class TrainingOptions(TeacherOptions, PictureOptions):
    """What distillation and fine-tuning have in common."""

    epochs: int = 15
    """How many times to go through the pictures; 0 saves the start and stops."""
    save_dir: str = "./checkpoints"
    """Folder for checkpoints, metrics.csv, config.yaml and reconstructions."""
    recon_subdir: str = "recon"
    """Sub-folder of save_dir for reconstructions."""
    batch_size: int = 16
    """Pictures in a step, over all processes."""
    optimizer: Literal["adam", "soap"] = "adam"
    """adam is the recipe's; soap wins back more of what the upsample replacement loses per step (try --lr 5e-4)."""
    lr: float = 1e-4
    """Highest learning rate; it falls to 0 along a cosine."""
    warmup_steps: int = 50
    """Steps in which the learning rate rises to --lr: a good start is lost where training begins at full rate."""
    lambda_l1: float = 1.0
    """Weight of the absolute error."""
    lambda_msssim: float = 0.2
    """Weight of 1 - MS-SSIM."""
    lambda_mse: float = 0.0
    """Weight of the squared error (of pictures in [0, 1]); 0 is the recipe's loss."""
    lambda_rate: float | None = None
    """With --unfreeze_all: weight of bits per pixel. Default: adapted at every step to hold the teacher's rate."""
    unfreeze_all: bool = False
    """Train encoder and entropy model too. Bitstreams change: those of the teacher no longer decode."""
    wandb_project: str | None = None
    """Also log to this project of Weights & Biases."""
    recon_every: int = 5
    """Save the student's reconstructions every so many epochs, and those of the start (0: of the start only)."""
    recon_count: int = 16
    """How many validation pictures to reconstruct, the same ones throughout (0: none)."""
    save_every_minutes: float = 5.0
    """Rewrite the last checkpoint within an epoch every so many minutes (0: only at its end)."""
    save_every_steps: int = 0
    """Rewrite it every so many steps, too (0: never)."""
    seed: int = 0
    """Seed of every random choice."""
    deterministic: bool = False
    """Only algorithms that give the same result every time, also on a GPU (slower there; the CPU's always do)."""
    force: bool = False
    """Go on although teacher or pictures are not those of the checkpoint; recorded in every checkpoint from then on."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Lightning's precision; the encoder and the loss stay in float32."""
    compile: bool = False
    """Compile both decoders with torch.compile: a minute at the start, faster steps after."""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: str = "auto"
    """How many devices (on the CPU: processes) to train on."""
    num_nodes: int = 1
    """How many machines to train on."""


@dataclass(kw_only=True)
class DistillOptions(TrainingOptions):
    """Train a student to reproduce its teacher's reconstructions."""

    replacement: Literal["upsample", "masked", "subpixel"] = "upsample"
    """What takes a transposed convolution's place; masked and subpixel equal it and need no training."""
    kernel_size: Literal[3, 5, 7] | None = None
    """Kernel of the upsample replacement. Default: that of the layer it replaces."""
    init: Literal["calibrated", "weights", "random"] = "calibrated"
    """Start of the new convolutions: fitted to what the teacher's layers put out on pictures, to its kernels, or noise."""
    calibration_images: int = 256
    """Training pictures that the calibrated start is fitted to."""
    train_igdn: bool = False
    """Train the inverse GDN layers too, not only the new convolutions."""
    resume: str | None = None
    """Checkpoint (last.pt) to go on from; options not typed come from it. auto: the newest in save_dir, if there is one."""


@dataclass(kw_only=True)
class FinetuneOptions(TrainingOptions):
    """Train a student on against the pictures themselves."""

    lr: float = 5e-5
    """Highest learning rate; half of distillation's, so that what was distilled is not undone."""
    epochs: int = 10
    """How many times to go through the pictures; 0 saves the start and stops."""
    freeze_igdn: bool = False
    """Leave the inverse GDN layers as they are; with --unfreeze_all the encoder's GDN layers, too."""
    save_dir: str = "./checkpoints_ft"
    """Folder for checkpoints, metrics.csv, config.yaml and reconstructions."""
    recon_subdir: str = "recon_ft"
    """Sub-folder of save_dir for reconstructions."""
    resume_student: str | None = None
    """Checkpoint of the distilled student to start from; teacher, quality and replacement come from it."""
    resume_ft: str | None = None
    """Checkpoint (ft_last.pt) to go on from; options not typed come from it. auto: the newest in save_dir, if any."""


@dataclass(kw_only=True)
class EvalOptions(PictureOptions):
    """Compare students with their teacher, with the pictures and with JPEG, WebP and AVIF, and count real bytes."""

    teacher: list[str] = field(default_factory=list)
    """A local codec, or tiny: the one inside the package. Several make a curve. Default: CompressAI's zoo."""
    quality: int | str = 8
    """Quality of the zoo's bmshj2018_factorized, 1 (fewest bits) to 8. Several, as 1,2,3,4, make a curve."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """What the zoo's codec was trained for."""
    checkpoint: list[str] = field(default_factory=list)
    """A student's checkpoint, or several; they know their teacher. Default: the teacher alone."""
    images: str | None = None
    """Instead of --coco_dir: a folder whose pictures are all evaluated, whole, at any size."""
    anchors: str | None = None
    """Qualities at which JPEG, WebP and AVIF are measured too, or none. Default: 10,30,50,70,90 with --images."""
    lpips: bool = False
    """Measure LPIPS too (AlexNet; 233 MB are downloaded the first time)."""
    output: Path | None = None
    """Folder for summary.json, pictures.csv and curves/ in CompressAI's results format."""
    accelerator: str = "auto"
    """Where to compute: auto, cpu or cuda."""


@dataclass(kw_only=True)
class ReportOptions:
    """Write one HTML file that shows a run: the verdict, curves, reconstructions over time, and how to repeat it."""

    runs: list[str] = field(default_factory=list)
    """Folders of runs of one student, e.g. checkpoints checkpoints_ft; words without a name are these."""
    output: Path = Path("report.html")
    """The file to write; it needs no network and stays under 20 MB."""
    pictures: int = 32
    """Measure the verdict on at most so many held-out pictures, spread over all. 0: none, take the training's figures."""
    watch: bool = False
    """Write the file again whenever the run's files change, until the run is complete or Ctrl-C."""


@dataclass(kw_only=True)
class DemoOptions:
    """Run the whole recipe on the codec and the photographs inside the package, offline."""

    output: Path = Path("demo_run")
    """Folder for everything the demo makes."""
    distil_epochs: int = 8
    """Epochs of distillation."""
    finetune_epochs: int = 4
    """Epochs of fine-tuning."""


@dataclass(kw_only=True)
class PrepareOptions:
    """Download COCO, or take any folder of pictures, and make the crops that training reads."""

    coco_dir: str | None = None
    """Folder for COCO: downloaded and unpacked to train2017/ in it, unless that is there already."""
    images: str | None = None
    """Instead of COCO: a folder of your own pictures, sub-folders too."""
    out_dir: str | None = None
    """Folder for the crops: train/ and val/, with sub-folders. Without it COCO is only downloaded and unpacked."""
    val_ratio: float = 0.02
    """Share of the pictures held out for validation, chosen by a hash of their names."""
    max_images: int | None = None
    """Only the N training pictures whose names hash lowest, and their share of validation pictures (0: all); only
    those are downloaded. Running it again with more adds what is missing."""
    size: int = 224
    """Side of the crops, in pixels; training takes 224."""
    format: Literal["jpg", "png"] = "jpg"
    """JPEG of quality 95, or lossless PNG (three times the bytes)."""
    workers: int | None = None
    """Processes that crop. Default: one for each core."""
    url: str | None = None
    """Where train2017.zip is downloaded from. Default: COCO's own server."""
    md5: str | None = None
    """MD5 of the zip behind --url, in hexadecimal digits; that of COCO's own is known."""
    download_only: bool = False
    """Only download: the zip, which is kept (with --max_images: the pictures)."""
    keep_zip: bool = False
    """Keep the downloaded zip after unpacking it. A train2017.zip that was there before is always kept."""

    def __post_init__(self) -> None:
        self.max_images = self.max_images or None


@dataclass(kw_only=True)
class AdviseOptions(TeacherOptions):
    """Show the replacements side by side for a teacher, and say which one is needed."""

    images: str | None = None
    """Folder of pictures to measure on: half calibrates, half measures. Default: the photographs in the package."""
    operators: str | None = None
    """ONNX operators that the target accepts, separated by commas, e.g. Conv,Resize,Mul,Sqrt. Default: all."""


@dataclass(kw_only=True)
class DeployOptions(TeacherOptions):
    """What export and quantise have in common."""

    checkpoint: str | None = None
    """A student's checkpoint. Default: the teacher of --teacher or --quality, with --replacement."""
    replacement: Literal["none", "upsample", "masked", "subpixel"] = "none"
    """What takes the place of a teacher's transposed convolutions (untrained: only masked and subpixel are exact)."""
    output: Path = Path("exported")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    parts: Literal["all", "encoder", "decoder"] = "all"
    """Which networks to write."""
    opset: int = 13
    """Version of ONNX's operator set, 11 to 20; quantise: 13 to 20."""
    height: int | None = None
    """Fixed height of the pictures, a multiple of 16; with --width. Default: any size."""
    width: int | None = None
    """Fixed width of the pictures, a multiple of 16."""
    form: Literal["native", "resize", "subpixel"] = "native"
    """Write every doubling layer as Resize and Conv, or as Conv and DepthToSpace, whatever the codec has."""
    images: str | None = None
    """Folder of pictures to verify or measure on. Default: photographs inside the package."""

    opsets: ClassVar[range] = range(11, 21)
    """DepthToSpace has its CRD order since 11; PyTorch's exporter ends at 20."""

    def __post_init__(self) -> None:
        if self.opset not in self.opsets:
            raise UserError(f"--opset is {self.opsets[0]} to {self.opsets[-1]}, not {self.opset}.")
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
class ExportOptions(DeployOptions):
    """Write a codec as ONNX files with its entropy tables: a folder that encodes and decodes without PyTorch."""

    input: Literal["latents", "symbols"] = "latents"
    """What the decoder takes: rounded latents, or the entropy coder's integers."""
    fp16: bool = False
    """Weights and arithmetic in float16; inputs and outputs stay float32."""
    target: str | None = None
    """Check the operators against rknn, qnn, ethos-u, ethos-u85, opset13 or a TOML file; exit code 3 if it refuses."""


@dataclass(kw_only=True)
class CodingOptions:
    """What encoding and decoding have in common."""

    codec: str | None = None
    """An exported folder (no PyTorch needed), a student's checkpoint, a teacher's file, or tiny. Default: the zoo's."""
    quality: int = 8
    """Quality of the zoo's bmshj2018_factorized, 1 to 8, without --codec."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """What the zoo's codec was trained for."""
    input: Path | None = None
    """A file, or a folder whose files are all done, sub-folders too."""
    output: Path | None = None
    """The file to write; a folder where --input is one."""
    jobs: int = 1
    """Processes, each with a codec of its own, for a folder."""
    threads: int | None = None
    """Threads of each process. Default: as many as there are cores, divided by --jobs."""


@dataclass(kw_only=True)
class EncodeOptions(CodingOptions):
    """Code pictures of any size (PNG, JPEG, WebP, ...) as .csw files."""


@dataclass(kw_only=True)
class DecodeOptions(CodingOptions):
    """Decode .csw files to PNG, with the codec that wrote them or any other with its entropy tables."""


@dataclass(kw_only=True)
class QuantiseOptions(DeployOptions):
    """Write a codec as 8-bit ONNX files, calibrated on pictures: a folder like that of export."""

    replacement: Literal["none", "upsample", "masked", "subpixel"] = "subpixel"
    """What takes the place of a teacher's transposed convolutions; subpixel gains most from INT8."""
    output: Path = Path("quantised")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    parts: Literal["all", "encoder", "decoder"] = "decoder"
    """Which networks to write. A quantised decoder leaves bitstreams as they are, a quantised encoder does not."""
    calibration_images: str | None = None
    """Folder of pictures that ranges and weights are fitted to. Default: 13 photographs inside the package."""
    calibration_count: int = 32
    """How many of them to use at most."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How a range is chosen from the values seen."""
    percentile: float = 99.99
    """Share of the values inside the range, in percent, with --method percentile."""
    activations: Literal["uint8", "int8"] = "uint8"
    """Type of 8-bit activations; weights are int8. uint8 is the faster one on x86 processors with VNNI."""
    weight_bits: Literal[7, 8] = 7
    """Bits of the weights: 7 are decoded rightly by every runtime; 8 overflow in many on x86 processors without VNNI."""
    equalise: bool = True
    """Give all channels around (I)GDN the same range first, which is exact."""
    refit: bool = True
    """Refit weights to quantised inputs, and let those not yet rounded make up for those that are."""
    keep: list[str] = field(default_factory=list)
    """Layers left in float, e.g. [g_s.6]; the encoder's last, whose output is rounded anyway, always is."""

    opsets: ClassVar[range] = range(13, 21)
    """Scales per channel came with 13."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration_count < 1:
            raise UserError(f"--calibration_count is at least 1, not {self.calibration_count}.")
        if not 0 < self.percentile <= 100:
            raise UserError(f"--percentile is above 0 and at most 100, not {self.percentile}.")
