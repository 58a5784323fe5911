"""The ways to spoil an answer: each makes a `Trick`, from the request and the proper answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hostile import sftp
from tests.hostile.case import Asked, Pause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.hostile.case import Step, Trick


def says(build: Callable[[Asked], bytes]) -> Trick:
    """What `build` makes of the request, in place of the proper answer."""
    return lambda asked, _proper: build(asked)


def raw(stream: bytes) -> Trick:
    """These bytes, whatever was asked."""
    return lambda _asked, _proper: stream


def steps(*each: Step) -> Trick:
    return lambda _asked, _proper: each


def after(*each: Step) -> Trick:
    """These, then the proper answer."""
    return lambda _asked, proper: (*each, proper)


def then(*each: Step) -> Trick:
    """The proper answer, then these."""
    return lambda _asked, proper: (proper, *each)


def silence(_asked: Asked, _proper: bytes) -> bytes:
    return b""


def twice(_asked: Asked, proper: bytes) -> bytes:
    return proper + proper


def cut(count: int) -> Trick:
    """The last bytes are missing, and the length says so."""

    def do(_asked: Asked, proper: bytes) -> bytes:
        return sftp.packet(proper[4], proper[5:-count])

    return do


def longer(extra: bytes) -> Trick:
    """More than there should be, and the length says so."""

    def do(_asked: Asked, proper: bytes) -> bytes:
        return sftp.packet(proper[4], proper[5:] + extra)

    return do


def half(*each: Step) -> Trick:
    """The first half of the answer, then these."""
    return lambda _asked, proper: (proper[: len(proper) // 2], *each)


def with_number(change: Callable[[int], int]) -> Trick:
    """The proper answer to another request."""

    def do(asked: Asked, proper: bytes) -> bytes:
        return sftp.reply(proper[4], change(asked.number) & 0xFFFFFFFF, proper[9:])

    return do


def typed(kind: int) -> Trick:
    """The proper answer under another type."""
    return lambda asked, proper: sftp.reply(kind, asked.number, proper[9:])


def status(code: int, message: bytes = b"", language: bytes = b"en") -> Trick:
    return lambda asked, _proper: sftp.status(asked.number, code, message, language)


def body(kind: int, content: bytes) -> Trick:
    """An answer of this type with this in it, in a packet that is in order."""
    return lambda asked, _proper: sftp.reply(kind, asked.number, content)


def named(*entries: bytes, count: int | None = None) -> Trick:
    """NAME with these entries; `count` is how many it says there are."""
    return lambda asked, _proper: sftp.names(asked.number, list(entries), count)


def attributes(block: bytes) -> Trick:
    return body(sftp.ATTRS, block)


def drip(seconds: float, most: int) -> Trick:
    """A byte at a time; the rest at once when `most` have gone."""

    def do(_asked: Asked, proper: bytes) -> Sequence[Step]:
        pieces: list[Step] = []
        for at in range(min(most, len(proper))):
            pieces += [proper[at : at + 1], Pause(seconds)]
        return [*pieces, proper[most:]] if len(proper) > most else pieces

    return do
