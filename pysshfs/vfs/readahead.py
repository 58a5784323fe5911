"""Reading an open file: READs in flight ahead of a sequential reader, exact ones otherwise.

A `FileReader` belongs to one open file. A read that continues the previous one (the kernel may
swap neighbours) is sequential, and blocks of a window past it are asked for before they are wanted.
The window grows, up to `readahead`, as long as a read has to wait for a block that was asked for
less than two round trips before: then it is the window that limits, and no larger one is needed
than what the way holds. Where the server or the processor limits, it stays. Anything else is
random: the window closes and exactly what was asked is fetched. A window is opened by the first
read at offset 0, too, so that short files and first blocks come in one round trip.

Blocks are aligned to `block_size`, a power of two, because the kernel's reads are: a read of one
block is answered with the very bytes that came from the wire. A server may answer a READ short;
the rest is asked for until the block is full or an empty reply marks the end. Nothing is ever
filled in. An end before the size that the file is believed to have is looked into before it is
believed (`vfs/endings.py`).

All open files together hold at most `total` bytes of blocks (`vfs/budget.py`): past that nothing is
read ahead, only what is wanted now. A block is never abandoned by the task that waits for it;
others may want it.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import UnsafeReplyError
from pysshfs.reply import Reply
from pysshfs.vfs.endings import shown_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.vfs.budget import Share
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.server import Server

log = logging.getLogger(__name__)

_FIRST_WINDOW: Final = 256 * 1024
_GROWTH: Final = 4
_NEAR: Final = 1024 * 1024  # how far a read may stray from the expected offset: kernel read-ahead
_LOOKS: Final = 2  # at a file that ends too early, before that is an error
_LARGEST_BLOCK: Final = 128 * 1024  # the kernel's read-ahead window, hence its usual READ


def block_size_for(max_read: int) -> int:
    """The largest power of two that one READ carries, at most 128 KiB."""
    return 1 << (min(max_read, _LARGEST_BLOCK).bit_length() - 1)


class _Block:
    """`length` bytes at `offset`, being fetched; `data` resolves to them, fewer at the end."""

    __slots__ = (
        "_handle",
        "_parts",
        "_received",
        "_server",
        "asked_at",
        "data",
        "length",
        "offset",
    )

    def __init__(self, server: Server, handle: OpenFileHandle, offset: int, length: int) -> None:
        self.offset = offset
        self.data: Reply[bytes] = Reply()
        self._server = server
        self._handle = handle
        self.length = length
        self._received = 0
        self._parts: list[bytes] = []
        self.asked_at = trio.current_time()
        self._ask()

    def _ask(self) -> None:
        offset, length = self.offset + self._received, self.length - self._received
        self._server.read(self._handle, offset, length).add_callback(self._arrived)

    def _arrived(self, reply: Reply[bytes]) -> None:
        if reply.error is not None:
            self.data.set_error(reply.error)
            return
        part = reply.result()
        self._parts.append(part)
        self._received += len(part)
        if part and self._received < self.length:
            self._ask()
        else:
            self.data.set_result(b"".join(self._parts))


class FileReader:
    """Reads of one open file. `size` tells how long the file is believed to be (bytes), and
    `size_now` asks the server, as `endings.size_now` does."""

    def __init__(
        self,
        server: Server,
        handle: OpenFileHandle,
        budget: Share,
        largest_window: int,
        size: Callable[[], int],
        size_now: Callable[[], Awaitable[int | None]],
    ) -> None:
        self._server = server
        self._handle = handle
        self._budget = budget
        self._largest_window = largest_window
        self._size = size
        self._size_now = size_now
        self._block_size = block_size_for(server.capabilities.max_read)
        self._blocks: dict[int, _Block] = {}
        self._expected = 0
        self._window = 0
        self._grown_at = -math.inf  # trio's time
        self._was_reported = False  # that it ends too early

    async def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer only at the end of the file."""
        data = await self._read(offset, length)
        if len(data) == length or offset + len(data) >= self._size():
            return data
        return await self._to_the_end(data, offset, length)

    async def _read(self, offset: int, length: int) -> bytes:
        if self._handle.stale is not None:  # whatever has been read of it
            raise self._handle.stale.with_traceback(None)
        if self._expected and offset >= self._size():
            return await self._fetch(offset, length)  # only the server knows that it has not grown
        if not self._is_sequential(offset):
            self._window = 0
            self.discard()
            self._expected = offset + length
            self._budget.misses += 1
            return await self._fetch(offset, length)
        blocks = self._blocks_for(offset, length)
        self._goes_on(blocks, offset, length)
        if all(block.data.done for block in blocks):
            self._budget.hits += 1
        else:
            self._budget.misses += 1
        data = await self._gather(blocks, offset, length)
        self._drop_before(offset)
        return data

    async def _to_the_end(self, data: bytes, offset: int, length: int) -> bytes:
        """What was asked for ends before the file was believed to end."""
        for _ in range(_LOOKS):
            size, end = await self._size_now(), offset + len(data)
            if size is None or size <= end:
                return data
            more = await self._fetch(end, min(size - end, offset + length - end))
            data += more
            if offset + len(data) >= min(size, offset + length):
                return data
        error = UnsafeReplyError(f"a file of {size} bytes that ends after {offset + len(data)}")
        if not self._was_reported:
            self._was_reported = True
            log.warning("reading %s: %s", shown_path(self._handle), error)
        raise error

    def read_at_hand(self, offset: int, length: int) -> bytes | None:
        """The same, if all of it is here."""
        if self._handle.stale is not None or not self._is_sequential(offset):
            return None
        if self._expected and offset >= self._size():
            return None
        blocks = []
        for at in range(offset - offset % self._block_size, offset + length, self._block_size):
            block = self._blocks.get(at)
            if block is None or not block.data.done or self._is_outgrown(block):
                return None
            blocks.append(block)
            if len(block.data.result()) < self._block_size:
                break
        self._goes_on(blocks, offset, length)
        data = self._joined(blocks, offset, length)
        self._drop_before(offset)
        self._budget.hits += 1
        return data

    def _goes_on(self, blocks: list[_Block], offset: int, length: int) -> None:
        """A sequential reader comes to these blocks."""
        self._expected = max(self._expected, offset + length)
        self._adapt(blocks)
        self._read_ahead(offset + length)

    def begin(self, most: int) -> None:
        """Ask for the first `most` bytes, at most a window, for who is going to read."""
        for at in range(0, min(most, self._size(), self._largest_window), self._block_size):
            self._start(at)

    def whole(self, size: int) -> bytes:
        """All `size` bytes of the file, if they are here; else nothing."""
        parts = []
        for at in range(0, size, self._block_size):
            block = self._blocks.get(at)
            if block is None or not block.data.done or block.data.error is not None:
                return b""
            parts.append(block.data.result())
        data = b"".join(parts)
        return data if len(data) == size else b""

    def _adapt(self, blocks: list[_Block]) -> None:
        """Open the window, or let it grow if it is what this read has to wait for."""
        if self._window == 0:
            self._window = min(_FIRST_WINDOW, self._largest_window)
            return
        waits_for = next((block for block in blocks if not block.data.done), None)
        if waits_for is None or waits_for.asked_at < self._grown_at:
            return  # what was asked for since it has grown is still to come
        now = trio.current_time()
        if now - waits_for.asked_at <= 2 * self._server.round_trip:
            self._window = min(_GROWTH * self._window, self._largest_window)
            self._grown_at = now

    def _is_sequential(self, offset: int) -> bool:
        if self._largest_window == 0:
            return False
        if offset == self._expected:
            return True
        # Near the place counts only for a reader whose pattern has been seen.
        return self._window > 0 and abs(offset - self._expected) <= _NEAR

    # --- blocks -----------------------------------------------------------------------------

    def _blocks_for(self, offset: int, length: int) -> list[_Block]:
        """The blocks that hold the range, asked for now if they were not before."""
        first = offset - offset % self._block_size
        return [self._block_at(at) for at in range(first, offset + length, self._block_size)]

    def _block_at(self, at: int) -> _Block:
        block = self._blocks.get(at)
        if block is not None and not self._is_outgrown(block):
            return block
        return self._start(at)

    def _is_outgrown(self, block: _Block) -> bool:
        """It failed, or was cut at an end of the file that is not the end any more."""
        if block.data.error is not None:
            return True
        length = len(block.data.result()) if block.data.done else block.length
        return length < self._block_size and self._size() > block.offset + length

    def _read_ahead(self, position: int) -> None:
        """Ask for the window past `position`, no further than the file is believed to reach."""
        end = min(position + self._window, self._size())
        first = position - position % self._block_size
        for at in range(first, end, self._block_size):
            if at not in self._blocks:
                if not self._budget.has_room(self._block_size):
                    return
                self._start(at)

    def _start(self, at: int) -> _Block:
        # What is believed to be the end saves asking for bytes that are not there; a read past it
        # is asked in full, since the file may have grown.
        size = self._size()
        length = min(self._block_size, size - at) if at < size else self._block_size
        if at not in self._blocks:
            self._budget.take(self._block_size)
        block = self._blocks[at] = _Block(self._server, self._handle, at, length)
        return block

    async def _gather(self, blocks: list[_Block], offset: int, length: int) -> bytes:
        for block in blocks:
            if len(await block.data.wait()) < self._block_size:
                break  # the end of the file, or of what was believed to be the file
        return self._joined(blocks, offset, length)

    def _joined(self, blocks: list[_Block], offset: int, length: int) -> bytes:
        """What the blocks, up to the first short one, hold of the range."""
        parts = []
        for block in blocks:
            data = block.data.result()
            skip = max(offset - block.offset, 0)
            parts.append(data[skip : offset + length - block.offset])
            if len(data) < self._block_size:
                break
        return b"".join(parts)  # of one part, that part itself

    async def _fetch(self, offset: int, length: int) -> bytes:
        """Exactly this range, all its READs in flight together."""
        largest = self._server.capabilities.max_read
        blocks = [
            _Block(self._server, self._handle, at, min(largest, offset + length - at))
            for at in range(offset, offset + length, largest)
        ]
        parts = []
        for block in blocks:
            data = await block.data.wait()
            parts.append(data)
            if len(data) < min(largest, offset + length - block.offset):
                break
        return b"".join(parts)  # of one part, that part itself

    # --- dropping ---------------------------------------------------------------------------

    def _drop_before(self, offset: int) -> None:
        """Blocks that lie behind the reader; the kernel keeps what it was given."""
        keep = offset - offset % self._block_size - self._block_size
        for at in [at for at in self._blocks if at < keep]:
            self._drop(at)

    def _drop(self, at: int) -> None:
        del self._blocks[at]
        self._budget.give_back(self._block_size)

    def discard(self) -> None:
        """Forget every block: the file was written to, or the reader jumped, or it is closed."""
        for at in list(self._blocks):
            self._drop(at)
