"""The control socket from outside: where a daemon's socket lies, and how it is asked.

One unix socket for each mount, named after its FUSE connection number, in a directory that belongs
to the mounting user alone. A question is one JSON object on a line, and so is the answer;
docs/control-protocol.md has both. Standard library only, and little of it: `pysshfsctl status` has
200 ms. Never touches a mount.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import struct
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

#: The version of the protocol: raised when a field goes or changes its meaning, not for a new one.
PROTOCOL: Final = 1
#: The longest question, with its newline (bytes).
MOST_QUESTION: Final = 8192
# How long a daemon is waited for that is busy, and between two looks whether it is (seconds).
_PATIENCE: Final = 1.0
_STEP: Final = 0.02
_MOST_REPLY: Final = 4 * 1024 * 1024  # bytes
PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


def runtime_directory(uid: int) -> str:
    """Where the sockets of this user's mounts lie.

    Root of a user namespace is root only if /run is its own, as in a container; otherwise it is the
    user who made the namespace, under another number (user_namespaces(7)).
    """
    if uid == 0 and os.stat("/run").st_uid == 0:
        return "/run/pysshfs"
    if uid == 0:
        with open("/proc/self/uid_map") as file:
            uid = outer_number(uid, file.read())
    session = f"/run/user/{uid}"
    return f"{session}/pysshfs" if os.path.isdir(session) else f"/tmp/pysshfs-{uid}"


def outer_number(uid: int, uid_map: str) -> int:
    """The user's number outside of the namespace that has this map."""
    for line in uid_map.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def private_directory(uid: int) -> str:
    """The runtime directory, made if need be. Raises OSError when it is not ours alone: /tmp is
    everybody's."""
    path = runtime_directory(uid)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a private directory of this user")
    return path


def socket_path(connection: int, uid: int) -> str:
    return os.path.join(runtime_directory(uid), f"{connection}.sock")


def is_listened_at(path: str) -> bool:
    """Whether a daemon has this socket. One that was killed leaves it, and the number of its
    connection may be that of another mount by now."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.setblocking(False)
        try:
            asking.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            pass  # not ours to ask, or too many ask already
        return True


def remove_stale(directory: str) -> None:
    """Remove the sockets of daemons that were killed."""
    for name in os.listdir(directory):
        number, _, rest = name.partition(".")
        path = os.path.join(directory, name)
        # Nobody is about to listen at one either: see `bound`.
        if number.isdigit() and rest == "sock" and not is_listened_at(path):
            with contextlib.suppress(OSError):
                os.unlink(path)


def bound(path: str) -> socket.socket:
    """A socket that listens at `path`, whatever was there. Nobody sees it before it does."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    new = f"{path}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        listening.bind(new)
        os.chmod(new, 0o600)
        listening.listen(64)
        os.rename(new, path)
    except OSError:
        listening.close()
        raise
    return listening


# --- asking -------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What came of one question: an object, or why there is none; which process listens, whose."""

    told: dict[str, Any] | None
    error: Exception | None = None
    pid: int | None = None
    uid: int | None = None


def question(command: str, arguments: dict[str, Any]) -> bytes:
    asked = {"protocol": PROTOCOL, "command": command, **arguments}
    return json.dumps(asked).encode() + b"\n"


def ask(
    path: str | os.PathLike[str], command: str, timeout: float, **arguments: Any
) -> dict[str, Any]:
    """Ask a daemon; `timeout` (seconds) is for the whole exchange.

    Raises OSError when nobody answers in time, ValueError for what is no answer.
    """
    (answer,) = ask_all([os.fspath(path)], question(command, arguments), timeout)
    if answer.told is None:
        raise answer.error or TimeoutError("no answer")
    return answer.told


def ask_all(
    paths: Sequence[str],
    asked: bytes,
    timeout: float,
    is_hopeless: Callable[[int], bool] = lambda _: False,
    is_busy: Callable[[int], bool] = lambda _: False,
) -> list[Answer]:
    """Ask several daemons the same at once, within `timeout` seconds for all. Of each process, by
    its number: those that are hopeless are not waited for, those that are busy, when the time is
    over, for a little longer."""
    deadline = time.monotonic() + timeout
    latest = deadline + _PATIENCE
    exchanges = [_Exchange(path, asked) for path in paths]
    for each in exchanges:
        if each.pid is not None and is_hopeless(each.pid):
            each.error = each.error or TimeoutError("no answer")
    poll = select.poll()
    waiting = {}
    for each in exchanges:
        if each.error is None:
            poll.register(each.connection, select.POLLIN)
            waiting[each.connection.fileno()] = each
    try:
        while waiting:
            left = deadline - time.monotonic()
            ready = poll.poll(max(left, 0) * 1000)
            if not ready and left <= 0:
                busy = [each.pid for each in waiting.values() if each.pid and is_busy(each.pid)]
                if not busy or deadline >= latest:
                    break
                deadline = time.monotonic() + _STEP
            for number, _ in ready:
                if waiting[number].is_over():
                    poll.unregister(number)
                    del waiting[number]
        return [each.answer() for each in exchanges]
    finally:
        for each in exchanges:
            each.connection.close()


class _Exchange:
    """One question and its answer; nothing of it waits."""

    def __init__(self, path: str, asked: bytes) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.error: Exception | None = None
        self.pid: int | None = None
        self.uid: int | None = None
        self._received = bytearray()
        self.connection.setblocking(False)
        try:
            # Of a daemon that takes no questions the queue may be full: BlockingIOError.
            self.connection.connect(path)
            pid, self.uid, _ = peer(self.connection)
            self.pid = pid or None
            self.connection.sendall(asked)
        except OSError as error:
            self.error = error

    def is_over(self) -> bool:
        try:
            part = self.connection.recv(1 << 18)
        except BlockingIOError:
            return False
        except OSError as error:
            self.error = error
            return True
        self._received += part
        if not part or len(self._received) > _MOST_REPLY:
            self.error = ValueError("no whole answer")
            return True
        return self._received.endswith(b"\n")

    def answer(self) -> Answer:
        if self.error is None and not self._received.endswith(b"\n"):
            self.error = TimeoutError("no answer")
        if self.error is not None:
            return Answer(None, self.error, self.pid, self.uid)
        try:
            return Answer(parsed(self._received), None, self.pid, self.uid)
        except ValueError as error:
            return Answer(None, error, self.pid, self.uid)


def parsed(line: bytes | bytearray) -> dict[str, Any]:
    """Raises ValueError for what is not an object of this protocol."""
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    if answer.get("protocol", PROTOCOL) != PROTOCOL:
        raise ValueError(f"the daemon speaks version {answer['protocol']} of the protocol")
    return answer


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the other end; of a listener's end those at the time of listen(2)."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
    pid, uid, gid = PEER.unpack(found)
    return pid, uid, gid


def follow(
    path: str, command: str, timeout: float, arguments: dict[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """The answer to a command that goes on answering, then all that follows, until the daemon ends
    or the caller does. `timeout` (seconds) is for the first.

    Raises OSError when nobody answers in time, ValueError for what is no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(question(command, arguments))
        with connection.makefile("rb") as lines:
            for line in lines:
                connection.settimeout(None)
                if line.endswith(b"\n"):
                    yield parsed(line)
