"""What a hostile server makes of a reply: well-formed lies, broken packets, spoiled bytes.

Everything is drawn from the `random.Random` of the conversation, so that it can be had again.
"""

from __future__ import annotations

import dataclasses
from random import Random
from typing import TYPE_CHECKING, Final

from tests.hostile import sftp
from tests.hostile.fuzz.packets import KINDS, Block, Field, Number, Packet, String

if TYPE_CHECKING:
    from collections.abc import Callable

_NUMBERS: Final = (
    0, 1, 2, 3, 4, 5, 8, 127, 255, 256, 257, 1024, 1025, 4095, 4096, 16384, 16385, 65535, 1 << 20,
    (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
_TYPES: Final = (0, 0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000, 0o140000, 0o170000)
_STRINGS: Final = (
    b"", b".", b"..", b"a/b", b"/", b"/etc/passwd", b"a\0b", b"\0", b"x" * 255, b"x" * 256,
    b"x" * 4095, b"x" * 4096, b"../../../etc/passwd", b"dir/../..", b"..", b"a/..", b"file",
    b"link", b"dir", b"\xff\xfe\x1b[2J\n", b"/tmp", b"//", b"./.", b"b" * 300,
)  # fmt: skip
_CODES: Final = (*range(33), 100, 1 << 31, (1 << 32) - 1)
_TAIL: Final = (b"\0", b"?", b"\0\0\0\0", b"\xff" * 8, bytes(300))


def number(rng: Random, old: int, size: int) -> int:
    draw = rng.random()
    if draw < 0.6:
        value = rng.choice(_NUMBERS)
    elif draw < 0.8:
        value = old + rng.choice((-2, -1, 1, 2))
    else:
        value = old ^ (1 << rng.randrange(8 * size))
    return value & ((1 << 8 * size) - 1)


def text(rng: Random, old: bytes) -> bytes:
    draw = rng.random()
    if draw < 0.6 or not old:
        return rng.choice(_STRINGS)
    at = rng.randrange(len(old))
    if draw < 0.7:
        return old[:at]
    if draw < 0.8:
        return old + old
    return old[:at] + bytes((rng.randrange(256),)) + old[at + 1 :]


def block(rng: Random, old: Block) -> Block:
    """Another attribute block that is in order."""
    draw = rng.randrange(7)
    if draw == 0:
        return dataclasses.replace(old, size=number(rng, old.size or 0, 8))
    if draw == 1:
        mode = rng.choice(_TYPES) | rng.randrange(0o10000) | rng.choice((0, 0, 0, 0x30000))
        return dataclasses.replace(old, mode=mode)
    if draw == 2:
        return dataclasses.replace(old, times=(number(rng, 0, 4), number(rng, 0, 4)))
    if draw == 3:
        return dataclasses.replace(old, owner=(number(rng, 0, 4), number(rng, 0, 4)))
    if draw == 4:
        gone = rng.choice(("size", "mode", "times", "owner"))
        return dataclasses.replace(old, **{gone: None})
    if draw == 5:
        return Block()
    return dataclasses.replace(old, extended=tuple(rng.choices(_STRINGS, k=2 * rng.randrange(4))))


# --- lies: the packet is in order ---------------------------------------------------------------


def _lie(rng: Random, packet: Packet) -> Packet:
    if packet.kind == sftp.NAME and rng.random() < 0.7:
        return _other_names(rng, packet)
    if packet.kind == sftp.VERSION and rng.random() < 0.7:
        return _other_extensions(rng, packet)
    if packet.kind == sftp.DATA and rng.random() < 0.7:
        return _other_data(rng, packet)
    if not packet.fields:
        return packet
    index = rng.randrange(len(packet.fields))
    return packet.with_field(index, _other(rng, packet.fields[index]))


def _other(rng: Random, field: Field) -> Field:
    if isinstance(field, Number):
        return Number(number(rng, field.value, field.size), field.size)
    if isinstance(field, String):
        return String(text(rng, field.value))
    return block(rng, field)


def _other_data(rng: Random, packet: Packet) -> Packet:
    """The beginning of what was asked for, as a server may send at any time, or too much."""
    (data,) = packet.fields
    assert isinstance(data, String)
    if rng.random() < 0.3:
        return packet.with_field(0, String(data.value + rng.choice((b"x", data.value))))
    return packet.with_field(0, String(data.value[: rng.randrange(len(data.value) + 1)]))


def _other_names(rng: Random, packet: Packet) -> Packet:
    fields = packet.fields[1:]
    entries = [fields[at : at + 3] for at in range(0, len(fields), 3)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(entries)) if entries else 0
        draw = rng.randrange(5)
        if not entries or draw == 0:
            entries.insert(
                at, (String(rng.choice(_STRINGS)), String(b""), Block(0, None, 0o100644))
            )
        elif draw == 1:
            entries.insert(rng.randrange(len(entries)), entries[at])
        elif draw == 2:
            del entries[at]
        else:
            entry = list(entries[at])
            entry[rng.choice((0, 2, 2))] = _other(rng, entry[rng.choice((0, 2))])
            name, shown, last = entry
            if isinstance(name, String) and isinstance(last, Block):
                entries[at] = (name, shown, last)
    if rng.random() < 0.05:
        entries *= rng.choice((0, 3, 200))
    count = Number(len(entries))
    return dataclasses.replace(packet, fields=(count, *(one for each in entries for one in each)))


def _other_extensions(rng: Random, packet: Packet) -> Packet:
    fields = list(packet.fields)
    draw = rng.randrange(4)
    if draw == 0:
        at = rng.randrange(max(len(fields) // 2, 1)) * 2
        del fields[at : at + 2]
    elif draw == 1:
        fields *= rng.choice((2, 30))
    elif draw == 2:
        fields += [String(rng.choice(_STRINGS)), String(rng.choice(_STRINGS))]
    else:
        return dataclasses.replace(packet, number=number(rng, packet.number, 4))
    return dataclasses.replace(packet, fields=tuple(fields))


def _another_status(rng: Random, packet: Packet) -> Packet:
    message = rng.choice((b"", b"no", b"\xff\x1b[2J\n", b"x" * 600))
    tail = rng.randrange(4)  # what old servers leave out
    ends = 0.6 if packet.kind == sftp.DATA else 0.15
    code = sftp.EOF if rng.random() < ends else rng.choice(_CODES)
    fields = (Number(code), String(message), String(b""))[: 3 - min(tail, 2)]
    return Packet(sftp.STATUS, packet.number, fields)


# --- breaks: the packet says what is not so -----------------------------------------------------


def _wrong_type(rng: Random, packet: Packet) -> Packet:
    kinds = (*KINDS, sftp.VERSION, sftp.OPEN, 0, 99, 250, 255)
    return dataclasses.replace(packet, kind=rng.choice(kinds))


def _wrong_id(rng: Random, packet: Packet) -> Packet:
    ids = (packet.number - 1, packet.number + 1, packet.number + 2, 0, 0xFFFFFFFF, 0x80000000)
    return dataclasses.replace(packet, number=rng.choice(ids) & 0xFFFFFFFF)


def _wrong_length(rng: Random, packet: Packet) -> Packet:
    true = len(packet.packed()) - 4
    near = (true - 1, true + 1, 0, 1, 4, 5, 9)
    far = (1 << 22, (1 << 22) + 1, 1 << 31, (1 << 32) - 1)
    length = rng.choice(near if rng.random() < 0.7 else far)
    return dataclasses.replace(packet, length=max(length, 0))


def _wrong_inside(rng: Random, packet: Packet) -> Packet:
    """A length, a count or flags inside the packet."""
    choices = [
        index
        for index, field in enumerate(packet.fields)
        if isinstance(field, String | Block) or (index == 0 and packet.kind == sftp.NAME)
    ]
    if not choices:
        return _longer(rng, packet)
    index = rng.choice(choices)
    field = packet.fields[index]
    if isinstance(field, String):
        return packet.with_field(index, String(field.value, number(rng, len(field.value), 4)))
    if isinstance(field, Block):
        if rng.random() < 0.5:
            return packet.with_field(
                index, dataclasses.replace(field, flags=rng.choice((0, 1, 8, 0x10, 0xFF, 1 << 31)))
            )
        many = dataclasses.replace(field, extended=(b"a", b""), count=number(rng, 1, 4))
        return packet.with_field(index, many)
    return packet.with_field(index, Number(number(rng, 1, 4)))


def _shorter(rng: Random, packet: Packet) -> Packet:
    """Some fields are missing, and the packet's length is right."""
    keep = rng.randrange(len(packet.fields)) if packet.fields else 0
    return dataclasses.replace(packet, fields=packet.fields[:keep])


def _longer(rng: Random, packet: Packet) -> Packet:
    tail = rng.choice(_TAIL)
    return dataclasses.replace(packet, fields=(*packet.fields, _raw(tail)))


def _raw(data: bytes) -> Field:
    return Number(int.from_bytes(data, "big"), len(data))


_SHAPES: Final[tuple[tuple[int, Callable[[Random, Packet], Packet]], ...]] = (
    (40, _lie),
    (14, _another_status),
    (5, _wrong_type),
    (5, _wrong_id),
    (4, _wrong_length),
    (8, _wrong_inside),
    (5, _shorter),
    (5, _longer),
)
_WEIGHTS: Final = [weight for weight, _ in _SHAPES]
_MAKERS: Final = [maker for _, maker in _SHAPES]


def shaped(rng: Random, packet: Packet) -> bytes:
    """A reply that says something else, packet by packet."""
    (maker,) = rng.choices(_MAKERS, _WEIGHTS)
    return maker(rng, packet).packed()


def habitual(seed: float, packet: Packet) -> bytes:
    """The same each time. What holds data ends at once as often as not."""
    if packet.kind == sftp.DATA and seed < 0.5:
        return sftp.status(packet.number, sftp.EOF)
    return shaped(Random(seed), packet)


def bytes_spoiled(rng: Random, data: bytes) -> bytes:
    """A reply with bytes that were changed, lost, added or doubled anywhere."""
    at = rng.randrange(len(data))
    length = rng.choice((1, 1, 2, 4, 8, 64))
    draw = rng.randrange(5)
    if draw == 0:
        return data[:at] + bytes((data[at] ^ (1 << rng.randrange(8)),)) + data[at + 1 :]
    if draw == 1:
        return data[:at] + data[at + length :]
    if draw == 2:
        return data[:at] + rng.randbytes(length) + data[at:]
    if draw == 3:
        return data[:at] + data[at : at + length] + data[at:]
    return data[:at] + rng.randbytes(length) + data[at + length :]
