"""Make a small codec from a folder of pictures: how the embedded teacher came about.

    python scripts/make_teacher.py --images DIR --output codec.safetensors --N 48 --M 72 --lmbda 0.09 --minutes 54

An hour on one core is enough because training does not start from noise: stage by stage, the analysis kernels are the
principal components of the patches that the stage before puts out (4x4 first, then 2x2, at stride 2), the synthesis
kernels their transposes, and the entropy model gets the latents' own scales. At most 48 channels in the first stage.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import v2

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.data.discovery import list_pictures
from codecswap.data.transforms import whole_picture

CROP, BATCH, NOISE = 128, 8, 0.05


def crops(pictures: list[Tensor], count: int, generator: torch.Generator) -> Tensor:
    """Random crops ``(count, 3, 128, 128)`` with flips."""
    cut = []
    for _ in range(count):
        picture = pictures[int(torch.randint(len(pictures), (), generator=generator))]
        top, left = (int(torch.randint(side - CROP + 1, (), generator=generator)) for side in picture.shape[1:])
        crop = picture[:, top : top + CROP, left : left + CROP]
        cut.append(crop.flip(-1) if torch.rand((), generator=generator) < 0.5 else crop)
    return torch.stack(cut)


@torch.no_grad()
def start_from_components(codec: FactorizedPrior, x: Tensor) -> None:
    """Set both transforms to block PCA of what each stage gets, and the entropy model's scales to the latents'."""
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
            layer.weight.copy_(kernel + noise * torch.randn_like(kernel))
            # a 4x4 block overlaps its neighbours by half: every pixel is written four times
            deconv = deconvs[stage]
            deconv.weight.copy_(kernel / (4 if size == 4 else 1) + noise * torch.randn_like(kernel))
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(deconv.bias)
        x = codec.g_a[index](x)
    scale = x.std(dim=(0, 2, 3)).clamp_min(0.1)
    bottleneck = codec.entropy_bottleneck
    # the first matrix scales the density's argument: softplus(matrix) in proportion to 1 / deviation
    first = bottleneck.matrices[0]
    rate = nn.functional.softplus(first) * (bottleneck.init_scale / 3 / scale)[:, None, None]
    first.copy_(rate.expm1().clamp_min(1e-6).log())
    bottleneck.quantiles[:, 0, 0], bottleneck.quantiles[:, 0, 2] = -6 * scale, 6 * scale


def train(codec: FactorizedPrior, pictures: list[Tensor], *, lmbda: float, minutes: float, seed: int = 0) -> int:
    """Minimise ``lmbda * 255^2 * MSE + bits per pixel`` for a time; returns the number of steps."""
    generator = torch.Generator().manual_seed(seed)
    quantiles = codec.entropy_bottleneck.quantiles
    weights = [parameter for parameter in codec.parameters() if parameter is not quantiles]
    optimiser = torch.optim.Adam([{"params": weights, "lr": 2e-4}, {"params": [quantiles], "lr": 1e-3}])
    began, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / (60 * minutes)) < 1:
        rate = min(1, (step + 1) / 100) * (1e-5 + (2e-4 - 1e-5) * 0.5 * (1 + math.cos(math.pi * share)))
        optimiser.param_groups[0]["lr"] = rate
        x = crops(pictures, BATCH, generator)
        out = codec(x)
        bpp = -out["likelihoods"]["y"].log2().sum() / (BATCH * CROP * CROP)
        error = (out["x_hat"] - x).square().mean()
        loss = lmbda * 255**2 * error + bpp
        optimiser.zero_grad()
        (loss + codec.aux_loss()).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 100 == 0:
            print(f"step {step}: {-10 * math.log10(error.item()):.2f} dB, {bpp.item():.3f} bpp", flush=True)
        step += 1
    return step


def main() -> None:
    """Read the options, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--N", type=int, default=48)
    parser.add_argument("--M", type=int, default=72)
    parser.add_argument("--lmbda", type=float, default=0.09)
    parser.add_argument("--minutes", type=float, default=54)
    options = parser.parse_args()
    torch.manual_seed(0)
    enough = v2.Resize(CROP, antialias=True)
    pictures = [whole_picture(path) for path in list_pictures(options.images, "--images")]
    pictures = [picture if min(picture.shape[1:]) >= CROP else enough(picture) for picture in pictures]
    codec = FactorizedPrior(options.N, options.M)
    start_from_components(codec, crops(pictures, 64, torch.Generator().manual_seed(1)))
    train(codec, pictures, lmbda=options.lmbda, minutes=options.minutes)
    codec.update(force=True, update_quantiles=True)
    state = {name: value.contiguous() for name, value in codec.state_dict().items()}
    save_file(state, options.output, metadata={"N": str(options.N), "M": str(options.M)})


if __name__ == "__main__":
    main()
