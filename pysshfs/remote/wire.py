"""SFTP protocol 3 as bytes: requests are packed here, replies are taken apart here.

Source: draft-ietf-secsh-filexfer-02 (version 3) and OpenSSH's PROTOCOL file for the extensions.
Pure functions, no state. Every length in a reply is checked against what is there; a reply that
does not hold what it says, neither less nor more, raises `ProtocolError`, and nothing else does.
What later versions of an extension may append is passed over (STATUS, VERSION, EXTENDED_REPLY).
"""

from __future__ import annotations

import struct
from typing import Final

from pysshfs.errors import ProtocolError
from pysshfs.remotefs import (
    AttributeChange,
    Attributes,
    DirectoryEntry,
    FilesystemStatistics,
    OwnerNames,
)

VERSION: Final = 3

FXP_INIT: Final = 1
FXP_VERSION: Final = 2
FXP_OPEN: Final = 3
FXP_CLOSE: Final = 4
FXP_READ: Final = 5
FXP_WRITE: Final = 6
FXP_LSTAT: Final = 7
FXP_FSTAT: Final = 8
FXP_SETSTAT: Final = 9
FXP_FSETSTAT: Final = 10
FXP_OPENDIR: Final = 11
FXP_READDIR: Final = 12
FXP_REMOVE: Final = 13
FXP_MKDIR: Final = 14
FXP_RMDIR: Final = 15
FXP_REALPATH: Final = 16
FXP_STAT: Final = 17
FXP_RENAME: Final = 18
FXP_READLINK: Final = 19
FXP_SYMLINK: Final = 20
FXP_STATUS: Final = 101
FXP_HANDLE: Final = 102
FXP_DATA: Final = 103
FXP_NAME: Final = 104
FXP_ATTRS: Final = 105
FXP_EXTENDED: Final = 200
FXP_EXTENDED_REPLY: Final = 201

FXF_READ: Final = 0x01
FXF_WRITE: Final = 0x02
FXF_CREAT: Final = 0x08
FXF_TRUNC: Final = 0x10
FXF_EXCL: Final = 0x20

ATTR_SIZE: Final = 0x01
ATTR_UIDGID: Final = 0x02
ATTR_PERMISSIONS: Final = 0x04
ATTR_ACMODTIME: Final = 0x08
ATTR_EXTENDED: Final = 0x80000000

# The longest reply we take. OpenSSH's own limit for a message is 256 KiB; READs are sized to fit.
MAX_REPLY: Final = 4 * 1024 * 1024
# The rest of a message to people is not looked at (bytes).
_MOST_MESSAGE: Final = 512
# Extensions in VERSION: OpenSSH has a dozen, none longer than this (bytes, name or data).
_MOST_EXTENSIONS: Final = 256
_LONGEST_EXTENSION: Final = 256
# A reply to READDIR or an attribute block may carry extension pairs; nobody sends more than these.
_MAX_EXTENDED_PAIRS: Final = 1024
# Names in one reply to READDIR: more than ever fit into OpenSSH's longest message.
_MAX_NAMES: Final = 16_384

REQUEST_NAMES: Final = {
    value: name.removeprefix("FXP_")
    for name, value in list(globals().items())
    if name.startswith("FXP_")
}

_HEADER = struct.Struct(">IBI")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_U32_U32 = struct.Struct(">II")
_STATVFS = struct.Struct(">11Q")
# Size, uid, gid, permissions, atime, mtime: the block that every usual server sends.
_USUAL_FLAGS: Final = ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_ACMODTIME
_USUAL_ATTRIBUTES = struct.Struct(">QIIIII")


# --- requests -----------------------------------------------------------------------------------


