"""A teacher and its student: one encoder pass, two decoders, and the choice of trained parameters."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codecswap.codecs.float32 import full_float32
from codecswap.codecs.protocol import Codec, analyze, encode, estimate_bits, round_latents
from codecswap.layers.gdn import GDN
from codecswap.metrics import bits_per_pixel
from codecswap.quantized.synthesis import QuantizedSynthesis
from codecswap.swaps import swap_of
from codecswap.swaps.apply import PARTS


@dataclass
class Decoded:
    """Outputs of a batch that the loss needs."""

    student: Tensor
    """The student's reconstruction, ``(B, 3, H, W)``, not clamped."""
    target: Tensor
    """Target of the student: the teacher's reconstruction, or the pictures."""
    bpp: Tensor | None = None
    """Estimated bits per pixel of the student (only if its encoder trains)."""
    teacher_bpp: Tensor | None = None
    """Estimated bits per pixel of the teacher."""
    latents: Tensor | None = None
    """Loss of the latents against the teacher's (`LatentCost`), a scalar, if they are the target."""


def choose_trained(
    student: nn.Module,
    *,
    whole_decoder: bool = False,
    unfreeze_all: bool = False,
    freeze_gdn: bool = False,
    part: str = "decoder",
) -> None:
    """Set which parameters of a student are trained, at any depth of its module tree.

    Args:
        whole_decoder: train the whole decoder; else only layers from a swap, except layers that approximate a
            GDN untrained.
        unfreeze_all: train everything, including encoder and entropy model.
        freeze_gdn: never train GDNs or their replacements.
        part: transforms to train, a name in `codecswap.swaps.apply.PARTS`; of an encoder all parameters are trained.
    """
    student.requires_grad_(unfreeze_all)
    for name in PARTS["both" if unfreeze_all else part]:
        transform = student.get_submodule(name)
        whole = unfreeze_all or whole_decoder or name == "g_a" or isinstance(transform, QuantizedSynthesis)
        transform.requires_grad_(whole)
        for layer in transform.modules():
            made_by = swap_of(layer)
            in_gdns_place = isinstance(layer, GDN) or (made_by is not None and made_by.replaces is GDN)
            if made_by and (made_by.trained or not in_gdns_place):
                layer.requires_grad_(True)
            if in_gdns_place and freeze_gdn:
                layer.requires_grad_(False)


class LatentCost(nn.Module):
    """Weighted error of the latents: their effect on the picture, and on the bits, per channel.

    An error e of one latent of channel c adds ``J_c^2 e^2`` to the picture's squared error, where ``J_c`` is the decoder's
    gain, and about ``e^2 / (2 ln 2 sigma_c^2)`` bits. One bit counts as ``STEEPNESS D / R``: the slope of the curve of
    distortion D over bits R.
    """

    STEEPNESS = 1.16
    """``- d ln D / d ln R``: 3.5 dB for twice the bits (`codecswap.swaps.closed_form.PERCENT`)."""

    def __init__(self, teacher: Codec, x: Tensor) -> None:
        """Measure a teacher on pictures ``x: (B, 3, H, W)`` in [0, 1]."""
        super().__init__()
        latents = encode(teacher, x).requires_grad_(True)
        with torch.enable_grad():
            shown = teacher.g_s(latents)
            # the expectation over random signs of the squared gradient is the energy of the channel's response
            signs = torch.randint(0, 2, shown.shape, generator=torch.Generator().manual_seed(0)).to(shown) * 2 - 1
            (slope,) = torch.autograd.grad((shown * signs).sum(), latents)
        gain = slope.square().mean((0, 2, 3), keepdim=True) / x[0].numel()
        distortion = (shown.detach() - x).square().mean()
        with torch.no_grad():
            bits = estimate_bits(teacher, latents.detach()) / len(x)
        variance = latents.detach().var((0, 2, 3), keepdim=True).clamp_min(1 / 12)
        cost = gain + self.STEEPNESS * distortion / bits / (2 * math.log(2) * variance)
        # convert from a sum to a mean over positions, and from squared to absolute errors
        cost = cost * latents[0, 0].numel() * 0.5 / distortion.sqrt()
        self.weights: Tensor
        self.register_buffer("weights", cost.detach(), persistent=False)

    def forward(self, y: Tensor, teacher: Tensor) -> Tensor:
        """Cost, a scalar, of latents ``(B, M, h, w)`` against the teacher's, both before rounding."""
        return (self.weights * (y - teacher).square()).sum(1).mean()


