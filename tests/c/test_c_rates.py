"""Codecs with variable rate in the C library: what numpy computes at any gain, equal files both ways, and bad ones refused."""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from csw_library import NCHW, NHWC, CswError, Form, Library
from test_c_hyperprior import cases, in_units, random_network, sealed, written_by_python

from codecswap.entropy import bitstream
from codecswap.entropy.hyper_synthesis import NetworkAtGain
from codecswap.entropy.model import EntropyModel
from codecswap.entropy.rates import Rates
from codecswap.inference.folder import read_entropy, read_folder

GOLDEN = Path(__file__).parents[1] / "entropy" / "golden"
CODED = (GOLDEN / "v3.csw").read_bytes()
HEADER = 54


@pytest.fixture(scope="module")
def entropy() -> EntropyModel:
    return read_entropy(GOLDEN / "v3", *read_folder(GOLDEN / "v3"))


@pytest.fixture(scope="module")
def files(entropy: EntropyModel) -> dict[str, bytes]:
    """What the library is given of the folder."""
    names = {"network": "hyper_decoder.bin", "rates": "rates.bin"}
    parts = {"tables": entropy.rates.tables[-1].binary, "gaussians": entropy.gaussians.binary}
    return parts | {name: (GOLDEN / "v3" / file).read_bytes() for name, file in names.items()}


def bits(gain: float) -> int:
    return int(np.float32(gain).view(np.uint32))


@pytest.mark.parametrize("layout", [NCHW, NHWC])
def test_files_are_read_in_every_form(
    library: Library, entropy: EntropyModel, files: dict[str, bytes], layout: int
) -> None:
    quantized, size = bitstream.read(CODED, entropy, 16)
    latents = quantized.symbols.astype(np.float32) + quantized.means
    expected = json.loads((GOLDEN / "expected.json").read_text())["v3"]
    assert hashlib.sha256(latents.astype("<f4").tobytes()).hexdigest() == expected["latents"]
    wanted = {
        Form.SYMBOLS: quantized.symbols,
        Form.LATENTS: latents,
        Form.SPLIT_INPUTS: in_units(latents, entropy.predictor.network.mean_bits),
    }
    for form, values in wanted.items():
        answer = library.ask("read", form, layout, 3, **files, data=CODED)
        assert struct.unpack("<2I", answer[:8]) == size
        read = np.frombuffer(answer[8:], form.dtype)
        shape = values.shape if layout == NCHW else (*values.shape[1:], len(values))
        assert ((read.reshape(shape) if layout == NCHW else read.reshape(shape).transpose(2, 0, 1)) == values).all()


def test_files_are_written_and_read_as_by_python_at_any_gain(
    library: Library, entropy: EntropyModel, files: dict[str, bytes]
) -> None:
    gains = np.array(entropy.rates.gains)
    between = [*np.sqrt(gains[1:] * gains[:-1]), *np.random.default_rng(1).uniform(0.1, 1, 5)]
    for gain, (symbols, latents, size) in zip([*gains, *between], cases(entropy, 12), strict=True):
        at = entropy.at(gain)
        data = symbols.astype("<i4").tobytes() + latents.tobytes()
        wanted = written_by_python(at, symbols, latents, size)
        assert library.ask("write_hyper", *size, 0, 0, bits(gain), **files, data=data) == wanted
        quantized = bitstream.read(wanted, entropy, 16)[0]
        read = library.ask("read", Form.LATENTS, NCHW, **files, data=wanted)[8:]
        assert read == (quantized.symbols.astype(np.float32) + quantized.means).astype("<f4").tobytes()
    for bad in (gains[0] * 0.999, 1.001, np.nan, -1, np.inf):
        with pytest.raises(CswError, match="no_gain"):
            library.ask("write_hyper", *size, 0, 0, bits(bad), **files, data=data)
    with pytest.raises(CswError, match="no_gain"):  # a codec of one rate
        library.ask("write_hyper", *size, 0, 0, bits(1), **{**files, "rates": b""}, data=data)


