"""Data that programs wrote and the server did not take: saved here, so that it is not lost.

What comes here was accepted from a program and cannot be delivered any more: the file was replaced
on the server, the permission was lost, the disk is full, or the daemon ends while the network is
down. For each remote path there is one sparse file, with the bytes at the offsets where they
belong, and beside it `<name>.json`, which says of what it is a part:

    {"source": "me@host:dir", "path": "notes/a%20file", "reason": "...",
     "time": "2026-11-20T13:25:01+00:00", "ranges": [[offset, length], ...]}

The path is relative to the directory of `source`, and percent-escaped, because it may hold any
bytes; so it is in the file's name. Bytes that no range covers were never written here: they are
holes, not zeros.

An `UndeliveredStore` owns the directory's descriptor and the table of files that this mount saved.
The directory may come to lie under the mountpoint, so it is opened before the mount, and afterwards
nothing is reached by a path again. A file is opened anew for each save, for the user may take it
away or change it at any time; what is lost after that begins another one.

Touched by: whoever loses data. Everything is synchronous, and nothing is raised once `open` has
returned: a failure to save is logged, once for each file.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import json
import logging
import os
import pwd
import stat
import string
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Data: TypeAlias = bytes | bytearray | memoryview

log = logging.getLogger(__name__)

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY
_AGAIN: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY | os.O_NONBLOCK
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512  # what st_blocks counts in, whatever the filesystem (stat(2))
_LONGEST_NAME: Final = 200  # bytes, with ".data"; leaves room for ".json" and a temporary suffix
_MOST_NAMES: Final = 1000  # tried for one file
_PLAIN: Final = frozenset((string.ascii_letters + string.digits + "._-").encode())


class UndeliveredStore:
    """What one mount could not deliver."""

    def __init__(self, directory: int | None, path: str, quota: int, source: str, why: str) -> None:
        """Use `open`. `why` says why nothing can be saved when there is no directory."""
        self._directory = directory
        self._path = path
        self._quota = quota
        self._source = source
        self._why_not = why
        self._used = 0
        self._is_full = False
        self._files: dict[bytes, _SavedFile] = {}  # the present one of each remote path
        self._names: list[str] = []  # of all that were begun
        self._complained: set[bytes] = set()

    @classmethod
    def open(
        cls, quota: int, source: str, environ: Mapping[str, str] = os.environ
    ) -> UndeliveredStore:
        """Make the directory and hold it; a warning when that fails, and then nothing is saved.

        `quota` (bytes) is for all that lies in the directory, whichever mount it is of; with 0 no
        directory is made.
        """
        if quota <= 0:
            return cls(None, "", 0, source, "undelivered_quota is 0")
        path = ""
        try:
            path = _place(environ)
            directory = _private_directory(path)
        except (OSError, KeyError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            where = path or "this user has no home directory"
            reason = f"{where}: {why}" if why else where
            log.warning("what the server does not take will be lost, not saved: %s", reason)
            return cls(None, "", quota, source, reason)
        store = cls(directory, path, quota, source, "")
        store._used = _held(directory)
        return store

    def close(self) -> None:
        """Have what was saved survive a power failure, too; from now on nothing is saved."""
        directory, self._directory = self._directory, None
        self._why_not = "the mount has ended"
        if directory is not None:
            for name in self._names:
                with contextlib.suppress(OSError):
                    _synced(os.open(name, _AGAIN, dir_fd=directory))
            with contextlib.suppress(OSError):
                os.fsync(directory)
            os.close(directory)

    def saved(self) -> list[str]:
        """The full paths of what this mount saved, in the order of the losses."""
        return [os.path.join(self._path, name) for name in self._names]

    def save(self, path: bytes, offset: int, data: Data, reason: str) -> None:
        """Keep `data`, which belongs at `offset` of the remote file `path`. Later data wins."""
        self.save_all(path, [(offset, data)], reason)

    def save_all(self, path: bytes, pieces: Iterable[tuple[int, Data]], reason: str) -> None:
        """The same for many pieces, offset and data, in the order in which they were written.

        A hundred times as quick for thousands: the description is written once.
        """
        views = [(offset, memoryview(data).cast("B")) for offset, data in pieces if len(data)]
        if not views or self._is_full:
            return
        if self._directory is None:
            self._complain(path, reason, self._why_not)
            return
        try:
            file, fd = self._opened(self._directory, path, reason)
        except OSError as error:
            self._complain(path, reason, f"{self._path}: {error.strerror}")
            return
        try:
            self._fill(file, fd, views)
            file.state = _state(fd)
            self._settle(self._directory, file)
        except OSError as error:
            log.error("%s.json: it cannot be written: %s", self._shown(file), error.strerror)
        finally:
            os.close(fd)

    def _has_room(self, path: bytes, count: int) -> bool:
        """Whether the quota allows this; once it did not, nothing more is taken."""
        if not self._is_full and self._used + count > self._quota:
            self._is_full = True
            log.error(
                "%s: undelivered_quota (%d bytes) is used up: what the server does not take "
                "is lost from now on, beginning with %d bytes of %s",
                self._path, self._quota, count, escaped(path),
            )  # fmt: skip
        return not self._is_full

    # --- one file ---------------------------------------------------------------------------

    def _opened(self, directory: int, path: bytes, reason: str) -> tuple[_SavedFile, int]:
        """The file of this path, to be written; another one if somebody touched the last."""
        file = self._files.get(path)
        if file is not None:
            with contextlib.suppress(OSError):
                fd = os.open(file.name, _AGAIN, dir_fd=directory)
                if _state(fd) == file.state:
                    return file, fd
                os.close(fd)
        return self._begun(directory, path, reason)

    @staticmethod
    def _begun(directory: int, path: bytes, reason: str) -> tuple[_SavedFile, int]:
        now = datetime.now(UTC)  # a local time would be looked up by a path
        for attempt in range(_MOST_NAMES):
            name = _name(now, path, attempt)
            try:
                fd = os.open(name, _NEW, 0o600, dir_fd=directory)
            except FileExistsError:
                continue
            with contextlib.suppress(OSError):
                os.fchmod(fd, 0o600)  # the umask may have taken away what opens it again
            return _SavedFile(name, path, reason, now), fd
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _fill(self, file: _SavedFile, fd: int, pieces: list[tuple[int, memoryview]]) -> None:
        """Write as much as the quota and the disk take, and note what was written."""
        try:
            for offset, data in pieces:
                if not self._has_room(file.path, file.ranges.missing(offset, offset + len(data))):
                    break
                while data:
                    count = os.pwrite(fd, data, offset)
                    self._used += file.ranges.add(offset, offset + count)
                    data, offset = data[count:], offset + count
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "it lies too far into the file"
            self._complain(file.path, file.reason, f"{self._shown(file)}: {why}")

    def _settle(self, directory: int, file: _SavedFile) -> None:
        """Describe the file as it is now; one that got nothing at all is not kept."""
        if not file.ranges:
            os.unlink(file.name, dir_fd=directory)
            return
        if self._files.get(file.path) is not file:
            self._files[file.path] = file
            self._names.append(file.name)
            log.error(
                "%s: data that the server did not take (%s) is saved in %s",
                escaped(file.path), _printable(file.reason), self._shown(file),
            )  # fmt: skip
        self._describe(directory, file)

    def _describe(self, directory: int, file: _SavedFile) -> None:
        """Write the file's description, whole or not at all."""
        text = json.dumps(
            {
                "source": self._source,
                "path": escaped(file.path),
                "reason": file.reason,
                "time": file.begun.isoformat(timespec="seconds"),
                "ranges": [[start, end - start] for start, end in file.ranges],
            }
        )
        temporary = f"{file.name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        fd = os.open(temporary, _NEW, 0o600, dir_fd=directory)
        with os.fdopen(fd, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
        os.rename(temporary, f"{file.name}.json", src_dir_fd=directory, dst_dir_fd=directory)

    # --- words ------------------------------------------------------------------------------

    def _shown(self, file: _SavedFile) -> str:
        return os.path.join(self._path, file.name)

    def _complain(self, path: bytes, reason: str, why_not: str) -> None:
        """Data is lost: one line for each file."""
        if path not in self._complained:
            self._complained.add(path)
            log.error(
                "%s: data that the server did not take (%s) is lost, it cannot be saved: %s",
                escaped(path), _printable(reason), why_not,
            )  # fmt: skip


class _SavedFile:
    """One file in the directory: a part of what the remote file was to become."""

    def __init__(self, name: str, path: bytes, reason: str, begun: datetime) -> None:
        self.name = name
        self.state: tuple[int, ...] = ()  # as it was left
        self.path = path
        self.reason = reason  # of the first loss
        self.begun = begun
        self.ranges = Ranges()


class Ranges:
    """Which bytes there are: ranges that neither overlap nor touch, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def _touched(self, start: int, end: int) -> slice:
        """Those that overlap or touch the range."""
        return slice(bisect.bisect_left(self._ends, start), bisect.bisect_right(self._starts, end))

    def missing(self, start: int, end: int) -> int:
        """How many bytes of the range there are not."""
        touched = self._touched(start, end)
        there = zip(self._starts[touched], self._ends[touched], strict=True)
        return end - start - sum(min(last, end) - max(first, start) for first, last in there)

    def add(self, start: int, end: int) -> int:
        """Add a range; the count of bytes that were not there before."""
        added = self.missing(start, end)
        touched = self._touched(start, end)
        start = min([start, *self._starts[touched]])
        end = max([end, *self._ends[touched]])
        self._starts[touched] = [start]
        self._ends[touched] = [end]
        return added


# --- names --------------------------------------------------------------------------------------


def escaped(path: bytes) -> str:
    """A path as readable ASCII, with %XX for what is special; its bytes can be had back."""
    return "".join(chr(byte) if byte in _PLAIN or byte == 0x2F else f"%{byte:02X}" for byte in path)


def _name(now: datetime, path: bytes, attempt: int) -> str:
    """The end of a long path is kept: it says most. `.data` keeps clear of the descriptions."""
    before = f"{now:%Y%m%dT%H%M%SZ}-{os.getpid()}-"
    after = f"-{attempt}.data" if attempt else ".data"
    middle = escaped(path).replace("/", "%2F")
    cut = max(len(before) + len(middle) + len(after) - _LONGEST_NAME, 0)
    while cut and "%" in middle[max(cut - 2, 0) : cut]:
        cut += 1  # not in the middle of an escape
    return before + middle[cut:] + after


def _printable(text: str) -> str:
    """What a server said must not forge a line of the log."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


# --- the directory ------------------------------------------------------------------------------


def _place(environ: Mapping[str, str]) -> str:
    """Where it is by the XDG base directory specification; KeyError for a user without a home."""
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # as the specification has it
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            home = pwd.getpwuid(os.geteuid()).pw_dir
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "pysshfs", "undelivered")


def _private_directory(path: str) -> int:
    """A descriptor of the directory, made if need be. Raises OSError, also if it is not ours."""
    _make(path)
    directory = os.open(path, _DIRECTORY)
    try:
        found = os.fstat(directory)
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(directory, 0o700)
        # What cannot be written to is better known now than when there is something to save.
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory, effective_ids=True):
            raise PermissionError(errno.EACCES, "it cannot be written to")
    except BaseException:
        os.close(directory)
        raise
    return directory


def _make(path: str) -> None:
    """Make it and what is missing above it, for this user alone."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another mount was quicker
            os.mkdir(each, 0o700)
            os.chmod(each, 0o700)  # whatever the umask took away


def _held(directory: int) -> int:
    """How many bytes lie in the directory already."""
    with os.scandir(directory) as entries:
        return sum(_allocated(entry) for entry in entries)


def _allocated(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return 0  # taken away just now
    return found.st_blocks * _BLOCK if stat.S_ISREG(found.st_mode) else 0


def _state(fd: int) -> tuple[int, ...]:
    """What tells a file from another, and from what somebody made of it: numbers are reused."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _synced(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
