"""The file-system contract, as functions that look at it from a program's side.

Each of CHECKS runs in an empty directory, its process's working directory, and asserts what any
Linux file system grants; the tests run them on the mount and, to judge the checks themselves, in a
local directory. ON_MOUNT are those for what is SFTP's or FUSE's own way. Times are compared in
whole seconds: SFTP has no finer ones. Standard library only; no module of the program.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import pickle
import random
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

_libc: Final = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_UTIME_NOW: Final = (1 << 30) - 1
_UTIME_OMIT: Final = (1 << 30) - 2
_RENAME_NOREPLACE: Final = 1
_RENAME_EXCHANGE: Final = 2
_LONG_AGO: Final = 1_000_000_000

# --- tools --------------------------------------------------------------------------------------


def same(got: object, wanted: object) -> None:
    assert got == wanted, f"{got!r:.500}, not {wanted!r:.500}"


def fails(number: int | tuple[int, ...], function: Callable[P, object], *args: P.args,
          **kwargs: P.kwargs) -> None:  # fmt: skip
    """The call fails, with this errno or one of these."""
    numbers = number if isinstance(number, tuple) else (number,)
    wanted = [errno.errorcode[each] for each in numbers]
    try:
        function(*args, **kwargs)
    except OSError as error:
        assert error.errno in numbers, f"{error}, not {wanted}"
    else:
        raise AssertionError(f"{function} succeeded, instead of {wanted}")


def put(name: str | bytes, data: bytes = b"") -> None:
    with open(name, "wb") as file:
        file.write(data)


def get(name: str | bytes) -> bytes:
    with open(name, "rb") as file:
        return file.read()


def mode_of(name: str | int) -> int:
    return stat.S_IMODE(os.stat(name).st_mode)


@contextlib.contextmanager
def opened(name: str | bytes, flags: int, mode: int = 0o644) -> Any:
    fd = os.open(name, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def checked(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def renameat2(old: str, new: str, flags: int) -> None:
    checked(_libc.renameat2(_AT_FDCWD, old.encode(), _AT_FDCWD, new.encode(), flags))


class Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def utimensat(name: str, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """os.utime knows neither UTIME_NOW nor UTIME_OMIT."""
    times = (Timespec * 2)(Timespec(*atime), Timespec(*mtime))
    checked(_libc.utimensat(_AT_FDCWD, name.encode(), times, flags))


class Peer:
    """Another process, made before anything is open: so it shares no descriptor, and a call that
    it makes closes none."""

    def __init__(self) -> None:
        questions, self._ask = os.pipe()
        self._hear, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._ask)
            os.close(self._hear)
            self._serve(questions, answers)
        os.close(questions)
        os.close(answers)
        self._answers = os.fdopen(self._hear, "rb")

    @staticmethod
    def _serve(questions: int, answers: int) -> None:
        with open(questions, "rb") as asked:
            while True:
                try:
                    function, args = pickle.load(asked)
                except EOFError:
                    os._exit(0)
                try:
                    answer = True, function(*args)
                except Exception as error:
                    answer = False, error
                os.write(answers, pickle.dumps(answer))

    def begin(self, function: Callable[..., object], *args: object) -> None:
        os.write(self._ask, pickle.dumps((function, args)))

    def end(self) -> Any:
        good, answer = pickle.load(self._answers)
        if not good:
            raise answer
        return answer

    def call(self, function: Callable[..., T], *args: object) -> T:
        self.begin(function, *args)
        answer: T = self.end()
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._ask)
        self._answers.close()
        os.waitpid(self._pid, 0)


# --- opening and creating -----------------------------------------------------------------------


def exclusive_creation() -> None:
    with opened("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY) as fd:
        os.write(fd, b"mine")
    os.mkdir("directory")
    os.symlink("nowhere", "dangling")
    for name in ("file", "directory", "dangling"):
        fails(errno.EEXIST, os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    same(get("file"), b"mine")
    fails(errno.ENOENT, os.stat, "nowhere")


def creation_without_exclusion() -> None:
    put("file", b"content")
    with opened("file", os.O_CREAT | os.O_RDWR, 0o600) as fd:
        same(os.read(fd, 100), b"content")
    same(mode_of("file"), 0o644)
    os.symlink("made", "link")
    put("link", b"through the link")
    same(get("made"), b"through the link")
    assert os.path.islink("link")
    with opened("unwritable", os.O_CREAT | os.O_WRONLY, 0o400) as fd:
        os.write(fd, b"by its creator")
    same(get("unwritable"), b"by its creator")


def opening_what_cannot_be_opened() -> None:
    put("file")
    os.mkdir("directory")
    fails(errno.ENOENT, os.open, "missing", os.O_RDONLY)
    fails(errno.ENOENT, os.open, "missing/file", os.O_CREAT | os.O_WRONLY)
    fails(errno.ENOTDIR, os.open, "file/below", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, "file", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.open, "directory", os.O_WRONLY)
    fails(errno.EISDIR, os.open, "directory", os.O_CREAT | os.O_WRONLY)
    os.symlink("file", "link")
    fails(errno.ELOOP, os.open, "link", os.O_RDONLY | os.O_NOFOLLOW)
    os.symlink("loop", "loop")
    fails(errno.ELOOP, os.open, "loop", os.O_RDONLY)
    with opened("file", os.O_RDONLY) as fd:
        fails(errno.EBADF, os.write, fd, b"x")
    with opened("file", os.O_WRONLY) as fd:
        fails(errno.EBADF, os.read, fd, 1)
    with opened("directory", os.O_RDONLY) as fd:
        fails(errno.EISDIR, os.read, fd, 1)


def truncation_by_open() -> None:
    put("file", b"x" * 10_000)
    with opened("file", os.O_WRONLY | os.O_TRUNC) as fd:
        same(os.fstat(fd).st_size, 0)
        same(os.stat("file").st_size, 0)
        os.write(fd, b"new")
    same(get("file"), b"new")
    with opened("file", os.O_RDWR) as fd:
        os.write(fd, b"buffered data that must not come back")
        with opened("file", os.O_WRONLY | os.O_TRUNC):
            pass
        same(os.pread(fd, 100, 0), b"")
    same(get("file"), b"")


def appending() -> None:
    put("file", b"one\n")
    with opened("file", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"two\n")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"three\n")
        same(os.lseek(fd, 0, os.SEEK_CUR), 14)
        # As open(2) warns: on Linux pwrite appends, too.
        os.pwrite(fd, b"four\n", 0)
        os.ftruncate(fd, 8)
        os.write(fd, b"five\n")
    same(get("file"), b"one\ntwo\nfive\n")
    with opened("file", os.O_RDWR | os.O_APPEND | os.O_CREAT) as fd:
        same(os.read(fd, 4), b"one\n")
        os.write(fd, b"six\n")
        same(os.pread(fd, 100, 0), b"one\ntwo\nfive\nsix\n")


def _append_lines(name: str, tag: str, count: int) -> None:
    with opened(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
        for number in range(count):
            os.write(fd, f"{tag} {number:05d} {'.' * (number % 90)}\n".encode())
            if number % 100 == 99:
                os.fsync(fd)


def appending_by_two_processes() -> None:
    put("log")
    with Peer() as one, Peer() as other:
        one.begin(_append_lines, "log", "one", 1500)
        other.begin(_append_lines, "log", "other", 1500)
        one.end()
        other.end()
    lines = get("log").decode().splitlines()
    for tag in ("one", "other"):
        own = [line for line in lines if line.startswith(f"{tag} ")]
        same(own, [f"{tag} {n:05d} {'.' * (n % 90)}" for n in range(1500)])
    same(len(lines), 3000)


def modes_under_every_umask() -> list[tuple[str, int]]:
    """Gives the modes that files and directories get; they must be those of a local directory."""
    found = []
    for mask in (0, 0o002, 0o022, 0o027, 0o077, 0o777):
        before = os.umask(mask)
        for mode in (0o777, 0o666, 0o644, 0o600, 0o400, 0o4755):
            name = f"{mask:o}-{mode:o}"
            os.close(os.open(f"f{name}", os.O_CREAT | os.O_WRONLY, mode))
            os.mkdir(f"d{name}", mode)
            os.mknod(f"n{name}", mode | stat.S_IFREG)
            found += [(f"{kind}{name}", mode_of(f"{kind}{name}")) for kind in "fdn"]
        os.umask(before)
    os.mkdir("set-group-id")
    os.chown("set-group-id", -1, 12)
    os.chmod("set-group-id", 0o2775)
    put("set-group-id/file")
    os.mkdir("set-group-id/directory")
    for name in ("set-group-id/file", "set-group-id/directory"):
        found += [(name, mode_of(name)), (f"{name}'s group", os.stat(name).st_gid)]
    return found


# --- names --------------------------------------------------------------------------------------


def directories() -> None:
    os.mkdir("one")
    os.mkdir("one/two")
    fails(errno.EEXIST, os.mkdir, "one")
    put("file")
    fails(errno.EEXIST, os.mkdir, "file")
    fails(errno.ENOENT, os.mkdir, "missing/directory")
    fails(errno.ENOTDIR, os.mkdir, "file/directory")
    fails(errno.ENOTEMPTY, os.rmdir, "one")
    fails(errno.ENOTDIR, os.rmdir, "file")
    fails(errno.ENOENT, os.rmdir, "missing")
    fails(errno.EINVAL, os.rmdir, "one/.")
    fails(errno.ENOTEMPTY, os.rmdir, "one/two/..")
    fails(errno.EISDIR, os.unlink, "one")
    fails(errno.ENOENT, os.unlink, "missing")
    fails(errno.ENOTDIR, os.unlink, "file/below")
    os.rmdir("one/two")
    same(os.listdir("one"), [])
    os.rmdir("one")
    fails(errno.ENOENT, os.stat, "one")
    same(os.listdir(), ["file"])


def a_removed_directory_that_is_still_open() -> None:
    os.mkdir("gone")
    with opened("gone", os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.rmdir("gone")
        fails(errno.ENOENT, os.open, "file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        fails(errno.ENOENT, os.stat, "file", dir_fd=fd)
    os.mkdir("gone")
    put("gone/file", b"in the new one")
    same(os.listdir("gone"), ["file"])


def renaming() -> None:
    put("a", b"a")
    os.rename("a", "b")
    fails(errno.ENOENT, os.stat, "a")
    same(get("b"), b"b".replace(b"b", b"a"))
    put("c", b"c")
    os.rename("b", "c")
    same((get("c"), os.listdir()), (b"a", ["c"]))
    os.rename("c", "c")
    same(get("c"), b"a")
    fails(errno.ENOENT, os.rename, "missing", "c")
    fails(errno.ENOENT, os.rename, "c", "missing/c")
    fails(errno.ENOTDIR, os.rename, "c", "c/c")
    for name in ("empty", "full", "moved"):
        os.mkdir(name)
    put("full/inside", b"1")
    put("moved/passenger", b"2")
    fails(errno.EISDIR, os.rename, "c", "empty")
    fails(errno.ENOTDIR, os.rename, "moved", "c")
    fails((errno.ENOTEMPTY, errno.EEXIST), os.rename, "moved", "full")
    fails(errno.EINVAL, os.rename, "moved", "moved/deeper")
    os.rename("moved", "empty")
    same(get("empty/passenger"), b"2")
    os.rename("empty/passenger", "full/passenger")
    same(sorted(os.listdir("full")), ["inside", "passenger"])
    same(os.listdir("empty"), [])
    os.symlink("c", "link")
    os.rename("link", "link2")
    same(os.readlink("link2"), "c")
    os.rename("c", "link2")
    same(stat.S_IFMT(os.lstat("link2").st_mode), stat.S_IFREG)


def renaming_what_is_open() -> None:
    """Neither the renamed nor the replaced file loses what was written, before or after."""
    with opened("old", os.O_CREAT | os.O_RDWR) as fd, opened("new", os.O_CREAT | os.O_RDWR) as over:
        os.write(fd, b"before ")
        os.write(over, b"replaced ")
        os.rename("old", "new")
        os.write(fd, b"after")
        os.write(over, b"and alive")
        same(os.pread(fd, 100, 0), b"before after")
        same(os.pread(over, 100, 0), b"replaced and alive")
        same(os.fstat(over).st_size, 18)
        os.ftruncate(over, 8)
        same(os.pread(over, 100, 0), b"replaced")
        same((os.stat("new").st_size, os.fstat(fd).st_size), (12, 12))
    same(get("new"), b"before after")


def renaming_directories_with_open_files() -> None:
    os.makedirs("one/two")
    with opened("one/two/file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before")
        os.rename("one", "renamed")
        os.write(fd, b" after")
        same(os.fstat(fd).st_size, 12)
        same(get("renamed/two/file"), b"before after")
        os.chmod("renamed/two/file", 0o600)
        same(stat.S_IMODE(os.fstat(fd).st_mode), 0o600)
        put("renamed/two/other")
    same(sorted(os.listdir("renamed/two")), ["file", "other"])
    fails(errno.ENOENT, os.stat, "one")
    os.mkdir("one")
    same(os.listdir("one"), [])


def renaming_without_replacing() -> None:
    put("a", b"a")
    put("b", b"b")
    fails(errno.EEXIST, renameat2, "a", "b", _RENAME_NOREPLACE)
    same((get("a"), get("b")), (b"a", b"b"))
    renameat2("a", "c", _RENAME_NOREPLACE)
    same((get("c"), sorted(os.listdir())), (b"a", ["b", "c"]))
    os.mkdir("directory")
    put("directory/file")
    fails(errno.EEXIST, renameat2, "c", "directory", _RENAME_NOREPLACE)
    renameat2("directory", "moved", _RENAME_NOREPLACE)
    same(os.listdir("moved"), ["file"])
    fails(errno.ENOENT, renameat2, "missing", "d", _RENAME_NOREPLACE)


def exchanging_is_refused() -> None:
    """SFTP cannot; nothing is changed."""
    put("a", b"a")
    put("b", b"b")
    fails(errno.EINVAL, renameat2, "a", "b", _RENAME_EXCHANGE)
    same((get("a"), get("b")), (b"a", b"b"))


def hard_links() -> None:
    put("one", b"content")
    os.link("one", "two")
    same(get("two"), b"content")
    fails(errno.EEXIST, os.link, "one", "two")
    fails(errno.ENOENT, os.link, "missing", "three")
    os.mkdir("directory")
    fails(errno.EPERM, os.link, "directory", "three")
    with opened("two", os.O_WRONLY | os.O_TRUNC) as fd:
        os.write(fd, b"changed")
    same(get("one"), b"changed")
    os.unlink("one")
    same(get("two"), b"changed")
    with opened("new", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"buffered")
        os.link("new", "newer")
        same(get("newer"), b"buffered")
    os.symlink("two", "link")
    os.link("link", "link2", follow_symlinks=False)
    same(os.readlink("link2"), "two")


def symlinks() -> None:
    targets = [b"file", b"../up", b"../up/and/on", b"a//b/./c/", b"\xff\xfe \n", b"x" * 255]
    targets += [b"/".join([b"y" * 100] * 40)]
    for number, target in enumerate(targets):
        os.symlink(target, b"link%d" % number)
        same(os.readlink(b"link%d" % number), target)
        same(os.lstat(b"link%d" % number).st_size, len(target))
    fails(errno.EEXIST, os.symlink, "other", "link0")
    put("file", b"reached")
    same(get("link0"), b"reached")
    fails(errno.EINVAL, os.readlink, "file")
    fails(errno.ENOENT, os.readlink, "missing")
    fails(errno.ENOENT, os.stat, "link3")
    os.unlink("link0")
    same(get("file"), b"reached")
    os.symlink("other", "link0")
    same(os.readlink("link0"), "other")


def every_name() -> None:
    """All bytes but / and NUL, alone and inside; 255 of them; listed as they were made."""
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += [b"in" + bytes([byte]) + b"side" for byte in range(1, 256) if byte not in b"/"]
    names += [b"...", b"..x", b".x", b" ", b"-", b"n" * 255, "ö".encode() * 127, b"\xff" * 255]
    names = sorted(set(names))
    for name in names:
        put(name, name)
    same(sorted(os.listdir(b".")), names)
    for name in names:
        same(get(name), name)
        os.rename(name, b"moved")
        same(get(b"moved"), name)
        os.unlink(b"moved")
    same(os.listdir(), [])
    long = "n" * 256
    calls: tuple[Callable[[str], object], ...] = (os.stat, os.mkdir, os.mknod, os.unlink, os.rmdir)
    for call in calls:
        fails(errno.ENAMETOOLONG, call, long)
    fails(errno.ENAMETOOLONG, os.open, long, os.O_CREAT | os.O_WRONLY)
    fails(errno.ENAMETOOLONG, os.symlink, "target", long)
    put("short")
    fails(errno.ENAMETOOLONG, os.rename, "short", long)
    fails(errno.ENAMETOOLONG, os.stat, "x/" * 2100)


# --- listing ------------------------------------------------------------------------------------


def removing_while_listing() -> None:
    """Every name that stays is seen once, whatever is removed meanwhile."""
    wanted = {f"{number:04d}" for number in range(1500)}
    for name in wanted:
        put(name)
    seen = []
    with os.scandir() as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.name)
    same(sorted(seen), sorted(wanted))
    same(os.listdir(), [])


class Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


class Listing:
    """opendir(3) and what belongs to it."""

    def __init__(self, name: str) -> None:
        for function in ("opendir", "readdir"):
            getattr(_libc, function).restype = ctypes.c_void_p
        _libc.telldir.restype = ctypes.c_long
        stream = _libc.opendir(name.encode())
        checked(-1 if stream is None else 0)
        self._stream = ctypes.c_void_p(stream)

    def next(self) -> bytes | None:
        found = _libc.readdir(self._stream)
        return bytes(Dirent.from_address(found).d_name) if found else None

    def rest(self) -> list[bytes]:
        return list(iter(self.next, None))

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, ctypes.c_long(position))

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def close(self) -> None:
        checked(_libc.closedir(self._stream))


def rewinding_and_seeking() -> None:
    os.mkdir("directory")
    for number in range(700):
        put(f"directory/{number:03d}")
    listing = Listing("directory")
    order: list[bytes] = []
    positions = [listing.tell()]
    while (name := listing.next()) is not None:
        order.append(name)
        positions.append(listing.tell())
    same(len(set(order)), 702)
    for index in (0, 1, 2, 350, 699, 701, 702, 5):
        listing.seek(positions[index])
        same(listing.rest(), order[index:])
    put("directory/late")
    os.unlink("directory/000")
    listing.rewind()
    again = listing.rest()
    same(sorted(again), sorted({*order, b"late"} - {b"000"}))
    listing.close()


def listing_with_types_and_numbers() -> None:
    """What a listing says of its entries is what stat says."""
    put("file")
    os.mkdir("directory")
    os.symlink("nowhere", "link")
    with os.scandir() as entries:
        for entry in entries:
            found = os.lstat(entry.name)
            same(entry.inode(), found.st_ino)
            same(entry.is_dir(follow_symlinks=False), stat.S_ISDIR(found.st_mode))
            same(entry.is_file(follow_symlinks=False), stat.S_ISREG(found.st_mode))
            same(entry.is_symlink(), stat.S_ISLNK(found.st_mode))
    listing = Listing(".")
    assert {b".", b".."} <= set(listing.rest())
    listing.close()


def names_in_huge(directory: str) -> list[int]:
    """How many names a directory lists, and how many different ones."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    return [len(names), len(set(names))]


