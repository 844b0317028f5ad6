"""The teacher and its student: one encoder pass, two decoders, and which parameters train."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codecswap.codecs import GDN, FactorizedPrior
from codecswap.layers import SubpixelConv2d, UpsampleConv2d


def round_latents(codec: FactorizedPrior, y: Tensor) -> Tensor:
    """The latents that a real bitstream carries, ``round(y - median) + median``, for ``y: (B, M, H/16, W/16)``."""
    medians = codec.entropy_bottleneck.quantiles[:, 0, 1].detach().view(1, -1, 1, 1)
    return torch.round(y - medians) + medians


@dataclass
class Decoded:
    """What one training step needs of a batch."""

    student: Tensor
    """The student's reconstruction, ``(B, 3, H, W)``, not clamped."""
    target: Tensor
    """What it is compared with: the teacher's reconstruction, or the pictures."""
    bpp: Tensor | None = None
    """The student's estimated bits per pixel (only with a trained encoder)."""
    teacher_bpp: Tensor | None = None
    """The teacher's, on the same pictures."""


class TeacherStudent(nn.Module):
    """A frozen teacher and the student that learns from it.

    Unless everything trains, the student *shares* the teacher's encoder and entropy bottleneck: a picture is encoded once,
    both decoders get the same rounded latents, and no step can change a bitstream.
    """

    def __init__(
        self, teacher: FactorizedPrior, student: FactorizedPrior, *, train_igdn: bool = False, unfreeze_all: bool = False
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student.requires_grad_(unfreeze_all)
        self.unfreeze_all = unfreeze_all
        if not unfreeze_all:
            student.g_a, student.entropy_bottleneck = teacher.g_a, teacher.entropy_bottleneck
            for module in student.g_s.modules():
                if isinstance(module, UpsampleConv2d | SubpixelConv2d) or (train_igdn and isinstance(module, GDN)):
                    module.requires_grad_(True)

    def train(self, mode: bool = True) -> "TeacherStudent":
        """Only the student changes its mode: a teacher in train mode would add noise to its latents."""
        self.student.train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The teacher's rounded latents ``(B, M, H/16, W/16)`` of pictures ``x: (B, 3, H, W)`` in [0, 1].

        In float32 whatever the surrounding precision: in bfloat16 other symbols than the bitstream's would come out.
        """
        with torch.autocast(x.device.type, enabled=False):
            return round_latents(self.teacher, self.teacher.g_a(x.float()))

    @torch.no_grad()
    def teach(self, latents: Tensor) -> Tensor:
        """The teacher's reconstruction ``(B, 3, H, W)`` of rounded latents, not clamped."""
        return self.teacher.g_s(latents)

    def forward(self, x: Tensor, *, distil: bool) -> Decoded:
        """Decode a batch of pictures for training; ``distil`` chooses the teacher's reconstruction as the target."""
        if not self.unfreeze_all:
            latents = self.encode(x)
            return Decoded(self.student.g_s(latents), self.teach(latents) if distil else x)
        y = self.student.g_a(x)
        _, likelihoods = self.student.entropy_bottleneck(y.float(), training=True)
        straight_through = y + (round_latents(self.student, y) - y).detach()
        teacher_latents = self.encode(x)
        with torch.no_grad():
            _, teacher_likelihoods = self.teacher.entropy_bottleneck(teacher_latents, training=False)
        target = self.teach(teacher_latents) if distil else x
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        return Decoded(
            self.student.g_s(straight_through),
            target,
            bpp=-likelihoods.log2().sum() / pixels,
            teacher_bpp=-teacher_likelihoods.log2().sum() / pixels,
        )

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The student's reconstruction ``(B, 3, H, W)`` in [0, 1], as a decoder shows it."""
        latents = round_latents(self.student, self.student.g_a(x)) if self.unfreeze_all else self.encode(x)
        return self.student.g_s(latents).float().clamp(0, 1)
