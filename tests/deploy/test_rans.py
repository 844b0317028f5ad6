"""Our coder against CompressAI's: equal bytes on equal symbols, and no way to crash it."""

from collections.abc import Callable

import numpy as np
import pytest
from compressai import ans

from codecswap.codecs import FactorizedPrior
from codecswap.deploy import rans
from codecswap.deploy.tables import EntropyTables
from codecswap.errors import UserError


def arguments(tables: EntropyTables, size: int) -> tuple:
    """What CompressAI's coder takes beside symbols or string."""
    return (
        np.repeat(np.arange(tables.channels), size).tolist(),
        tables.cdf.tolist(),
        tables.lengths.tolist(),
        tables.offsets.tolist(),
    )


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


def test_tables_survive_json_and_their_digest_sees_every_part(teacher: FactorizedPrior) -> None:
    tables = EntropyTables.of(teacher)
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
    tables = EntropyTables.of(teacher)
    for value in (np.nan, np.inf, 1e9):
        with pytest.raises(UserError, match="not finite"):
            tables.to_symbols(np.full((tables.channels, 1, 1), value, np.float32))
