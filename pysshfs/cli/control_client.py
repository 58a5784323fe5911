"""The control socket from outside: where a daemon's socket lies, and how it is asked.

One unix socket for each mount, named after its FUSE connection number, in a directory that belongs
to the mounting user alone. A question is one JSON object on a line, and so is the answer. Standard
library only; never touches a mount.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any, Final

_MOST_REPLY: Final = 4 * 1024 * 1024  # bytes


def runtime_directory(uid: int) -> Path:
    """Where the sockets of this user's mounts lie.

    Root of a user namespace is root only if /run is its own, as in a container; otherwise it is the
    user who made the namespace, under another number (user_namespaces(7)).
    """
    if uid == 0 and os.stat("/run").st_uid == 0:
        return Path("/run/pysshfs")
    if uid == 0:
        uid = outer_number(uid, Path("/proc/self/uid_map").read_text())
    session = Path(f"/run/user/{uid}")
    return session / "pysshfs" if session.is_dir() else Path(f"/tmp/pysshfs-{uid}")


def outer_number(uid: int, uid_map: str) -> int:
    """The user's number outside of the namespace that has this map."""
    for line in uid_map.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def private_directory(uid: int) -> Path:
    """The runtime directory, made if need be. Raises OSError when it is not ours alone: /tmp is
    everybody's."""
    path = runtime_directory(uid)
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not a private directory of this user")
    return path


def socket_path(connection: int, uid: int) -> Path:
    return runtime_directory(uid) / f"{connection}.sock"


def ask(path: Path, command: str, timeout: float) -> dict[str, Any]:
    """Ask a daemon; `timeout` (seconds) is for the whole exchange.

    Raises OSError when nobody answers in time, ValueError for what is no answer.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(os.fspath(path))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        received = bytearray()
        while not received.endswith(b"\n"):
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            part = connection.recv(65536)
            if not part or len(received) > _MOST_REPLY:
                raise ValueError("no whole answer")
            received += part
    answer = json.loads(received)
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    return answer
