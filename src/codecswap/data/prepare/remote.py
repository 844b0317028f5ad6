"""Reading a zip on its server: only the chosen members are downloaded."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from zipfile import ZipFile, ZipInfo

from codecswap.data.prepare.download import Remote

THREADS = 16
"""Connections at once: pictures are small, so most of the time is spent waiting for answers."""
SMALLEST = 1 << 16
"""Bytes of the smallest request, except for members named to `expect`."""
LARGEST = 1 << 21
"""Most bytes of one request: neighboring members share one up to this size."""


class RemoteFile(io.RawIOBase):
    """A file on a server as a seekable file; the parts named to `expect` are fetched ahead, several at once."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.at = remote, 0
        self.start, self.data = 0, b""
        self.coming: Iterator[tuple[int, bytes]] = iter(())

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Position of the next byte."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; nothing is read."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.remote.length}[whence]
        if at < 0:
            raise ValueError(f"byte {at} of a file")
        self.at = at
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read at least one byte, at most to the end of the current part; 0 at the end of the file."""
        if self.at >= self.remote.length:
            return 0
        if not self.start <= self.at < self.start + len(self.data):
            self._fetch(len(buffer))
        offset = self.at - self.start
        piece = self.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def _fetch(self, size: int) -> None:
        """Make the part with the next byte the current one: a part fetched ahead, or a new request of about ``size`` bytes."""
        for start, data in self.coming:
            self.start, self.data = start, data
            if start <= self.at < start + len(data):
                return
        self.start, self.data = self._part((self.at, min(self.at + max(size, SMALLEST), self.remote.length)))

    def _part(self, extent: tuple[int, int]) -> tuple[int, bytes]:
        """The first byte's position, and the bytes."""
        return extent[0], b"".join(self.remote.blocks(*extent))

    @contextmanager
    def expect(self, extents: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Fetch parts (first byte, byte after the last), in the order in which they will be read."""
        with ThreadPoolExecutor(THREADS) as pool:
            self.coming = _in_order(pool, self._part, extents)
            try:
                yield
            except BaseException:
                self.remote.stop.set()
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def extents(archive: ZipFile, members: Sequence[ZipInfo]) -> list[tuple[int, int]]:
    """Byte ranges of members in their zip, including headers: (first byte, byte after the last); neighbors share a range.

    None is longer than `LARGEST` bytes, whatever the zip's directory says, since many are held in memory.
    """
    starts = sorted({info.header_offset for info in archive.infolist()} | {archive.start_dir})
    following = dict(pairwise(starts))
    result: list[tuple[int, int]] = []
    for start in sorted(info.header_offset for info in members):
        end = min(following.get(start, start), archive.start_dir)
        if result and result[-1][1] == start and end - result[-1][0] <= LARGEST:
            result[-1] = (result[-1][0], end)
        else:
            result += [(part, min(part + LARGEST, end)) for part in range(start, end, LARGEST)]
    return result


def _in_order(pool: Executor, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Results of ``work`` in the order of ``items``; at most twice as many as there are threads wait in memory."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
