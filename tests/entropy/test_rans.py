"""Our coder against CompressAI's: equal bytes on equal symbols, and no way to crash it."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from compressai import ans

from codecswap.codecs.factorized import FactorizedPrior
from codecswap.entropy import rans
from codecswap.entropy.tables import EntropyTables
from codecswap.errors import UserError


def arguments(tables: EntropyTables, size: int) -> tuple:
    """What CompressAI's coder takes beside symbols or string."""
    return (
        np.repeat(np.arange(tables.channels), size).tolist(),
        tables.cdf.tolist(),
        tables.lengths.tolist(),
        tables.offsets.tolist(),
    )


@pytest.fixture(params=["C", "Python"])
def coder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to code: compiled, and where no compiler was there."""
    if request.param == "Python":
        monkeypatch.setattr(rans, "coder", None)
    elif rans.coder is None:
        assert os.environ.get("CODECSWAP_REQUIRE_C") != "1"
        pytest.skip("codecswap was installed without its C coder")


@pytest.mark.usefixtures("coder")
@pytest.mark.parametrize("spread", [1, 8, 300, 3e6])
def test_bytes_are_compressais(random_tables: Callable[..., EntropyTables], spread: float) -> None:
    rng = np.random.default_rng(int(spread))
    for _ in range(25):
        tables = random_tables(rng, int(rng.integers(1, 9)))
        shape = tuple(rng.integers(1, 20, 2))
        symbols = (rng.standard_normal((tables.channels, *shape)) * spread).astype(np.int32)
        others = arguments(tables, shape[0] * shape[1])
        theirs = ans.RansEncoder().encode_with_indexes(symbols.reshape(-1).tolist(), *others)
        assert rans.encode(symbols, tables) == theirs
        assert (rans.decode(theirs, shape, tables) == symbols).all()
        assert ans.RansDecoder().decode_with_indexes(theirs, *others) == symbols.reshape(-1).tolist()


@pytest.mark.usefixtures("coder")
@pytest.mark.parametrize("spread", [1, 300, 3e6])
def test_bytes_are_compressais_where_each_symbol_has_a_row(
    random_tables: Callable[..., EntropyTables], spread: float
) -> None:
    rng = np.random.default_rng(int(spread))
    for _ in range(25):
        tables = random_tables(rng, int(rng.integers(1, 65)))
        shape = tuple(rng.integers(1, 12, 3))
        symbols = (rng.standard_normal(shape) * spread).astype(np.int32)
        rows = rng.integers(0, tables.channels, shape).astype(np.uint8)
        _, *others = arguments(tables, 1)
        flat = rows.reshape(-1).tolist()
        theirs = ans.RansEncoder().encode_with_indexes(symbols.reshape(-1).tolist(), flat, *others)
        assert rans.encode_indexes(symbols, rows, tables) == theirs
        assert (rans.decode_indexes(theirs, rows, tables) == symbols).all()
        for cut in (0, 4, len(theirs) // 8 * 4, len(theirs) - 4, len(theirs) - 1):
            with pytest.raises(rans.CorruptString):
                rans.decode_indexes(theirs[:cut], rows, tables)


@pytest.mark.usefixtures("coder")
def test_damaged_strings_are_found_out_or_decode_to_something(random_tables: Callable[..., EntropyTables]) -> None:
    rng = np.random.default_rng(0)
    tables = random_tables(rng, 3)
    symbols = rng.integers(-30, 30, (3, 8, 8)).astype(np.int32)
    string = rans.encode(symbols, tables)
    for cut in range(len(string)):
        with pytest.raises(rans.CorruptString):
            rans.decode(string[:cut], (8, 8), tables)
    with pytest.raises(rans.CorruptString):
        rans.decode(string + bytes(4), (8, 8), tables)
    found = 0
    for _ in range(500):
        altered = bytearray(string)
        altered[rng.integers(len(string))] ^= 1 << rng.integers(8)
        try:
            assert (rans.decode(bytes(altered), (8, 8), tables) != symbols).any()
        except rans.CorruptString:
            found += 1
    assert found > 250  # the state must end where it began: most damage shows without any checksum


@pytest.mark.usefixtures("coder")
def test_symbols_of_more_than_28_bits_are_refused(random_tables: Callable[..., EntropyTables]) -> None:
    tables = random_tables(np.random.default_rng(0), 1)
    most = int(tables.offsets[0] + tables.lengths[0]) - 3 + (1 << 27)
    symbols = np.full((1, 1, 1), most, np.int32)
    assert rans.decode(rans.encode(symbols, tables), (1, 1), tables) == symbols
    with pytest.raises(ValueError, match="28 bits"):
        rans.encode(symbols + 1, tables)


def test_without_a_compiler_it_says_so_once(
    random_tables: Callable[..., EntropyTables], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(rans, "coder", None)
    rans._say_slow.cache_clear()
    tables = random_tables(np.random.default_rng(0), 2)
    for _ in range(2):
        rans.decode(rans.encode(np.zeros((2, 3, 3), np.int32), tables), (3, 3), tables)
    assert capsys.readouterr().err.count("no C compiler") == 1


def test_the_c_coder_refuses_what_is_not_its_own(random_tables: Callable[..., EntropyTables]) -> None:
    coder = pytest.importorskip("codecswap._coder")
    opened = coder.open(random_tables(np.random.default_rng(0), 3).binary)
    for rows, symbols in ((b"\0\3", bytes(8)), (b"\0\2", bytes(4)), (b"\0", bytes(8))):
        with pytest.raises(ValueError, match="row"):
            coder.encode_rows(opened, rows, symbols)
        with pytest.raises(ValueError, match="row"):
            coder.decode_rows(opened, rows, bytes(8), bytearray(symbols))
    tables = random_tables(np.random.default_rng(0), 3)
    opened = coder.open(tables.binary)
    with pytest.raises(ValueError, match="damaged entropy tables"):
        coder.open(tables.binary[:-1])
    for arguments in ((opened, bytes(8)), (opened, bytes(11))):
        with pytest.raises(ValueError, match="same number"):
            coder.encode(*arguments)
    with pytest.raises(ValueError):
        coder.encode(None, bytes(12))
    with pytest.raises(BufferError):
        coder.decode(opened, bytes(8), bytes(12))  # nothing to write into
    with pytest.raises(TypeError):
        coder.open("text")


def test_tables_survive_json_and_their_digest_sees_every_part(teacher: FactorizedPrior) -> None:
    tables = teacher.entropy_tables()
    again = EntropyTables.from_json(tables.to_json())
    assert again.digest() == tables.digest()
    assert (again.medians == tables.medians).all()
    for part in ("cdf", "offsets", "medians"):
        changed = {name: getattr(tables, name).copy() for name in ("cdf", "lengths", "offsets", "medians")}
        if part == "medians":
            changed[part][0] = np.nextafter(changed[part][0], np.float32(9))
        if part == "cdf":
            changed[part][0, np.diff(changed[part][0]).argmax() + 1] -= 1  # the widest interval gives one away
        if part == "offsets":
            changed[part][0] += 1
        assert EntropyTables(**changed).digest() != tables.digest()


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"precision":16,"cdf":[[0,1]],"offsets":[0],"medians":[0]}', "null"]
)
def test_damaged_tables_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="damaged"):
        EntropyTables.from_json(text)


def test_latents_that_are_not_finite_are_refused(teacher: FactorizedPrior) -> None:
    tables = teacher.entropy_tables()
    for value in (np.nan, np.inf, 1e9):
        with pytest.raises(UserError, match="not finite"):
            tables.to_symbols(np.full((tables.channels, 1, 1), value, np.float32))
