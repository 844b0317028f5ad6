"""Where an archive's time goes: processor seconds per megapixel of each stage, in one thread, and of CompressAI's.

    python -m benchmarks.archive_stages [--codec tiny|random|FILE] [--images DIR] [--count 4] [--rounds 3]
    [--runtime onnxruntime openvino]

The pictures are those of benchmarks.archive. All stages of a picture are measured one after the other, so that whatever else
the machine does falls on all of them alike; the median counts.
"""

import argparse
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from benchmarks.archive import MEGAPIXELS, write_codec
from benchmarks.prepare import make_pictures
from compressai.models import FactorizedPrior

from codecswap.archives.work import PNG_LEVEL
from codecswap.console import show_table
from codecswap.data.discovery import scan
from codecswap.data.pictures import load_picture, to_array, to_picture
from codecswap.entropy import bitstream
from codecswap.inference.runtime import OnnxCodec

Measure = Callable[[str], object]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", default="tiny")
    parser.add_argument("--images", default=str(files("codecswap") / "assets" / "photos"))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", nargs="+", default=["onnxruntime"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measured(stage: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[stage].append(time.process_time() - began)

    with TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_codec(options.codec, root)
        (root / "pictures").mkdir()
        make_pictures(scan(options.images), root / "pictures", options.count)
        codecs = {runtime: OnnxCodec(root / "codec", 1, runtime=runtime) for runtime in options.runtime}
        model = FactorizedPrior.from_state_dict(torch.load(root / "state.pth", weights_only=True)).eval()
        for _ in range(options.rounds):
            for path in scan(root / "pictures"):
                ours(path, codecs, measured)
                theirs(path, model, measured)
    rows = [[stage, f"{statistics.median(found) / MEGAPIXELS:.3f}"] for stage, found in spent.items()]
    show_table(f"{options.codec}, 640x480", ["stage", "processor seconds per megapixel"], rows)


def ours(path: Path, codecs: dict[str, OnnxCodec], measured: Measure) -> None:
    with measured("reading JPEG"):
        picture = load_picture(path.read_bytes())
        x = to_array(picture)
    for runtime, codec in codecs.items():
        with measured(f"g_a, {runtime}"):
            latents = codec.analyze(x)
        with measured("entropy coding"):
            data = bitstream.encode_latents(codec, latents, (picture.height, picture.width))
        with measured("entropy decoding"):
            quantized, size = bitstream.read(data, codec.entropy, codec.factor)
        with measured(f"g_s, {runtime}"):
            decoded = codec.synthesize(quantized.symbols, quantized.means)
        with measured("rounding to 8 bits"):
            shown = to_picture(decoded, size)
    for level in (PNG_LEVEL, 6):
        with measured(f"PNG, level {level}"):
            shown.save(io.BytesIO(), "PNG", compress_level=level)


def theirs(path: Path, model: FactorizedPrior, measured: Measure) -> None:
    x = torch.from_numpy(to_array(load_picture(path)))[None]
    with measured("CompressAI: g_a"):
        y = model.g_a(x)
    with measured("CompressAI: entropy coding"):
        strings = model.entropy_bottleneck.compress(y)
    with measured("CompressAI: entropy decoding"):
        latents = model.entropy_bottleneck.decompress(strings, y.shape[-2:])
    with measured("CompressAI: g_s"):
        model.g_s(latents)


if __name__ == "__main__":
    main()
