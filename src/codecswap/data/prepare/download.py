"""Downloading a large file over an unreliable connection: byte ranges, waits between tries, length and MD5."""

import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from codecswap.console import amount, bar
from codecswap.errors import UserError

BLOCK = 1 << 20
TRIES = 7
"""Failures in a row, without a new byte, after which a download stops."""
FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long (half a minute in all)."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""


@dataclass(frozen=True)
class Archive:
    """A zip of pictures on a server."""

    url: str
    length: int | None = None
    """Bytes, if known."""
    md5: str | None = None
    """Checksum in hexadecimal digits, if known."""


COCO = Archive("http://images.cocodataset.org/zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2")
"""COCO's training pictures of 2017."""


@dataclass
class Remote:
    """A file on a server, readable from any byte."""

    url: str
    length: int
    """Bytes."""
    ranges: bool
    """Whether the server sends parts of a file."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it to stop all reads, in other threads too."""

    @classmethod
    def look(cls, archive: Archive) -> "Remote":
        """Ask the server how long the file is, and whether it sends parts.

        Raises:
            UserError: the address is wrong, the server does not answer, or the file has another length.
        """
        url = archive.url
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url} is not a web address (http:// or https://): check --url.")
        tries = _Tries(url, threading.Event())
        while True:
            try:
                with _open(url, "bytes=0-0") as answer:
                    ranges = answer.status == 206
                    _, length = _span(answer)
                break
            except _BROKEN as error:
                tries.failed(error, "before its first byte")
        if length is None:
            raise UserError(f"{url} does not say how long its file is, so it cannot be checked: use another --url.")
        if archive.length is not None and length != archive.length:
            raise UserError(
                f"{url} offers {length:,} bytes where the file has {archive.length:,}: "
                "try again later, or name a mirror with --url."
            )
        return cls(url, length, ranges)

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` up to ``end``, in blocks; broken connections are opened again.

        Raises:
            UserError: `TRIES` connections in a row brought no new byte.
        """
        at, tries = start, _Tries(self.url, self.stop)
        while at < end:
            try:
                with _open(self.url, f"bytes={at}-{end - 1}" if self.ranges else None) as answer:
                    first, total = _span(answer)
                    if first > at or total not in (None, self.length):
                        raise ConnectionError("the server sent another part, or has another file than before")
                    skip = at - first  # a server that ignores ranges starts at byte 0
                    while block := answer.read1(min(BLOCK, end - at) if not skip else min(BLOCK, skip)):
                        if self.stop.is_set():
                            return
                        if skip:
                            skip -= len(block)
                            continue
                        at += len(block)
                        tries.count = 0
                        yield block
                        if at == end:
                            return
                raise ConnectionError("the server closed the connection")
            except _BROKEN as error:
                tries.failed(error, f"at {amount(at, 'bytes')} of {amount(self.length, 'bytes')}")


def download(archive: Archive, path: Path, remote: Remote) -> None:
    """Download a file to ``path``, continuing ``path``.part if an earlier run left one.

    Raises:
        UserError: the connection keeps breaking, or the checksum is wrong (the damaged file is then removed).
    """
    part = path.with_name(f"{path.name}.part")
    if part.exists() and part.stat().st_size > remote.length:
        part.unlink()  # of another file
    digest = hashlib.md5(usedforsecurity=False)
    with open(part, "ab+") as file:
        done = _digest(part, digest)
        with bar("Downloading", remote.length, unit="bytes", done=done) as advance:
            for block in remote.blocks(done, remote.length):
                file.write(block)
                digest.update(block)
                advance(len(block))
        file.flush()
        os.fsync(file.fileno())
    if archive.md5 is not None and digest.hexdigest() != archive.md5.lower():
        part.unlink()
        raise UserError(
            f"{path.name} arrived damaged (MD5 {digest.hexdigest()}, expected {archive.md5}) and was removed: "
            "run the same command again, or name a mirror with --url."
        )
    os.replace(part, path)


def _digest(path: Path, digest: "hashlib._Hash") -> int:
    """Add an existing part to the checksum; returns its size in bytes."""
    size = path.stat().st_size
    if size:
        with bar("Checking the existing part", size, unit="bytes") as advance, open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                advance(len(block))
    return size


_BROKEN = (OSError, http.client.HTTPException)
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses after which another try may succeed."""


class _Tries:
    """Counts failures in a row and waits between them."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        self.url, self.stop, self.count = url, stop, 0

    def failed(self, error: Exception, where: str) -> None:
        """Wait before the next try, twice as long each time.

        Raises:
            UserError: too many failures, or a status that another try will not change.
        """
        if isinstance(error, urllib.error.HTTPError) and error.code not in _AGAIN:
            raise UserError(f"The server answers {error.code} ({error.reason}) for {self.url}: check --url.") from None
        self.count += 1
        if self.count >= TRIES or self.stop.is_set():
            reason = getattr(error, "reason", None) or error or type(error).__name__
            raise UserError(
                f"{self.url} broke off {where}, {self.count} times in a row ({reason}): check the network, "
                "then run the same command again; it continues from there."
            ) from None
        self.stop.wait(FIRST_WAIT * 2 ** (self.count - 1))


def _open(url: str, span: str | None) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": "codecswap"})
    if span:
        request.add_header("Range", span)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT)
    except (ValueError, http.client.InvalidURL) as error:
        raise UserError(f"{url} cannot be opened ({error}): check --url.") from None


def _span(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Position of an answer's first byte, and the length of the whole file if the headers give it."""
    if answer.status != 206:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    place, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    first = place.partition("-")[0]
    return int(first) if first.isdigit() else 0, int(total) if total.isdigit() else None
