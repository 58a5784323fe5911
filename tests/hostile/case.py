"""What a case is made of: rules by which the server misbehaves, and what a program sees of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hostile.tree import Node


@dataclass(frozen=True)
class Asked:
    """A request that a rule applies to. `path` is relative to the case's directory."""

    kind: int
    number: int  # its id
    body: bytes  # what follows the id
    path: bytes
    nth: int  # how many the rule applied to before
    token: bytes  # the handle that the proper answer would give


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Stderr:
    data: bytes


@dataclass(frozen=True)
class Disconnect:
    """End the connection, and say why."""

    reason: str


class Act(enum.Enum):
    CLOSE = "close the channel"
    END = "send EOF"
    ABORT = "close the connection's socket"
    STOP_READING = "take nothing more: never adjust the window"


Step = bytes | Pause | Stderr | Disconnect | Act
#: What is done in place of the proper answer, which is given.
Trick = Callable[[Asked, bytes], "bytes | Sequence[Step]"]


@dataclass(frozen=True)
class Rule:
    """`path` is what the request must be about (None: anything); `skip` requests are answered
    properly before, then `times` are not (None: all)."""

    on: int
    do: Trick
    path: bytes | None = None
    skip: int = 0
    times: int | None = None


@dataclass(frozen=True)
class Ssh:
    """What is wrong below SFTP."""

    refusal: str = ""  # why there is to be no channel
    banner: str = ""  # said while logging in
    raw: bytes = b""  # sent by a server that is none, as soon as somebody connects
    window: int = 2 << 20
    packet: int = 32 << 10
    compression: str = "none"


class Outcome(enum.Enum):
    SURVIVES = "the session goes on"
    RECONNECTS = "another session"  # as this one broke the protocol, or ended
    REFUSED = "no mount"


#: What a program does (see `probe.py`) and what it sees: a value, or an errno's name.
Sight = tuple[tuple[Any, ...], Any]


@dataclass(frozen=True)
class Case:
    name: str
    group: str
    does: str  # the server, in words
    rules: tuple[Rule, ...]
    outcome: Outcome
    sees: tuple[Sight, ...] = ()
    nodes: dict[bytes, Node] = field(default_factory=dict)  # beside the usual ones
    options: tuple[str, ...] = ()
    alone: bool = False  # needs a mount of its own although the session goes on
    seconds: float = 3.0  # within which each thing that it `sees` is seen
    at_least: float = 0.0  # seconds that the first of it takes: nothing is tried without pause
    recovers: float = 1.0  # and the good request after it
    status: int = 8  # the command's exit code where there is no mount
    says: tuple[str, ...] = ()  # in the daemon's log, or the command's message
    ssh: Ssh = field(default_factory=Ssh)
    blocks: bool = False  # no good request until the server goes on reading
    sessions: int | None = None  # how many there are in all; None: as the outcome says
    grows: int = 48  # MiB that the daemon may grow by at most, at any time
    log_lines: int = 12  # most lines in its log
