"""The C library against the Python coder: equal bytes, equal values, and the same files refused for the same reason."""

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compressai import ans
from csw_library import FLOAT, NCHW, NHWC, UINT8, CswError, Form, Library
from PIL import Image

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.codecs.source import load_codec
from codecswap.codecs.torch_codec import TorchCodec
from codecswap.data.pictures import load_picture, pad, to_array, to_picture
from codecswap.entropy import bitstream, rans
from codecswap.entropy.tables import EntropyTables
from codecswap.inference import tiles
from codecswap.inference.split_inputs import SplitInputs

Draw = Callable[..., EntropyTables]


def with_medians(tables: EntropyTables, rng: np.random.Generator) -> EntropyTables:
    """Tables whose channels need one to several split inputs."""
    scale = np.float32(10.0) ** rng.integers(-1, 4, tables.channels).astype(np.float32)
    return replace(tables, medians=rng.standard_normal(tables.channels).astype(np.float32) * scale)


def sealed(content: bytes) -> bytes:
    return content + struct.pack("<I", zlib.crc32(content))


@pytest.fixture(scope="module")
def coded(photos: list[Path]) -> list[tuple[np.ndarray, bytes]]:
    """Symbols and file of each embedded photograph held out, cut to odd sizes."""
    codec, found = TorchCodec(load_codec("tiny")), []
    for number, path in enumerate(photos):
        picture = load_picture(path).crop((0, 0, 201 + 7 * number, 150 - 9 * number))
        symbols = codec.tables.to_symbols(codec.analyze(pad(to_array(picture), 16)))
        found.append((symbols, bitstream.pack(symbols, (picture.height, picture.width), codec.tables)))
    return found


@pytest.mark.parametrize("spread", [1, 8, 300, 3e6])
def test_strings_are_those_of_python_and_compressai(library: Library, random_tables: Draw, spread: float) -> None:
    rng = np.random.default_rng(int(spread))
    for _ in range(12):
        tables = random_tables(rng, int(rng.integers(1, 9)))
        shape = tuple(rng.integers(1, 20, 2))
        symbols = (rng.standard_normal((tables.channels, *shape)) * spread).astype("<i4")
        count, binary = shape[0] * shape[1], tables.binary
        ours = library.ask("encode", count, tables=binary, data=symbols.tobytes())
        indexes = np.repeat(np.arange(tables.channels), count).tolist()
        others = (indexes, tables.cdf.tolist(), tables.lengths.tolist(), tables.offsets.tolist())
        assert ours == rans.encode(symbols, tables)
        assert ours == ans.RansEncoder().encode_with_indexes(symbols.reshape(-1).tolist(), *others)
        assert library.ask("decode", count, tables=binary, data=ours) == symbols.tobytes()


