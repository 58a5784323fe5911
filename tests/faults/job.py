"""A job of some fifty changes, each checked, as one program on the mount. Standard library only.

Run as a file in an empty directory, which it fills in the same way each time. It ends with status
0 and the line `{"ok": true}`, or with 1 and the step that failed, with its errno. Programs know
nothing of the network: whatever happens to the connection, no call of this one may fail, and
none may seem to succeed without effect.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

SIZE = 3 * 1024 * 1024
SEED = 20
MTIME = 1_234_567_890

Step = Callable[[], None]


class WrongError(Exception):
    """A call gave something else than it must."""


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongError(f"{what}: {_short(found)} instead of {_short(wanted)}")


def _short(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes, sha256 {hashlib.sha256(value).hexdigest()[:16]}"
    return repr(value)


def refused(what: str, code: int, call: Callable[[], object]) -> None:
    """The call must fail, and with this errno."""
    try:
        call()
    except OSError as error:
        expect(what, errno.errorcode.get(error.errno or 0), errno.errorcode[code])
    else:
        raise WrongError(f"{what}: succeeded instead of {errno.errorcode[code]}")


class Job:
    """The steps, in the order in which they are defined, and what they share."""

    def __init__(self) -> None:
        choice = random.Random(SEED)
        self.content = choice.randbytes(SIZE)
        self.more = choice.randbytes(70_001)
        self.chunks = self._cut(choice)
        self.held = -1

    def _cut(self, choice: random.Random) -> list[bytes]:
        """Odd pieces, some tiny and some far above what goes into one message."""
        pieces = []
        at = 0
        while at < SIZE:
            size = choice.choice((1, 511, 4097, 65_537, 131_071, 400_001))
            pieces.append(self.content[at : at + size])
            at += size
        return pieces

    # -- making ------------------------------------------------------------------------------

    def open_a_file_for_the_whole_job(self) -> None:
        self.held = os.open("held", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        expect("write", os.write(self.held, b"first\n"), 6)

    def write_in_odd_chunks(self) -> None:
        with open("data.new", "xb", buffering=0) as file:
            for piece in self.chunks:
                expect("write", file.write(piece), len(piece))

    def rename_it(self) -> None:
        os.rename("data.new", "data")
        refused("the old name", errno.ENOENT, lambda: os.stat("data.new"))

    def append_and_sync(self) -> None:
        with open("data", "ab", buffering=0) as file:
            for at in range(0, len(self.more), 7_001):
                file.write(self.more[at : at + 7_001])
            os.fsync(file.fileno())
            expect("size", os.fstat(file.fileno()).st_size, SIZE + len(self.more))

    def make_directories(self) -> None:
        os.mkdir("dir", 0o750)
        os.mkdir("dir/sub")
        refused("mkdir", errno.EEXIST, lambda: os.mkdir("dir"))

    def link(self) -> None:
        os.symlink("../data", "dir/symlink")
        os.link("data", "dir/hardlink")
        refused("symlink", errno.EEXIST, lambda: os.symlink("elsewhere", "dir/symlink"))
        refused("link", errno.EEXIST, lambda: os.link("held", "dir/hardlink"))

    def make_exclusively(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for number in range(4):
            fd = os.open(f"dir/lock{number}", flags, 0o600)
            os.write(fd, b"%d\n" % number)
            os.close(fd)
        refused("open", errno.EEXIST, lambda: os.open("dir/lock0", flags, 0o600))

    # -- changing ----------------------------------------------------------------------------

    # Not what is open: SFTP cannot open again what has no name.
    def unlink(self) -> None:
        for number in (1, 2):
            os.unlink(f"dir/lock{number}")
        refused("unlink", errno.ENOENT, lambda: os.unlink("dir/lock1"))
        refused("its name", errno.ENOENT, lambda: os.stat("dir/lock2"))

    def change_modes_and_times(self) -> None:
        os.chmod("dir/lock3", 0o4640)
        os.utime("dir/lock3", (MTIME, MTIME))
        found = os.stat("dir/lock3")
        expect("mode", stat.S_IMODE(found.st_mode), 0o4640)
        expect("mtime", found.st_mtime, MTIME)

    def truncate(self) -> None:
        with open("short", "wb") as file:
            file.write(self.content[:100_000])
        os.truncate("short", 12_345)
        os.truncate("short", 20_000)
        expect("size", os.stat("short").st_size, 20_000)

    def write_into_the_middle(self) -> None:
        with open("short", "r+b", buffering=0) as file:
            file.seek(5_000)
            file.write(b"middle")
            os.ftruncate(file.fileno(), 18_000)
            file.seek(4_990)
            expect("contents", file.read(20), self.content[4_990:5_000] + b"middle" + self._after())

    def _after(self) -> bytes:
        return self.content[5_006:5_010]

    def remove_directories(self) -> None:
        refused("rmdir", errno.ENOTEMPTY, lambda: os.rmdir("dir"))
        os.rmdir("dir/sub")
        refused("rmdir", errno.ENOENT, lambda: os.rmdir("dir/sub"))

    def rename_over_a_file(self) -> None:
        for name, text in (("old", b"old\n"), ("new", b"new\n")):
            with open(name, "wb") as file:
                file.write(text)
        os.rename("new", "old")
        with open("old", "rb") as file:
            expect("contents", file.read(), b"new\n")
        os.rename("old", "dir/moved")
        os.rename("dir", "renamed")

    def save_as_editors_do(self) -> None:
        for number in range(3):
            with open("config.tmp", "wb") as file:
                file.write(b"generation %d\n" % number * 50)
                file.flush()
                os.fsync(file.fileno())
            os.rename("config.tmp", "config")

    # -- looking -----------------------------------------------------------------------------

    def list_everything(self) -> None:
        here = ["config", "data", "held", "renamed", "short"]
        expect("names", sorted(os.listdir(".")), here)
        below = ["hardlink", "lock0", "lock3", "moved", "symlink"]
        expect("names", sorted(os.listdir("renamed")), below)
        expect("target", os.readlink("renamed/symlink"), "../data")

    def read_everything(self) -> None:
        whole = self.content + self.more
        short = bytearray(self.content[:12_345] + bytes(20_000 - 12_345))[:18_000]
        short[5_000:5_006] = b"middle"
        contents = {
            "data": whole,
            "renamed/hardlink": whole,
            "short": bytes(short),
            "config": b"generation 2\n" * 50,
            "renamed/moved": b"new\n",
            "renamed/lock0": b"0\n",
            "renamed/lock3": b"3\n",
        }
        for name, wanted in contents.items():
            expect(name, self._read_afresh(name), wanted)

    def _read_afresh(self, name: str) -> bytes:
        """From the server, not from the pages that the kernel keeps."""
        with open(name, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read()

    def use_the_file_held_open(self) -> None:
        expect("contents", os.pread(self.held, 100, 0), b"first\n")
        os.pwrite(self.held, b"last\n", 6)
        os.fsync(self.held)
        os.close(self.held)
        with open("held", "rb") as file:
            expect("contents", file.read(), b"first\nlast\n")

    # -- all of it ---------------------------------------------------------------------------

    def steps(self) -> list[tuple[str, Step]]:
        names = [name for name, value in vars(Job).items() if callable(value) and name[0] != "_"]
        return [(name, getattr(self, name)) for name in names if name != "steps"]


def _end(outcome: dict[str, object]) -> NoReturn:
    print(json.dumps(outcome), flush=True)
    # Nothing is closed here: a descriptor that is left behind must not hang the report.
    os._exit(0 if outcome.get("ok") else 1)


def main() -> NoReturn:
    os.umask(0o022)
    for name, step in Job().steps():
        try:
            step()
        except WrongError as error:
            _end({"step": name, "wrong": str(error)})
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, str(error.errno))
            _end({"step": name, "errno": code, "error": str(error)})
    _end({"ok": True})


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
