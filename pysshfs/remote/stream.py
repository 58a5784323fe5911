"""A connection's socket, between asyncio's transport and asyncssh: read by trio, sent in one go.

`Stream` stands on either side for the other: under asyncio's transport it is the protocol, and in
what asyncssh asks of a transport it is that. asyncio keeps what is hard, making the connection,
sending what the socket does not take at once, closing. Two things it does not do any more:

- It does not read. A turn of its loop for each reply, in an epoll of its own inside trio's, cost a
  sixth of a sequential read. `receive`, a trio task of the bridge's, waits for the socket itself
  and gives asyncssh's protocol what came, with the loop marked as running.
- It does not send each piece. asyncssh writes each packet, and often an empty one before it, by
  itself: two system calls here and two wake-ups of the server for each request, sixteen for a large
  WRITE. What is written is gathered until trio waits (`on_unsent`, then `send`).

Touched by the bridge's tasks, and by whoever writes to a channel, in one thread.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 256 * 1024  # bytes received at once: as asyncio has it


class Stream(asyncio.Protocol):
    """Made for each connection by the loop's `create_connection`."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        on_unsent: Callable[[Stream], None],
        on_made: Callable[[Stream], None],
    ) -> None:
        """`on_unsent` is called when there is something to `send`, `on_made` to have `receive`
        run in a task."""
        self.protocol = protocol
        self._on_unsent = on_unsent
        self._on_made = on_made
        self._gathered: list[bytes] = []
        self._error: OSError | None = None  # for which reading ended
        self._is_over = False
        self._may_read = trio.Event()  # another one each time that reading is paused
        self._may_read.set()
        self._fd = -1

    # --- for asyncio's transport ------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fd = transport.get_extra_info("socket").fileno()
        self.protocol.connection_made(cast("asyncio.BaseTransport", self))
        # Not at once: with Python 3.11.2 (not with 3.11.7) asyncio begins to read right after this,
        # whether reading was paused here or not.
        asyncio.get_running_loop().call_soon(self._take_over)

    def _take_over(self) -> None:
        """Have asyncio not read any more, and begin to."""
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)  # read by asyncio before `_take_over`

    def eof_received(self) -> bool | None:
        return self.protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()  # the socket is closed right after this
        self.protocol.connection_lost(exc or self._error)

    def pause_writing(self) -> None:
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        self.protocol.resume_writing()

    # --- for asyncssh -----------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._gathered:
            self._on_unsent(self)
        self._gathered.append(data)

    def send(self) -> None:
        """Hand asyncio what was gathered."""
        gathered, self._gathered = self._gathered, []
        if gathered:  # else it was closed meanwhile
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def close(self) -> None:
        self.send()
        self._end()
        self._transport.close()

    def abort(self) -> None:
        self._gathered = []
        self._end()
        self._transport.abort()

    def pause_reading(self) -> None:
        if self._may_read.is_set():
            self._may_read = trio.Event()

    def resume_reading(self) -> None:
        self._may_read.set()

    def is_reading(self) -> bool:
        return self._may_read.is_set() and not self._transport.is_closing()

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    # --- receiving --------------------------------------------------------------------------

    def _end(self) -> None:
        """Nothing is received any more. While the descriptor is still this socket's."""
        if not self._is_over:
            self._is_over = True
            self._may_read.set()
            trio.lowlevel.notify_closing(self._fd)

    @trio.lowlevel.enable_ki_protection
    async def receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the protocol what comes until there is no more, or the transport is closed."""
        while not self._is_over:
            if not self._may_read.is_set():
                await self._may_read.wait()
                continue  # it may have been closed
            try:
                await trio.lowlevel.wait_readable(self._fd)
            except trio.ClosedResourceError:
                return
            # Closed meanwhile, by whoever ran before, or by asyncio for an error in sending: then
            # the descriptor may be another file's already.
            if self._transport.is_closing():
                return
            if not self._may_read.is_set():
                continue
            asyncio._set_running_loop(loop)  # documented, for who makes loops
            try:
                self._receive_once()
            finally:
                asyncio._set_running_loop(None)

    def _receive_once(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._error = error
            self.abort()
            return
        if data:
            self.protocol.data_received(data)
        elif not self.protocol.eof_received():
            self.close()
        else:
            self._end()
