"""The original recipe's modules `custom_decoder`, `dataset_coco` and `losses`, as its users import them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("custom_decoder", "dataset_coco", "losses")
TRAIN = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader
from {prefix}custom_decoder import UpsampleConv2d, replace_deconv
from {prefix}dataset_coco import CocoDataset
from {prefix}losses import distillation_loss, l1_loss, ms_ssim, psnr


class Codec(nn.Module):
    def __init__(self):
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 4, 5, 2, 2), nn.ReLU(), nn.Conv2d(4, 8, 5, 2, 2))
        self.g_s = nn.Sequential(nn.ConvTranspose2d(8, 4, 5, 2, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 5, 2, 2, 1))


torch.manual_seed(0)
teacher = Codec()
student = replace_deconv(teacher)
kinds = [type(layer) for layer in student.g_s.modules()]
assert nn.ConvTranspose2d not in kinds and kinds.count(UpsampleConv2d) == 2
assert {{name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad}} == {{"g_s"}}
assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in teacher.modules()) == 2

pictures, held_out = (CocoDataset(sys.argv[1], split, val_ratio=0.3) for split in ("train", "val"))
batch = next(iter(DataLoader(pictures, 4, shuffle=True)))
assert batch.shape == (4, 3, 224, 224) and 0 <= batch.min() < batch.max() <= 1 and held_out[0].shape == (3, 224, 224)
before = pictures[0]
pictures.epoch = 1
assert not torch.equal(before, pictures[0])

with torch.no_grad():
    latents = teacher.g_a(batch)
    wanted = teacher.g_s(latents)
optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 1e-3)
losses = []
for _ in range(3):
    made = student.g_s(latents)
    loss = distillation_loss(made, wanted)
    torch.testing.assert_close(loss, l1_loss(made, wanted) + 0.2 * (1 - ms_ssim(made, wanted).mean()))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert losses[2] < losses[0] and psnr(wanted, wanted).min() > 60 > psnr(made.detach(), wanted).max()
"""


@pytest.mark.parametrize("prefix", ["", "src."])
def test_the_recipes_modules_train_a_student(prefix: str, pictures: Path, tmp_path: Path) -> None:
    """From the folder of scripts and from the root of the checkout, without an installed package."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN.format(prefix=prefix))
    path = os.pathsep.join([str(ROOT if prefix else ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, pictures],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_they_are_short_and_named_in_both_readmes(name: str) -> None:
    assert len((ROOT / "src" / f"{name}.py").read_text("utf-8").splitlines()) <= 30
    assert all(f"src/{name}.py" in (ROOT / page).read_text("utf-8") for page in ("README.md", "README.ja.md"))
