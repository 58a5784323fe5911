"""Whose is what here: the files of `idmap=file`, and the names of `idmap=name`.

All of it is read before the mount: afterwards the user database, or a file, could lie under it.

A line of a `uidfile` is `name:id`, or a line of the server's /etc/passwd (`name:password:id:...`);
of a `gidfile` likewise, with groups. The name is one of this machine, the number is the server's.
The format, and that nobody else may be able to write the file, are those of sshfs(1).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from typing import TYPE_CHECKING, Final

from pysshfs.cli.options import HIGHEST_ID
from pysshfs.cli.usage import shown
from pysshfs.errors import StartupError
from pysshfs.vfs.config import LocalNames
from pysshfs.vfs.idmap import IdTable, Unmapped

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_FILE: Final = 16 << 20  # bytes
_DIGITS: Final = 10


def _user(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def tables_from_files(
    uidfile: str | None, gidfile: str | None, unmapped: Unmapped
) -> tuple[IdTable | None, IdTable | None]:
    """The tables of users and groups; without a file the numbers are the same on both sides.

    Raises `StartupError`, with the line that is wrong.
    """
    users = groups = None
    if uidfile is not None:
        users = IdTable("user", unmapped, _read("uidfile", uidfile, "user", _user))
    if gidfile is not None:
        groups = IdTable("group", unmapped, _read("gidfile", gidfile, "group", _group))
    return users, groups


def _read(option: str, path: str, what: str, number_of: Callable[[str], int]) -> dict[int, int]:
    """This machine's numbers by the server's."""
    where = f"{option} {shown(path)}"
    try:
        content = _content(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StartupError(f"{where}: {reason}") from None
    local: dict[int, int] = {}
    lines: dict[tuple[str, int], int] = {}  # where a number, of either side, was first
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line or line.startswith(b"#"):
            continue
        try:
            found = _parsed(os.fsdecode(line), what, number_of)
            if found is None:
                continue
            theirs, ours = found
            for side, each in (("the server's", theirs), ("this machine's", ours)):
                first = lines.setdefault((side, each), number)
                if first != number:
                    raise ValueError(f"{side} {what} {each} is in line {first} already")
        except ValueError as error:
            raise StartupError(f"{where}, line {number}: {error}") from None
        local[theirs] = ours
    return local


def _content(path: str) -> bytes:
    """Raises `OSError`, and `ValueError` for a file that cannot be trusted."""
    # Not to wait for whoever writes to a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.stat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_uid != os.getuid():
            raise ValueError("it belongs to somebody else")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others may write to it")
        content = file.read(_LONGEST_FILE + 1)
    if len(content) > _LONGEST_FILE:
        raise ValueError("too long")
    return content


def _parsed(line: str, what: str, number_of: Callable[[str], int]) -> tuple[int, int] | None:
    """The server's number and ours; None for one of the server's users whom nobody has asked
    about: its whole /etc/passwd was given. Raises `ValueError`."""
    fields = line.split(":")
    if len(fields) < 2 or not fields[0]:
        raise ValueError(f"not name:id, or a line as in /etc/{_DATABASES[what]}")
    is_pair = len(fields) == 2
    text = fields[1] if is_pair else fields[2]
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise ValueError(f"{shown(text)} is not a number")
    theirs = int(text)
    if theirs > HIGHEST_ID:
        raise ValueError(f"{theirs} is higher than {HIGHEST_ID}")
    try:
        return theirs, number_of(fields[0])
    except KeyError:
        if not is_pair:
            return None
        raise ValueError(f"there is no {what} {shown(fields[0])} on this machine") from None


_DATABASES: Final = {"user": "passwd", "group": "group"}


def local_names() -> LocalNames:
    """The users and groups of this machine by name; may wait for a directory service.

    Those that are not listed (a directory service may list none) are not among them, but whoever
    mounts, and the groups of that user, always are.
    """
    users = {os.fsencode(each.pw_name): each.pw_uid for each in reversed(pwd.getpwall())}
    groups = {os.fsencode(each.gr_name): each.gr_gid for each in reversed(grp.getgrall())}
    with contextlib.suppress(KeyError):
        own = pwd.getpwuid(os.getuid())
        users[os.fsencode(own.pw_name)] = own.pw_uid
    for gid in {os.getgid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            groups[os.fsencode(grp.getgrgid(gid).gr_name)] = gid
    return LocalNames(users, groups)