def numbers_in_huge(directory: str, first: int, last: int) -> None:
    """What a listing says of a name, by itself or when it is asked for, is what stat says."""
    with os.scandir(directory) as entries:
        for entry in itertools.islice(entries, first, last):
            found = os.lstat(f"{directory}/{entry.name}")
            same((entry.inode(), entry.is_file(), found.st_size), (found.st_ino, True, 0))


# --- attributes ---------------------------------------------------------------------------------


def changing_modes() -> None:
    put("file")
    os.mkdir("directory")
    for mode in (0, 0o777, 0o640, 0o4755, 0o2755, 0o1777, 0o7777, 0o644):
        for name in ("file", "directory"):
            os.chmod(name, mode)
            same(mode_of(name), mode)
    with opened("file", os.O_RDWR) as fd:
        os.fchmod(fd, 0o604)
        same((mode_of(fd), mode_of("file")), (0o604, 0o604))
        os.unlink("file")
        os.fchmod(fd, 0o606)
        same(mode_of(fd), 0o606)
    fails(errno.ENOENT, os.chmod, "missing", 0o644)
    os.symlink("missing", "dangling")
    fails(errno.ENOENT, os.chmod, "dangling", 0o644)


def changing_owners() -> None:
    put("file")
    os.symlink("file", "link")

    def owner(name: str) -> tuple[int, int]:
        found = os.lstat(name)
        return found.st_uid, found.st_gid

    os.chown("file", 12, 34)
    same(owner("file"), (12, 34))
    os.chown("file", 56, -1)
    same(owner("file"), (56, 34))
    os.chown("file", -1, 78)
    same(owner("file"), (56, 78))
    same(owner("link"), (0, 0))
    os.chown("link", 90, 91, follow_symlinks=False)
    same((owner("link"), owner("file")), ((90, 91), (56, 78)))
    with opened("file", os.O_RDWR) as fd:
        os.write(fd, b"buffered")
        os.fchown(fd, 1, 2)
        same(owner("file"), (1, 2))
    same(get("file"), b"buffered")