def string(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def u32(value: int) -> bytes:
    return _U32.pack(value)


def u64(value: int) -> bytes:
    return _U64.pack(value)


def packet(kind: int, request_id: int, *fields: bytes) -> bytes:
    """A whole request: length, type, id, fields."""
    length = 5 + sum(map(len, fields))
    return b"".join((_HEADER.pack(length, kind, request_id), *fields))


def write_packet(
    request_id: int, handle: bytes, offset: int, data: bytes | bytearray | memoryview
) -> bytes:
    """A WRITE, its data copied once."""
    fixed = 5 + 4 + len(handle) + 8 + 4
    return b"".join(
        (
            _HEADER.pack(fixed + len(data), FXP_WRITE, request_id),
            _U32.pack(len(handle)),
            handle,
            _U64.pack(offset),
            _U32.pack(len(data)),
            data,
        )
    )


def init_packet() -> bytes:
    return struct.pack(">IBI", 5, FXP_INIT, VERSION)


def encode_change(change: AttributeChange) -> bytes:
    """The ATTRS block of a SETSTAT, OPEN or MKDIR.

    Raises ValueError for half a pair: the caller must have filled in the other one.
    """
    if (change.uid is None) != (change.gid is None):
        raise ValueError("owner and group travel together")
    if (change.atime is None) != (change.mtime is None):
        raise ValueError("the two times travel together")
    flags = 0
    fields = []
    if change.size is not None:
        flags |= ATTR_SIZE
        fields.append(_U64.pack(change.size))
    if change.uid is not None and change.gid is not None:
        flags |= ATTR_UIDGID
        fields.append(_U32_U32.pack(change.uid, change.gid))
    if change.mode is not None:
        flags |= ATTR_PERMISSIONS
        fields.append(_U32.pack(change.mode))
    if change.atime is not None and change.mtime is not None:
        flags |= ATTR_ACMODTIME
        fields.append(_U32_U32.pack(clamp_time(change.atime), clamp_time(change.mtime)))
    return _U32.pack(flags) + b"".join(fields)


def clamp_time(seconds: int) -> int:
    """Protocol 3 has 32 unsigned bits for a time: 1970 to 2106."""
    return min(max(seconds, 0), 0xFFFFFFFF)


# --- replies ------------------------------------------------------------------------------------


class Reader:
    """Takes one reply apart, front to back."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self._data = data
        self._at = at
        self._end = len(data)

    @property
    def at_end(self) -> bool:
        return self._at >= self._end

    def _take(self, count: int) -> int:
        at = self._at
        if count > self._end - at:
            raise ProtocolError("truncated reply")
        self._at = at + count
        return at

    def finish(self) -> None:
        """There must be nothing more."""
        if self._at != self._end:
            raise ProtocolError(f"{self._end - self._at} bytes too many")

    def u32(self) -> int:
        value: int = _U32.unpack_from(self._data, self._take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self._data, self._take(8))[0]
        return value

    def string(self) -> bytes:
        length = self.u32()
        at = self._take(length)
        return bytes(self._data[at : at + length])

    def beginning(self, most: int) -> bytes:
        """As `string`, but no more than the first bytes of it."""
        length = self.u32()
        at = self._take(length)
        return bytes(self._data[at : at + min(length, most)])

    def skip_string(self) -> None:
        self._take(self.u32())

    def attributes(self) -> Attributes:
        flags = self.u32()
        if flags == _USUAL_FLAGS:
            size, uid, gid, mode, atime, mtime = _USUAL_ATTRIBUTES.unpack_from(
                self._data, self._take(_USUAL_ATTRIBUTES.size)
            )
            return Attributes(mode, size, uid, gid, atime, mtime)
        return self._unusual_attributes(flags)

    def _unusual_attributes(self, flags: int) -> Attributes:
        if flags & ~(_USUAL_FLAGS | ATTR_EXTENDED):
            raise ProtocolError(f"unknown attribute flags {flags:#x}")
        mode = size = uid = gid = atime = mtime = None
        if flags & ATTR_SIZE:
            size = self.u64()
        if flags & ATTR_UIDGID:
            uid, gid = self.u32(), self.u32()
        if flags & ATTR_PERMISSIONS:
            mode = self.u32()
        if flags & ATTR_ACMODTIME:
            atime, mtime = self.u32(), self.u32()
        if flags & ATTR_EXTENDED:
            count = self.u32()
            if count > _MAX_EXTENDED_PAIRS:
                raise ProtocolError(f"{count} extended attributes")
            for _ in range(2 * count):
                self.skip_string()
        return Attributes(mode, size, uid, gid, atime, mtime)


def parse_status(reader: Reader) -> tuple[int, str]:
    """Code, and the beginning of the message. Old servers leave the message out."""
    code = reader.u32()
    if reader.at_end:
        return code, ""
    return code, reader.beginning(_MOST_MESSAGE).decode("utf-8", "replace")


def parse_attributes(reader: Reader) -> Attributes:
    """All that is in an ATTRS reply."""
    attributes = reader.attributes()
    reader.finish()
    return attributes


def parse_string(reader: Reader) -> bytes:
    """All that is in a HANDLE or DATA reply."""
    value = reader.string()
    reader.finish()
    return value


def parse_entries(reader: Reader) -> list[DirectoryEntry]:
    """The names of a NAME reply; the long name, made for people to read, is dropped."""
    count = reader.u32()
    if count > _MAX_NAMES:
        raise ProtocolError(f"{count} names in one reply")
    entries = []
    for _ in range(count):
        name = reader.string()
        reader.skip_string()
        entries.append(DirectoryEntry(name, reader.attributes()))
    reader.finish()
    return entries


def parse_single_name(reader: Reader) -> bytes:
    """The one name that REALPATH and READLINK give. What follows it has no meaning here."""
    count = reader.u32()
    if count != 1:
        raise ProtocolError(f"{count} names where one was asked for")
    return reader.string()


def parse_statvfs(reader: Reader) -> FilesystemStatistics:
    """OpenSSH's PROTOCOL, section 4.4 (statvfs@openssh.com)."""
    numbers = [reader.u64() for _ in range(11)]
    bsize, frsize, blocks, bfree, bavail, files, ffree, favail, _fsid, _flag, namemax = numbers
    return FilesystemStatistics(bsize, frsize, blocks, bfree, bavail, files, ffree, favail, namemax)


def parse_owner_names(reader: Reader, users: int, groups: int) -> OwnerNames:
    """OpenSSH's PROTOCOL, section 4.12 (users-groups-by-id@openssh.com): as many names of each
    kind as were asked for."""
    found = []
    for count in (users, groups):
        names = Reader(reader.string())
        found.append([names.string() for _ in range(count)])
        if not names.at_end:
            raise ProtocolError("more names than were asked for")
    return OwnerNames(*found)


def parse_extensions(reader: Reader) -> dict[bytes, bytes]:
    """The name and data pairs of a VERSION reply. Of two with one name the first counts; one that
    is too long to be known is left out."""
    found: dict[bytes, bytes] = {}
    count = 0
    while not reader.at_end:
        count += 1
        if count > _MOST_EXTENSIONS:
            raise ProtocolError(f"more than {_MOST_EXTENSIONS} extensions")
        name = reader.beginning(_LONGEST_EXTENSION + 1)
        data = reader.beginning(_LONGEST_EXTENSION + 1)
        if max(len(name), len(data)) <= _LONGEST_EXTENSION:
            found.setdefault(name, data)
    return found