@pytest.mark.parametrize("largest", [False, True])
def test_tables_and_means_at_a_gain_are_those_of_numpy(library: Library, entropy: EntropyModel, largest: bool) -> None:
    rng = np.random.default_rng(int(largest))
    for _ in range(8):
        network, gain = random_network(rng, largest=largest), float(np.float32(2 ** rng.uniform(-11.9, 11.9)))
        table = replace(entropy.tables, step=float(np.float32(2 ** rng.uniform(-3, 8))))
        at = NetworkAtGain(network, gain, Rates((gain,), (table,)))
        shape = (len(network.medians), *map(int, rng.integers(1, 6, 2)))
        symbols = rng.integers(-40, 41, shape).astype(np.int32)
        answer = library.ask(
            "predict", *shape[1:], 0, bits(gain), at.step, network=network.binary, data=symbols.astype("<i4").tobytes()
        )
        indexes, means = network.in_numpy(symbols, gain, at.step)
        assert answer == indexes.tobytes() + means.astype("<f4").tobytes()


def test_bad_files_and_levels_are_refused_with_the_reason(
    library: Library, entropy: EntropyModel, files: dict[str, bytes]
) -> None:
    header, body = CODED[:HEADER], CODED[HEADER:-4]

    def changed(place: int, new: bytes) -> bytes:
        return sealed(header[:place] + new + header[place + len(new) :] + body)

    first, second = struct.unpack_from("<2I", header, 42)
    bad = [
        ("no_csw", b""),
        ("altered", CODED[:-5]),
        ("altered", sealed(header[:-1])),
        ("no_hyperprior", CODED[:4] + b"\x01" + CODED[5:]),
        ("hyperprior", CODED[:4] + b"\x02" + CODED[5:]),
        ("newer", CODED[:4] + b"\x04" + CODED[5:]),
        ("floating_point", changed(5, b"\x00")),
        ("contradicts", changed(42, struct.pack("<2I", first, second + 1))),
        ("contradicts", changed(50, struct.pack("<f", 7))),
        ("contradicts", changed(50, struct.pack("<f", np.nan))),
        ("contradicts", changed(50, struct.pack("<f", -0.5))),
        ("other_tables", changed(14, bytes([header[14] ^ 1]))),
        ("other_indexes", changed(50, struct.pack("<f", 0.3))),
        ("size", changed(6, struct.pack("<II", 0, 5))),
        ("corrupt", sealed(header + body[:-4] + b"\xff\xff\xff\x01")),
    ]
    for reason, data in bad:
        with pytest.raises(CswError, match=f"^{reason}$"):
            library.ask("read", Form.SYMBOLS, NCHW, **files, data=data)
        with pytest.raises(bitstream.BadFile):
            bitstream.read(data, entropy, 16)
    for cut in [*range(60), *range(60, len(files["rates"]), 41)]:
        with pytest.raises(CswError, match=r"rates_damaged" if cut else "hyperprior|variable_rate"):
            library.ask("read", Form.SYMBOLS, NCHW, **files | {"rates": files["rates"][:cut]}, data=CODED)

    def with_rates(place: int, new: bytes) -> dict[str, bytes]:
        content = bytearray(files["rates"])
        content[place : place + len(new)] = new
        content[20:52] = hashlib.sha256(content[52:]).digest()
        return files | {"rates": bytes(content)}

    for reason, other in [
        ("rates_damaged", files | {"rates": files["rates"] + b"\0"}),
        ("rates_newer", with_rates(4, b"\2")),
        ("rates_damaged", with_rates(52, struct.pack("<f", 0.9))),  # gains that do not ascend
        ("rates_damaged", with_rates(52 + 4 * 5, struct.pack("<f", 0.0))),  # a step
        ("rates_damaged", with_rates(52 + 4 * 9, struct.pack("<f", np.nan))),  # an offset
        ("rates_damaged", with_rates(8, struct.pack("<I", 3))),
        ("mixed", with_rates(16, struct.pack("<I", 19))),
        ("other_tables", with_rates(52, struct.pack("<f", 0.09))),
    ]:
        with pytest.raises(CswError, match=f"^{reason}$"):
            library.ask("read", Form.SYMBOLS, NCHW, **other, data=CODED)
