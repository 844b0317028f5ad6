"""What the options of several commands have in common."""

from dataclasses import dataclass
from typing import Any, Literal, Self

from codecswap.errors import UserError

Replacement = Literal["upsample", "masked", "subpixel"]
"""Names in `codecswap.swaps.SWAPS`."""
Gdn = Literal["sqrt", "rsqrt", "ramps", "gdn1", "gdnish", "relu", "none"]
"""``sqrt``, and names in `codecswap.swaps.GDN_SWAPS`."""
Part = Literal["decoder", "encoder", "both"]
"""Transforms to train, replace layers of, or write; names in `codecswap.swaps.apply.PARTS`."""
Form = Literal["native", "masked", "subpixel"]
"""How upsampling layers are written: as the codec has them, as Resize, Mul and Conv, or as Conv and DepthToSpace."""
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


def check_share(val_ratio: float, max_images: int | None) -> None:
    """Refuse a share outside (0, 1) and a negative number of pictures."""
    if not 0 < val_ratio < 1:
        raise UserError(f"--val_ratio is a share between 0 and 1 (0.02: two in a hundred), not {val_ratio}.")
    if max_images is not None and max_images < 1:
        raise UserError(f"--max_images is at least 1, or 0 for all pictures, not {max_images}.")


class Options:
    """Options of one command; they know which of them were set, so that the others can come from a checkpoint."""

    given: frozenset[str]
    """Names of the options that were set, whatever their values."""

    def __new__(cls, **values: Any) -> Self:
        """Record the names of the arguments."""
        options = super().__new__(cls)
        options.given = frozenset(values)
        return options

    def replace(self, **values: Any) -> Self:
        """The same options with other ``values``, which count as set."""
        return type(self)(**{name: getattr(self, name) for name in self.given} | values)


@dataclass(kw_only=True)
class ZooOptions(Options):
    """A codec of CompressAI's model zoo."""

    model: Model = ZOO
    """Architecture of the model zoo's codec."""
    quality: int = 8
    """Quality of the model zoo's codec, 1 (fewest bits) to 8."""
    metric: Literal["mse", "ms-ssim"] = "mse"
    """The metric that the model zoo's codec was trained for."""


@dataclass(kw_only=True)
class TeacherOptions(ZooOptions):
    """The pretrained codec to start from."""

    teacher: str | None = None
    """A codec file (.pth, .pth.tar or .safetensors), tiny or tiny_hyper (in the package). Default: CompressAI's model zoo."""


@dataclass(kw_only=True)
class GdnOptions(Options):
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
class PictureOptions(Options):
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
        check_share(self.val_ratio, self.max_images)
