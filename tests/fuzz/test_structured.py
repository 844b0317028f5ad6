"""Values of the right form and the wrong content, drawn by hypothesis: tables, headers, manifests, options, and more."""

import copy
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzz_seeds import EXPORTED, SPLIT_INPUTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codecswap import cli
from codecswap.entropy import bitstream, rans
from codecswap.entropy.tables import PRECISION, EntropyTables
from codecswap.errors import UserError
from codecswap.inference.folder import read_folder

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
numbers = st.integers() | st.integers(-3, 70000) | st.floats(width=64)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(leaves, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=4), v, max_size=3))


@st.composite
def rows(draw) -> list[int]:
    """A row of a table: mostly valid, sometimes bent."""
    inner = draw(st.sets(st.integers(1, (1 << PRECISION) - 1), min_size=1, max_size=12))
    row = [0, *sorted(inner), 1 << PRECISION]
    if draw(st.integers(0, 3)) == 0:
        row[draw(st.integers(0, len(row) - 1))] = draw(st.integers(-(1 << 33), 1 << 33))
    return row


@quick
@given(st.lists(rows(), min_size=1, max_size=5), st.data())
def test_tables_are_refused_or_code_every_symbol(cdf: list[list[int]], data) -> None:
    size = st.integers(len(cdf), len(cdf)) | st.integers(0, 6)
    offsets = data.draw(size.flatmap(lambda n: st.lists(st.integers(-40, 5) | st.integers(), min_size=n, max_size=n)))
    medians = data.draw(size.flatmap(lambda n: st.lists(st.floats(-2, 2) | numbers, min_size=n, max_size=n)))
    content = {"precision": PRECISION, "cdf": cdf, "offsets": offsets, "medians": medians}
    try:
        tables = EntropyTables.from_json(json.dumps(content))
    except UserError:
        return
    assert EntropyTables.from_json(tables.to_json()).digest() == tables.digest()
    symbols = np.random.default_rng(0).integers(-50, 50, (tables.channels, 3, 4)).astype(np.int32)
    assert (rans.decode(rans.encode(symbols, tables), (3, 4), tables) == symbols).all()


@quick
@given(values)
def test_tables_of_any_value(value) -> None:
    for text in (
        json.dumps(value),
        json.dumps({"precision": PRECISION, "cdf": value, "offsets": value, "medians": value}),
    ):
        with pytest.raises(UserError):
            EntropyTables.from_json(text)


@quick
@given(
    height=st.integers(0, 2**32 - 1) | st.integers(0, 200),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 200),
    version=st.just(1) | st.integers(0, 255),
    length=st.none() | st.integers(0, 2**32 - 1),
    string=st.binary(max_size=400),
)
def test_headers_whose_checksum_is_right(seeds: Path, height, width, version, length, string: bytes) -> None:
    tables = read_folder(seeds / EXPORTED)[1]
    length = len(string) if length is None else length
    header = struct.pack("<4sBBII16sI", bitstream.MAGIC, version, 0, height, width, tables.digest()[:16], length)
    content = header + string
    try:
        symbols, size = bitstream.unpack(content + struct.pack("<I", zlib.crc32(content)), tables, 16)
    except bitstream.BadFile:
        return
    assert size == (height, width)
    assert symbols.shape == (tables.channels, -(-height // 16), -(-width // 16))


@quick
@given(st.sampled_from([EXPORTED, SPLIT_INPUTS]), st.data())
def test_manifests_with_any_value_anywhere(seeds: Path, tmp_path_factory, name: str, data) -> None:
    content = json.loads((seeds / name / "codec.json").read_bytes())
    original = copy.deepcopy(content)
    key = data.draw(st.sampled_from(sorted(content)))
    holder = content
    if isinstance(content[key], dict) and content[key] and data.draw(st.booleans()):
        holder, key = content[key], data.draw(st.sampled_from(sorted(content[key])))
    holder[key] = data.draw(values)
    folder = tmp_path_factory.mktemp("codec")
    (folder / "entropy.json").write_bytes((seeds / name / "entropy.json").read_bytes())
    (folder / "codec.json").write_text(json.dumps(content), "utf-8")
    try:
        manifest, _ = read_folder(folder)
    except UserError:
        return
    assert type(manifest.M) is int and original["M"] == manifest.M
    for network in filter(None, (manifest.encoder, manifest.decoder)):
        assert (folder / network.file).parent == folder


@quick
@given(st.dictionaries(st.sampled_from(["epochs", "lr", "teacher", "seed", "amp", "x"]), values, max_size=3))
def test_options_of_any_value(tmp_path_factory, content) -> None:
    path = tmp_path_factory.mktemp("options") / "x.yaml"
    path.write_text(yaml.safe_dump(content), "utf-8")
    try:
        options = cli.parse("distill", ["--config", str(path)])
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert options.given == set(content)
    assert type(options.epochs) is int and type(options.lr) is float and type(options.seed) is int
