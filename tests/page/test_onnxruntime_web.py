"""The runtime for browsers: pinned, checked, kept."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from codecswap.errors import UserError
from codecswap.page import onnxruntime_web as web


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package of the same layout, where npm's is expected, with its hashes."""
    contents = {name: f"content of {name}".encode() for name in web.FILES}
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "URL", path.as_uri())
    monkeypatch.setattr(web, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()})
    monkeypatch.setattr(web, "SHA512", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
    return path


def test_it_is_fetched_once_and_mended(package: Path) -> None:
    contents = web.load()
    assert contents == [f"content of {name}".encode() for name in web.FILES]
    kept = web.cache() / next(iter(web.FILES))
    kept.write_bytes(b"damaged")
    assert web.load() == contents and kept.read_bytes() == contents[0]
    package.unlink()
    assert web.load() == contents, "without a network, once it is there"
    assert {path.name for path in web.cache().iterdir()} == set(web.FILES)


def test_another_package_is_not_used(package: Path) -> None:
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"SHA-512 .* instead of the pinned one"):
        web.load()
    assert not web.cache().exists()


def test_offline_it_says_what_to_do(package: Path) -> None:
    package.unlink()
    with pytest.raises(UserError, match=r"npm pack onnxruntime-web@.*--onnxruntime_web"):
        web.load()


def test_a_named_folder_is_checked_too(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks ort"):
        web.load(tmp_path)
    contents = web.load()
    package.unlink()
    assert web.load(web.cache()) == contents
    (web.cache() / list(web.FILES)[1]).write_bytes(b"of another release")
    with pytest.raises(UserError, match="is not the one of onnxruntime-web"):
        web.load(web.cache())
