"""The daemon's end of the control socket (docs/control-protocol.md).

- `status` tells what is known here and now (`control_status.py`).
- `flush` is answered when nothing is buffered any more, which may never be while the connection is
  down: it ends when the asker hangs up.
- `reconnect` has the connection made anew at once; it does not wait for that.
- `drop-caches` is answered when the kernel has forgotten, too.
- `trace` goes on: a line for each operation, until the asker hangs up.

The answer to what fails or is not understood is an object with `error` and `code`.

Owns the socket file. It is opened right after the mount, in a directory that only the mounting
user can enter, and the peer's credentials are checked on top: that user and root may ask. Whatever
one asker sends, or does not read, costs others nothing: questions, askers and what is kept for them
are bounded.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from pysshfs.cli.control_client import (
    MOST_QUESTION,
    PEER,
    PROTOCOL,
    bound,
    private_directory,
    remove_stale,
)
from pysshfs.cli.control_status import StatusReport, text_of
from pysshfs.errors import PysshfsError
from pysshfs.fuse.tracing import Filter, Tracer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.cli.control_status import Connection
    from pysshfs.fuse.session import FuseSession
    from pysshfs.fuse.tracing import Traced
    from pysshfs.vfs.filesystem import Filesystem

T = TypeVar("T")

log = logging.getLogger(__name__)

_MOST_ASKERS: Final = 32
_MOST_TRACERS: Final = 4
_QUESTION_SECONDS: Final = 5
_UNREAD_SECONDS: Final = 30  # for which a tracer that reads nothing is put up with
_TRACES_AT_ONCE: Final = 256
_SO_PEERCRED: Final = 17  # trio.socket has no name for it

_TRACE_ARGUMENTS: Final[dict[str, tuple[type, ...]]] = {
    "operations": (list,), "pid": (int,), "path": (str,), "least_ms": (int, float),
    "errors": (bool,),
}  # fmt: skip


class _RefusedError(Exception):
    """The question gets this answer."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = {"protocol": PROTOCOL, "code": code, "error": message}


