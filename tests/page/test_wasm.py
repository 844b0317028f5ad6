"""The C library in WebAssembly, as the page calls it (csw.js): the file in the package, and one built from the sources here."""

import base64
import hashlib
import json
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import missing

from codecswap.entropy import bitstream
from codecswap.entropy.model import EntropyModel
from codecswap.entropy.tables import EntropyTables
from codecswap.inference.folder import read_entropy, read_folder
from codecswap.inference.split_inputs import SplitInputs
from codecswap.inference.tiles import windows

PACKAGE = files("codecswap.page")
SHIPPED = (PACKAGE / "codecswap.wasm").read_bytes()
C = Path(__file__).parents[2] / "c"
GOLDEN = Path(__file__).parents[1] / "entropy" / "golden"
CALL = """async ([wasm, packed, call, ...rest]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const values = (csw, at, count) => btoa(String.fromCharCode(...csw.bytes(at, 4 * count)));
  const files = Object.fromEntries(Object.entries(packed).map(([name, text]) => [name, bytes(text)]));
  const csw = new Csw(await WebAssembly.compile(bytes(wasm)), { factor: 16, margin: 2, inputs: null }, files);
  return eval(call)(csw, bytes, values, ...rest);
}"""
READ = """(csw, bytes, values, coded, form) => {
  const file = csw.open(bytes(coded)), { height, width, rows, columns } = csw.sides(file);
  return [height, width, values(csw, csw.read(file, form, 3), csw.channels(form) * rows * columns)];
}"""
WRITE = """(csw, bytes, values, symbols, height, width) =>
  btoa(String.fromCharCode(...csw.write(csw.size(height, width), csw.put(bytes(symbols)))))"""
