"""Options of distill and finetune."""

from dataclasses import dataclass
from typing import Any, Literal

from codecswap.config.shared import (
    BudgetOptions,
    GdnOptions,
    Part,
    PictureOptions,
    Replacement,
    TeacherOptions,
    check_at_least,
    check_file,
)
from codecswap.errors import UserError

QUANTIZED_RATE = 3e-4
"""Default learning rate of quantized decoders: a weight must change by half a step before its integer changes."""

RECIPES: dict[str, dict[str, Any]] = {
    "original": {},
    "fast": {"lr": 5e-4, "train_igdn": True, "optimizer": "adam", "warmup_steps": 200},
}
"""Defaults that ``--recipe`` changes."""


@dataclass(kw_only=True)
class TrainingOptions(TeacherOptions, PictureOptions):
    """Options of distill and finetune."""

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
    """Steps of linear warm-up to --lr. The full rate from the first step would undo a good initialization."""
    lambda_l1: float = 1.0
    """Weight of the absolute error (L1) in the loss."""
    lambda_msssim: float = 0.2
    """Weight of 1 - MS-SSIM in the loss."""
    lambda_mse: float = 0.0
    """Weight of the squared error in the loss, for pictures in [0, 1]. The original recipe has none (0)."""
    lambda_rate: float | None = None
    """With --unfreeze_all: weight of bits per pixel in the loss. Default: adapted at each step to keep the teacher's rate."""
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
    amp: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Automatic mixed precision, as Lightning names it; 32: none. The encoder and the loss stay in float32."""
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
        check_at_least(self, lr=0, lambda_l1=0, lambda_msssim=0, lambda_mse=0)
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
    calibration_count: int = 256
    """Number of training pictures for --init calibrated."""
    train_igdn: bool = False
    """Train the whole decoder, inverse GDN layers included, not only the new layers."""
    recipe: Literal["original", "fast"] = "original"
    """original: the defaults of the original recipe. fast: those that get further with full-size codecs, --lr 5e-4
    --train_igdn true --optimizer adam --warmup_steps 200 (docs/training.md)."""
    resume: str | None = None
    """Checkpoint (last.pt) to continue from. Options not given are taken from it. auto: the newest in --save_dir, if any."""

    def __post_init__(self) -> None:
        for name, value in RECIPES[self.recipe].items():
            if name not in self.given:
                setattr(self, name, value)
        super().__post_init__()
        GdnOptions.__post_init__(self)
        check_at_least(self, calibration_count=1)

    def check_paths(self) -> None:  # noqa: D102
        check_file(self, "resume", "auto")
        super().check_paths()


@dataclass(kw_only=True)
class FinetuneOptions(TrainingOptions, BudgetOptions):
    """Train a student further, with the original pictures as the target."""

    lr: float = 5e-5
    """Maximum learning rate; half of distillation's, so that fine-tuning does not undo it. With --quantized: 3e-4."""
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
    quantized: Literal["w8a8", "mixed", "w8a16"] | None = None
    """Quantization-aware training: train the decoder that `codecswap quantize` makes of the student at this --precision."""
    target: str | None = None
    """With --quantized: the NPU to quantize for, e.g. qnn-v73 (docs/npu.md). Default: the scheme of `codecswap quantize`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        BudgetOptions.__post_init__(self)
        if self.has_budget and not self.quantized:
            raise UserError("--max_loss and --max_cost go with --quantized, e.g. --quantized w8a8.")
        if self.quantized and "lr" not in self.given:
            self.lr = QUANTIZED_RATE
        if self.target and not self.quantized:
            raise UserError(f"--target {self.target} goes with --quantized, e.g. --quantized w8a8.")
        for name, value in (("unfreeze_all", self.unfreeze_all), ("freeze_igdn", self.freeze_igdn)):
            if self.quantized and value:
                raise UserError(f"--quantized trains the decoder, and all of its layers: leave out --{name}.")
        if self.quantized and self.part != "decoder":
            raise UserError(f"--quantized trains the decoder alone: leave out --part {self.part}.")

    def check_paths(self) -> None:  # noqa: D102
        check_file(self, "resume_student")
        check_file(self, "resume_ft", "auto")
        super().check_paths()
