"""The demo's SFTP server with a few directories and files that are not what they seem.

At the top of what it serves, beside what is there:

- `endless`: a directory whose listing never ends,
- `bottomless`: a directory with a directory `d` in it, in which there is a directory `d`,
- `strange`: a directory that lists names which cannot be, and `good`,
- `stalled`: a directory of 1,000 names, and 1,000 more after SIGUSR1.

A file whose name begins with `short` seems to be a million bytes longer than it is.

`python -m tests.support.odd_server serve` takes what `python -m pysshfs.demo serve` takes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import asyncssh

from pysshfs import demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MORE = 1_000_000
_STRANGE = (b"", b"a/b", b"../up", b"x" * 256, b"good", b"good", b".", b"..", b"nul\0")


_signalled = asyncio.Event()


def _attributes(kind: int) -> asyncssh.SFTPAttrs:
    now = int(time.time())
    return asyncssh.SFTPAttrs(
        permissions=kind | 0o755, size=0, uid=os.geteuid(), gid=os.getegid(), atime=now, mtime=now
    )


def _name(name: bytes, kind: int = stat.S_IFREG) -> asyncssh.SFTPName:
    return asyncssh.SFTPName(name, name, _attributes(kind))


class OddFolder(demo._Folder):
    """See above."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: bytes) -> None:
        super().__init__(channel, root)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _signalled.set)

    def _invented(self, path: bytes) -> bool:
        parts = path.strip(b"/").split(b"/")
        if parts[0] == b"bottomless":
            return set(parts[1:]) <= {b"d"}
        return parts in ([b"endless"], [b"strange"], [b"stalled"])

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        first = path.strip(b"/").split(b"/")[0]
        if not self._invented(path):
            async for name in super().scandir(path):
                yield name
        elif first == b"endless":
            for number in itertools.count():
                yield _name(b"%d" % number)
        elif first == b"bottomless":
            yield _name(b"d", stat.S_IFDIR)
        elif first == b"strange":
            for each in _STRANGE:
                yield _name(each)
        else:
            for number in range(2000):
                if number == 1000:
                    await _signalled.wait()
                yield _name(b"%04d" % number)

    def lstat(self, path: bytes) -> Any:
        if self._invented(path):
            return _attributes(stat.S_IFDIR)
        return self._longer(super().lstat(path), path)

    def stat(self, path: bytes) -> Any:
        return self.lstat(path)

    def fstat(self, file_obj: Any) -> Any:
        return self._longer(super().fstat(file_obj), os.fsencode(file_obj.name))

    @staticmethod
    def _longer(found: Any, path: bytes) -> Any:
        if not os.path.basename(path).startswith(b"short"):
            return found
        told = asyncssh.SFTPAttrs.from_local(found)
        told.size = (told.size or 0) + _MORE
        return told


if __name__ == "__main__":
    with mock.patch.object(demo, "_Folder", OddFolder):
        sys.exit(demo.main())
