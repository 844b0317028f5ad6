"""Make a small codec from a folder of pictures, as a teacher for tests and demonstrations.

    python scripts/make_teacher.py --images DIR --output codec.safetensors --N 48 --M 80 --lmbda 0.02 --minutes 100

Hours on one core are enough because training does not start from noise: stage by stage, the analysis kernels are the
principal components of the patches that the stage before puts out (4x4 first, then 2x2, at stride 2), the synthesis
kernels their transposes, the latents have the step that lambda pays for, and the entropy model gets their own scales.
At most 48 channels in the first stage. With ``--architecture mbt2018_mean`` (or another with a hyperprior) each latent's scale
starts as its channel's.

``--start CODEC`` takes the transforms of a codec that is there instead (of its latents those that cost most bits, if M is
smaller), and the entropy model, too, where it is of the same architecture; ``--keep_transforms`` trains the entropy model
alone, so that what it saves is measured on the very same latents. (The embedded ``tiny_hyper`` is
``tiny`` with another entropy model.)

A codec with variable rate takes several lambdas, in ascending order, one for each level; its gains are
``sqrt(lambda / STARTS)``, since a uniform quantizer's best step goes with ``1 / sqrt(lambda)``. (CompressAI's are such, too,
and its training keeps them.) It starts well from a codec of one rate: at a gain of 1 it is that codec. (The embedded
``tiny_vbr`` was made so from ``tiny_hyper``.)

The same command goes on where a stopped one was: its state lies beside the output until the codec is written.
(The embedded ``tiny`` was made so, in 14,900 steps: N=48, M=80, lambda 0.0075 after 6,800 steps at 0.015.)
"""

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_optimizer import SOAP
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import Codec, HyperCodec
from codecswap.codecs.source import load_codec
from codecswap.codecs.variable_rate import VariableRate
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture
from codecswap.files import atomic_write
from codecswap.metrics import bits_per_pixel

NOISE = 0.01
CROPS = {16: (128, 8), 64: (256, 4)}
"""Side and number of a step's crops, by the codec's multiple. Hyper-latents are 64 times smaller than the picture:
at 128 all four touch a border, and what is learnt there is wrong in the middle of a picture (a sixth more bits)."""
GAIN = 2 / 32
"""Gain of the initial analysis transform: 4x4 blocks overlap four times, and the stages divide by 4 * 2 * 2 * 2."""
HYPER_DEVIATION = 2.0
"""Initial scale of the hyper-latents, in rounding steps."""
SCALES = (1.0, 0.75, 0.55, 0.4)
"""Sizes at which each picture is shown: few pictures then have details of many sizes."""
PEAK, WARMUP, COOL_DOWN = 1e-3, 200, 0.25
"""Highest learning rate, steps until it is reached, and the last share of the time, in which it falls to 0."""
AVERAGED = 0.999
"""Decay of the average over steps that the finished codec is."""
SAVE_SECONDS = 120
STARTS = 0.0075
"""The lambda at which a codec with variable rate has the gain 1: that of the embedded ``tiny``, from which one may start."""


def pyramid(path: Path, side: int) -> list[Tensor]:
    """A picture at all sizes that still hold a crop, each ``(3, H, W)`` uint8; one that is too small is enlarged."""
    picture = load_picture(path)
    enough = max(1.0, side / min(picture.size))
    sizes = [tuple(round(length * enough * scale) for length in picture.size) for scale in SCALES]
    kept = [size for size in sizes if min(size) >= side] or sizes[:1]
    return [pil_to_tensor(picture.resize(size, Image.Resampling.LANCZOS)) for size in kept]


def crops(pictures: list[list[Tensor]], side: int, count: int, generator: torch.Generator) -> Tensor:
    """Random crops ``(count, 3, side, side)`` in [0, 1] at random sizes, turned, flipped, brighter or darker."""

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    cut = []
    for _ in range(count):
        sizes = pictures[draw(len(pictures))]
        picture = sizes[draw(len(sizes))]
        top, left = (draw(length - side + 1) for length in picture.shape[1:])
        crop = picture[:, top : top + side, left : left + side].float() / 255
        crop = crop.flip(-1) if draw(2) else crop
        crop = crop.transpose(1, 2) if draw(4) == 0 else crop
        # contrast by a power, and the colors' balance by a gain
        power, gains = torch.rand((), generator=generator), torch.rand(3, 1, 1, generator=generator)
        cut.append((crop ** (0.8 + 0.45 * power) * (0.9 + 0.2 * gains)).clamp(0, 1))
    return torch.stack(cut)