class TeacherStudent(nn.Module):
    """A frozen teacher and the student that learns from it.

    Unless everything trains, a student with its teacher's latents *shares* the teacher's encoder and entropy model: a
    picture is encoded once, both decoders get the same rounded latents, and no step can change a bitstream.

    Args:
        whole_decoder, unfreeze_all, freeze_gdn, part: which parameters train (`choose_trained`).
    """

    def __init__(
        self,
        teacher: Codec,
        student: Codec,
        *,
        whole_decoder: bool = False,
        unfreeze_all: bool = False,
        freeze_gdn: bool = False,
        part: str = "decoder",
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        choose_trained(
            student, whole_decoder=whole_decoder, unfreeze_all=unfreeze_all, freeze_gdn=freeze_gdn, part=part
        )
        self.unfreeze_all = unfreeze_all
        self.trains_encoder = unfreeze_all or "g_a" in PARTS[part]
        self.latent_cost: LatentCost | None = None
        """For distillation with an encoder; set at the start of training."""
        self.same_latents = not self.trains_encoder and student.same_latents(teacher)
        if self.same_latents:
            for name in teacher.bit_exact:
                if hasattr(teacher, name):
                    setattr(student, name, getattr(teacher, name))

    def train(self, mode: bool = True) -> "TeacherStudent":
        """Keep both codecs in eval mode: train mode would only add noise to latents."""
        return super().train(False)

    def draw_gain(self, number: int) -> None:
        """Let both codecs of variable rate quantize at the gain of the level ``number`` modulo the number of levels."""
        if gains := self.teacher.gains:
            self.teacher.gain = self.student.gain = gains[number % len(gains)]

    def both_latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded latents for the teacher's and the student's decoder, each ``(B, M, H/16, W/16)``."""
        x = x.contiguous(memory_format=torch.channels_last)
        student = encode(self.student, x)
        return (student if self.same_latents else encode(self.teacher, x)), student

    @torch.no_grad()
    def teach(self, latents: Tensor) -> Tensor:
        """The teacher's reconstruction ``(B, 3, H, W)`` of rounded latents, not clamped."""
        return self.teacher.g_s(latents)

    def forward(self, x: Tensor, *, distill: bool) -> Decoded:
        """Decode a batch for training; ``distill``: the target is the teacher's reconstruction, else the pictures."""
        if self.trains_encoder:
            return self._train_encoder(x, distill)
        teacher_latents, latents = self.both_latents(x)
        return Decoded(self.student.g_s(latents), self.teach(teacher_latents) if distill else x)

    def _train_encoder(self, x: Tensor, distill: bool) -> Decoded:
        """Straight-through rounding for the decoder, noise for the likelihoods, the teacher's own latents for its target.

        If decoder and entropy model are the teacher's, the target of distillation is the teacher's latents, without a rate.
        """
        y = analyze(self.student, x)
        straight_through = y + (round_latents(self.student, y) - y).detach()
        if distill and not self.unfreeze_all:
            wanted = analyze(self.teacher, x)
            assert self.latent_cost is not None
            target = self.teach(round_latents(self.teacher, wanted))
            return Decoded(self.student.g_s(straight_through), target, latents=self.latent_cost(y, wanted))
        bits = estimate_bits(self.student, y, noisy=True)
        with torch.no_grad():
            theirs = analyze(self.teacher, x)
            teacher_bits = estimate_bits(self.teacher, theirs)
            target = self.teach(round_latents(self.teacher, theirs)) if distill else x
        return Decoded(
            self.student.g_s(straight_through),
            target,
            bits_per_pixel(bits, x),
            bits_per_pixel(teacher_bits, x),
        )

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's and student's reconstruction of pictures, each ``(B, 3, H, W)``, clamped to [0, 1].

        Always computed in full float32, also under autocast, since metrics use it.
        """
        with full_float32(x.device):
            teacher, student = self.both_latents(x)
            return self.teach(teacher).clamp(0, 1), self.student.g_s(student).clamp(0, 1)

    @torch.no_grad()
    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's and student's estimated bits per pixel, two scalars."""
        x = x.contiguous(memory_format=torch.channels_last)
        student = estimate_bits(self.student, analyze(self.student, x))
        teacher = student if self.same_latents else estimate_bits(self.teacher, analyze(self.teacher, x))
        return bits_per_pixel(teacher, x), bits_per_pixel(student, x)
