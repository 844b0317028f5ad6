"""元のレシピの `dataset_coco`: 224x224 の画像。その場で切り出すか、`scripts.coco_prepare` が用意したものを読みます。"""

import sys
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

sys.path.append(str(Path(__file__).parent))  # インストールせずに、チェックアウトの中でも使えるように

from codecswap.data.datasets import TrainingPictures, ValidationPictures
from codecswap.data.discovery import find_pictures


class CocoDataset(Dataset):
    """`split` は "train" (無作為な切り出しと左右反転) か "val" (中央)。要素は [0, 1] の `(3, 224, 224)` です。"""

    def __init__(
        self, coco_dir: str, split: str = "train", *, use_prepared: bool = False, val_ratio: float = 0.02
    ) -> None:
        found = find_pictures(coco_dir, val_ratio=val_ratio, use_prepared=use_prepared)
        self.train = TrainingPictures(found.train, seed=0, prepared=found.prepared)
        self.pictures = self.train if split == "train" else ValidationPictures(found.val)
        self.epoch = 0  # エポックごとに変えると、切り出しも変わります

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return (self.pictures[self.epoch, index] if self.pictures is self.train else self.pictures[index]).image
