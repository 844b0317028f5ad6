"""Write the table of docs/models.md, every architecture through every stage: `python -m scripts.models_table`.

Each cell is run, on a codec of 8 channels with random weights; what a stage says when it refuses becomes the reason. About a
minute and a half on one core.
"""

import math
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.small_codecs import small_codec

import codecswap
from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import Codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import load_picture, to_picture
from codecswap.data.samples import sample_pictures
from codecswap.entropy.passes import RASTER
from codecswap.errors import UserError
from codecswap.evaluation.published import published
from codecswap.inference.runtime import OnnxCodec
from codecswap.page import onnxruntime_web
from codecswap.page.document import page
from codecswap.quantized.representation import TransformGraph

FILE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- made by scripts/models_table.py -->\n", "<!-- end -->\n"
SIZE = (240, 240)
FEW: dict[str, Any] = {"epochs": 1, "batch_size": 4, "num_workers": 0, "warmup_steps": 0, "accelerator": "cpu"}
TARGETS = ("rk3588", "openvino", "ethos-u55")
REASONS = {
    "there is nothing to swap": "nothing to swap",
    "context model, which PyTorch alone computes": "no: context model",
}
"""What refusals say, and what the table says."""


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = make_pictures(Path(scratch))
        rows = []
        for name in ARCHITECTURES:
            rows.append(row(name, pictures, Path(scratch) / name))
            print(rows[-1], flush=True)
    print(f"written to {FILE}")
    before, _, rest = FILE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    head = f"| | {' | '.join(CELLS)} |\n|---|{'---|' * len(CELLS)}\n"
    FILE.write_text(before + BEGIN + head + "\n".join(rows) + "\n" + END + after, "utf-8")


def make_pictures(folder: Path) -> Path:
    """A folder with train/ and val/ of small pictures."""
    for side, count in (("train", 4), ("val", 2)):
        (folder / "pictures" / side).mkdir(parents=True)
        for index, picture in enumerate(islice(sample_pictures(None, "", side, SIZE), count)):
            to_picture(picture, SIZE).save(folder / "pictures" / side / f"{index}.png")
    return folder / "pictures"


class Row:
    """One architecture.

    Args:
        name: a name in `ARCHITECTURES`.
        pictures: what `make_pictures` returns.
        folder: scratch, for this row alone.
    """

    def __init__(self, name: str, pictures: Path, folder: Path) -> None:
        self.name, self.pictures, self.folder = name, pictures, folder
        self.codec: Codec = small_codec(name)
        self.student = self.codec
        self.picture = load_picture(pictures / "val" / "0.png")

    def weights(self) -> str:
        """Where weights come from."""
        return "zoo" if type(self.codec).zoo else "checkpoint"

    def published(self) -> str:
        """Number of qualities that CompressAI publishes figures of."""
        count = len(published(self.name)["results"].get("bpp", ()))
        return str(count) if count else "none"

    def in_pytorch(self) -> str:
        """A file there and back, and its measuring."""
        data = self.codec.compress(self.picture)
        assert self.codec.decompress(data).size == SIZE
        x = torch.rand(3, 64, 64)
        results = codecswap.evaluate([("noise", x)], {"codec": self.codec})
        assert results[0].coded[0].bpp > 0
        serial = any(each.positions == RASTER for each in self.codec.passes)
        return "yes, one position after the other" if serial else "yes"

    def swap(self) -> str:
        """An exact replacement of the decoder's layers."""
        self.student, _ = codecswap.swap(self.codec, "subpixel")
        with torch.no_grad():
            latents = self.codec.quantize(self.codec.g_a(torch.rand(1, 3, 64, 64)))
            wanted, found = self.codec.g_s(latents), self.student.g_s(latents)
        assert (wanted - found).abs().max() <= 1e-4 * wanted.abs().max().clamp(min=1)
        return "yes"

    def train(self) -> str:
        """An epoch of `distill` and of `finetune`."""
        start, said, log = self.codec, "`finetune`", list[dict[str, float]]()
        if self.student is not self.codec:
            start, _ = codecswap.swap(self.codec, "upsample")
            start, said = codecswap.distill(start, self.codec, self.pictures, progress=log.append, **FEW), "yes"
        codecswap.finetune(start, self.codec, self.pictures, progress=log.append, **FEW)
        assert all(math.isfinite(epoch["train_loss"]) for epoch in log if epoch["epoch"] >= 0)
        return said

    def export(self) -> str:
        """A folder, verified against PyTorch."""
        codecswap.export(self.student, self.folder / "exported", images=str(self.pictures / "val"))
        return "yes"

    def without_pytorch(self) -> str:
        """A file there and back by the exported folder alone."""
        opened = codecswap.open_codec(self.folder / "exported", threads=1)
        assert opened.decompress(opened.compress(self.picture)).size == SIZE
        return "yes"

    def page(self) -> str:
        """The exported folder as a page; ONNX Runtime's part of it is left out here."""
        with mock.patch.object(onnxruntime_web, "load", lambda folder: (b"", b"")):
            assert "</html>" in page(self.folder / "exported")
        return "yes"

    def quantize(self) -> str:
        """Encoder and decoder in 8 bits; no layer of the decoder is in float."""
        how: dict[str, Any] = {"part": "both", "refit": False, "calibration_images": str(self.pictures / "val")}
        made, agreements = codecswap.quantize(self.student, self.folder / "quantized", **how)
        assert set(agreements) == {"encoder", "decoder"}
        decoder: TransformGraph = made.networks["decoder"].transform
        convolutions = [step for step in decoder.operations if "Conv" in step.operator]
        assert all(decoder.constants[step.inputs[1]].quantization for step in convolutions)
        opened = OnnxCodec(self.folder / "quantized", threads=1).with_entropy(TorchCodec(self.student).entropy)
        assert opened.decompress(opened.compress(self.picture)).size == SIZE
        return "yes"

    def compile(self) -> str:
        """The decoder for three NPUs, with their compilers where they are installed."""
        side = 2 * self.codec.margin * self.codec.factor + self.codec.multiple
        side -= side % self.codec.multiple
        how: dict[str, Any] = {"height": side, "width": side, "calibration_count": 1, "measured": False}
        for target in TARGETS:
            images = str(self.pictures / "val")
            made = codecswap.compile(self.student, target, self.folder / target, calibration_images=images, **how)
            assert made.on_npu, made.refused
        return "yes"


CELLS: dict[str, Callable[[Row], str]] = {
    "weights": Row.weights,
    "published points on Kodak, mse": Row.published,
    "`eval`, `encode`, `decode` in PyTorch": Row.in_pytorch,
    "swap, `advise`": Row.swap,
    "`distill`, `finetune`": Row.train,
    "`export`: g_a, g_s": Row.export,
    "`encode`, `decode` with its folder": Row.without_pytorch,
    "`page`, the C library": Row.page,
    "`quantize`": Row.quantize,
    "`compile`": Row.compile,
}
"""The columns, in the order in which they are run: some need what an earlier one made."""


def row(name: str, pictures: Path, folder: Path) -> str:
    """The table's row of an architecture; arguments as in `Row`.

    Raises:
        UserError: a stage refuses it for a reason that is not in `REASONS`.
    """
    folder.mkdir()
    it, cells = Row(name, pictures, folder), [f"`{name}`"]
    for cell in CELLS.values():
        try:
            cells.append(cell(it))
        except UserError as error:
            reason = next((words for said, words in REASONS.items() if said in str(error)), None)
            if reason is None:
                raise
            cells.append(reason)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