def _times(name: str) -> tuple[int, int]:
    found = os.lstat(name)
    return int(found.st_atime), int(found.st_mtime)


def setting_times() -> None:
    put("file")
    os.mkdir("directory")
    for name in ("file", "directory"):
        os.utime(name, (_LONG_AGO, _LONG_AGO + 1))
        same(_times(name), (_LONG_AGO, _LONG_AGO + 1))
        utimensat(name, (_LONG_AGO + 2, 0), (0, _UTIME_OMIT))
        same(_times(name), (_LONG_AGO + 2, _LONG_AGO + 1))
        utimensat(name, (0, _UTIME_OMIT), (_LONG_AGO + 3, 0))
        same(_times(name), (_LONG_AGO + 2, _LONG_AGO + 3))
        utimensat(name, (0, _UTIME_OMIT), (0, _UTIME_OMIT))
        same(_times(name), (_LONG_AGO + 2, _LONG_AGO + 3))
        utimensat(name, (0, _UTIME_NOW), (0, _UTIME_OMIT))
        atime, mtime = _times(name)
        same(mtime, _LONG_AGO + 3)
        assert abs(atime - time.time()) < 5
        utimensat(name, (_LONG_AGO, 0), (0, _UTIME_NOW))
        atime, mtime = _times(name)
        same(atime, _LONG_AGO)
        assert abs(mtime - time.time()) < 5
        os.utime(name)
        assert all(abs(each - time.time()) < 5 for each in _times(name))
    for seconds in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        os.utime("file", (seconds, seconds))
        same(_times("file"), (seconds, seconds))


