"""Places in the bytes of a connection, as tests name them and as flows look for them.

No state: a `Spot` is a value.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.faults.framing import Framing


class Way(enum.Enum):
    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"

    @property
    def back(self) -> Way:
        return Way.TO_CLIENT if self is Way.TO_SERVER else Way.TO_SERVER


BOTH: Final = (Way.TO_SERVER, Way.TO_CLIENT)


#: For `Spot.inside`: behind the packet, as soon as the whole of it has passed.
AFTER: Final = None


@dataclass(frozen=True)
class Spot:
    """A place in the stream of one direction: a packet or a number of bytes.

    `inside` says how many bytes of the packet still pass: 0 is before it, and due when it comes; a
    negative number counts from its end; AFTER is behind it. A number that the packet does not have
    means all of it but one byte. `byte` is due as soon as so many have passed.
    """

    way: Way
    packet: int | None = None
    inside: int | None = 0
    byte: int | None = None

    def __post_init__(self) -> None:
        assert (self.packet is None) is not (self.byte is None), "a packet or a byte"
        assert (self.packet or self.byte or 0) >= 1, "counted from 1"

    def __str__(self) -> str:
        if self.packet is None:
            return f"byte {self.byte} {self.way.value}"
        where = {0: "before", AFTER: "after"}.get(self.inside, f"at {self.inside} bytes of")
        return f"{where} packet {self.packet} {self.way.value}"

    @property
    def is_before(self) -> bool:
        """Whether it is due only when there is more to come."""
        return self.packet is not None and self.inside == 0

    def find(self, framing: Framing | None) -> int | None:
        """Where it is, as far as the packet in hand and those before it tell."""
        if framing is None or framing.begin is None or self.packet is None:
            return None
        begin, end = framing.begin, framing.end
        if self.inside is None:
            return begin if framing.packets == self.packet else None
        if framing.packets + 1 != self.packet:
            return None
        if end is None:
            return begin + self.inside if 0 <= self.inside <= 4 else None
        if self.inside < 0:
            return max(end + self.inside, begin + 4)
        return begin + min(self.inside, end - begin - 1)
