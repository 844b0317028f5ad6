import io
import os
import random
import zipfile

import pytest

from codecswap.data.prepare.unpack import missing, open_zip, pictures, place, unpack
from codecswap.errors import UserError

CONTENTS = {f"train2017/{index:03}.jpg": random.Random(index).randbytes(5000 + index) for index in range(20)}


def pack(path, contents, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content, method)
    return path


def run(path, folder):
    with open_zip(path, str(path)) as archive:
        unpack(archive, missing(pictures(archive, str(path)), folder), folder, lambda size: None)


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_only_pictures_without_the_top_folder(tmp_path, method):
    others = {
        "other/sub/a.PNG": b"png",
        "train2017/notes.txt": b"",
        "train2017/.hidden.jpg": b"",
        "train2017/sub.jpg/": b"",
    }
    run(pack(tmp_path / "z.zip", CONTENTS | others, method), tmp_path / "out")
    expected = {name.removeprefix("train2017/"): content for name, content in CONTENTS.items()}
    assert files(tmp_path / "out") == expected | {os.path.join("other", "sub", "a.PNG"): b"png"}


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "train2017/../../evil.jpg", "/evil.jpg", "C:/evil.jpg", "..\\evil.jpg", "../evil.txt"]
)
def test_members_that_leave_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="would leave its folder"):
        run(pack(tmp_path / "z.zip", CONTENTS | {name: b"evil"}), tmp_path / "in" / "out")
    assert files(tmp_path).keys() == {"z.zip"}


def test_link_is_written_as_a_plain_file(tmp_path):
    link = zipfile.ZipInfo("train2017/link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(link, "/etc/hostname")
    run(tmp_path / "z.zip", tmp_path / "out")
    assert not (tmp_path / "out" / "link.jpg").is_symlink()


def test_damaged_member(tmp_path):
    path = pack(tmp_path / "z.zip", CONTENTS)
    data = bytearray(path.read_bytes())
    data[data.index(CONTENTS["train2017/012.jpg"]) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"z.zip is damaged.*CRC.*train2017/012.jpg"):
        run(path, tmp_path / "out")
    assert files(tmp_path / "out") == {
        name.removeprefix("train2017/"): content for name, content in list(CONTENTS.items())[:12]
    }


@pytest.mark.parametrize("change", [lambda data: data[:50_000], lambda data: b"no zip", lambda data: b""])
def test_no_whole_zip(tmp_path, change):
    path = pack(tmp_path / "z.zip", CONTENTS)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="damaged or not a zip"):
        run(path, tmp_path / "out")


def test_damaged_compression(tmp_path):
    path = pack(tmp_path / "z.zip", {"a.jpg": b"a" * 100_000}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(range(100, 120))
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        run(path, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_locked_zip(tmp_path):
    path = pack(tmp_path / "z.zip", {"a.jpg": b"a"})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be unpacked"):
        run(path, tmp_path / "out")


def test_no_pictures(tmp_path):
    with pytest.raises(UserError, match="no pictures in"):
        run(pack(tmp_path / "z.zip", {"a.txt": b"a"}), tmp_path / "out")


def test_second_time_only_what_is_missing(tmp_path):
    path, out = pack(tmp_path / "z.zip", CONTENTS), tmp_path / "out"
    run(path, out)
    first = files(out)
    (out / "003.jpg").unlink()
    (out / "004.jpg").write_bytes(b"short")
    (out / ".003.jpg.part").write_bytes(b"left by a kill")
    with open_zip(path, "z") as archive:
        assert [str(place(info)) for info in missing(pictures(archive, "z"), out)] == ["003.jpg", "004.jpg"]
    run(path, out)
    assert files(out) == first


def test_reads_any_file_object():
    buffer = io.BytesIO()
    pack(buffer, CONTENTS)
    with open_zip(buffer, "memory") as archive:
        assert len(pictures(archive, "memory")) == 20


def packed_raw(path, names):
    """A zip whose members have these very names, as Windows and macOS write them: no flag of UTF-8, any separators."""
    plain = [f"train2017/{index:03}{'x' * len(name)}"[: len(name)] for index, name in enumerate(names)]
    pack(path, {name: b"%d" % index for index, name in enumerate(plain)})
    content = path.read_bytes()
    for name, stand_in in zip(names, plain, strict=True):
        content = content.replace(stand_in.encode(), name)
    path.write_bytes(content)
    return path


def test_backslashes_of_windows_are_folders(tmp_path):
    run(packed_raw(tmp_path / "z.zip", [b"train2017\\sub\\first.jpg", b"train2017\\second.jpg"]), tmp_path / "out")
    assert files(tmp_path / "out").keys() == {os.path.join("sub", "first.jpg"), "second.jpg"}


def test_names_of_macos_are_utf_8_and_its_resources_are_left_out(tmp_path):
    names = [
        "train2017/caf\u00e9 au lait.jpg".encode(),
        b"__MACOSX/train2017/._cafe.jpg",
        b"__MACOSX/train2017/plain.jpg",
    ]
    run(packed_raw(tmp_path / "z.zip", names), tmp_path / "out")
    assert files(tmp_path / "out").keys() == {"caf\u00e9 au lait.jpg"}


def test_annotations_and_validation_pictures_are_not_unpacked(tmp_path):
    others = {"val2017/a.jpg": b"a", "annotations/panoptic_train2017/b.png": b"b"}
    run(pack(tmp_path / "z.zip", CONTENTS | others), tmp_path / "out")
    assert files(tmp_path / "out").keys() == {name.removeprefix("train2017/") for name in CONTENTS}


def test_a_colon_is_a_name_where_the_system_takes_it(tmp_path):
    with open_zip(pack(tmp_path / "z.zip", {"train2017/at 12:30.jpg": b"x"}), "z.zip") as archive:
        assert [str(place(info)) for info in pictures(archive, "z.zip", windows=False)] == ["at 12:30.jpg"]
        with pytest.raises(UserError, match="Windows does not take"):
            pictures(archive, "z.zip", windows=True)


def test_of_members_with_one_name_the_first_is_taken_and_the_others_are_told(tmp_path, capsys):
    names = [b"train2017/a.jpg", b"train2017/A.JPG", b"train2017/b.jpg", b"train2017/a.jpg"]
    path = packed_raw(tmp_path / "z.zip", names)
    for ignores_case, expected, left_out in ((False, ["a.jpg", "A.JPG", "b.jpg"], 1), (True, ["a.jpg", "b.jpg"], 2)):
        with open_zip(path, "z.zip") as archive:
            found = pictures(archive, "z.zip", ignores_case=ignores_case)
            assert [str(place(info)) for info in found] == expected
            assert archive.read(found[0]) == b"0"
        assert f"{left_out} of 4 pictures in z.zip have a name that another has" in capsys.readouterr().err
