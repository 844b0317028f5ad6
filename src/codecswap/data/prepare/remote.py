"""A zip read where it lies, on its server: only the members that are wanted come over the line."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar
from zipfile import ZipFile, ZipInfo

from codecswap.data.prepare.download import Remote

THREADS = 16
"""Connections at once: a picture is small, and most of its time on the line is waiting for an answer."""
SMALLEST = 1 << 16
"""Bytes of the smallest request outside the members asked for."""
LARGEST = 1 << 21
"""Bytes up to which neighbouring members share a request."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class RemoteFile(io.RawIOBase):
    """A file on a server as a seekable file; what `expect` announces is fetched ahead, many parts at once."""

    def __init__(self, remote: Remote) -> None:
        self.remote, self.at = remote, 0
        self.start, self.data = 0, b""
        self.coming: Iterator[tuple[int, bytes]] = iter(())

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The byte that is read next."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte; nothing is read."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.remote.length}[whence]
        if at < 0:
            raise ValueError(f"byte {at} of a file")
        self.at = at
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read some bytes, as many as there are in the part at hand."""
        if self.at >= self.remote.length:
            return 0
        if not self.start <= self.at < self.start + len(self.data):
            self._turn(len(buffer))
        offset = self.at - self.start
        piece = self.data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)

    def _turn(self, size: int) -> None:
        """Take the part with the current byte at hand: the next that comes, or a new one of about ``size``."""
        for start, data in self.coming:
            self.start, self.data = start, data
            if start <= self.at < start + len(data):
                return
        end = min(self.at + max(size, SMALLEST), self.remote.length)
        self.start, self.data = self.at, b"".join(self.remote.blocks(self.at, end))

    @contextmanager
    def expect(self, extents: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Fetch parts (first byte, byte after the last), in the order in which they will be read."""
        with _ahead(lambda extent: (extent[0], b"".join(self.remote.blocks(*extent))), extents) as self.coming:
            try:
                yield
            except BaseException:
                self.remote.stop.set()
                raise


def extents(archive: ZipFile, members: Sequence[ZipInfo]) -> list[tuple[int, int]]:
    """Where members lie in their zip, header included; direct neighbours share an extent.

    None is longer than `LARGEST` bytes, whatever the zip's directory says: as many as there are threads wait in memory.
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


@contextmanager
def _ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Iterator[Result]]:
    """Results of ``work`` in order, `THREADS` at once and at most twice as many waiting to be taken."""
    with ThreadPoolExecutor(THREADS) as pool:

        def results() -> Iterator[Result]:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * THREADS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield results()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