def test_photographs_are_read_and_written_as_python_does(
    library: Library, teacher: FactorizedPrior, coded: list[tuple[np.ndarray, bytes]]
) -> None:
    tables = teacher.entropy_tables()
    for symbols, data in coded:
        read, size = library.read(tables, data)
        assert (read == symbols).all()
        assert size == bitstream.unpack(data, tables, 16)[1]
        values = symbols.astype("<i4").tobytes()
        assert library.ask("write", *size, tables=tables.binary, data=values) == data
        assert library.ask("write", *size, len(data), tables=tables.binary, data=values) == data
        for less in (len(data) - 1, len(data) // 2, 60, 45, 37, 1):  # bytes of the caller's buffer
            with pytest.raises(CswError, match="room"):
                library.ask("write", *size, less, tables=tables.binary, data=values)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_every_form_of_a_decoders_input(library: Library, random_tables: Draw, layout: int) -> None:
    rng = np.random.default_rng(layout)
    for _ in range(8):
        tables = with_medians(random_tables(rng, int(rng.integers(1, 9))), rng)
        size = tuple(map(int, rng.integers(1, 400, 2)))
        symbols = (rng.standard_normal((tables.channels, *(-(-side // 16) for side in size))) * 200).astype(np.int32)
        data = bitstream.pack(symbols, size, tables)
        split_inputs = SplitInputs.for_tables(tables, 3).split(symbols)
        wanted = {
            Form.SYMBOLS: symbols,
            Form.SYMBOLS_FLOAT: symbols,
            Form.LATENTS: tables.to_latents(symbols),
            Form.SPLIT_INPUTS: split_inputs,
            Form.SPLIT_INPUTS_FLOAT: split_inputs,
        }
        for form, values in wanted.items():
            read, read_size = library.read(tables, data, form, layout, constant=3)
            assert read_size == size
            assert read.shape == values.shape and (read == values).all(), form
            with pytest.raises(CswError, match="room"):
                library.ask("read", form, layout, 3, 1, tables=tables.binary, data=data)


def test_tables_are_checked(library: Library, random_tables: Draw, teacher: FactorizedPrior) -> None:
    rng = np.random.default_rng(0)
    for tables in [teacher.entropy_tables(), *(with_medians(random_tables(rng, 5), rng) for _ in range(20))]:
        binary = tables.binary
        channels, entries, split_inputs, low, high, digest = struct.unpack(
            "<5I32s", library.ask("tables", tables=binary)
        )
        assert (channels, entries) == (tables.channels, tables.lengths.sum())
        assert split_inputs == len(SplitInputs.for_tables(tables).channels) + 1
        assert digest == tables.digest()
        assert 0 <= tables.fewest_bits() - (low + (high << 32)) / 65536 < 2e-4 * channels
        for place in [*range(48), *rng.integers(48, len(binary), 40)]:
            damaged = bytearray(binary)
            damaged[place] ^= 1 << rng.integers(8)
            with pytest.raises(CswError, match="tables_newer" if place in (4, 5) else "tables_damaged"):
                library.ask("tables", tables=bytes(damaged))
        for cut in (0, 3, 47, 48, len(binary) - 1):
            with pytest.raises(CswError, match="tables_damaged"):
                library.ask("tables", tables=binary[:cut])
        with pytest.raises(CswError, match="tables_damaged"):
            library.ask("tables", tables=binary + bytes(4))


def resealed(binary: bytearray) -> bytes:
    """Tables that somebody has changed and put the digest right."""
    channels = struct.unpack_from("<I", binary, 8)[0]
    text = f"codecswap factorized prior, {channels} channels"
    binary[16:48] = hashlib.sha256(text.encode() + binary[48:]).digest()
    return bytes(binary)


def test_tables_that_make_no_sense_are_refused_though_their_digest_fits(library: Library, random_tables: Draw) -> None:
    binary = random_tables(np.random.default_rng(1), 3).binary
    lengths = struct.unpack_from("<3i", binary, 48)
    cdf = 48 + 36
    changes = {
        "no channels": (8, 0),
        "a short row": (48, 2),
        "a negative length": (48, -5),
        "a row beyond the end": (56, lengths[2] + 1),
        "rows that do not reach the end": (56, lengths[2] - 1),
        "an offset far away": (60, 1 << 17),
        "the least offset": (60, -(1 << 31)),
        "a median that is no number": (72, struct.unpack("<i", struct.pack("<f", np.nan))[0]),
        "a median far away": (72, struct.unpack("<i", struct.pack("<f", 2.0**24))[0]),
        "no zero at first": (cdf, 1),
        "an empty interval": (cdf + 4, 0),
        "a falling row": (cdf + 4, -1),
        "a row that ends early": (cdf + 4 * lengths[0] - 4, 65535),
        "a row that ends late": (cdf + 4 * lengths[0] - 4, 65537),
    }
    for what, (place, value) in changes.items():
        damaged = bytearray(binary)
        struct.pack_into("<i", damaged, place, value)
        with pytest.raises(CswError, match="tables_damaged"):
            library.ask("tables", tables=resealed(damaged))
            pytest.fail(what)
    assert library.ask("tables", tables=resealed(bytearray(binary)))


def test_bad_files_are_refused_with_the_reason(
    library: Library, teacher: FactorizedPrior, coded: list[tuple[np.ndarray, bytes]]
) -> None:
    tables, good = teacher.entropy_tables(), coded[0][1]
    header, body = good[:34], good[34:-4]

    def changed(place: int, new: bytes) -> bytes:
        return sealed(header[:place] + new + header[place + len(new) :] + body)

    bad = [
        ("no_csw", b""),
        ("no_csw", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("altered", good[:4]),
        ("altered", good[:60] + bytes([good[60] ^ 1]) + good[61:]),
        ("altered", good[:-5]),
        ("hyperprior", good[:4] + b"\x02" + good[5:]),
        ("hyperprior", good[:4] + b"\x02"),
        ("variable_rate", good[:4] + b"\x03" + good[5:]),
        ("newer", good[:4] + b"\x04"),
        ("contradicts", changed(5, b"\x01")),
        ("contradicts", sealed(good[:-4] + b"1234")),
        ("other_tables", changed(14, bytes([good[14] ^ 1]))),
        ("size", changed(6, struct.pack("<II", 1 << 30, 1 << 30))),
        ("size", changed(6, struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF))),
        ("size", changed(6, struct.pack("<II", 0, 5))),
        ("size", changed(6, struct.pack("<II", 1, 8_000_000))),
        ("too_short", changed(6, struct.pack("<II", 8192, 8192))),
        ("corrupt", changed(6, struct.pack("<II", 150, 209))),
        ("corrupt", sealed(header[:30] + struct.pack("<I", len(body) - 4) + body[:-4])),
    ]
    for reason, data in bad:
        with pytest.raises(CswError, match=f"^{reason}$"):
            library.read(tables, data)
        with pytest.raises(bitstream.BadFile):
            bitstream.unpack(data, tables, 16)
    for cut in range(38):
        with pytest.raises(CswError):
            library.read(tables, good[:cut])


def test_damage_that_a_checksum_fits_is_found_where_python_finds_it(library: Library, random_tables: Draw) -> None:
    rng = np.random.default_rng(2)
    tables = random_tables(rng, 3)
    symbols = rng.integers(-30, 30, (3, 8, 8)).astype(np.int32)
    string = rans.encode(symbols, tables)
    refused = 0
    for _ in range(300):
        altered = bytearray(string)
        altered[rng.integers(len(string))] ^= 1 << rng.integers(8)
        try:
            wanted = rans.decode(bytes(altered), (8, 8), tables).astype("<i4").tobytes()
        except rans.CorruptString:
            refused += 1
            with pytest.raises(CswError, match="corrupt"):
                library.ask("decode", 64, tables=tables.binary, data=bytes(altered))
        else:
            assert library.ask("decode", 64, tables=tables.binary, data=bytes(altered)) == wanted
    assert 0 < refused < 300


def test_symbols_of_more_than_28_bits_are_refused(library: Library, random_tables: Draw) -> None:
    tables = random_tables(np.random.default_rng(3), 1)
    offset, last = int(tables.offsets[0]), int(tables.lengths[0]) - 2
    for most in (offset + last + (1 << 27) - 1, offset - (1 << 27)):
        data = struct.pack("<i", most)
        string = library.ask("encode", 1, tables=tables.binary, data=data)
        assert library.ask("decode", 1, tables=tables.binary, data=string) == data
    for value in (offset + last + (1 << 27), offset - (1 << 27) - 1, (1 << 31) - 1, -(1 << 31)):
        with pytest.raises(CswError, match="range"):
            library.ask("encode", 1, tables=tables.binary, data=struct.pack("<i", value))


def test_tiles_are_those_of_python(library: Library) -> None:
    for rows, columns, tall, wide in [(1, 1, 9, 9), (32, 48, 16, 16), (17, 100, 5, 7), (9, 9, 9, 9), (50, 6, 40, 5)]:
        answer = library.ask("tiles", 16 * rows - 3, 16 * columns, tall, wide)
        wanted = [
            (top, left, min(tall, rows), min(wide, columns), first_row, end_row, first, end)
            for top, first_row, end_row in tiles.windows(rows, tall, 2)
            for left, first, end in tiles.windows(columns, wide, 2)
        ]
        assert list(struct.iter_unpack("<8I", answer)) == wanted
    answer = library.ask("tiles", 8 * 40, 8 * 33, 16, 20, factor=8, margin=7)
    wanted = [
        (top, left, 16, 20, first_row, end_row, first, end)
        for top, first_row, end_row in tiles.windows(40, 16, 7)
        for left, first, end in tiles.windows(33, 20, 7)
    ]
    assert list(struct.iter_unpack("<8I", answer)) == wanted
    assert library.ask("tiles", 96, 96, 4, 9) == b""  # a window of 4 has no inside
    largest = (1 << 32) - 1
    assert len(library.ask("tiles", 7_000, 9_000, largest, largest)) == 32


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_tiles_are_cut_from_a_decoders_input(
    library: Library, teacher: FactorizedPrior, coded: list[tuple[np.ndarray, bytes]], layout: int
) -> None:
    tables, (symbols, data) = teacher.entropy_tables(), coded[0]
    left, *_ = list(tiles.windows(symbols.shape[2], 6, 2))[1]
    wanted = symbols[:, :7, left : left + 6]
    for form in Form:
        answer = library.ask("cut", form, layout, 1, 0, 7, 6, tables=tables.binary, data=data)[8:]
        values = np.frombuffer(answer, form.dtype)
        whole, _ = library.read(tables, data, form, layout)
        part = whole[:, :7, left : left + 6]
        values = (
            values.reshape(part.shape) if layout == NCHW else values.reshape(*part.shape[1:], -1).transpose(2, 0, 1)
        )
        assert (values == part).all()
        if form == Form.SYMBOLS:
            assert (part == wanted).all()


def tiled(picture: np.ndarray, size: tuple[int, int], scale: int, layout: int) -> bytes:
    """What a network gives for each tile of ``picture: (C, H, W)``, one behind the other."""
    rows, columns = (side // scale for side in picture.shape[1:])
    parts = []
    for top, *_ in tiles.windows(rows, size[0], 2):
        for left, *_ in tiles.windows(columns, size[1], 2):
            tall, wide = min(size[0], rows), min(size[1], columns)
            part = picture[:, top * scale : (top + tall) * scale, left * scale : (left + wide) * scale]
            parts.append((part if layout == NCHW else part.transpose(1, 2, 0)).tobytes())
    return b"".join(parts)


@pytest.mark.parametrize("layout", [NCHW, NHWC])
@pytest.mark.parametrize("tile", [(7, 6), (99, 99)])
def test_pictures_in_and_out(library: Library, layout: int, tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(layout)
    for height, width in [(1, 1), (16, 16), (97, 150), (131, 40)]:
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
        rgb = picture.tobytes()
        padded = pad(to_array(picture), 16)
        answer = library.ask("from_rgb", height, width, *tile, FLOAT, layout, data=rgb)
        assert answer == tiled(padded, tile, 16, layout)
        integers = np.rint(padded * 255).astype(np.uint8)
        assert library.ask("from_rgb", height, width, *tile, UINT8, layout, data=rgb) == tiled(
            integers, tile, 16, layout
        )
        data = tiled(integers, tile, 16, layout)
        assert library.ask("to_rgb", height, width, *tile, UINT8, layout, data=data) == rgb
        decoded = rng.uniform(-0.3, 1.3, padded.shape).astype("<f4")
        halves = rng.integers(0, 255, decoded.shape).astype("<f4") + np.float32(0.5)
        decoded = np.where(rng.random(decoded.shape) < 0.3, halves / np.float32(255), decoded).astype("<f4")
        wanted = to_picture(decoded.copy(), (height, width)).tobytes()
        data = tiled(decoded, tile, 16, layout)
        assert library.ask("to_rgb", height, width, *tile, FLOAT, layout, data=data) == wanted
        for bad in (np.nan, np.inf, -np.inf):
            decoded[1, 0, 0] = bad
            with pytest.raises(CswError, match="not_finite"):
                library.ask("to_rgb", height, width, *tile, FLOAT, layout, data=tiled(decoded, tile, 16, layout))


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_latents_become_symbols(library: Library, random_tables: Draw, layout: int) -> None:
    rng = np.random.default_rng(layout)
    tables = with_medians(random_tables(rng, 6), rng)
    for size in [(1, 1), (97, 150), (160, 160)]:
        shape = (6, *(-(-side // 16) for side in size))
        latents = (rng.standard_normal(shape) * 10.0 ** rng.integers(-1, 6, shape)).astype("<f4")
        exact = rng.integers(-40, 40, shape).astype(np.float32) / 2 + tables.medians[:, None, None]  # halves
        latents = np.where(rng.random(shape) < 0.5, exact, latents).astype("<f4")
        for tile in [(7, 6), (99, 99)]:
            data = tiled(latents, tile, 1, layout)
            answer = library.ask("to_symbols", *size, *tile, 0, layout, tables=tables.binary, data=data)
            assert (np.frombuffer(answer, "<i4").reshape(shape) == tables.to_symbols(latents)).all()
        for bad in (np.nan, np.inf, 1e9):
            broken = latents.copy()
            broken[-1, 0, 0] = bad
            with pytest.raises(CswError, match="not_finite"):
                library.ask(
                    "to_symbols",
                    *size,
                    99,
                    99,
                    0,
                    layout,
                    tables=tables.binary,
                    data=tiled(broken, (99, 99), 1, layout),
                )


def test_sha256(library: Library) -> None:
    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_000):
        data = np.random.default_rng(size).bytes(size)
        assert library.ask("sha256", data=data) == hashlib.sha256(data).digest()
