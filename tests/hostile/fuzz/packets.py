"""Replies taken apart into the fields that they are made of, and put together again.

Only for replies that are in order, as a real server sends them: what is spoiled is spoiled here,
field by field (`tests/hostile/fuzz/mutations.py`). Pure functions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from tests.hostile import sftp

KINDS: Final = (
    sftp.STATUS,
    sftp.HANDLE,
    sftp.DATA,
    sftp.NAME,
    sftp.ATTRS,
    sftp.EXTENDED_REPLY,
)


@dataclass(frozen=True)
class Number:
    value: int
    size: int = 4  # bytes

    def packed(self) -> bytes:
        return (self.value & ((1 << 8 * self.size) - 1)).to_bytes(self.size, "big")


@dataclass(frozen=True)
class String:
    value: bytes
    length: int | None = None  # what it says of itself, if that is not the truth

    def packed(self) -> bytes:
        return sftp.string(self.value, self.length)


@dataclass(frozen=True)
class Block:
    """An attribute block. Each value is there or not."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None
    extended: tuple[bytes, ...] | None = None
    flags: int | None = None  # if they are not the truth
    count: int | None = None  # of extended pairs, likewise

    def packed(self) -> bytes:
        flags, fields = 0, []
        if self.size is not None:
            flags |= sftp.ATTR_SIZE
            fields.append(sftp.u64(self.size))
        if self.owner is not None:
            flags |= sftp.ATTR_UIDGID
            fields.append(struct.pack(">II", *self.owner))
        if self.mode is not None:
            flags |= sftp.ATTR_PERMISSIONS
            fields.append(sftp.u32(self.mode))
        if self.times is not None:
            flags |= sftp.ATTR_ACMODTIME
            fields.append(struct.pack(">II", *self.times))
        if self.extended is not None:
            flags |= sftp.ATTR_EXTENDED
            count = len(self.extended) // 2 if self.count is None else self.count
            fields.append(sftp.u32(count) + b"".join(map(sftp.string, self.extended)))
        return sftp.u32(flags if self.flags is None else self.flags) + b"".join(fields)


Field = Number | String | Block


@dataclass(frozen=True)
class Packet:
    """A reply. Of VERSION, `number` is the version; of everything else, the request's id."""

    kind: int
    number: int
    fields: tuple[Field, ...] = ()
    length: int | None = None  # what it says of itself, if that is not the truth

    def packed(self) -> bytes:
        body = b"".join(field.packed() for field in self.fields)
        return sftp.packet(self.kind, sftp.u32(self.number & 0xFFFFFFFF) + body, self.length)

    def with_field(self, index: int, field: Field) -> Packet:
        return replace(self, fields=(*self.fields[:index], field, *self.fields[index + 1 :]))


class _Body:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def at_end(self) -> bool:
        return self.at >= len(self.data)

    def number(self, size: int = 4) -> int:
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def string(self) -> bytes:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at]

    def block(self) -> Block:
        flags = self.number()
        size = self.number(8) if flags & sftp.ATTR_SIZE else None
        owner = (self.number(), self.number()) if flags & sftp.ATTR_UIDGID else None
        mode = self.number() if flags & sftp.ATTR_PERMISSIONS else None
        times = (self.number(), self.number()) if flags & sftp.ATTR_ACMODTIME else None
        return Block(size, owner, mode, times)


def parsed(data: bytes) -> Packet:
    """A reply that is in order, from its length on."""
    body = _Body(data[9:])
    kind, number = data[4], int.from_bytes(data[5:9], "big")
    fields: list[Field] = []
    if kind == sftp.STATUS:
        fields = [Number(body.number()), String(body.string()), String(body.string())]
    elif kind in (sftp.HANDLE, sftp.DATA):
        fields = [String(body.string())]
    elif kind == sftp.ATTRS:
        fields = [body.block()]
    elif kind == sftp.NAME:
        fields = [Number(body.number())]
        while not body.at_end:
            fields += [String(body.string()), String(body.string()), body.block()]
    elif kind == sftp.EXTENDED_REPLY:
        while not body.at_end:
            fields.append(Number(body.number(8), 8))
    else:
        assert kind == sftp.VERSION
        while not body.at_end:
            fields.append(String(body.string()))
    packet = Packet(kind, number, tuple(fields))
    assert packet.packed() == data
    return packet


def split(stream: bytearray) -> list[bytes]:
    """The whole packets at the beginning of `stream`, which are taken off it."""
    found, at = [], 0
    while len(stream) - at >= 4:
        end = at + 4 + int.from_bytes(stream[at : at + 4], "big")
        if end > len(stream):
            break
        found.append(bytes(stream[at:end]))
        at = end
    del stream[:at]
    return found
