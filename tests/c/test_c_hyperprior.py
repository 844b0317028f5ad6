"""Codecs with a hyperprior in the C library: equal tables, equal files both ways, and bad ones refused as in Python."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from csw_library import NCHW, NHWC, CswError, Form, Library

from codecswap.entropy import bitstream
from codecswap.entropy.hyper_synthesis import LIMIT, SLOPE_BITS, IntegerNetwork, Layer
from codecswap.entropy.model import EntropyModel
from codecswap.errors import UserError
from codecswap.inference.folder import read_entropy, read_folder

GOLDEN = Path(__file__).parents[1] / "entropy" / "golden"
CODED = (GOLDEN / "v2.csw").read_bytes()


@pytest.fixture(scope="module")
def entropy() -> EntropyModel:
    return read_entropy(GOLDEN / "v2", *read_folder(GOLDEN / "v2"))


def files(entropy: EntropyModel) -> dict[str, bytes]:
    """What the library is given of a folder."""
    parts = {"tables": entropy.tables, "gaussians": entropy.gaussians, "network": entropy.predictor}
    return {name: part.binary for name, part in parts.items()}


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


def random_network(rng: np.random.Generator, *, largest: bool) -> IntegerNetwork:
    """A network of up to three layers; weights, biases and shifts as wild as the format allows."""
    inputs = channels = int(rng.integers(1, 40))
    layers, shuffles = [], 0
    mean_bits = None if rng.random() < 0.3 else int(rng.integers(0, 17))
    count = int(rng.integers(1, 4))
    for index in range(count):
        last = index + 1 == count
        shuffle = bool(shuffles < 2 and rng.random() < 0.6)
        outputs = int(rng.integers(1, 12)) * (4 if shuffle else 1) * (2 if last else 1)
        kernel = int(rng.choice([1, 3])) if count > 1 else int(rng.choice([1, 3, 5]))
        most = LIMIT if largest else int(rng.choice([1, 40, 2047, LIMIT]))
        weight = rng.integers(-most, most + 1, (outputs, channels, kernel, kernel))
        weight = np.where(rng.random(weight.shape) < 0.2, most, weight).astype(np.int16)
        bits = np.log2(np.abs(weight.astype(float)).sum((1, 2, 3)) + 1)
        shift = np.rint(bits + rng.uniform(-3, 3, outputs) - (0 if last else 1)).astype(np.int32)
        bias = rng.integers(-(1 << 24), 1 << 24, outputs)
        slope = int(rng.choice([0, 655, 13107, 1 << SLOPE_BITS]))
        layers.append(Layer(weight, bias, shift.clip(-12, 47), slope, shuffle))
        channels, shuffles = outputs // (4 if shuffle else 1), shuffles + shuffle
    thresholds = np.sort(rng.integers(-(1 << 17), 1 << 17, int(rng.integers(1, 256))))
    medians = rng.integers(-(1 << 20), 1 << 20, inputs)
    return IntegerNetwork(int(rng.integers(0, 17)), medians, tuple(layers), thresholds, mean_bits)


def predicted(library: Library, network: IntegerNetwork, symbols: np.ndarray, side: int = 0) -> list[np.ndarray]:
    """CDF indexes and means of `csw_predict`, with memory for tiles of ``side``."""
    _, rows, columns = symbols.shape
    answer = library.ask("predict", rows, columns, side, network=network.binary, data=symbols.astype("<i4").tobytes())
    shape = (network.channels, network.factor * rows, network.factor * columns)
    count = int(np.prod(shape))
    return [
        np.frombuffer(answer, "u1", count).reshape(shape),
        np.frombuffer(answer, "<f4", count, count).reshape(shape),
    ]


@pytest.mark.parametrize("largest", [False, True])
def test_tables_and_means_are_those_of_numpy(library: Library, largest: bool) -> None:
    rng = np.random.default_rng(int(largest))
    for _ in range(12):
        network = random_network(rng, largest=largest)
        shape = (len(network.medians), *map(int, rng.integers(1, 10, 2)))
        symbols = rng.integers(-40, 41, shape).astype(np.int32)
        symbols[rng.random(shape) < 0.1] = (1 << 27) * int(rng.choice([-1, 1]))
        for ours, wanted in zip(predicted(library, network, symbols), network.in_numpy(symbols), strict=True):
            assert (ours == wanted).all()


def test_small_memory_gives_the_same(library: Library, entropy: EntropyModel) -> None:
    network, rng = entropy.predictor, np.random.default_rng(2)
    symbols = rng.integers(-20, 21, (entropy.tables.channels, 11, 14)).astype(np.int32)
    wanted = network.in_numpy(symbols)
    for side in (5, 6, 9, 12, 14):
        for ours, theirs in zip(predicted(library, network, symbols, side), wanted, strict=True):
            assert (ours == theirs).all(), side
    with pytest.raises(CswError, match="room"):  # a tile without an inside
        predicted(library, network, symbols, 4)


def in_units(latents: np.ndarray, bits: int) -> np.ndarray:
    """Split inputs, one for each channel, and the constant."""
    units = np.rint(latents * np.float32(1 << bits)).clip(-127, 127)
    return np.concatenate([units, np.full((1, *units.shape[1:]), 3)])


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_files_are_read_in_every_form(library: Library, entropy: EntropyModel, layout: int) -> None:
    quantized, size = bitstream.read(CODED, entropy, 16)
    latents = quantized.symbols.astype(np.float32) + quantized.means
    split_inputs = in_units(latents, entropy.predictor.mean_bits)
    wanted = {
        Form.SYMBOLS: quantized.symbols,
        Form.SYMBOLS_FLOAT: quantized.symbols,
        Form.LATENTS: latents,
        Form.SPLIT_INPUTS: split_inputs,
        Form.SPLIT_INPUTS_FLOAT: split_inputs,
    }
    for form, values in wanted.items():
        for least in (0, 1):
            answer = library.ask("read", form, layout, 3, 0, least, **files(entropy), data=CODED)
            assert struct.unpack("<2I", answer[:8]) == size
            read = np.frombuffer(answer[8:], form.dtype)
            shape = values.shape if layout == NCHW else (*values.shape[1:], len(values))
            read = read.reshape(shape) if layout == NCHW else read.reshape(shape).transpose(2, 0, 1)
            assert (read == values).all(), form
        for too_small in (1, 2):  # the result's memory, the work's
            with pytest.raises(CswError, match="room"):
                library.ask("read", form, layout, 3, too_small, 1, **files(entropy), data=CODED)


def drawn(rng: np.random.Generator, entropy: EntropyModel, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of hyper-latents, and latents whose sides are four times theirs."""
    first, last = entropy.tables.offsets, entropy.tables.offsets + entropy.tables.lengths - 3
    shape = (entropy.tables.channels, *sides)
    symbols = rng.integers(first[:, None, None], last[:, None, None] + 1, shape, dtype=np.int32)
    latents = rng.standard_normal((entropy.passes[-1].channels[1], 4 * sides[0], 4 * sides[1])) * 10 ** rng.uniform(
        -1, 3
    )
    return symbols, latents.astype("<f4")


