"""SFTP protocol 3 by hand, from the server's side: every length, id and count can be wrong.

Nothing of the program's own code is used: what both sides got wrong would not be noticed. Source:
draft-ietf-secsh-filexfer-02. Pure functions.
"""

from __future__ import annotations

import struct
from typing import Final

INIT: Final = 1
VERSION: Final = 2
OPEN: Final = 3
CLOSE: Final = 4
READ: Final = 5
WRITE: Final = 6
LSTAT: Final = 7
FSTAT: Final = 8
SETSTAT: Final = 9
FSETSTAT: Final = 10
OPENDIR: Final = 11
READDIR: Final = 12
REMOVE: Final = 13
MKDIR: Final = 14
RMDIR: Final = 15
REALPATH: Final = 16
STAT: Final = 17
RENAME: Final = 18
READLINK: Final = 19
SYMLINK: Final = 20
STATUS: Final = 101
HANDLE: Final = 102
DATA: Final = 103
NAME: Final = 104
ATTRS: Final = 105
EXTENDED: Final = 200
EXTENDED_REPLY: Final = 201

OK: Final = 0
EOF: Final = 1
NO_SUCH_FILE: Final = 2
FAILURE: Final = 4
OP_UNSUPPORTED: Final = 8

ATTR_SIZE: Final = 0x01
ATTR_UIDGID: Final = 0x02
ATTR_PERMISSIONS: Final = 0x04
ATTR_ACMODTIME: Final = 0x08
ATTR_EXTENDED: Final = 0x80000000


def u8(value: int) -> bytes:
    return struct.pack(">B", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def string(value: bytes, length: int | None = None) -> bytes:
    """`length` is what it says of itself, if that is not the truth."""
    return u32(len(value) if length is None else length) + value


def packet(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A message, from its length on."""
    return u32(1 + len(body) if length is None else length) + u8(kind) + body


def reply(kind: int, number: int, body: bytes, length: int | None = None) -> bytes:
    """The answer to the request with this id."""
    return packet(kind, u32(number) + body, length)


def status(number: int, code: int, message: bytes = b"", language: bytes = b"en") -> bytes:
    return reply(STATUS, number, u32(code) + string(message) + string(language))


def handle(number: int, token: bytes) -> bytes:
    return reply(HANDLE, number, string(token))


def data(number: int, content: bytes) -> bytes:
    return reply(DATA, number, string(content))


def version(number: int = 3, *pairs: bytes) -> bytes:
    """`pairs`: names and data of extensions, in turn."""
    return packet(VERSION, u32(number) + b"".join(map(string, pairs)))


def attributes(
    mode: int, size: int, mtime: int = 1_600_000_000, owner: int = 1000, group: int = 1000
) -> bytes:
    """An attribute block with everything in it."""
    flags = ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_ACMODTIME
    return struct.pack(">IQIIIII", flags, size, owner, group, mode, mtime, mtime)


def entry(name: bytes, block: bytes, long_name: bytes = b"-") -> bytes:
    """One name of a NAME reply."""
    return string(name) + string(long_name) + block


def names(number: int, entries: list[bytes], count: int | None = None) -> bytes:
    """`count` is how many it says there are."""
    return reply(NAME, number, u32(len(entries) if count is None else count) + b"".join(entries))


class Fields:
    """Takes a request apart, which is trusted."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def u32(self) -> int:
        self._at += 4
        return int.from_bytes(self._body[self._at - 4 : self._at], "big")

    def u64(self) -> int:
        self._at += 8
        return int.from_bytes(self._body[self._at - 8 : self._at], "big")

    def string(self) -> bytes:
        length = self.u32()
        self._at += length
        return self._body[self._at - length : self._at]

    def change(self) -> dict[str, int]:
        """An attribute block of SETSTAT, OPEN or MKDIR."""
        flags = self.u32()
        found = {}
        if flags & ATTR_SIZE:
            found["size"] = self.u64()
        if flags & ATTR_UIDGID:
            self.u64()
        if flags & ATTR_PERMISSIONS:
            found["mode"] = self.u32()
        if flags & ATTR_ACMODTIME:
            self.u32()
            found["mtime"] = self.u32()
        return found
