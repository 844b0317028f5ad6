import hashlib
import io
import random
import shutil
import zipfile

import pytest
from download_server import serve

from codecswap import console, files
from codecswap.data.prepare import download as module
from codecswap.data.prepare.download import COCO, Archive, Remote, download
from codecswap.data.prepare.remote import RemoteFile, extents
from codecswap.errors import UserError
from codecswap.files import need_space

BODY = random.Random(0).randbytes(3_000_000)
LENGTH = len(BODY)
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server():
    with serve({"train2017.zip": BODY}) as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.001)


def get(server, folder, *, length=LENGTH, md5=MD5):
    archive = Archive(server.url("train2017.zip"), length, md5)
    path = folder / "train2017.zip"
    download(archive, path, Remote.look(archive))
    assert sorted(entry.name for entry in folder.iterdir()) == ["train2017.zip"]
    return path.read_bytes()


def test_coco_is_known_to_the_byte():
    assert (COCO.length, COCO.md5) == (19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2")


def test_goes_on_after_every_drop(server, tmp_path):
    server.cuts.extend([100_000, 1, 0, 700_000, 1_500_000])
    assert get(server, tmp_path) == BODY
    starts = [first for _, first in server.requests[1:]]
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] == 2_300_001
    assert server.sent < len(BODY) + 100


def test_goes_on_where_an_earlier_run_stopped(server, tmp_path):
    (tmp_path / "train2017.zip.part").write_bytes(BODY[:2_000_000])
    assert get(server, tmp_path) == BODY
    assert server.requests[-1][1] == 2_000_000


def test_all_there_but_not_yet_renamed(server, tmp_path):
    (tmp_path / "train2017.zip.part").write_bytes(BODY)
    assert get(server, tmp_path) == BODY
    assert len(server.requests) == 1


def test_part_longer_than_the_file_is_started_again(server, tmp_path):
    (tmp_path / "train2017.zip.part").write_bytes(BODY + b"more")
    assert get(server, tmp_path) == BODY


def test_server_that_ignores_ranges(server, tmp_path):
    server.ranges = False
    server.cuts.extend([0, 1_000_000, 2_999_999])
    (tmp_path / "train2017.zip.part").write_bytes(BODY[:500_000])
    assert get(server, tmp_path) == BODY


def test_server_that_starts_too_late(server, tmp_path):
    server.shift = 5
    with pytest.raises(UserError, match="sent another part"):
        get(server, tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_line_that_never_recovers(server, tmp_path, ranges):
    server.ranges = ranges
    server.always_cut = 1_000_000 if not ranges else 0
    with pytest.raises(UserError, match=r"7 times in a row .* run the same command again; it continues from there"):
        get(server, tmp_path)
    part = tmp_path / "train2017.zip.part"
    assert part.read_bytes() == BODY[: 0 if ranges else 1_000_000]
    server.always_cut = None
    assert get(server, tmp_path) == BODY


def test_server_that_promises_more_than_it_sends(server, tmp_path):
    server.claim = 10
    with pytest.raises(UserError, match="offers 3,000,010 bytes where the file has 3,000,000"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="closed the connection"):
        get(server, tmp_path, length=None)


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(UserError, match=r"arrived damaged \(MD5 .* was removed"):
        get(server, tmp_path, md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_part_of_another_file_is_caught_by_the_checksum(server, tmp_path):
    (tmp_path / "train2017.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="arrived damaged"):
        get(server, tmp_path)
    assert get(server, tmp_path) == BODY


def test_overloaded_server(server, tmp_path):
    server.errors.extend([503, 429, 500])
    assert get(server, tmp_path) == BODY


@pytest.mark.parametrize("status", [403, 404, 416])
def test_no_means_no(server, tmp_path, status):
    server.errors.append(status)
    with pytest.raises(UserError, match=f"answers {status} .*: check --url"):
        get(server, tmp_path)
    assert len(server.requests) == 1


def test_moved(server):
    assert Remote.look(Archive(server.url("moved/train2017.zip"))).length == len(BODY)


def test_nobody_answers():
    with serve({}) as server:
        url = server.url("train2017.zip")
    with pytest.raises(UserError, match=r"broke off before its first byte, 7 times .*refused"):
        Remote.look(Archive(url))


@pytest.mark.parametrize("url", ["train2017.zip", "file:///etc/hostname", "http://", "http://exa mple/x"])
def test_no_address(url):
    with pytest.raises(UserError, match="--url"):
        Remote.look(Archive(url))


def test_remote_zip_reads_only_what_is_asked_for():
    names = [f"train2017/{index:03}.jpg" for index in range(200)]
    contents = {name: random.Random(name).randbytes(20_000) for name in names}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            method = zipfile.ZIP_DEFLATED if name < "train2017/100" else zipfile.ZIP_STORED
            archive.writestr(name, content, method)
    with serve({"z.zip": buffer.getvalue()}) as server:
        server.cuts.extend([0, 3000, 100])
        file = RemoteFile(Remote.look(Archive(server.url("z.zip"))))
        with zipfile.ZipFile(io.BufferedReader(file)) as archive:
            wanted = [archive.getinfo(name) for name in (*names[10:13], names[90], names[150])]
            parts = extents(archive, wanted)
            assert len(parts) == 3
            listing = server.sent
            with file.expect(parts):
                assert [archive.read(info) for info in wanted] == [contents[info.filename] for info in wanted]
            assert server.sent - listing == sum(end - start for start, end in parts)
            assert archive.read(names[199]) == contents[names[199]]


def test_remote_zip_that_gives_up():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(100):
            archive.writestr(f"{index}.jpg", bytes(10_000))
    with serve({"z.zip": buffer.getvalue()}) as server:
        file = RemoteFile(Remote.look(Archive(server.url("z.zip"))))
        with zipfile.ZipFile(io.BufferedReader(file)) as archive:
            server.always_cut = 0
            with pytest.raises(UserError, match="in a row"), file.expect(extents(archive, archive.infolist()[::2])):
                archive.read("50.jpg")
        assert file.remote.stop.is_set()


def test_space_is_added_up_per_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 2_000_000_000))
    need_space([("zip", tmp_path / "not" / "there", 1_000_000_000), ("crops", tmp_path, 1_000_000_000)])
    with pytest.raises(UserError, match=r"2.0 GB free and 2.5 GB are needed \(zip 1.0 GB, crops 1.5 GB\)"):
        need_space([("zip", tmp_path, 1_000_000_000), ("crops", tmp_path, 1_500_000_000)])


def test_half_a_file_is_never_seen(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_write(target) as beside:
        beside.write_text("ne")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"] and target.read_text() == "old"


def test_one_run_at_a_time(tmp_path):
    with (
        files.directory_lock(tmp_path),
        pytest.raises(UserError, match="Another run is at work"),
        files.directory_lock(tmp_path),
    ):
        pass
    with files.directory_lock(tmp_path):
        pass


def test_progress_tells_speed_and_time_left(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    with console.bar("Downloading", 2_000_000, unit="bytes", done=500_000) as advance:
        advance(500_000)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("Downloading: 1.0 MB of 2.0 MB, ") and "B/s, " in first and first.endswith(" s left")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.bar("Cropping", 10, unit="pictures") as advance:
        advance(10)
    assert "10 of 10 pictures" in capsys.readouterr().err