class ControlServer:
    """Answers for one mount."""

    def __init__(
        self,
        source: str,
        mountpoint: str,
        session: FuseSession,
        filesystem: Filesystem,
        connection: Connection,
        undelivered: Callable[[], list[str]] = list,
    ) -> None:
        """`undelivered` lists the files that hold what the server did not take."""
        self._session = session
        self._filesystem = filesystem
        self._connection = connection
        self._report = StatusReport(
            source, mountpoint, session, filesystem, connection, undelivered
        )
        self._listener: trio.SocketListener | None = None
        self._path: str | None = None
        self._socket_inode = 0
        self._askers = 0
        self._commands: dict[str, Callable[[_Asker], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "flush": self._flush,
            "reconnect": self._reconnect,
            "drop-caches": self._drop_caches,
            "trace": self._trace,
        }

    def open(self) -> None:
        """Listen. Without a place for the socket the mount works all the same."""
        try:
            directory = private_directory(os.geteuid())
            with contextlib.suppress(OSError):
                remove_stale(directory)
            self._path = os.path.join(directory, f"{self._session.connection}.sock")
            listening = trio.socket.from_stdlib_socket(bound(self._path))
            self._socket_inode = os.stat(self._path).st_ino
            self._listener = trio.SocketListener(listening)
        except OSError as error:
            log.warning("no control socket: %s", error)

    def close(self) -> None:
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                # Once unmounted, the connection's number may be another mount's, and the name, too.
                if os.stat(self._path).st_ino == self._socket_inode:
                    os.unlink(self._path)
        if self._listener is not None:
            self._listener.socket.close()
        self._report.close()

    async def run(self) -> None:
        """Answer until cancelled."""
        if self._listener is None:
            await trio.sleep_forever()
        else:
            await trio.serve_listeners(self._answer, [self._listener])

    async def _answer(self, stream: trio.SocketStream) -> None:
        """One asker, who has one question."""
        asker = _Asker(stream)
        self._askers += 1
        try:
            with contextlib.suppress(trio.BrokenResourceError, OSError):
                async with stream:
                    await asker.tell(await self._answer_to(asker))
        finally:
            self._askers -= 1

    async def _answer_to(self, asker: _Asker) -> dict[str, Any]:
        try:
            # Read first: what is closed with a question unread is reset, and the refusal with it.
            name = await asker.command()
            if not asker.may_ask():
                raise _RefusedError("permission", "another user's mount")
            if self._askers > _MOST_ASKERS:
                raise _RefusedError("busy", f"{_MOST_ASKERS} ask already")
            command = self._commands.get(name)
            if command is None:
                raise _RefusedError("unknown-command", f"unknown command {asker.shown!r}")
            return {"protocol": PROTOCOL, **await command(asker)}
        except _RefusedError as refusal:
            return refusal.answer
        except PysshfsError as error:
            return _RefusedError("failed", str(error)).answer
        except (trio.BrokenResourceError, OSError):
            raise
        except Exception:  # of ours: no question is to end the mount
            log.exception("%s failed unexpectedly", asker.shown or "a question")
            return _RefusedError("failed", "unexpected failure; the log has more").answer

    # --- the commands ---------------------------------------------------------------------------

    async def _status(self, _: _Asker) -> dict[str, Any]:
        return self._report.tell()

    async def _reconnect(self, _: _Asker) -> dict[str, Any]:
        self._connection.reconnect_now("asked for by pysshfsctl")
        return {"ok": True}

    async def _flush(self, asker: _Asker) -> dict[str, Any]:
        """Deliver what is buffered, for as long as somebody waits for that."""
        try:
            await asker.while_there(self._filesystem.flush_all)
            self._filesystem.raise_broken_promise()
        except PysshfsError as error:
            raise _RefusedError("not-delivered", str(error)) from None
        return {"ok": True}

    async def _drop_caches(self, asker: _Asker) -> dict[str, Any]:
        forgotten = await asker.while_there(self._session.drop_caches)
        return {"ok": True, "inodes": len(forgotten.inodes), "names": len(forgotten.names)}

    async def _trace(self, asker: _Asker) -> dict[str, Any]:
        tracing = self._session.requests.tracing
        if tracing.tracers >= _MOST_TRACERS:
            raise _RefusedError("busy", f"{_MOST_TRACERS} trace already")
        tracer = Tracer(_filter(asker.question))
        tracing.add(tracer)
        try:
            await asker.tell({"protocol": PROTOCOL, "ok": True})
            await asker.while_there(functools.partial(_pass_on, tracer, asker))
        finally:
            tracing.remove(tracer)
        raise trio.BrokenResourceError


async def _pass_on(tracer: Tracer, asker: _Asker) -> None:
    """What there is to tell, a piece at a time, without end."""
    while True:
        traced, dropped = await tracer.take(_TRACES_AT_ONCE)
        await asker.tell(*map(_told, traced))
        if dropped:
            await asker.tell({"dropped": dropped})


def _told(traced: Traced) -> dict[str, Any]:
    return {
        "id": traced.number,
        "at": round(traced.at, 6),
        "operation": traced.operation,
        "inode": traced.inode,
        "path": text_of(traced.path),
        "new_path": text_of(traced.new_path),
        "offset": traced.offset,
        "length": traced.length,
        "pid": traced.tid,
        "uid": traced.uid,
        "ms": round(traced.seconds * 1000, 3),
        "result": traced.outcome,
    }


def _filter(question: dict[str, Any]) -> Filter:
    for name, kinds in _TRACE_ARGUMENTS.items():
        value = question.get(name)
        if value is not None and type(value) not in kinds:
            raise _RefusedError("bad-argument", f"{name} is of the wrong type")
    operations = question.get("operations") or ()
    if not all(isinstance(each, str) for each in operations):
        raise _RefusedError("bad-argument", "operations are strings")
    return Filter(
        frozenset(operations),
        question.get("pid"),
        os.fsencode(question.get("path") or "").strip(b"/"),
        (question.get("least_ms") or 0) / 1000,
        bool(question.get("errors")),
    )


class _Asker:
    """Who asks: what it asks, whether it still is there."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.question: dict[str, Any] = {}
        self.shown = ""

    def may_ask(self) -> bool:
        found = self._stream.socket.getsockopt(trio.socket.SOL_SOCKET, _SO_PEERCRED, PEER.size)
        _, uid, _ = PEER.unpack(found)
        return uid in (0, os.geteuid())

    async def command(self) -> str:
        """What it asks for. The arguments are in `question` then."""
        line = b""
        with trio.move_on_after(_QUESTION_SECONDS):
            line = await self._line()
        try:
            question = json.loads(line)
            self.shown = command = question["command"]
        except (ValueError, KeyError, TypeError, RecursionError):
            command = None
        if not isinstance(command, str):
            raise _RefusedError("malformed", "a question is a JSON object with a command")
        if question.get("protocol", PROTOCOL) != PROTOCOL:
            raise _RefusedError("protocol", f"version {PROTOCOL} is spoken here")
        self.question = question
        return command

    async def _line(self) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n") and len(received) < MOST_QUESTION:
            part = await self._stream.receive_some(MOST_QUESTION - len(received))
            if not part:
                break
            received += part
        return bytes(received)

    async def tell(self, *answers: dict[str, Any]) -> None:
        """Send them. Raises BrokenResourceError when that cannot be done in good time."""
        text = "".join(json.dumps(answer) + "\n" for answer in answers)
        with trio.move_on_after(_UNREAD_SECONDS) as limit:
            await self._stream.send_all(text.encode())
        if limit.cancelled_caught:
            raise trio.BrokenResourceError

    async def while_there(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it as long as the asker waits for it. Raises BrokenResourceError when it hangs up."""
        done: list[T] = []
        error: Exception = trio.BrokenResourceError()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_the_end, nursery.cancel_scope)
            try:
                done.append(await work())
            except (PysshfsError, trio.BrokenResourceError) as failure:
                error = failure  # to be raised as it is, and not as a group
            nursery.cancel_scope.cancel()
        if done:
            return done[0]
        raise error

    async def _cancel_at_the_end(self, scope: trio.CancelScope) -> None:
        """What it still says is of no interest."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self._stream.receive_some(MOST_QUESTION):
                pass
        scope.cancel()
