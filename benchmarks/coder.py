"""How long entropy coding takes: the C library, the same coder in Python, and CompressAI's, on photographs and drawn symbols.

python -m benchmarks.coder [--repeats 15] [--pictures 3]

All take turns, so that whatever else the machine does falls on all of them alike; the median counts. Symbols drawn uniformly
over the tables are the worst case; a codec of full size has M=320, of which most channels are nearly always 0.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from math import erf

import numpy as np
from compressai import ans

from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.console import show_table
from codecswap.data.samples import sample_pictures
from codecswap.entropy import rans
from codecswap.entropy.tables import EntropyTables

Case = tuple[str, EntropyTables, np.ndarray]


def photographs(count: int) -> Iterator[Case]:
    """The embedded codec's symbols of the package's photographs, 768x512."""
    codec = TorchCodec(load_codec("tiny"))
    for number, picture in enumerate(islice(sample_pictures(None, "", "val", (768, 512)), count)):
        yield f"photograph {number + 1}, M=80", codec.tables, codec.tables.to_symbols(codec.analyze(picture))


def drawn() -> Iterator[Case]:
    """Symbols of a 768x512 picture in 320 Gaussian channels, and as many drawn uniformly over the tables."""
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(np.log(0.05), np.log(12), 320))
    reach = np.maximum(1, np.ceil(6 * spread)).astype(np.int32)
    cdf = np.zeros((320, 2 * reach.max() + 3), np.int32)
    for row, s, n in zip(cdf, spread, reach, strict=True):
        below = np.array([0.5 + 0.5 * erf((edge - 0.5) / s / 2**0.5) for edge in range(-n, n + 2)])
        counts = np.append(np.maximum(1, (np.diff(below) * (65000 - 2 * n)).astype(int)), 1)
        counts[counts.argmax()] += 65536 - counts.sum()
        row[1 : len(counts) + 1] = counts.cumsum()
    tables = EntropyTables(cdf, 2 * reach + 3, -reach, np.zeros(320, np.float32))
    gaussian = np.rint(rng.standard_normal((320, 32, 48)) * spread[:, None, None]).astype(np.int32)
    yield "Gaussian, M=320", tables, gaussian
    uniform = [rng.integers(-n, n + 1, (32, 48)) for n in reach]
    yield "uniform, M=320", tables, np.array(uniform, np.int32)


def works(tables: EntropyTables, symbols: np.ndarray, string: bytes) -> dict[str, tuple[Callable, Callable]]:
    """Encode and decode of each coder."""
    shape, flat = symbols.shape[1:], symbols.reshape(len(symbols), -1)
    values = flat - tables.offsets[:, None]
    words = np.frombuffer(string, "<u4").tolist()
    indexes = np.repeat(np.arange(len(flat)), flat.shape[1]).tolist()
    others = (indexes, tables.cdf.tolist(), tables.lengths.tolist(), tables.offsets.tolist())
    encoder, decoder = ans.RansEncoder(), ans.RansDecoder()
    return {
        "C": (lambda: rans.encode(symbols, tables), lambda: rans.decode(string, shape, tables)),
        "Python": (lambda: rans._encode(values, tables), lambda: rans._decode(words, tables, np.empty_like(values))),
        "CompressAI": (
            lambda: encoder.encode_with_indexes(flat.reshape(-1).tolist(), *others),
            lambda: np.array(decoder.decode_with_indexes(string, *others), np.int32),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=3)
    options = parser.parse_args()
    if rans.coder is None:
        parser.error("codecswap was installed without its C coder: there is nothing to compare")
    rows = []
    for name, tables, symbols in (*photographs(options.pictures), *drawn()):
        string = rans.encode(symbols, tables)
        coders = works(tables, symbols, string)
        times: dict[str, list[list[float]]] = {coder: [[], []] for coder in coders}
        for turn in range(options.repeats):
            for coder, steps in coders.items():
                if coder == "Python" and turn > 2:
                    continue
                for step, taken in zip(steps, times[coder], strict=True):
                    before = time.perf_counter()
                    step()
                    taken.append(time.perf_counter() - before)
        megabits = 8e-6 * len(string)
        for coder, taken in times.items():
            encode, decode = (statistics.median(one) for one in taken)
            figures = [1e3 * encode, 1e3 * decode, 1e3 * decode / megabits, 1e9 * decode / symbols.size]
            rows.append([f"{name}, {megabits:.2f} Mbit: {coder}", *(f"{figure:,.2f}" for figure in figures)])
    columns = ["symbols and coder", "encode, ms", "decode, ms", "decode, ms per Mbit", "decode, ns per symbol"]
    show_table("entropy coding of 768x512 pixels, one thread", columns, rows)


if __name__ == "__main__":
    main()
