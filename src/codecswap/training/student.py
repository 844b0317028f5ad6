"""The teacher and its student: one encoder pass, two decoders, and which parameters train."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codecswap.codecs.protocol import Codec, analyse, encode
from codecswap.layers.gdn import GDN
from codecswap.metrics import bits_per_pixel
from codecswap.swaps import maker


@dataclass
class Decoded:
    """What one training step needs of a batch."""

    student: Tensor
    """The student's reconstruction, ``(B, 3, H, W)``, not clamped."""
    target: Tensor
    """What it is compared with: the teacher's reconstruction, or the pictures."""
    bpp: Tensor | None = None
    """The student's estimated bits per pixel (only where its encoder trains)."""
    teacher_bpp: Tensor | None = None
    """The teacher's, on the same pictures."""


def choose_trained(
    student: nn.Module, *, train_igdn: bool = False, unfreeze_all: bool = False, freeze_gdn: bool = False
) -> None:
    """Let some of a student's parameters train, and no others: those of the new convolutions, and what is asked for.

    Args:
        train_igdn: the inverse GDN layers train beside the new convolutions.
        unfreeze_all: everything trains, encoder and entropy model included.
        freeze_gdn: no GDN or inverse GDN trains, whatever the others say.
    """
    student.requires_grad_(unfreeze_all)
    for name, module in student.named_modules():
        if isinstance(module, GDN):
            if freeze_gdn or (train_igdn and name.startswith("g_s.")):
                module.requires_grad_(not freeze_gdn)
        elif maker(module) and name.startswith("g_s."):
            module.requires_grad_(True)


class TeacherStudent(nn.Module):
    """A frozen teacher and the student that learns from it.

    Unless everything trains, a student with its teacher's latents *shares* the teacher's encoder and entropy model: a
    picture is encoded once, both decoders get the same rounded latents, and no step can change a bitstream.

    Args:
        train_igdn, unfreeze_all, freeze_gdn: which parameters train (`choose_trained`).
    """

    def __init__(
        self,
        teacher: Codec,
        student: Codec,
        *,
        train_igdn: bool = False,
        unfreeze_all: bool = False,
        freeze_gdn: bool = False,
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = student
        choose_trained(student, train_igdn=train_igdn, unfreeze_all=unfreeze_all, freeze_gdn=freeze_gdn)
        self.unfreeze_all = unfreeze_all
        self.same_latents = not unfreeze_all and student.same_latents(teacher)
        if self.same_latents:
            for name in teacher.bit_exact:
                setattr(student, name, getattr(teacher, name))

    def train(self, mode: bool = True) -> "TeacherStudent":
        """Both stay in eval mode: train mode would add noise to latents, and nothing else here depends on the mode."""
        return super().train(False)

    def both_latents(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded latents that the teacher's and the student's decoder get, each ``(B, M, H/16, W/16)``."""
        x = x.contiguous(memory_format=torch.channels_last)
        student = encode(self.student, x)
        return (student if self.same_latents else encode(self.teacher, x)), student

    @torch.no_grad()
    def teach(self, latents: Tensor) -> Tensor:
        """The teacher's reconstruction ``(B, 3, H, W)`` of rounded latents, not clamped."""
        return self.teacher.g_s(latents)

    def forward(self, x: Tensor, *, distil: bool) -> Decoded:
        """Decode a batch of pictures for training; ``distil`` chooses the teacher's reconstruction as the target."""
        if self.unfreeze_all:
            return self._train_encoder(x, distil)
        teacher_latents, latents = self.both_latents(x)
        return Decoded(self.student.g_s(latents), self.teach(teacher_latents) if distil else x)

    def _train_encoder(self, x: Tensor, distil: bool) -> Decoded:
        """Straight-through rounding for the decoder, noise for the likelihoods, the teacher's own latents for its target."""
        y = self.student.g_a(x)
        bits = self.student.bits(y.float(), noisy=True)
        straight_through = y + (self.student.quantise(y) - y).detach()
        latents = encode(self.teacher, x)
        with torch.no_grad():
            teacher_bits = self.teacher.bits(analyse(self.teacher, x))
        return Decoded(
            self.student.g_s(straight_through),
            self.teach(latents) if distil else x,
            bits_per_pixel(bits, x),
            bits_per_pixel(teacher_bits, x),
        )

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's and student's reconstruction of pictures, each ``(B, 3, H, W)`` in [0, 1], as a decoder shows them.

        In float32 whatever the surrounding precision: this is what is measured and looked at.
        """
        with torch.autocast(x.device.type, enabled=False):
            teacher, student = self.both_latents(x)
            return self.teach(teacher).clamp(0, 1), self.student.g_s(student).clamp(0, 1)

    @torch.no_grad()
    def rates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher's and student's estimated bits per pixel, two scalars."""
        x = x.contiguous(memory_format=torch.channels_last)
        student = self.student.bits(analyse(self.student, x))
        teacher = student if self.same_latents else self.teacher.bits(analyse(self.teacher, x))
        return bits_per_pixel(teacher, x), bits_per_pixel(student, x)