@torch.no_grad()
def start_from_components(codec: Codec, x: Tensor, lmbda: float) -> None:
    """Set both transforms to block PCA of what each stage gets, and the entropy models' scales to the latents'.

    A uniform quantizer of step d costs ``lmbda * 255^2 * d^2 / 12`` and saves ``log2(d)`` bits: the sum is least where
    ``d^2 = 6 / (lmbda * 255^2 * ln 2)``. That is at high rates; where most latents are zero, twice the step pays.
    """
    step = 2 * GAIN * math.sqrt(6 / (lmbda * 255**2 * math.log(2)))
    convs = [layer for layer in codec.g_a if isinstance(layer, nn.Conv2d)]
    deconvs = [layer for layer in codec.g_s if isinstance(layer, nn.ConvTranspose2d)][::-1]
    for index, layer in enumerate(codec.g_a):
        if isinstance(layer, nn.Conv2d):
            stage = convs.index(layer)
            size = 4 if stage == 0 else 2
            # a kernel of 5 with padding 2 sees -2 .. 2 around 2i: 4x4 blocks at -1 .. 2, 2x2 blocks at 0 .. 1
            padded = nn.functional.pad(x, (1, 2, 1, 2)) if size == 4 else x
            patches = padded.unfold(2, size, 2).unfold(3, size, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
            patches = patches[:: max(1, len(patches) // 50_000)].double()
            _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
            kept = vectors.flip(1)[:, : layer.out_channels].T.reshape(-1, layer.in_channels, size, size).float()
            begin = 1 if size == 4 else 2
            kernel = torch.zeros_like(layer.weight)
            kernel[: len(kept), :, begin : begin + size, begin : begin + size] = kept
            noise = NOISE * kernel.std()
            # divided by the block's side a component keeps a pixel's range: GDN hardly bends it, and IGDN undoes that
            layer.weight.copy_((kernel + noise * torch.randn_like(kernel)) / size)
            # a 4x4 block overlaps its neighbors by half: every pixel is written four times
            deconv = deconvs[stage]
            deconv.weight.copy_((kernel / (4 if size == 4 else 1) + noise * torch.randn_like(kernel)) * size)
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(deconv.bias)
            if layer is convs[-1]:
                layer.weight /= step
                deconv.weight *= step
        x = codec.g_a[index](x)
    if codec.hyperprior:
        x = _start_hyperprior(codec.hyperprior, x)
    start_entropy(codec, x)


@torch.no_grad()
def start_entropy(codec: Codec, latents: Tensor) -> None:
    """Set the entropy bottleneck's scales to those of what it is to code."""
    scale = latents.std(dim=(0, 2, 3)).clamp_min(0.1)
    bottleneck = codec.entropy_bottleneck
    # the first matrix scales the density's argument: softplus(matrix) in proportion to 1 / deviation
    first = bottleneck.matrices[0]
    rate = nn.functional.softplus(first) * (bottleneck.init_scale / 3 / scale)[:, None, None]
    first.copy_(rate.expm1().clamp_min(1e-6).log())
    bottleneck.quantiles[:, 0, 0], bottleneck.quantiles[:, 0, 2] = -6 * scale, 6 * scale


@torch.no_grad()
def _start_hyperprior(codec: HyperCodec, y: Tensor) -> Tensor:
    """Let the hyper-synthesis predict each channel's deviation; returns the hyper-latents, scaled to be worth coding."""
    last = codec.h_s[4]
    last.bias.zero_()
    last.bias[: codec.M] = y.std(dim=(0, 2, 3)).clamp_min(0.1)
    codec.h_a[4].weight *= HYPER_DEVIATION / codec.hyper_latents(y).std()
    return codec.hyper_latents(y)


@torch.no_grad()
def start_from_codec(codec: Codec, start: Codec, x: Tensor) -> None:
    """Take over the transforms of ``start``, and all else where it has the same architecture and M.

    Of its latents the M that cost most bits on ``x`` are kept.
    """
    weights = start.state_dict()
    if not isinstance(codec, type(start)) or start.M != codec.M:
        likelihoods = start.entropy_bottleneck(start.g_a(x), training=False)[1]
        bits = -likelihoods.log2().sum(dim=(0, 2, 3))
        kept = bits.argsort(descending=True)[: codec.M].sort().values
        print(f"Latents taken over: {len(kept)} of {start.M}, with {bits[kept].sum() / bits.sum():.2%} of the bits.")
        last = f"g_a.{len(start.g_a) - 1}"
        for name in (f"{last}.weight", f"{last}.bias", "g_s.0.weight"):
            weights[name] = weights[name][kept]
        weights = {name: value for name, value in weights.items() if name.startswith(("g_a.", "g_s."))}
    tables = ("_offset", "_quantized_cdf", "_cdf_length")
    codec.load_state_dict(codec.state_dict() | {n: v for n, v in weights.items() if not n.endswith(tables)})
    if codec.hyperprior and not start.hyperprior:
        start_entropy(codec, _start_hyperprior(codec.hyperprior, codec.g_a(x)))


def set_levels(codec: VariableRate, lmbdas: list[float]) -> None:
    """Give a codec with variable rate the levels of these lambdas, and no offsets to begin with."""
    codec.Gain = nn.Parameter(torch.tensor(lmbdas).div(STARTS).sqrt().half().float(), requires_grad=False)
    codec.gain = codec.gains[-1]
    nn.init.zeros_(codec.QuantABCD[-1].weight)
    nn.init.zeros_(codec.QuantABCD[-1].bias)


def rounded(codec: Codec, y: Tensor) -> Tensor:
    """Latents as a file carries them; straight through for ``y``, while offsets of a codec with variable rate learn."""
    if not isinstance(codec, VariableRate):
        return y + (codec.quantize(y) - y).detach()
    with torch.no_grad():
        step = codec.passes[-1]
        scales, means = codec.gaussians(codec._side_information(y)[0], y, step, step.region(*y.shape[-2:]))
    return codec.round(y.detach(), scales, means) + y - y.detach()


class Training:
    """A codec in training: minimize ``lmbda * 255^2 * MSE + bits per pixel`` for a time.

    Levels of a variable rate take turns. Each is weighted by ``1 / sqrt(lambda)``: with equal weights the highest rate would
    decide, with ``1 / lambda`` the lowest.

    The likelihoods see noise and the decoder rounded latents, straight through (Minnen and Singh, "Channel-wise
    autoregressive entropy models for learned image compression", 2020): it meets in training what a file gives it.
    """

    def __init__(self, codec: Codec, lmbdas: list[float], peak: float = PEAK, keep_transforms: bool = False) -> None:
        self.codec, self.lmbdas, self.peak = codec, lmbdas, peak
        if keep_transforms:
            codec.g_a.requires_grad_(False)
            codec.g_s.requires_grad_(False)
        self.averaged = copy.deepcopy(codec)
        quantiles = codec.entropy_bottleneck.quantiles
        trained = (parameter for parameter in codec.parameters() if parameter.requires_grad)
        self.weights = [parameter for parameter in trained if parameter is not quantiles]
        self.optimizer = SOAP(self.weights, lr=peak, weight_decay=0.0)
        self.quantiles = torch.optim.Adam([quantiles], lr=1e-3)
        self.generator = torch.Generator().manual_seed(0)
        self.step, self.seconds = 0, 0.0

    def learning_rate(self, share: float) -> float:
        """Up, level, and down along a cosine at the end of the time (``share``: of it, in [0, 1])."""
        left = min(1.0, (1 - share) / COOL_DOWN)
        return self.peak * min(1.0, (self.step + 1) / WARMUP) * 0.5 * (1 - math.cos(math.pi * left))

    def advance(self, pictures: list[list[Tensor]], share: float) -> tuple[float, float]:
        """One step; returns the batch's PSNR in dB and its bits per pixel."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(share)
        codec, lmbda = self.codec, self.lmbdas[self.step % len(self.lmbdas)]
        if isinstance(codec, VariableRate):
            codec.gain = codec.gains[self.step % len(self.lmbdas)]
        x = crops(pictures, *CROPS[codec.multiple], self.generator)
        y = codec.g_a(x)
        bpp = bits_per_pixel(codec.bits(y, noisy=True), x)
        error = (codec.g_s(rounded(codec, y)) - x).square().mean()
        self.optimizer.zero_grad()
        self.quantiles.zero_grad()
        weight = math.sqrt(self.lmbdas[0] / lmbda)
        (weight * (lmbda * 255**2 * error + bpp) + codec.aux_loss()).backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.quantiles.step()
        decay = min(AVERAGED, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), codec.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        self.step += 1
        return -10 * math.log10(error.item()), bpp.item()

    def run(self, pictures: list[list[Tensor]], minutes: float, state: Path) -> None:
        """Train until ``minutes`` have been spent, those before a stop included; ``state`` is kept up to date."""
        began, saved = time.perf_counter() - self.seconds, time.perf_counter()
        shown: list[tuple[float, float]] = []
        while (share := self.seconds / (60 * minutes)) < 1:
            shown.append(self.advance(pictures, share))
            now = time.perf_counter()
            self.seconds = now - began
            if self.step % 100 == 0:
                decibels, bpp = (sum(column) / len(shown) for column in zip(*shown, strict=True))
                print(f"step {self.step}, {self.seconds / 60:.1f} min: {decibels:.2f} dB, {bpp:.3f} bpp", flush=True)
                shown.clear()
            if now - saved > SAVE_SECONDS:
                with atomic_write(state) as beside:
                    torch.save(self.state(), beside)
                saved = now

    def state(self) -> dict[str, Any]:
        """All that a later run needs to go on."""
        return {
            "codec": self.codec.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "quantiles": self.quantiles.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.codec.load_state_dict(state["codec"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.quantiles.load_state_dict(state["quantiles"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]


def _halved(codec: Codec) -> dict[str, Tensor]:
    """The weights that were trained; the quantiles follow from the others."""
    named = codec.named_parameters()
    return {name: value for name, value in named if value.requires_grad and not name.endswith("quantiles")}


@torch.no_grad()
def round_to_half(codec: Codec) -> None:
    """Round what was trained to 16 bits."""
    for parameter in _halved(codec).values():
        parameter.copy_(parameter.half())


def asset(codec: Codec, without_transforms: bool) -> dict[str, Tensor]:
    """A codec's state for the package: trained weights in 16 bits, no tables of Gaussians, which follow from nothing trained.

    Args:
        without_transforms: leave them out, as they are those of another codec in the package.
    """
    state = {name: value.half() if name in _halved(codec) else value for name, value in codec.state_dict().items()}
    for name in ("_quantized_cdf", "_cdf_length", "_offset"):
        if (table := f"gaussian_conditional.{name}") in state:
            state[table] = state[table].new_empty(0)
    return {
        name: value for name, value in state.items() if not without_transforms or not name.startswith(("g_a.", "g_s."))
    }


def main() -> None:
    """Read the options, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="bmshj2018_factorized")
    parser.add_argument("--N", type=int, default=48)
    parser.add_argument("--M", type=int, default=80)
    parser.add_argument("--lmbda", type=float, nargs="+", default=[0.02], help="several: levels of a variable rate")
    parser.add_argument(
        "--learning_rate", type=float, default=PEAK, help="the highest; a good start takes a third of it"
    )
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--start", metavar="CODEC", help="tiny, or a checkpoint, whose transforms are taken over")
    parser.add_argument("--keep_transforms", action="store_true", help="train the entropy model alone")
    parser.add_argument("--asset", action="store_true", help="write what the package embeds: `asset`")
    options = parser.parse_args()
    torch.manual_seed(0)
    codec = ARCHITECTURES[options.architecture](options.N, options.M)
    side, _ = CROPS[codec.multiple]
    pictures = [pyramid(path, side) for path in scan(options.images)]
    first = crops(pictures, side, 64, torch.Generator().manual_seed(1))
    if options.start:
        start_from_codec(codec, load_codec(options.start), first)
    else:
        start_from_components(codec, first, options.lmbda[-1])
    if isinstance(codec, VariableRate):
        set_levels(codec, options.lmbda)
    training = Training(codec, options.lmbda, options.learning_rate, options.keep_transforms)
    state = options.output.with_name(options.output.name + ".state")
    if state.exists():
        training.restore(torch.load(state, weights_only=True))
        print(f"Going on after step {training.step}, {training.seconds / 60:.1f} minutes.", flush=True)
    training.run(pictures, options.minutes, state)
    finished = training.averaged
    if options.asset:
        round_to_half(finished)
    finished.entropy_bottleneck.update(force=True, update_quantiles=True)
    finished.make_tables()
    state_dict = asset(finished, options.keep_transforms) if options.asset else finished.state_dict()
    with atomic_write(options.output) as beside:
        tensors = {name: value.contiguous() for name, value in state_dict.items()}
        save_file(tensors, beside, metadata={"N": str(options.N), "M": str(options.M)})
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
