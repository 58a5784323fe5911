"""Who we are on the server (`idmap=user`), without making anything there.

Protocol 3 does not say. What a Linux server says of its own process does (proc(5), `Uid:` and
`Gid:` of /proc/self/status, the last of the four numbers: what new files get); elsewhere, and where
a login is shut up in a directory without /proc, it is the owner of the login directory, as sshfs
has it. A directory that belongs to root, as one that logins are shut up in must, says nothing of
anybody else.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.remotefs import OpenMode

if TYPE_CHECKING:
    from pysshfs.remote.client import SftpRemote

_STATUS: Final = b"proc/self/status"
_STATUS_BYTES: Final = 4096  # more than there is before the two lines
_ROOT: Final = 0


class Identity(NamedTuple):
    """The server's numbers."""

    uid: int
    gid: int


async def identity(root: SftpRemote, home: SftpRemote, login: str) -> Identity | None:
    """`root` serves the server's "/", `home` the login directory; None when it cannot be told.

    Raises `FilesystemError` when the login directory cannot be looked at.
    """
    found = await _of_process(root)
    if found is not None:
        return found
    owner = await home.stat(b"")
    if owner.uid is None or owner.gid is None or (owner.uid == _ROOT and login != "root"):
        return None
    return Identity(owner.uid, owner.gid)


async def _of_process(root: SftpRemote) -> Identity | None:
    try:
        handle = await root.open(_STATUS, OpenMode.READ)
        reading = root.read(handle, 0, _STATUS_BYTES)
        root.close(handle)
        return parsed(await reading)
    except ConnectionLostError:
        raise
    except FilesystemError:
        return None


def parsed(status: bytes) -> Identity | None:
    """Of what /proc/self/status holds; None for anything else."""
    uid, gid = (
        re.search(rb"^%b:\t\d{1,10}\t\d{1,10}\t\d{1,10}\t(\d{1,10})$" % name, status, re.MULTILINE)
        for name in (b"Uid", b"Gid")
    )
    return None if uid is None or gid is None else Identity(int(uid[1]), int(gid[1]))
