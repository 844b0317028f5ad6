"""Options shared by several commands."""

import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from codecswap.errors import UserError
from codecswap.identify import describe, no_folder, refusal

Replacement = Literal["upsample", "masked", "subpixel"]
"""Names in `codecswap.swaps.SWAPS`."""
Gdn = Literal["sqrt", "rsqrt", "ramps", "gdn1", "relu", "none"]
"""``sqrt`` and the names in `codecswap.swaps.GDN_SWAPS`."""
Part = Literal["decoder", "encoder", "both"]
"""Transforms to train, replace layers of, or write; names in `codecswap.swaps.apply.PARTS`."""
Form = Literal["native", "masked", "subpixel"]
"""Lowerings of upsampling layers: unchanged, as Resize, Mul and Conv, or as Conv and DepthToSpace."""
Model = Literal[
    "bmshj2018_factorized",
    "bmshj2018_factorized_relu",
    "bmshj2018_hyperprior",
    "mbt2018_mean",
    "mbt2018",
    "bmshj2018_hyperprior_vbr",
    "mbt2018_mean_vbr",
    "mbt2018_vbr",
    "cheng2020_anchor",
    "cheng2020_attn",
    "cheng2020_anchor_checkerboard",
    "elic2022_official",
    "elic2022_chandelier",
]
"""Names in `codecswap.codecs.architectures.ARCHITECTURES`."""
ZOO: Model = "bmshj2018_factorized"
"""The architecture that ``--quality`` and ``--metric`` choose from CompressAI's zoo unless ``--model`` says otherwise."""


def check_at_least(options: Any, **least: float) -> None:
    """Refuse options that are below their minimum.

    Raises:
        UserError: one is below, or is not a finite number.
    """
    for name, value in least.items():
        if not value <= getattr(options, name) < math.inf:
            raise UserError(f"--{name} is at least {value}, not {getattr(options, name)}.")


def check_folder(options: Any, name: str, what: str) -> None:
    """Refuse an option that names a missing folder."""
    if (folder := getattr(options, name)) is not None and not Path(folder).is_dir():
        raise no_folder(folder, f"name the folder that holds {what} with --{name}")


def check_source(options: Any, name: str) -> None:
    """Refuse an option that names missing pictures; addresses are not looked at."""
    source = getattr(options, name)
    if source is not None and "://" not in source and not Path(source).exists():
        raise no_folder(source, f"name the folder that holds the pictures with --{name}")


def check_file(options: Any, name: str, *other: str, what: str = "checkpoint") -> None:
    """Refuse an option that names a missing file or folder, unless it is one of the ``other`` values."""
    value = getattr(options, name)
    for path in value if isinstance(value, list) else [value]:
        if path not in (None, *other) and not Path(path).exists():
            raise UserError(f"There is no {what} {path}: check --{name}.")


CODE = r"(.*\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*"
"""What names a function: ``file.py:function`` or ``package.module:function``."""


def names_code(teacher: str | None) -> bool:
    """Whether ``--teacher`` names a function of the user's, whose code is run, and not a file."""
    return teacher is not None and re.fullmatch(CODE, teacher, re.DOTALL) is not None and not Path(teacher).exists()


def check_teacher(options: Any) -> None:
    """Refuse a missing ``teacher``; of one that `names_code` the Python file."""
    given = options.teacher if isinstance(options.teacher, list) else [options.teacher]
    for teacher in given:
        path = teacher.rpartition(":")[0] if names_code(teacher) else teacher
        if path not in (None, *EMBEDDED) and not Path(path).exists() and (path == teacher or path.endswith(".py")):
            raise UserError(f"There is no {'file' if path != teacher else 'checkpoint'} {path}: check --teacher.")


def check_codec(options: Any, *other: str) -> None:
    """Refuse a missing ``codec``, and a file inside an exported folder or a zip instead of the folder."""
    check_file(options, "codec", *other, what="codec")
    for path in map(Path, options.codec if isinstance(options.codec, list) else [options.codec or ""]):
        if path.is_file() and path.name == "codec.json":
            raise UserError(f"{path} is a file of an exported codec: name its folder, {path.resolve().parent}.")
        if path.is_file() and zipfile.is_zipfile(path):  # PyTorch's files are zips too
            with zipfile.ZipFile(path) as archive:
                if any(Path(name).name == "codec.json" for name in archive.namelist()):
                    raise UserError(f"{path} is a zip of an exported codec: unpack it, and name the folder.")


OUTPUTS = ("output", "save_dir", "out_dir")
"""Options that name what is written."""