def setting_times_of_what_is_open() -> None:
    """Times that were set stay, whatever data is still on its way."""
    with opened("file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"buffered")
        os.utime(fd, (_LONG_AGO, _LONG_AGO))
        same(_times("file"), (_LONG_AGO, _LONG_AGO))
    same(_times("file"), (_LONG_AGO, _LONG_AGO))
    same(get("file"), b"buffered")


def setting_times_of_symlinks() -> None:
    put("file")
    os.utime("file", (_LONG_AGO, _LONG_AGO))
    os.symlink("file", "link")
    os.utime("link", (_LONG_AGO + 5, _LONG_AGO + 6), follow_symlinks=False)
    same((_times("link")[1], _times("file")), (_LONG_AGO + 6, (_LONG_AGO, _LONG_AGO)))
    utimensat("link", (0, _UTIME_OMIT), (_LONG_AGO + 7, 0), _AT_SYMLINK_NOFOLLOW)
    same((_times("link")[1], _times("file")), (_LONG_AGO + 7, (_LONG_AGO, _LONG_AGO)))
    same(os.readlink("link"), "file")
    os.utime("link", (_LONG_AGO + 8, _LONG_AGO + 9))
    same((_times("link")[1], _times("file")[1]), (_LONG_AGO + 7, _LONG_AGO + 9))


def truncating() -> None:
    put("file", bytes(range(256)) * 16)
    os.truncate("file", 100)
    same(get("file"), bytes(range(100)))
    os.truncate("file", 200)
    same(get("file"), bytes(range(100)) + bytes(100))
    with opened("file", os.O_RDWR) as fd:
        same(os.pread(fd, 500, 0), bytes(range(100)) + bytes(100))
        os.pwrite(fd, b"tail", 300)
        os.ftruncate(fd, 302)
        same(os.fstat(fd).st_size, 302)
        same(os.pread(fd, 500, 200), bytes(100) + b"ta")
        os.ftruncate(fd, 0)
        os.ftruncate(fd, 1 << 20)
        same(os.pread(fd, 10, 1 << 19), bytes(10))
        same(os.stat("file").st_size, 1 << 20)
    same(os.stat("file").st_size, 1 << 20)
    fails(errno.EINVAL, os.truncate, "file", -1)
    os.mkdir("directory")
    fails(errno.EISDIR, os.truncate, "directory", 0)
    fails(errno.ENOENT, os.truncate, "missing", 0)
    with opened("file", os.O_RDONLY) as fd:
        fails(errno.EINVAL, os.ftruncate, fd, 5)


def access_checks() -> None:
    """For root, who runs this: only that a file without any x bit cannot be run."""
    put("file")
    os.mkdir("directory")
    os.chmod("file", 0o644)
    assert os.access("file", os.F_OK | os.R_OK | os.W_OK)
    assert not os.access("file", os.X_OK)
    os.chmod("file", 0o744)
    assert os.access("file", os.X_OK)
    assert os.access("directory", os.R_OK | os.W_OK | os.X_OK)
    assert not os.access("missing", os.F_OK)
    put("program", b"#!/bin/sh\nexit 3\n")
    fails(errno.EACCES, os.execv, "./program", ["program"])
    os.chmod("program", 0o755)
    same(os.waitstatus_to_exitcode(os.system("./program")), 3)


def file_system_figures() -> None:
    found = os.statvfs(".")
    assert found.f_blocks > 0 and found.f_bsize > 0 and 0 <= found.f_bfree <= found.f_blocks
    same(found.f_namemax, 255)
    with opened("file", os.O_CREAT | os.O_RDONLY) as fd:
        same(os.fstatvfs(fd).f_blocks, found.f_blocks)


def blocks_and_link_counts() -> None:
    """No holes for tar and du to see; 1 is what find takes for a count that is not known."""
    for size in (0, 1, 512, 513, 100_000):
        put("file", b"x" * size)
        same(os.stat("file").st_blocks, -(-size // 512))
    os.mkdir("directory")
    os.mkdir("directory/sub")
    os.link("file", "other")
    same([os.stat(name).st_nlink for name in ("file", "other", "directory")], [1, 1, 1])


def numbers_that_stay() -> None:
    """An inode keeps its number when the kernel forgets it, and when it is renamed."""
    os.makedirs("one/two")
    names = ["file", "one", "one/two", "one/two/file", "link"]
    put("file")
    put("one/two/file")
    os.symlink("file", "link")
    before = {name: os.lstat(name).st_ino for name in names}
    same(len(set(before.values())), len(names))
    Path("/proc/sys/vm/drop_caches").write_text("2")
    same({name: os.lstat(name).st_ino for name in names}, before)
    os.rename("file", "renamed")
    os.rename("one", "first")
    moved = {"file": "renamed"} | {name: name.replace("one", "first") for name in names[1:]}
    same({name: os.lstat(moved[name]).st_ino for name in names}, before)
    put("file")
    assert os.stat("file").st_ino not in before.values()
    fresh = os.stat("file").st_ino
    Path("/proc/sys/vm/drop_caches").write_text("2")
    same({name: os.lstat(moved[name]).st_ino for name in names}, before)
    same(os.stat("file").st_ino, fresh)


# --- data ---------------------------------------------------------------------------------------


def using_what_was_unlinked() -> None:
    with opened("file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"before ")
        os.unlink("file")
        os.write(fd, b"after")
        same(os.pread(fd, 100, 0), b"before after")
        same(os.fstat(fd).st_size, 12)
        os.ftruncate(fd, 6)
        same((os.pread(fd, 100, 0), os.fstat(fd).st_size), (b"before", 6))
        os.utime(fd, (_LONG_AGO, _LONG_AGO))
        same(int(os.fstat(fd).st_mtime), _LONG_AGO)
        fails(errno.ENOENT, os.stat, "file")
        put("file", b"another")
        same(os.pread(fd, 100, 0), b"before")
        os.fsync(fd)
    same(get("file"), b"another")
    with opened("file", os.O_RDONLY) as fd:
        os.unlink("file")
        same(os.read(fd, 100), b"another")
    same(os.listdir(), [])


def sparse_files() -> None:
    far = 5 << 30
    with opened("file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", far)
        same(os.fstat(fd).st_size, far + 3)
        same(os.pread(fd, 10, far - 4), bytes(4) + b"end")
        same(os.pread(fd, 10, 1 << 30), bytes(10))
        same(os.lseek(fd, 0, os.SEEK_END), far + 3)
        os.pwrite(fd, b"begin", 0)
        same(os.lseek(fd, 0, os.SEEK_DATA), 0)
        assert os.lseek(fd, 0, os.SEEK_HOLE) >= 5
        fails(errno.ENXIO, os.lseek, fd, far + 3, os.SEEK_DATA)
    with opened("file", os.O_RDWR) as fd:
        same(os.pread(fd, 8, 0), b"begin" + bytes(3))
        same(os.pread(fd, 10, far), b"end")
        os.ftruncate(fd, 5)
    same((get("file"), os.stat("file").st_size), (b"begin", 5))


def random_work(seed: int, count: int) -> None:
    """The same operations here and on a local file give the same bytes at every step."""
    choice = random.Random(seed)
    with tempfile.NamedTemporaryFile() as local:
        fds = [os.open("file", os.O_CREAT | os.O_RDWR) for _ in range(2)]
        there = local.fileno()
        for step in range(count):
            fd, at = choice.choice(fds), int(1.5e6 * choice.random() ** 3)
            size = choice.choice((1, 10, 511, 4096, 4097, 20_000, 140_000))
            match choice.choices(("write", "read", "cut", "stat", "sync", "reopen", "append"),
                                 (40, 40, 4, 8, 2, 2, 6))[0]:  # fmt: skip
                case "write":
                    data = choice.randbytes(size)
                    same(os.pwrite(fd, data, at), os.pwrite(there, data, at))
                case "read":
                    same(os.pread(fd, size, at), os.pread(there, size, at))
                case "cut":
                    os.ftruncate(fd, at)
                    os.ftruncate(there, at)
                case "stat":
                    same(os.stat("file").st_size, os.fstat(there).st_size)
                case "sync":
                    os.fsync(fd)
                case "reopen":
                    fds.remove(fd)
                    os.close(fd)
                    fds.append(os.open("file", os.O_RDWR))
                case "append":
                    with opened("file", os.O_WRONLY | os.O_APPEND) as end:
                        os.write(end, b"%d" % step)
                    os.pwrite(there, b"%d" % step, os.fstat(there).st_size)
        for fd in fds:
            os.close(fd)
        same(get("file"), get(local.name))


def large_files() -> None:
    """Written and read in pieces of odd sizes, each byte in its place."""
    digest = hashlib.sha256()
    choice = random.Random(2)
    with open("file", "wb") as file:
        for _ in range(150):
            piece = choice.randbytes(choice.randrange(1, 200_000))
            file.write(piece)
            digest.update(piece)
    for size in (4096, 65_537, 1 << 20):
        read = hashlib.sha256()
        with opened("file", os.O_RDONLY) as fd:
            while piece := os.read(fd, size):
                read.update(piece)
        same(read.hexdigest(), digest.hexdigest())


def unbuffered_input_and_output() -> None:
    """O_DIRECT, alone and beside other descriptors of the file."""
    page = mmap.mmap(-1, 8192)
    page.write(b"a" * 4096 + b"b" * 4096)
    with opened("file", os.O_CREAT | os.O_RDWR | os.O_DIRECT) as fd:
        same(os.writev(fd, [page]), 8192)
        with opened("file", os.O_RDWR) as other:
            same(os.pread(other, 8192, 0), bytes(page))
            os.pwrite(other, b"c" * 4096, 4096)
            same(os.preadv(fd, [page], 0), 8192)
    same(bytes(page), b"a" * 4096 + b"c" * 4096)
    same(get("file"), bytes(page))


def allocating() -> None:
    """posix_fallocate works, by writing where the file system has no better way."""
    put("file", b"content")
    with opened("file", os.O_RDWR) as fd:
        os.posix_fallocate(fd, 0, 200_000)
        same(os.fstat(fd).st_size, 200_000)
    same(get("file"), b"content" + bytes(200_000 - 7))


def copying_inside() -> None:
    """copy_file_range and sendfile, into a file that has data at other offsets, too."""
    data = random.Random(3).randbytes(500_000)
    put("source", data)
    with opened("source", os.O_RDONLY) as source, opened("copy", os.O_CREAT | os.O_RDWR) as copy:
        done = 0
        while done < len(data):
            done += os.copy_file_range(source, copy, len(data) - done, done, done)
        same(os.pread(copy, len(data) + 1, 0), data)
        same(os.copy_file_range(source, copy, 1000, 499_500, 7), 500)
        same(os.pread(copy, 1000, 0), data[:7] + data[-500:] + data[507:1000])
    with opened("source", os.O_RDONLY) as source, opened("sent", os.O_CREAT | os.O_WRONLY) as sent:
        while os.sendfile(sent, source, None, 1 << 20):
            pass
    same(get("sent"), data)
    shutil.copyfile("source", "whole")
    same(get("whole"), data)


def reading_and_writing_by_mapping() -> None:
    put("file", b"0123456789" * 2000)
    with opened("file", os.O_RDWR) as fd:
        with mmap.mmap(fd, 20_000, prot=mmap.PROT_READ) as readable:
            same(readable[9_995:10_005], b"5678901234")
        with mmap.mmap(fd, 20_000) as shared:
            shared[5:10] = b"hello"
            shared[15_000:15_005] = b"world"
            shared.flush()
            same(os.pread(fd, 5, 5), b"hello")
            with opened("file", os.O_RDONLY) as other:
                same(os.pread(other, 5, 15_000), b"world")
            os.pwrite(fd, b"written", 100)
            same(shared[100:107], b"written")
        with mmap.mmap(fd, 20_000) as shared:
            shared[200:206] = b"unsync"
    content = get("file")
    wanted = ((5, b"hello"), (100, b"written"), (200, b"unsync"), (15_000, b"world"))
    for at, piece in wanted:
        same(content[at : at + len(piece)], piece)
    same(len(content), 20_000)


def mapping_that_outlives_its_descriptor() -> None:
    put("file", bytes(10_000))
    with opened("file", os.O_RDWR) as fd:
        shared = mmap.mmap(fd, 10_000)
    shared[4_000:4_005] = b"later"
    shared.flush()
    shared.close()
    same(get("file")[4_000:4_005], b"later")


# --- processes ----------------------------------------------------------------------------------


def _size_and_mtime(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_size, int(found.st_mtime)


def reading_what_others_write() -> None:
    """Buffered data is everybody's on this machine at once, and so are size and mtime."""
    with Peer() as peer, opened("file", os.O_CREAT | os.O_WRONLY) as fd:
        same(peer.call(_size_and_mtime, "file")[0], 0)
        os.write(fd, b"first")
        same(peer.call(_size_and_mtime, "file")[0], 5)
        same(peer.call(get, "file"), b"first")
        os.utime("file", (_LONG_AGO, _LONG_AGO))
        os.write(fd, b" second")
        size, mtime = peer.call(_size_and_mtime, "file")
        same(size, 12)
        assert abs(mtime - time.time()) < 5
        same(peer.call(get, "file"), b"first second")
        for number in range(200):
            os.pwrite(fd, b"%06d" % number, 0)
            same(peer.call(get, "file")[:6], b"%06d" % number)


def times_after_close() -> None:
    """What stat said of a file before its close is what it says after, and later."""
    with opened("file", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"data")
        before = int(os.fstat(fd).st_mtime)
        while int(time.time()) == before:
            time.sleep(0.01)
    same(_size_and_mtime("file"), (4, before))
    with opened("file", os.O_RDONLY) as fd:
        same(int(os.fstat(fd).st_mtime), before)


def _try_flock(name: str, how: int) -> bool:
    with opened(name, os.O_RDWR) as fd:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _try_lockf(name: str, start: int, length: int) -> bool:
    with opened(name, os.O_RDWR) as fd:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            return False
        return True


def locking() -> None:
    put("file", b"0123456789")
    with Peer() as peer, opened("file", os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_SH)
        assert peer.call(_try_flock, "file", fcntl.LOCK_SH)
        assert not peer.call(_try_flock, "file", fcntl.LOCK_EX)
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert peer.call(_try_flock, "file", fcntl.LOCK_EX)
        fcntl.lockf(fd, fcntl.LOCK_EX, 5, 0)
        assert not peer.call(_try_lockf, "file", 4, 1)
        assert peer.call(_try_lockf, "file", 5, 1)
        fcntl.lockf(fd, fcntl.LOCK_UN, 5, 0)
        assert peer.call(_try_lockf, "file", 4, 1)


# --- what SFTP cannot do ------------------------------------------------------------------------


def no_extended_attributes() -> None:
    put("file")
    os.mkdir("directory")
    acl = "system.posix_acl_access"
    for name in ("file", "directory"):
        for attribute in ("user.test", acl, "security.selinux"):
            # Of an ACL the kernel itself says that there is none.
            fails((errno.ENOTSUP, errno.ENODATA)[attribute == acl], os.getxattr, name, attribute)
            fails(errno.ENOTSUP, os.setxattr, name, attribute, b"value")
            fails(errno.ENOTSUP, os.removexattr, name, attribute)
        with contextlib.suppress(OSError):
            same(os.listxattr(name), [])


def no_special_files() -> None:
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
        fails(errno.EPERM, os.mknod, "special", kind | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as unix:
        fails(errno.EPERM, unix.bind, "socket")
    same(os.listdir(), [])


def no_allocation_by_the_file_system() -> None:
    with opened("file", os.O_CREAT | os.O_RDWR) as fd:
        for mode in (0, 1, 2 | 1):  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
            arguments = (ctypes.c_long(0), ctypes.c_long(4096))
            fails(errno.EOPNOTSUPP, lambda *args: checked(_libc.fallocate(fd, *args)),
                  mode, *arguments)  # fmt: skip
        same(os.fstat(fd).st_size, 0)


# --- errors -------------------------------------------------------------------------------------


def write_until_it_fails(name: str, count: int, how: str) -> list[str]:
    """Where writing `count` MiB failed and how; run on the mount."""
    try:
        where = "open"
        fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            where = "write"
            for _ in range(count):
                os.write(fd, b"x" * (1 << 20))
            if how == "fsync":
                where = "fsync"
                os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        where = "close"
        os.close(fd)
    except OSError as error:
        return [where, errno.errorcode[error.errno or 0]]
    return []


def what_is_forbidden() -> None:
    """For a login that may write in `own` only; `closed` and `secret` are for others."""
    with open("readable") as file:
        same(file.read(), "for all")
    fails(errno.EACCES, os.open, "readable", os.O_WRONLY)
    fails(errno.EACCES, os.open, "readable", os.O_WRONLY | os.O_TRUNC)
    fails(errno.EACCES, os.truncate, "readable", 0)
    fails(errno.EACCES, os.open, "secret", os.O_RDONLY)
    fails(errno.EACCES, os.open, "new", os.O_CREAT | os.O_WRONLY)
    fails(errno.EACCES, os.listdir, "closed")
    fails(errno.EACCES, os.stat, "closed/file")
    fails(errno.EACCES, os.mkdir, "directory")
    fails(errno.EACCES, os.symlink, "target", "link")
    fails(errno.EACCES, os.unlink, "secret")
    fails(errno.EACCES, os.rmdir, "closed")
    fails(errno.EACCES, os.rename, "readable", "own/readable")
    # SFTP has one status for both.
    fails((errno.EPERM, errno.EACCES), os.chmod, "readable", 0o777)
    fails((errno.EPERM, errno.EACCES), os.chown, "own", 0, 0)
    fails((errno.EPERM, errno.EACCES), os.utime, "readable", (1, 1))
    put("own/made", b"allowed")
    same(get("own/made"), b"allowed")


CHECKS: Final[tuple[Callable[[], object], ...]] = (
    exclusive_creation, creation_without_exclusion, opening_what_cannot_be_opened,
    truncation_by_open, appending, appending_by_two_processes, directories,
    a_removed_directory_that_is_still_open, renaming, renaming_what_is_open,
    renaming_directories_with_open_files, renaming_without_replacing, hard_links, symlinks,
    every_name, removing_while_listing, rewinding_and_seeking, listing_with_types_and_numbers,
    changing_modes, changing_owners, setting_times, setting_times_of_what_is_open,
    setting_times_of_symlinks, truncating, access_checks, file_system_figures, numbers_that_stay,
    using_what_was_unlinked, sparse_files, large_files, unbuffered_input_and_output, allocating,
    copying_inside, reading_and_writing_by_mapping, mapping_that_outlives_its_descriptor,
    reading_what_others_write, times_after_close, locking,
)  # fmt: skip

ON_MOUNT: Final[tuple[Callable[[], object], ...]] = (
    exchanging_is_refused, blocks_and_link_counts, no_extended_attributes, no_special_files,
    no_allocation_by_the_file_system,
)  # fmt: skip
