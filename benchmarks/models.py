"""What the architectures cost: exactness of the swap, price of integers, times of encoding and decoding and who takes them.

python -m benchmarks.models [--codecs tiny tiny_hyper] [--random mbt2018_mean:192:320 ...] [--images DIR] [--pictures 3]

Every codec is exported, with transposed convolutions as `subpixel`, and coded by ONNX Runtime on one thread, as on a device.
With a context model the networks are ONNX Runtime's, and h_s and context are PyTorch's, on one thread too. A random codec
(architecture:N:M) is for time and exactness alone: its bytes mean nothing. All codecs take turns, picture by picture; times are
of the processor, and medians.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import nn

from codecswap.codecs.architectures import ARCHITECTURES
from codecswap.codecs.protocol import Codec, TorchPredictor
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.config import ExportOptions
from codecswap.console import show_table
from codecswap.data.pictures import to_picture
from codecswap.data.samples import sample_pictures
from codecswap.entropy import bitstream, rans
from codecswap.entropy.hyper_synthesis import IntegerNetwork
from codecswap.entropy.tables import EntropyTables
from codecswap.export import command as export
from codecswap.inference.runtime import OnnxCodec
from codecswap.swaps.apply import can_swap, swap

SIZE = (768, 512)
RANDOM = ["bmshj2018_hyperprior:192:320", "mbt2018_mean:192:320", "mbt2018_mean_vbr:192:320", "mbt2018:192:320"]
RANDOM += ["cheng2020_anchor:192", "cheng2020_anchor_checkerboard:192", "elic2022_official:192:320"]
RANDOM += ["elic2022_chandelier:192:320"]
PARTS = ("g_a", "g_s", "h_a", "h_s", "context", "entropy coding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="*", default=["tiny", "tiny_hyper"])
    parser.add_argument("--random", nargs="*", default=RANDOM, help="architecture:N:M, or architecture:N where M is N")
    parser.add_argument("--images", type=Path, help="default: the package's photographs")
    parser.add_argument("--pictures", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = list(islice(sample_pictures(options.images, "--images", "val", SIZE), options.pictures))
    with tempfile.TemporaryDirectory() as scratch:
        codecs = {name: load_codec(name) for name in options.codecs}
        files = {name: name for name in codecs}
        for name in options.random:
            files[name] = str(Path(scratch) / f"{name.replace(':', '-')}.safetensors")
            codecs[name] = drawn(name, files[name])
        folders = {}
        for name, path in files.items():
            folders[name] = Path(scratch) / f"{Path(path).stem}-exported"
            arguments = ExportOptions(teacher=path, output=folders[name])
            export.main(arguments)
        exactness(codecs, pictures)
        coding(codecs, folders, pictures)


def drawn(name: str, path: str) -> Codec:
    """A codec with random weights, saved as a checkpoint."""
    architecture, *sizes = name.split(":")
    torch.manual_seed(0)
    codec = ARCHITECTURES[architecture](*map(int, sizes))
    last = [layer for layer in codec.g_a if isinstance(layer, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(20)  # else all latents are zero
    codec.update(force=True)
    save_file({key: value.contiguous() for key, value in codec.state_dict().items()}, path)
    return load_codec(path)


@torch.no_grad()
def exactness(codecs: dict[str, Codec], pictures: list[Any]) -> None:
    """Swapped decoders against the teacher's, in dB of the largest value that the teacher's gives."""
    rows = []
    for name, codec in codecs.items():
        x = torch.from_numpy(pictures[0])[None]
        latents = codec.quantize(codec.g_a(x))
        wanted = codec.g_s(latents)
        row = [name]
        for replacement in ("subpixel", "masked") if can_swap(codec, "subpixel") else ():
            error = (swap(codec, replacement)[0].g_s(latents) - wanted).square().mean().sqrt() / wanted.abs().max()
            row.append(f"{-20 * error.clamp_min(1e-12).log10().item():.0f} dB")
        rows.append([*row, "-", "-"][:3])
    show_table("Exact swaps of g_s in PyTorch, float32", ["codec", "subpixel", "masked"], rows)


def coding(codecs: dict[str, Codec], folders: dict[str, Path], pictures: list[Any]) -> None:
    """Real bytes, and where the time of encoding and of decoding goes."""
    spent: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    in_torch = {name: TorchCodec(codec) for name, codec in codecs.items()}
    opened = {
        name: OnnxCodec(folder, threads=1).with_entropy(in_torch[name].entropy) for name, folder in folders.items()
    }
    for array in [pictures[0], *pictures]:  # the first time, for caches, does not count
        picture = to_picture(array, (array.shape[1], array.shape[2]))
        for name, codec in opened.items():
            with parts() as encoding:
                data = timed(encoding, bitstream.encode, codec, picture)
            with parts() as decoding:
                timed(decoding, bitstream.decode, codec, data)
            both = {"encode": encoding, "decode": decoding}
            flat = {f"{way} {part}": seconds for way, found in both.items() for part, seconds in found.items()}
            if name not in spent:
                spent[name] = defaultdict(list)
                continue
            for part, seconds in flat.items():
                spent[name][part].append(seconds)
            sizes[name][0] += len(data)
            sizes[name][1] += 0 if codecs[name].has_context else len(bitstream.encode(in_torch[name], picture))
    rows = []
    for name, found in spent.items():
        for way in ("encode", "decode"):
            whole = statistics.median(found[f"{way} whole"])
            shares = [statistics.median(found.get(f"{way} {part}", [0.0])) / whole for part in PARTS]
            rows.append([name, way, f"{1000 * whole:.0f} ms", *(f"{share:.0%}" if share else "-" for share in shares)])
    show_table(f"{SIZE[0]}x{SIZE[1]}, one thread, processor time", ["codec", "", "whole", *PARTS], rows)
    rows = [
        [name, f"{integers:,}", f"{floats:,}", f"{integers / floats - 1:+.3%}"]
        for name, (integers, floats) in sizes.items()
        if opened[name].entropy.predictor and not codecs[name].has_context
    ]
    show_table("Bytes, entropy parameters in integers and in floating point", ["codec", "integers", "float", ""], rows)


@contextmanager
def parts() -> Iterator[dict[str, float]]:
    """Count the seconds that the parts of a codec take, by name."""
    seconds: dict[str, float] = defaultdict(float)

    def counted(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            result = call(*arguments, **named)
            seconds[part] += time.process_time() - began
            return result

        return counting

    places = [
        (OnnxCodec, "analyze", "g_a"),
        (OnnxCodec, "synthesize", "g_s"),
        (OnnxCodec, "hyper_analyze", "h_a"),
        (IntegerNetwork, "__call__", "h_s"),
        *((rans, name, "entropy coding") for name in ("encode", "decode", "encode_indexes", "decode_indexes")),
        (EntropyTables, "to_symbols", "entropy coding"),
        (rans.Reader, "read", "entropy coding"),
    ]
    begin = TorchPredictor.begin

    def begun(self: TorchPredictor, hyper_symbols: Any) -> Any:
        return counted("context", counted("h_s", begin)(self, hyper_symbols))

    patches = [mock.patch.object(owner, name, counted(part, getattr(owner, name))) for owner, name, part in places]
    patches.append(mock.patch.object(TorchPredictor, "begin", begun))
    for patch in patches:
        patch.start()
    try:
        yield seconds
    finally:
        for patch in patches:
            patch.stop()


def timed(seconds: dict[str, float], work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it, and count the whole."""
    began = time.process_time()
    result = work(*arguments)
    seconds["whole"] = time.process_time() - began
    return result


if __name__ == "__main__":
    main()
