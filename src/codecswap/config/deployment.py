"""Options of deployment (export, quantize, compile, page), and of encoding and decoding."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from codecswap.config.shared import (
    EMBEDDED,
    BudgetOptions,
    Form,
    GdnOptions,
    Options,
    Part,
    Replacement,
    TeacherOptions,
    ZooOptions,
    check_at_least,
    check_codec,
    check_file,
    check_folder,
)
from codecswap.errors import UserError


@dataclass(kw_only=True)
class DeployOptions(TeacherOptions, GdnOptions):
    """Options of export, quantize and compile."""

    checkpoint: str | None = None
    """Checkpoint of a student. Default: the teacher given by --teacher or --quality, with --replacement."""
    replacement: Literal["none", Replacement] | None = None
    """Replacement of a teacher's transposed convolutions, without training. masked and subpixel are exact. Default: subpixel;
    compile: one that the target runs. none: keep transposed convolutions."""
    output: Path = Path("exported")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    height: int | None = None
    """Fixed height of the pictures, a multiple of 16. Needs --width. Default: any size."""
    width: int | None = None
    """Fixed width of the pictures, a multiple of 16. Needs --height."""
    images: str | None = None
    """Folder of pictures to verify or measure on. Default: photographs inside the package."""
    calibration_images: str | None = None
    """Folder of pictures to fit layers and to estimate ranges on. Default: 13 photographs inside the package."""
    calibration_count: int = 32
    """Largest number of these pictures."""

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

    def check_paths(self) -> None:  # noqa: D102
        check_file(self, "checkpoint")
        check_folder(self, "images", "the pictures")
        check_folder(self, "calibration_images", "the pictures")
        super().check_paths()

    @property
    def size(self) -> tuple[int, int] | None:
        """The fixed width and height of the pictures."""
        return (self.width, self.height) if self.width and self.height else None


@dataclass(kw_only=True)
class OnnxOptions(DeployOptions):
    """Options of export and quantize."""

    form: Form = "native"
    """Lowering of upsampling layers: native (unchanged), masked (Resize, Mul and Conv) or subpixel (Conv and DepthToSpace)."""
    part: Part = "both"
    """Networks to write; --gdn replaces their GDN layers. A changed encoder writes other bitstreams, which the same
    decoders read."""
    opset: int = 13
    """ONNX opset, 11 to 20; quantize: 13 to 20."""

    opsets: ClassVar[range] = range(11, 21)
    """DepthToSpace has CRD order since opset 11."""

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
    """Check the operators against a target's list: opset13, rknn or another (docs/deploy.md), or a TOML file. Exit code 3 if
    an operator is not supported."""


@dataclass(kw_only=True)
class CodingOptions(ZooOptions):
    """Options of encode and decode."""

    codec: str | None = None
    """An exported folder (needs no PyTorch), a student's checkpoint, a codec file, or tiny. Default: the model zoo's codec."""
    input: list[str] = field(default_factory=list)
    """Files, and folders with sub-folders; for an archive also tar files, lists of paths (.txt, .csv, .parquet) and addresses
    (s3://...). May be given as positional arguments."""
    output: Path | None = None
    """File to write, or a folder; a folder if there are several files."""
    force: bool = False
    """Overwrite files that codecswap did not write."""
    archive: Literal["tar", "tree"] | None = None
    """Write an archive (docs/archives.md): shard by shard, with an index, resumable. tar: one tar file per shard; tree: single
    files. Default: tree for inputs that are tar files, lists, addresses or archives, else no archive."""
    shard_size: int = 1000
    """Files in a shard of an archive. Tar files keep their members."""
    shard: str | None = None
    """Make this share of an archive's shards, e.g. 0/16 to 15/16. Default: all, or that of SLURM's job array or of RANK."""
    engine: Literal["processes", "ray"] = "processes"
    """Make an archive's shards in processes of this machine, or on the nodes of a running Ray cluster (docs/archives.md)."""
    jobs: int | None = None
    """Number of processes for several files. Default: 1; for an archive one per core, of the whole cluster with Ray."""
    threads: int | None = None
    """Threads per process. Default: the number of cores divided by --jobs; with Ray 1."""
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """Runtime of an exported folder. OpenVINO, a separate package, is faster on many x86 processors."""

    writes: ClassVar[str | None] = None
    of_archives: ClassVar[tuple[str, ...]] = ("shard_size", "shard", "engine")
    """Options that only archives have."""

    def __post_init__(self) -> None:
        check_at_least(self, shard_size=1)
        for name in ("jobs", "threads"):
            if getattr(self, name) is not None:
                check_at_least(self, **{name: 1})

    def check_paths(self) -> None:  # noqa: D102
        for path in self.input:
            if "://" not in path and not Path(path).exists():
                raise UserError(f"There is no file or folder {path}: check the path.")
        check_codec(self, *EMBEDDED)
        super().check_paths()


@dataclass(kw_only=True)
class EncodeOptions(CodingOptions):
    """Encode pictures of any size (PNG, JPEG, WebP, ...) as .csw files."""

    gain: float | None = None
    """Gain of a codec with variable rate: larger means more bits. Default: the largest that the codec was trained at."""
    target_bpp: float | None = None
    """Bits per pixel that each file of a codec with variable rate comes close to, from below."""
    target_size: str | None = None
    """Size that each file of a codec with variable rate comes close to, from below: 100KB, 1.5MB, or a number of bytes."""
    psnr: bool = False
    """Decode each picture of an archive, too, and write its PSNR to the index."""

    of_archives: ClassVar[tuple[str, ...]] = (*CodingOptions.of_archives, "psnr")

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(value is not None for value in (self.gain, self.target_bpp, self.target_size)) > 1:
            raise UserError("--gain, --target_bpp and --target_size each choose the rate: give one of them.")
        if self.target_bpp is not None and not 0 < self.target_bpp < 1000:
            raise UserError(f"--target_bpp is a number of bits per pixel above 0, not {self.target_bpp}.")
        self.target_bytes  # noqa: B018 - checks it

    @property
    def target_bytes(self) -> int | None:
        """``target_size`` in bytes; 1 KB is 1000 bytes."""
        if self.target_size is None:
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)[bB]?", str(self.target_size).strip())
        size = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6}[found[2].lower()] if found else 0
        if not 1 <= size < 1 << 40:
            raise UserError(
                f"--target_size is a size in bytes, KB or MB (50000, 100KB, 1.5MB), not {self.target_size}."
            )
        return int(size)


