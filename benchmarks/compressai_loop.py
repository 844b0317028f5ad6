"""The loop that everybody writes around CompressAI: `benchmarks.archive` runs it in a process of its own.

python -m benchmarks.compressai_loop encode|decode STATE SOURCE TARGET INDEX PROCESSES
"""

import pickle
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from compressai.models import FactorizedPrior
from PIL import Image
from torchvision.transforms.functional import to_pil_image, to_tensor


@torch.inference_mode()
def main(work: str, state: str, source: str, target: str, index: str, processes: str) -> None:
    torch.set_num_threads(1)
    model = FactorizedPrior.from_state_dict(torch.load(state, weights_only=True)).eval()
    model.update()
    for path in sorted(Path(source).iterdir())[int(index) :: int(processes)]:
        if work == "encode":
            x = to_tensor(Image.open(path).convert("RGB"))[None]
            padded = F.pad(x, (0, -x.shape[-1] % 16, 0, -x.shape[-2] % 16), mode="replicate")
            coded = model.compress(padded) | {"size": x.shape[-2:]}
            (Path(target) / f"{path.stem}.pickle").write_bytes(pickle.dumps(coded))
        else:
            coded = pickle.loads(path.read_bytes())
            height, width = coded.pop("size")
            decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
            to_pil_image(decoded[0, :, :height, :width]).save(Path(target) / f"{path.stem}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