def written_by_python(entropy: EntropyModel, symbols: np.ndarray, latents: np.ndarray, size: tuple[int, int]) -> bytes:
    strings = entropy.encode(latents, lambda _: entropy.tables.to_latents(symbols))
    return bitstream.write(strings, size, entropy, 16)


def cases(entropy: EntropyModel, count: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
    """Symbols of hyper-latents, latents, and the picture's size."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        size = tuple(map(int, rng.integers(1, 300, 2)))
        yield *drawn(rng, entropy, tuple(-(-side // 64) for side in size)), size


def test_files_are_written_as_python_writes_them(library: Library, entropy: EntropyModel) -> None:
    for symbols, latents, size in cases(entropy, 8):
        data = symbols.astype("<i4").tobytes() + latents.tobytes()
        wanted = written_by_python(entropy, symbols, latents, size)
        for least in (0, 1):
            assert library.ask("write_hyper", *size, 0, least, **files(entropy), data=data) == wanted
        for less in (len(wanted) - 1, len(wanted) // 2, 54, 53, 1):  # bytes of the caller's buffer
            with pytest.raises(CswError, match="room"):
                library.ask("write_hyper", *size, less, **files(entropy), data=data)
    for bad in (np.nan, np.inf, 1e9):
        latents[-1, -1, -1] = bad
        with pytest.raises(CswError, match="not_finite"):
            data = symbols.astype("<i4").tobytes() + latents.tobytes()
            library.ask("write_hyper", *size, **files(entropy), data=data)
    with pytest.raises(CswError, match="mixed"):  # a codec without a hyperprior
        library.ask("write_hyper", *size, tables=entropy.tables.binary, data=data)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_latents_are_put_together_from_tiles(library: Library, entropy: EntropyModel, layout: int) -> None:
    latents = np.random.default_rng(0).standard_normal((entropy.predictor.channels, 8, 12)).astype("<f4")
    whole = latents if layout == NCHW else latents.transpose(1, 2, 0)
    answer = library.ask("paste", 100, 150, 99, 99, 0, layout, **files(entropy), data=whole.tobytes())
    assert answer == latents.tobytes()


def test_bad_files_are_refused_with_the_reason(library: Library, entropy: EntropyModel) -> None:
    header, body = CODED[:50], CODED[50:-4]

    def changed(place: int, new: bytes) -> bytes:
        return sealed(header[:place] + new + header[place + len(new) :] + body)

    first, second = struct.unpack_from("<2I", header, 42)
    huge = header[:6] + struct.pack("<II", 8192, 8192) + header[14:30] + struct.pack("<II", 128, 128) + header[38:]
    bad = [
        ("no_csw", b""),
        ("altered", CODED[:4]),
        ("altered", CODED[:-5]),
        ("altered", CODED[:70] + bytes([CODED[70] ^ 1]) + CODED[71:]),
        ("no_hyperprior", CODED[:4] + b"\x01" + CODED[5:]),
        ("variable_rate", CODED[:4] + b"\x03" + CODED[5:]),
        ("newer", CODED[:4] + b"\x04" + CODED[5:]),
        ("newer", changed(5, b"\x02")),
        ("floating_point", changed(5, b"\x00")),
        ("contradicts", changed(42, struct.pack("<I", first + 4))),
        ("contradicts", changed(42, struct.pack("<2I", 0xFFFFFFFF, first + second + 1))),
        ("contradicts", changed(30, b"\x09")),
        ("other_tables", changed(14, bytes([header[14] ^ 1]))),
        ("size", changed(6, struct.pack("<II", 1 << 30, 1 << 30))),
        ("size", changed(6, struct.pack("<II", 0, 5))),
        ("too_short", sealed(huge + body)),
        ("other_indexes", changed(38, bytes([header[38] ^ 1]))),
        ("corrupt", sealed(header + body[:-4] + b"\xff\xff\xff\x01")),
    ]
    for reason, data in bad:
        with pytest.raises(CswError, match=f"^{reason}$"):
            library.ask("read", Form.SYMBOLS, NCHW, **files(entropy), data=data)
        with pytest.raises(bitstream.BadFile):
            bitstream.read(data, entropy, 16)
    for cut in range(54):
        with pytest.raises(CswError):
            library.ask("read", Form.SYMBOLS, NCHW, **files(entropy), data=CODED[:cut])
    rng = np.random.default_rng(0)
    for _ in range(40):  # a flipped bit under a checksum that fits
        altered = bytearray(CODED[:-4])
        altered[rng.integers(50, len(altered))] ^= 1 << rng.integers(8)
        try:
            wanted = bitstream.read(sealed(bytes(altered)), entropy, 16)[0].symbols.astype("<i4").tobytes()
        except bitstream.BadFile:
            with pytest.raises(CswError, match=r"corrupt|other_indexes"):
                library.ask("read", Form.SYMBOLS, NCHW, **files(entropy), data=sealed(bytes(altered)))
        else:
            assert library.ask("read", Form.SYMBOLS, NCHW, **files(entropy), data=sealed(bytes(altered)))[8:] == wanted


def test_damaged_networks_are_refused_where_python_refuses_them(library: Library, entropy: EntropyModel) -> None:
    content, rng, refused = entropy.predictor.binary, np.random.default_rng(0), 0
    parts = files(entropy)

    def open_with(network: bytes) -> None:
        library.ask("tables", **parts | {"network": network})

    open_with(content)
    for cut in [*range(1, 60), *range(60, len(content), 211), len(content) - 1]:
        with pytest.raises(CswError, match="network_damaged"):
            open_with(content[:cut])
    with pytest.raises(CswError, match="network_damaged"):
        open_with(content + b"\0")
    with pytest.raises(CswError, match="network_newer"):
        open_with(content[:4] + b"\x02" + content[5:])
    for _ in range(100):
        altered = bytearray(content)
        altered[rng.integers(5, 200) if rng.random() < 0.7 else rng.integers(len(content))] ^= 1 << rng.integers(8)
        try:
            network = IntegerNetwork.from_binary(bytes(altered))
        except UserError:
            refused += 1
            with pytest.raises(CswError, match=r"network_(damaged|newer)"):
                library.ask("predict", 1, 1, network=bytes(altered), data=bytes(4 * entropy.tables.channels))
            continue
        symbols = rng.integers(-9, 10, (len(network.medians), 2, 3)).astype(np.int32)
        for ours, wanted in zip(predicted(library, network, symbols), network.in_numpy(symbols), strict=True):
            assert (ours == wanted).all()
    assert 10 < refused < 90
    with pytest.raises(CswError, match="mixed"):  # not as many Gaussians as the network chooses from
        library.ask("tables", **parts | {"gaussians": parts["tables"]})


@pytest.mark.slow
def test_ten_thousand_hyper_latents_give_the_same_tables_and_files_everywhere(
    library: Library, entropy: EntropyModel
) -> None:
    """In every build: what C computes and writes is what numpy does, and C reads what Python writes."""
    network = entropy.predictor
    rng = np.random.default_rng(7)
    sides = (50, 200)
    symbols = np.concatenate([drawn(rng, entropy, (1, 1))[0] for _ in range(sides[0] * sides[1])], 2)
    symbols = symbols.reshape(entropy.tables.channels, *sides)
    ours = predicted(library, network, symbols)
    digest = hashlib.sha256(b"".join(each.tobytes() for each in ours)).hexdigest()
    assert digest == hashlib.sha256(b"".join(each.tobytes() for each in network.in_numpy(symbols))).hexdigest()
    for hyper_symbols, latents, size in cases(entropy, 40):
        data = library.ask(
            "write_hyper", *size, **files(entropy), data=hyper_symbols.astype("<i4").tobytes() + latents.tobytes()
        )
        assert data == written_by_python(entropy, hyper_symbols, latents, size)
        read = library.ask("read", Form.SYMBOLS, NCHW, **files(entropy), data=data)[8:]
        assert read == bitstream.read(data, entropy, 16)[0].symbols.astype("<i4").tobytes()