@dataclass(kw_only=True)
class DecodeOptions(CodingOptions):
    """Decode .csw files to PNG. Needs the codec that wrote them, or one with the same entropy tables."""

    region: str | None = None
    """Decode this part of each picture alone: x,y,w,h in pixels from the upper left corner. Its pixels are those of the whole
    picture; of pictures of more than 1280x1280 pixels only the tiles that it needs are computed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.box  # noqa: B018 - checks it

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """``region`` as numbers: left, top, width and height."""
        if self.region is None:
            return None
        words = [word.strip() for word in str(self.region).split(",")]
        if len(words) != 4 or not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
            raise UserError(f"--region is x,y,w,h, four numbers of pixels (0,0,640,480), not {self.region}.")
        left, top, width, height = map(int, words)
        if not width or not height:
            raise UserError(f"--region {self.region} has no pixels: name a width and a height of at least 1.")
        return left, top, width, height


@dataclass(kw_only=True)
class VerifyOptions(ZooOptions):
    """Check every file of an archive against its checksum and the index. Exit code 3 if something is missing or damaged."""

    archive: Path | None = None
    """Folder that `codecswap encode --archive` or `codecswap decode --archive` wrote."""
    decode: bool = False
    """Decode every coded picture, too, with --codec."""
    codec: str | None = None
    """With --decode: an exported folder, a student's checkpoint, a codec file, or tiny. Default: the model zoo's codec."""
    threads: int | None = None
    """With --decode: number of threads. Default: one per core."""

    def check_paths(self) -> None:  # noqa: D102
        check_codec(self, *EMBEDDED)
        super().check_paths()


@dataclass(kw_only=True)
class QuantizeOptions(OnnxOptions, BudgetOptions):
    """Write a codec as ONNX files with 8-bit weights and 8- or 16-bit activations. The folder is like that of export."""

    output: Path = Path("quantized")
    """Folder for encoder.onnx, decoder.onnx, entropy.json, entropy.bin and codec.json."""
    part: Part = "decoder"
    """Networks to write; --gdn replaces their GDN layers. A quantized encoder writes other bitstreams than a float
    encoder; a quantized decoder changes none."""
    precision: Literal["w8a8", "mixed", "w8a16"] = "w8a8"
    """8-bit weights and 8-bit activations, 16-bit activations, or mixed: 16 bits except inside GDN layers. 16 bits are for
    chips; a CPU computes them in float. Exit code 3 if more than 1 dB or 5 % of the bits is lost."""
    activations: Literal["uint8", "int8"] = "uint8"
    """Type of 8-bit activations; 16-bit ones are uint16, or symmetric int16. uint8 is faster on x86 processors with VNNI."""
    weight_bits: Literal[7, 8] = 8
    """Bits of the weights. codecswap sees when it opens a folder whether the processor can compute 8; 7 is for other programs
    on x86 processors without VNNI."""
    equalize: bool = True
    """Equalize the ranges of the channels around GDN layers first. This does not change the float codec."""
    refit: bool = True
    """Refit the weights to quantized inputs, then round them with GPTQ-style error compensation."""
    keep: list[str] = field(default_factory=list)
    """Layers to keep in float, e.g. g_s.6. With w8a8 the encoder's last layer always stays in float."""

    opsets: ClassVar[range] = range(13, 21)
    """Scales per channel need opset 13."""

    def __post_init__(self) -> None:
        super().__post_init__()
        BudgetOptions.__post_init__(self)


