"""Archives from every kind of source: the same pictures and bytes as file by file, an index, and what cannot be read."""

import json
import tarfile
from pathlib import Path

import making
import pandas as pd
import pytest
from making import content, png
from PIL import Image

from codecswap import cli
from codecswap.entropy import bitstream
from codecswap.inference.runtime import OnnxCodec


def encode(codec: Path, *sources: Path | str, output: Path, more: tuple[str, ...] = ("--archive", "tar")) -> int:
    words = [*map(str, sources), "-o", str(output), "--codec", str(codec), "--jobs", "1", "--threads", "1", *more]
    return cli.main(["encode", *words])


def index(archive: Path) -> pd.DataFrame:
    return pd.read_parquet(archive / "index").set_index("key")


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_a_folder_becomes_shards_with_an_index(codec: Path, source: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert encode(codec, source, output=out, more=("--archive", "tar", "--shard_size", "5", "--psnr")) == 3
    said = capsys.readouterr()
    assert "1 pictures could not be done" in said.err and "1 files of the source were left out" in said.err
    shards = [members(path) for path in sorted((out / "shards").iterdir())]
    assert [len(shard) for shard in shards] == [4, 5, 2]
    coded = {name: data for shard in shards for name, data in shard.items()}
    assert list(coded) == sorted(coded), "in the order of names"
    table, opened = index(out), OnnxCodec(codec, threads=1)
    assert len(table) == 12 and table.error.notna().sum() == 1
    assert table.loc["sub/broken.jpg"].error.startswith("sub/broken.jpg cannot be read as a picture (")
    for path in source.rglob("*.png"):
        key = path.relative_to(source).as_posix()
        data, row = coded[key.replace(".png", ".csw")], table.loc[key]
        assert data == opened.compress(path)
        decoded, original = opened.decompress(data), Image.open(path).convert("RGB")
        assert (row["name"], row["bytes"], row.width, row.height) == (key[:-3] + "csw", len(data), *original.size)
        assert row.bpp == 8 * len(data) / (original.width * original.height)
        error = (pd.Series(list(decoded.tobytes())) - pd.Series(list(original.tobytes()))).pow(2).mean()
        assert 255**2 / error == pytest.approx(10 ** (row.psnr / 10), rel=1e-3)
    assert set(pd.read_parquet(out / "seconds").key) == set(table.index)


def test_an_archive_is_decoded_to_the_tree_it_came_from(codec: Path, source: Path, tmp_path: Path) -> None:
    plain, opened = tmp_path / "plain", OnnxCodec(codec, threads=1)
    encode(codec, source, output=tmp_path / "tar", more=("--archive", "tar", "--shard_size", "5"))
    encode(codec, source, output=tmp_path / "tree", more=("--archive", "tree", "--shard_size", "5"))
    for kind in ("tar", "tree"):
        words = [str(tmp_path / kind), "-o", str(plain / kind), "--codec", str(codec), "--jobs", "1"]
        assert cli.main(["decode", *words]) == 0
        found = {
            path.relative_to(plain / kind / "files").as_posix() for path in (plain / kind / "files").rglob("*.png")
        }
        assert found == {path.relative_to(source).as_posix() for path in source.rglob("*.png")}
    for path in (tmp_path / "tree" / "files").rglob("*.csw"):
        expected = opened.decompress(path.read_bytes())
        for kind in ("tar", "tree"):
            decoded = plain / kind / "files" / path.relative_to(tmp_path / "tree" / "files").with_suffix(".png")
            assert Image.open(decoded).tobytes() == expected.tobytes()


def test_tar_shards_keep_their_names_and_labels(codec: Path, tmp_path: Path) -> None:
    shard = {"b.png": png(1), "b.cls": b"7", "a.png": png(2), "a.json": b"{}", "../out.png": png(3), "a.jpeg": png(4)}
    (tmp_path / "in").mkdir()
    making.tar(tmp_path / "in" / "train-0001.tar", shard)
    making.tar(tmp_path / "in" / "train-0000.tar.gz", {"b.png": png(5)})
    cut = (tmp_path / "in" / "train-0001.tar").read_bytes()
    (tmp_path / "in" / "train-0002.tar").write_bytes(cut[: len(cut) // 4])
    assert encode(codec, tmp_path / "in", output=tmp_path / "out") == 3
    made = {path.name: members(path) for path in (tmp_path / "out" / "shards").iterdir()}
    assert set(made) == {"train-0000.tar", "train-0001.tar", "train-0002.tar"}
    assert list(made["train-0001.tar"]) == ["b.csw", "b.cls", "a.csw", "a.json"]
    assert made["train-0001.tar"]["b.cls"] == b"7"
    errors = pd.read_parquet(tmp_path / "out" / "index").dropna(subset="error")
    assert "would be written outside" in errors.set_index("key").loc["../out.png"].error
    assert "which another picture became" in errors.set_index("key").loc["a.jpeg"].error
    assert "is a damaged tar" in errors.set_index("key").loc["train-0002.tar"].error
    assert cli.main(["decode", str(tmp_path / "out"), "-o", str(tmp_path / "back"), "--codec", str(codec)]) == 0
    assert (tmp_path / "back" / "files" / "train-0001" / "b.png").is_file()
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet", "address"])
def test_lists_and_addresses_give_the_same_pictures(codec: Path, source: Path, tmp_path: Path, kind: str) -> None:
    paths = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    given = source.parent / f"list-{kind}.{kind}"
    rows = pd.DataFrame({"label": range(len(paths)), "path": [f"{source.name}/{path}" for path in paths]})
    if kind == "txt":
        given.write_text("\n".join(rows.path) + "\n")
    elif kind == "csv":
        rows.to_csv(given, index=False)
    elif kind == "parquet":
        rows.to_parquet(given)
    from_address = kind == "address"
    assert encode(codec, source.as_uri() if from_address else given, output=tmp_path / "a") == (
        3 if from_address else 0
    )
    encode(codec, source, output=tmp_path / "b")
    listed, walked = (members(*(tmp_path / out / "shards").iterdir()) for out in ("a", "b"))
    assert {name.removeprefix(f"{source.name}/"): data for name, data in listed.items()} == walked


def test_batches_of_one_size_give_the_pictures_of_single_ones(codec: Path, source: Path, tmp_path: Path) -> None:
    from codecswap.archives.folder import Archive, Recipe
    from codecswap.archives.run import make_archive
    from codecswap.archives.shards import Share
    from codecswap.archives.work import encode_shard
    from codecswap.data.discovery import ENDINGS

    opened, tars = OnnxCodec(codec, threads=1), []
    for batch in (1, 3):
        archive = Archive.start(tmp_path / str(batch), Recipe("csw", "tar", "", 100))
        engine = lambda shards, archive=archive, batch=batch: (  # noqa: E731
            (shard.name, encode_shard(opened, archive, shard, batch=batch)) for shard in shards
        )
        make_archive(archive, [str(source)], ENDINGS, Share(0, 1), engine)
        tars.append(members(archive.tar_of("pictures-000000")))
    assert list(tars[0]) == list(tars[1])
    for single, batched in zip(tars[0].values(), tars[1].values(), strict=True):  # sums may be rounded in another order
        one, other = (bitstream.unpack(data, opened.tables, opened.factor)[0] for data in (single, batched))
        assert (one != other).mean() < 0.01 and abs(one - other).max() <= 1


def test_what_is_there_is_not_mixed(codec: Path, source: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    encode(codec, source, output=out)
    before = content(out)
    assert encode(codec, source, output=out) == 3, "its errors are still there"
    assert "0 shards made, 1 were there" in capsys.readouterr().out
    assert encode("tiny", source, output=out) == 2  # type: ignore[arg-type]
    assert "made with codec" in capsys.readouterr().err
    assert encode(codec, source, output=out, more=("--archive", "tree")) == 2
    assert "made with layout tar, not tree" in capsys.readouterr().err
    assert encode(codec, source / "sub", output=out) == 2
    assert "The source has changed" in capsys.readouterr().err
    assert encode(codec, source, output=source) == 2
    assert "is there and is no archive" in capsys.readouterr().err
    assert encode(codec, source, output=tmp_path / "x", more=("--shard", "0/2")) == 2
    assert "--shard is for archives" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert encode(codec, tmp_path / "empty", output=tmp_path / "none") == 2
    assert content(out) == before


def test_verify_finds_whatever_is_damaged(codec: Path, source: Path, tmp_path: Path, capsys) -> None:
    for layout in ("tar", "tree"):
        out = tmp_path / layout
        encode(codec, source, output=out, more=("--archive", layout, "--shard_size", "5"))
        for more in ([], ["--decode", "--codec", str(codec)]):
            assert cli.main(["verify", str(out), *more]) == 0
        capsys.readouterr()
        damaged = out / ("shards/pictures-000001.tar" if layout == "tar" else "files/sub/p01.csw")
        good = damaged.read_bytes()
        at = good.index(b"\x89CSW") + 50
        damaged.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert cli.main(["verify", str(out)]) == 3
        said = capsys.readouterr().out
        assert "is not what the index says" in said and "1 faults" in said
        (out / "index" / "pictures-000001.parquet").unlink()
        assert cli.main(["verify", str(out)]) == 3
        assert "2 of 3 shards are there" in capsys.readouterr().out
        assert encode(codec, source, output=out, more=("--archive", layout, "--shard_size", "5")) == 3
        assert damaged.read_bytes() == good
        damaged.unlink()
        assert cli.main(["verify", str(out)]) == 3
        assert "is missing" in capsys.readouterr().out
    assert cli.main(["verify", str(source)]) == 2
    (tmp_path / "tar" / "archive.json").write_text(json.dumps({"format": "codecswap archive", "version": 9}))
    assert cli.main(["verify", str(tmp_path / "tar")]) == 2


def test_shares_in_any_order_make_the_archive_of_one_run(codec: Path, source: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    encode(codec, source, output=whole, more=("--archive", "tar", "--shard_size", "2"))
    for share in ("2/3", "0/3", "1/3"):
        encode(codec, source, output=shared, more=("--archive", "tar", "--shard_size", "2", "--shard", share))
    assert content(whole) == content(shared)
