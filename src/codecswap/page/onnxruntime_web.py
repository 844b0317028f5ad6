"""Download ONNX Runtime for browsers: one pinned npm release, kept in the user's cache. Its code is not run here."""

import base64
import hashlib
import http.client
import io
import os
import tarfile
import urllib.request
from pathlib import Path

from codecswap.console import bar
from codecswap.errors import UserError
from codecswap.files import atomic_write

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Hash of the package, as npm states it (`npm view onnxruntime-web@VERSION dist.integrity`)."""
FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of the files that the page needs from the package's ``dist``: the script, then the WebAssembly program."""
BLOCK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which the connection counts as broken."""


def load(folder: Path | None = None) -> list[bytes]:
    """The contents of `FILES`: from ``folder`` (an unpacked package's ``dist``), else from the cache, filled when needed.

    Raises:
        UserError: they cannot be downloaded, or are not those of the pinned release.
    """
    if folder:
        return [_checked(folder / name, digest) for name, digest in FILES.items()]
    try:
        return [_checked(cache() / name, digest) for name, digest in FILES.items()]
    except UserError:  # not there yet, or damaged
        _fill(cache(), _download())
    return load(cache())


def cache() -> Path:
    """Folder of the cached files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecswap" / f"onnxruntime-web-{VERSION}"


def _checked(path: Path, digest: str) -> bytes:
    content = path.read_bytes() if path.is_file() else None
    if content is None:
        raise UserError(f"{path.parent} lacks {path.name}: name the folder dist of onnxruntime-web {VERSION}.")
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} is not the one of onnxruntime-web {VERSION}: name that release's folder dist.")
    return content


def _download() -> bytes:
    package = io.BytesIO()
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            with bar(f"onnxruntime-web {VERSION}", length, unit="bytes") as advance:
                while block := answer.read(BLOCK):
                    advance(package.write(block))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{URL} cannot be read ({error}): try again online; or run `npm pack onnxruntime-web@{VERSION}` on another "
            "machine, unpack its file here, and name the folder package/dist with --onnxruntime_web."
        ) from None
    found = base64.b64encode(hashlib.sha512(package.getbuffer()).digest()).decode()
    if found != SHA512:
        raise UserError(f"{URL} has the SHA-512 {found} instead of the pinned one: it was not used. Try again later.")
    return package.getvalue()


def _fill(folder: Path, package: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for name in FILES:
            content = archive.extractfile(f"package/dist/{name}")
            assert content, "the package's hash was checked"
            with atomic_write(folder / name) as path:
                path.write_bytes(content.read())