@dataclass(kw_only=True)
class CompileOptions(DeployOptions, BudgetOptions):
    """Write a codec's networks for an NPU, run its compiler if it is installed, and measure the result in its arithmetic."""

    part: Part = "decoder"
    """Networks to compile. A quantized encoder writes other bitstreams than a float encoder; a quantized decoder changes none.
    With a hyperprior, what computes hyper-latents and tables stays on the CPU."""
    target: str | None = None
    """The NPU: a name that docs/npu.md lists, e.g. rk3588 or ethos-u55, or a TOML file. Exit code 3 if the CPU is
    needed, or if more than 1 dB or 5 % of the bits is lost."""
    precision: str | None = None
    """float32, float16, w8a8, w8a16 or mixed. Default: each that the target has is compiled, and the fastest that loses at most
    0.1 dB, or else the best, is written."""
    form: Form | None = None
    """Lowering of upsampling layers: native, masked or subpixel, as in `codecswap export`. Default: the target's."""
    output: Path = Path("compiled")
    """Folder for the files, with report.json."""
    height: int | None = 256
    """Height of the pictures, or of the tiles that larger ones are decoded in; a multiple of 16."""
    width: int | None = 256
    """Width of the pictures or tiles, a multiple of 16."""
    toolchain_python: Path | None = None
    """Python interpreter of the compiler's own environment, if it needs one (rknn-toolkit2, executorch). Default: that
    of `make rknn` or `make executorch`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        BudgetOptions.__post_init__(self)
        if self.target is None:
            raise UserError("Name the NPU with --target, e.g. --target rk3588.")


@dataclass(kw_only=True)
class PageOptions(Options):
    """Write one HTML file that decodes .csw files, and encodes pictures, in any browser; nothing leaves the browser."""

    codec: Path | None = None
    """Folder of `codecswap export` or `codecswap quantize`; with its encoder, if it has one."""
    output: Path = Path("decoder.html")
    """The file to write, or a folder for decoder.html."""
    onnxruntime_web: Path | None = None
    """Folder dist of the unpacked npm package onnxruntime-web 1.30.0. Default: downloaded once, its hash checked."""
    writes: ClassVar[str | None] = "a web page"

    def check_paths(self) -> None:  # noqa: D102
        check_codec(self)
        super().check_paths()
