"""Workers that are killed, that do the same work, that lose their disk: the archive is that of an undisturbed run."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import making
import pandas as pd
import pytest
from making import KILLED, content, finish, start

from codecswap import cli
from codecswap.archives import folder
from codecswap.archives.shards import Shard

COMMON = ("--archive", "tar", "--shard_size", "3", "--jobs", "1", "--threads", "1")


def words(codec: Path, source: Path, out: Path, *more: str) -> list[str]:
    return ["encode", str(source), "-o", str(out), "--codec", str(codec), *COMMON, *more]


@pytest.fixture(scope="module")
def undisturbed(codec: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert finish(start(words(codec, source, out)))[0] == 3
    return out


def kills(codec: Path, source: Path, out: Path) -> Iterator[int]:
    """Numbers of the writes of a run, some of those before it ends."""
    for number in range(3, 200, 11):
        code, _ = finish(start(words(codec, source, out / str(number)), kill_at=number))
        if code != KILLED:
            return
        yield number


@pytest.mark.slow
def test_killed_at_any_write_and_repeated(codec: Path, source: Path, undisturbed: Path, tmp_path: Path) -> None:
    seen = 0
    for number in kills(codec, source, tmp_path):
        out = tmp_path / str(number)
        assert not [path for path in out.rglob("*") if path.suffix == ".part"]
        assert finish(start(words(codec, source, out)))[0] == 3
        assert content(out) == content(undisturbed), f"killed at write {number}"
        seen += 1
    assert seen >= 3


def test_killed_twice_and_repeated(codec: Path, source: Path, undisturbed: Path, tmp_path: Path) -> None:
    for number in (14, 18):
        assert finish(start(words(codec, source, tmp_path / "out"), kill_at=number))[0] == KILLED
    assert finish(start(words(codec, source, tmp_path / "out")))[0] == 3
    assert content(tmp_path / "out") == content(undisturbed)


def test_workers_with_the_same_and_with_other_shares(
    codec: Path, source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    workers = [start(words(codec, source, out)) for _ in range(2)]
    workers.append(start(words(codec, source, out), SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2"))
    codes = [finish(worker) for worker in workers]
    assert {code for code, _ in codes[:2]} == {3}, codes
    assert codes[2][0] in (0, 3), codes
    assert content(out) == content(undisturbed)


def test_an_attempt_that_another_worker_overtook_ends_quietly(
    codec: Path, source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    begin = folder.Attempt.__init__

    def overtaken(self: folder.Attempt, archive: folder.Archive, shard: Shard, place: Path) -> None:
        shutil.copytree(undisturbed, out, dirs_exist_ok=True)
        archive.clean(shard)
        begin(self, archive, shard, place)

    monkeypatch.setattr(folder.Attempt, "__init__", overtaken)
    assert cli.main(words(codec, source, out)) == 3
    assert content(out) == content(undisturbed)


@pytest.mark.slow
def test_processes_make_the_same_archive(codec: Path, source: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert finish(start(words(codec, source, tmp_path / "out", "--jobs", "2")))[0] == 3
    assert content(tmp_path / "out") == content(undisturbed)


def test_a_source_that_is_gone_stops_the_run_in_one_sentence(
    codec: Path, source: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mounted, out = tmp_path / "mounted", tmp_path / "out"
    shutil.copytree(source, mounted)
    listed = sorted(
        path.relative_to(mounted).as_posix() for path in mounted.rglob("*") if path.suffix in (".png", ".jpg")
    )
    (tmp_path / "list.txt").write_text("".join(f"mounted/{name}\n" for name in listed))
    shutil.move(mounted / "sub", tmp_path / "aside")
    assert cli.main(words(codec, tmp_path / "list.txt", out)) == 1
    assert capsys.readouterr().err.startswith("codecswap encode: The source can no longer be read at ")
    assert not list((out / ".work").iterdir())
    shutil.move(tmp_path / "aside", mounted / "sub")
    assert cli.main(words(codec, tmp_path / "list.txt", out)) == 3
    assert {name for name in content(out) if name.startswith("index")} == {
        name for name in content(undisturbed) if name.startswith("index")
    }


def test_one_file_that_is_gone_is_in_the_index(codec: Path, tmp_path: Path) -> None:
    making.picture(0).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    assert cli.main(words(codec, tmp_path / "list.txt", tmp_path / "out")) == 3
    errors = pd.read_parquet(tmp_path / "out" / "index").set_index("key").error
    assert errors["b.png"] == "b.png cannot be read (No such file or directory)." and not isinstance(
        errors["a.png"], str
    )


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
from codecswap import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_full_disk_stops_the_run_in_one_sentence(
    codec: Path, source: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(making, "KILL_AT", FULL_DISK.replace("sys.argv[1:]", "sys.argv[2:]"))
        code, said = finish(start(words(codec, source, out)))
    assert code == 1
    assert said.strip().splitlines()[-1].startswith(f"codecswap encode: The archive {out} cannot be written (")
    assert not list((out / ".work").iterdir())
    assert finish(start(words(codec, source, out)))[0] == 3
    assert content(out) == content(undisturbed)
