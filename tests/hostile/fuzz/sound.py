"""Whether a reply keeps to the protocol: a second opinion, with nothing of the program's in it.

A session that was given one which does not must be at its end. Bounds that are the program's own
choice (`docs/security.md`) are written out here once more. Pure functions.
"""

from __future__ import annotations

from typing import Final

from tests.hostile import sftp

_RESULTS: Final = {
    sftp.INIT: sftp.VERSION,
    sftp.LSTAT: sftp.ATTRS,
    sftp.STAT: sftp.ATTRS,
    sftp.FSTAT: sftp.ATTRS,
    sftp.OPEN: sftp.HANDLE,
    sftp.OPENDIR: sftp.HANDLE,
    sftp.READ: sftp.DATA,
    sftp.READDIR: sftp.NAME,
    sftp.READLINK: sftp.NAME,
    sftp.REALPATH: sftp.NAME,
}
_NUMBERS: Final = {"statvfs@openssh.com": 11, "limits@openssh.com": 4}  # in an EXTENDED_REPLY
_FLAGS: Final = 0x8000000F
_MOST_NAMES: Final = 16_384
_MOST_PAIRS: Final = 1024
_MOST_EXTENSIONS: Final = 256
_LONGEST_HANDLE: Final = 256


class _BrokenError(Exception):
    pass


class _Rest:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _BrokenError
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def block(self) -> None:
        flags = self.number()
        _require(not flags & ~_FLAGS)
        sizes = (8, 8, 4, 8)  # size, owner and group, permissions, two times
        self.take(sum(size for bit, size in enumerate(sizes) if flags & 1 << bit))
        if flags & sftp.ATTR_EXTENDED:
            pairs = self.number()
            _require(pairs <= _MOST_PAIRS)
            for _ in range(2 * pairs):
                self.string()


def _require(holds: bool) -> None:
    if not holds:
        raise _BrokenError


def is_sound(kind: int, key: str, packet: bytes) -> bool:
    """Whether `packet`, from its length on, can be the answer to a request of this kind and key
    (`recording.Request`)."""
    try:
        _check(kind, key, packet)
    except _BrokenError:
        return False
    return True


def _check(kind: int, key: str, packet: bytes) -> None:
    _require(len(packet) >= 9)
    name = key.split(" ")[-1]
    wanted = _RESULTS.get(kind, sftp.EXTENDED_REPLY if name in _NUMBERS else sftp.STATUS)
    said, rest = packet[4], _Rest(packet[9:])
    if said == sftp.VERSION:
        _require(wanted == sftp.VERSION and packet[5:9] == sftp.u32(3))
        _extensions(rest)
    elif said == sftp.STATUS:
        _require(wanted != sftp.VERSION)  # which has no id: this is for no request
        _require(rest.number() != sftp.OK or wanted == sftp.STATUS)
        if rest.left:
            rest.string()
    else:
        _require(said == wanted)
        _result(said, kind, name, rest)


def _result(said: int, kind: int, name: str, rest: _Rest) -> None:
    if said == sftp.EXTENDED_REPLY:
        rest.take(8 * _NUMBERS[name])
        return  # later versions may have more
    if said == sftp.NAME:
        count = rest.number()
        if kind != sftp.READDIR:
            _require(count == 1)
            rest.string()
            return  # what follows says nothing
        _require(count <= _MOST_NAMES)
        for _ in range(count):
            rest.string()
            rest.string()
            rest.block()
    elif said == sftp.ATTRS:
        rest.block()
    elif said == sftp.HANDLE:
        _require(0 < len(rest.string()) <= _LONGEST_HANDLE)
    else:
        _require(len(rest.string()) <= int(name))  # what READ asked for
    _require(not rest.left)


def _extensions(rest: _Rest) -> None:
    count = 0
    while rest.left:
        rest.string()
        rest.string()
        count += 1
    _require(count <= _MOST_EXTENSIONS)
