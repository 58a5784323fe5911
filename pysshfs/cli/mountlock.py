"""One mount at a time on one place: two scripts that mount there must not both do so.

The lock is flock(2) on a file in the user's runtime directory, named after the place, held from
before the place is looked at until the mount is made; the kernel releases it if the process ends.
Whoever has it removes the file, and whoever then gets it finds that out and begins anew. It holds
back processes of the same user.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from pathlib import Path
from typing import Self

from pysshfs.cli.control_client import private_directory

log = logging.getLogger(__name__)


class MountLock:
    """Waits until nobody else mounts on this place (an absolute path)."""

    def __init__(self, place: str) -> None:
        self._fd: int | None = None
        try:
            self._path = lock_path(place)
            self._fd = _locked(self._path)
        except OSError as error:
            log.warning("no lock for mounting on %s: %s", place, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def forget(self) -> None:
        """In a child that is not to hold it on."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def release(self) -> None:
        """Once, or again: the end of the `with` does."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = None


def lock_path(place: str) -> Path:
    """Where the lock for a place is, in a directory that is there then. Raises OSError."""
    name = hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
    return Path(private_directory(os.geteuid()), f"{name}.lock")


def _locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the one before has removed it
