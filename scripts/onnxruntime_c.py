"""Lay out ONNX Runtime for C: FOLDER/include and FOLDER/lib, as its release has them; no server but the package registries.

python scripts/onnxruntime_c.py FOLDER

The library is the one inside the installed onnxruntime wheel, so results equal Python's. The wheel has no headers: Microsoft's
come from an npm package that carries them (150 MB), pinned by its hash. Its headers may be older than the library, never newer.
With a release of ONNX Runtime (onnxruntime-linux-*.tgz) at hand, none of this is needed: that folder is laid out already.
"""

import base64
import hashlib
import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "com.github.asus4.onnxruntime@0.4.9"
SHA512 = "BkzxduSZ9IkeDP6Q8lz2TFU2ie7hSSvS7ZIfzMooExoq0CNzJnuuGaUJ7IsojBgqO4ouD1jXah8OYyJbCN29Fg=="
HEADERS = "ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/"


def main(folder: Path) -> int:
    """Fill ``folder``; returns the exit code."""
    include, lib = folder / "include", folder / "lib"
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        print("onnxruntime is not installed: pip install onnxruntime.", file=sys.stderr)
        return 2
    libraries = sorted((Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*"))
    if not libraries:
        print("The installed onnxruntime has no libonnxruntime.so: name a release's folder instead.", file=sys.stderr)
        return 2
    include.mkdir(parents=True, exist_ok=True)
    lib.mkdir(exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (lib / name).unlink(missing_ok=True)
        (lib / name).symlink_to(libraries[-1])
    if (include / "onnxruntime_c_api.h").exists():
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["npm", "pack", "--silent", PACKAGE, "--pack-destination", scratch], check=True, cwd=scratch)
        archive = next(Path(scratch).glob("*.tgz"))
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != SHA512:
            print(
                f"{PACKAGE} has the SHA-512 {found}, not the one pinned in {__file__}: do not use it.", file=sys.stderr
            )
            return 2
        with tarfile.open(archive) as package:
            headers = [m for m in package if m.isfile() and HEADERS in m.name and m.name.endswith(".h")]
            for member in headers:
                content = package.extractfile(member)
                assert content
                (include / Path(member.name).name).write_bytes(content.read())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