def check_output(options: Any, name: str, kind: str | None) -> None:
    """Refuse an option that would write over a file of another kind, or into a file.

    Args:
        options: the options.
        name: the option.
        kind: ``a folder``, or what `describe` says of the file that is written; None: anything.
    """
    path = Path(getattr(options, name))
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise refusal(above, "a folder", f"--{name} cannot be written into it")
    if kind is None or not path.exists() or (path.is_dir() and (kind == "a folder" or name == "output")):
        return
    if kind == "a folder" or not any(words in describe(path) for words in (kind, "an empty file")):
        raise refusal(path, kind, f"it is not overwritten; name another with --{name}")


def check_share(val_ratio: float, max_images: int | None) -> None:
    """Refuse a share outside (0, 1) and a negative number of pictures."""
    if not 0 < val_ratio < 1:
        raise UserError(f"--val_ratio is a share between 0 and 1 (0.02: two in a hundred), not {val_ratio}.")
    if max_images is not None and max_images < 1:
        raise UserError(f"--max_images is at least 1, or 0 for all pictures, not {max_images}.")


LOSS, COST = r"\d*\.?\d+%?", r"\d*\.?\d+x?"
"""What --max_loss and --max_cost look like."""
EMBEDDED = ("tiny", "tiny_hyper", "tiny_vbr")
"""Codecs inside the package."""


class Options:
    """Options of one command. They record which were explicitly set, so that the others can come from a checkpoint."""

    writes: ClassVar[str | None] = "a folder"
    """What ``output``, ``save_dir`` or ``out_dir`` names, for `check_output`."""
    given: frozenset[str]
    """Names of the options that were explicitly set."""

    def __new__(cls, **values: Any) -> Self:
        """Record the names of the arguments."""
        options = super().__new__(cls)
        options.given = frozenset(values)
        return options

    def explicit(self) -> dict[str, Any]:
        """The options that were set, by name."""
        return {name: getattr(self, name) for name in self.given}

    def check_paths(self) -> None:
        """Refuse missing paths, and outputs that are something else, before heavy imports.

        Raises:
            UserError: a file or folder is missing, or would be overwritten.
        """
        for name in OUTPUTS:
            if getattr(self, name, None) is not None:
                check_output(self, name, self.writes)

    def replace(self, **values: Any) -> Self:
        """Copy with other ``values``, which count as explicitly set."""
        return type(self)(**self.explicit() | values)


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
    """A codec file (.pth, .pth.tar or .safetensors), tiny, tiny_hyper or tiny_vbr (in the package), or file.py:function, code
    of yours that is run and returns a codec (docs/models.md). Default: CompressAI's model zoo."""

    def check_paths(self) -> None:  # noqa: D102
        check_teacher(self)
        super().check_paths()


@dataclass(kw_only=True)
class GdnOptions(Options):
    """How GDN layers are computed."""

    gdn: Gdn = "sqrt"
    """GDN layers: sqrt (unchanged), rsqrt with a reciprocal square root (exact), ramps with convolutions and ReLU only.
    gdn1, relu and none need training."""
    gdn_tolerance: float = 0.01
    """With --gdn ramps: accepted loss in dB. It decides the number of pieces of the piecewise-linear square root (1 to 8)."""

    def __post_init__(self) -> None:
        if not self.gdn_tolerance > 0:
            raise UserError(f"--gdn_tolerance is above 0, not {self.gdn_tolerance}.")


@dataclass(kw_only=True)
class BudgetOptions(Options):
    """What a quantized codec may lose and cost."""

    max_loss: str | None = None
    """Largest loss on pictures that nothing was calibrated on, in dB (0.1) or in bits (1%). Layers get the cheapest remedies
    that hold it: coarse and fine weights, and what else the target has."""
    max_cost: str | None = None
    """Largest number of multiply-adds, relative to the plain precision (1.2x). Alone: the least loss within it."""

    def __post_init__(self) -> None:
        for name, known, example in (("max_loss", LOSS, "0.1 (dB) or 1% (bits)"), ("max_cost", COST, "1.2x")):
            given = getattr(self, name)
            if given is not None and not re.fullmatch(known, str(given)):
                raise UserError(f"--{name} is a limit like {example}, not {given}.")

    @property
    def has_budget(self) -> bool:
        """Whether one of them is set."""
        return bool(self.max_loss or self.max_cost)


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

    def check_paths(self) -> None:  # noqa: D102
        check_folder(self, "coco_dir", "the pictures")
        super().check_paths()