WRITE_HYPER = """(csw, bytes, values, symbols, latents, height, width) => {
  const made = csw.write(csw.size(height, width), csw.put(bytes(symbols)), csw.put(bytes(latents)));
  return btoa(Array.from(made, (byte) => String.fromCharCode(byte)).join(""));
}"""
WRITE_AT_GAIN = """(csw, bytes, values, symbols, latents, height, width, gain) => {
  csw.setGain(gain);
  const coded = csw.write(csw.size(height, width), csw.put(bytes(symbols)), csw.put(bytes(latents)));
  return [csw.gain(csw.open(coded)), btoa(Array.from(coded, (byte) => String.fromCharCode(byte)).join(""))];
}"""
TILES = """(csw, bytes, values, height, width, tall, wide) => csw.tiles(csw.size(height, width), tall, wide).map(
  (tile) => [...new Uint32Array(csw.c.memory.buffer, tile, 8)])"""


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`make wasm`, elsewhere."""
    for tool in ("make", "clang", "wasm-ld"):
        if not shutil.which(tool):
            missing(f"there is no {tool}: apt-get install make clang lld")
    path = tmp_path_factory.mktemp("wasm") / "codecswap.wasm"
    done = subprocess.run(["make", "-C", str(C), "wasm", f"WASM={path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path.read_bytes()


def producers(wasm: bytes) -> bytes:
    """The section that names the compiler."""
    return wasm[wasm.index(b"producers") : wasm.index(b"target_features")]


def test_the_package_has_what_the_sources_give(rebuilt: bytes) -> None:
    if producers(rebuilt) == producers(SHIPPED):
        assert rebuilt == SHIPPED, "run `make wasm` and commit what it changed"
    assert abs(len(rebuilt) - len(SHIPPED)) < 16384


@pytest.fixture(params=["shipped", "rebuilt"])
def call(request: pytest.FixtureRequest, browser: Any) -> Iterator[Callable]:
    """Call a piece of script with the library and tables; bytes go in as base64."""
    wasm = SHIPPED if request.param == "shipped" else request.getfixturevalue("rebuilt")
    page = browser.new_page()
    page.add_script_tag(content=(PACKAGE / "csw.js").read_text("utf-8"))

    def text(value: Any) -> Any:
        return base64.b64encode(value).decode() if isinstance(value, bytes) else value

    def call(codec: EntropyTables | bytes | EntropyModel, script: str, *arguments: Any) -> Any:
        if isinstance(codec, EntropyModel) and codec.rates:
            parts = {"entropy": codec.rates.tables[-1], "gaussians": codec.gaussians, "rates": codec.rates}
            files = {name: part.binary for name, part in parts.items()}
            files["network"] = (GOLDEN / "v3" / "hyper_decoder.bin").read_bytes()
        elif isinstance(codec, EntropyModel):
            parts = {"entropy": codec.tables, "gaussians": codec.gaussians, "network": codec.predictor}
            files = {name: part.binary for name, part in parts.items()}
        else:
            files = {"entropy": codec if isinstance(codec, bytes) else codec.binary}
        packed = {name: text(content) for name, content in files.items()}
        return page.evaluate(CALL, [text(wasm), packed, script, *map(text, arguments)])

    yield call
    page.close()


@pytest.fixture
def example(random_tables: Callable[..., EntropyTables]) -> tuple[EntropyTables, np.ndarray, bytes]:
    """Tables with medians, symbols (with escapes) of a picture of 75x45 pixels, and its file."""
    rng = np.random.default_rng(5)
    drawn = random_tables(rng, 7)
    medians = rng.normal(0, 3, 7).astype(np.float32)
    tables = EntropyTables(drawn.cdf, drawn.lengths, drawn.offsets, medians)
    symbols = rng.integers(-60, 60, (7, 3, 5)).astype(np.int32)
    symbols[2, 1] = [-100000, 1 << 20, 0, 126, -129]
    return tables, symbols, bitstream.pack(symbols, (45, 75), tables)


def test_symbols_are_pythons_in_every_form(call: Callable, example: tuple[EntropyTables, np.ndarray, bytes]) -> None:
    tables, symbols, coded = example
    wanted = [symbols.astype(np.float32), tables.to_latents(symbols), SplitInputs.for_tables(tables, 3).split(symbols)]
    for form, values in zip((1, 2, 4), wanted, strict=True):
        height, width, read = call(tables, READ, coded, form)
        assert (height, width) == (45, 75)
        np.testing.assert_array_equal(np.frombuffer(base64.b64decode(read), "<f4"), values.ravel())


def test_files_are_pythons_byte_for_byte(call: Callable, example: tuple[EntropyTables, np.ndarray, bytes]) -> None:
    tables, symbols, coded = example
    assert base64.b64decode(call(tables, WRITE, symbols.tobytes(), 45, 75)) == coded


def test_files_with_a_hyperprior_are_pythons_byte_for_byte(call: Callable) -> None:
    entropy = read_entropy(GOLDEN / "v2", *read_folder(GOLDEN / "v2"))
    coded = (GOLDEN / "v2.csw").read_bytes()
    quantized, size = bitstream.read(coded, entropy, 16)
    height, width, read = call(entropy, READ, coded, 2)
    latents = quantized.symbols.astype(np.float32) + quantized.means
    assert (height, width) == size
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(read), "<f4"), latents.ravel())
    rng = np.random.default_rng(3)
    hyper = rng.integers(-9, 10, (entropy.tables.channels, 2, 3)).astype(np.int32)
    latents = (rng.standard_normal((entropy.predictor.channels, 8, 12)) * 5).astype("<f4")
    strings = entropy.encode(latents, lambda _: entropy.tables.to_latents(hyper))
    made = call(entropy, WRITE_HYPER, hyper.tobytes(), latents.tobytes(), 100, 150)
    assert base64.b64decode(made) == bitstream.write(strings, (100, 150), entropy, 16)
    altered = bytearray(coded[:-4])
    altered[38] ^= 1
    with pytest.raises(Exception, match="do not follow from its hyper-latents"):
        call(entropy, READ, bytes(altered) + zlib.crc32(altered).to_bytes(4, "little"), 1)


def test_files_of_a_variable_rate_are_pythons_byte_for_byte(call: Callable) -> None:
    entropy = read_entropy(GOLDEN / "v3", *read_folder(GOLDEN / "v3"))
    coded = (GOLDEN / "v3.csw").read_bytes()
    *size, read = call(entropy, READ, coded, 2)
    latents = json.loads((GOLDEN / "expected.json").read_text())["v3"]["latents"]
    assert size == [140, 205] and hashlib.sha256(base64.b64decode(read)).hexdigest() == latents
    rng = np.random.default_rng(3)
    hyper = rng.integers(-9, 10, (entropy.tables.channels, 2, 3)).astype(np.int32)
    latents = (rng.standard_normal((6, 8, 12)) * 5).astype("<f4")
    for gain in (0.1, 0.3, 0.77, 1.0):
        at = entropy.at(gain)
        strings = at.encode(latents, lambda _, at=at: at.tables.to_latents(hyper))
        said, made = call(entropy, WRITE_AT_GAIN, hyper.tobytes(), latents.tobytes(), 100, 150, gain)
        assert base64.b64decode(made) == bitstream.write(strings, (100, 150), at, 16)
        assert said == np.float32(gain)
    with pytest.raises(Exception, match="choose one between its smallest and its largest"):
        call(entropy, WRITE_AT_GAIN, hyper.tobytes(), latents.tobytes(), 100, 150, 1.5)
    one_rate = read_entropy(GOLDEN / "v2", *read_folder(GOLDEN / "v2"))
    with pytest.raises(Exception, match="by a codec with variable rate, and this one has one rate"):
        call(one_rate, READ, coded, 2)
    with pytest.raises(Exception, match="truncated or altered"):
        call(entropy, READ, coded[:-3], 2)


@pytest.mark.slow
def test_ten_thousand_hyper_latents_give_pythons_tables(call: Callable) -> None:
    entropy = read_entropy(GOLDEN / "v2", *read_folder(GOLDEN / "v2"))
    rng = np.random.default_rng(7)
    hyper = rng.integers(-30, 31, (entropy.tables.channels, 50, 200)).astype(np.int32)
    latents = (rng.standard_normal((entropy.predictor.channels, 200, 800)) * 3).astype("<f4")
    made = call(entropy, WRITE_HYPER, hyper.tobytes(), latents.tobytes(), 3200, 12800)
    strings = entropy.encode(latents, lambda _: entropy.tables.to_latents(hyper))
    assert base64.b64decode(made) == bitstream.write(strings, (3200, 12800), entropy, 16)


@pytest.mark.parametrize("shape", [(1, 1), (700, 3000), (769, 768)])
def test_tiles_are_pythons(call: Callable, example: tuple, shape: tuple[int, int]) -> None:
    rows, columns = (-(-side // 16) for side in shape)
    wanted = [
        [top, left, min(48, rows), min(48, columns), first, end, first_column, end_column]
        for top, first, end in windows(rows, 48, 2)
        for left, first_column, end_column in windows(columns, 48, 2)
    ]
    assert call(example[0], TILES, *shape, 48, 48) == wanted


def test_damage_is_an_error_with_its_sentence(call: Callable, example: tuple[EntropyTables, np.ndarray, bytes]) -> None:
    tables, _, coded = example
    sealed = lambda content: content + zlib.crc32(content).to_bytes(4, "little")  # noqa: E731
    cases = {
        "is no picture that codecswap encoded": b"GIF89a",
        "does not match": coded[:-1],
        "version of the format": coded[:4] + b"\7" + coded[5:],
        "contradicts itself": sealed(coded[:5] + b"\1" + coded[6:-4]),
        "another codec": sealed(coded[:14] + b"another" + coded[21:-4]),
        "120,000,000": sealed(coded[:6] + b"\xff\xff\0\0" * 2 + coded[14:-4]),
        "too short": sealed(coded[:6] + (8000).to_bytes(4, "little") * 2 + coded[14:-4]),
        "its symbols do": sealed(coded[:-5] + bytes([coded[-5] ^ 1])),
    }
    for sentence, content in cases.items():
        with pytest.raises(Exception, match=sentence):
            call(tables, READ, content, 1)
    with pytest.raises(Exception, match="damaged entropy tables"):
        call(tables.binary[:-1], READ, coded, 1)


@pytest.mark.slow
def test_random_damage_never_escapes(call: Callable, example: tuple[EntropyTables, np.ndarray, bytes]) -> None:
    tables, _, coded = example
    rng = np.random.default_rng(6)
    for _ in range(300):
        content = bytearray(coded[:-4])
        content[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        try:
            call(tables, READ, bytes(content) + zlib.crc32(content).to_bytes(4, "little"), 1)
        except Exception as error:
            assert "RuntimeError" not in str(error), "a trap: memory that is not the library's"
