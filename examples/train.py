"""Train a student whose operators do not equal the teacher's: distill, fine-tune, evaluate, save.

python examples/train.py PICTURES student.pt
"""

import sys
from pathlib import Path

from codecswap import distill, evaluate, finetune, load_codec, save_student, swap


def main(pictures: str, output: str, epochs: int = 1) -> None:
    """Train on a folder of pictures; the teacher is the codec inside the package."""
    teacher = load_codec("tiny")
    student, _ = swap(teacher, "upsample")  # Resize and Conv alone: not exact
    options = {"epochs": epochs, "val_ratio": 0.1, "progress": show}  # of a small folder; docs/options.md has them all
    student = distill(student, teacher, pictures, **options)
    student = finetune(student, teacher, pictures, **options)
    for result in evaluate(sorted(Path(pictures).glob("*.jpg"))[:4], {"student": student}, teacher=teacher):
        print(f"{result.name}: {result.mean()['psnr']:.2f} dB, {result.mean()['bpp']:.3f} bits per pixel")
    save_student(student, output, teacher)


def show(row: dict[str, float]) -> None:
    """Print an epoch's figures."""
    print(f"epoch {row['epoch']:.0f}: MS-SSIM against the teacher {row['msssim_teacher']:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
