"""How many bytes of WRITEs may be on their way at once, so that a slow link is filled, not flooded.

All sessions share the way there. What is sent faster than the link carries it piles up before it,
and whatever is asked next waits behind the pile, on whichever session. An acknowledgement that
comes soon after its WRITE says that there is no pile, and the bound rises; one that comes late
lowers it. Plain synchronous code; `vfs/lanes.py` owns it and measures.
"""

from __future__ import annotations

import math
from typing import Final

_FIRST: Final = 2 << 20  # bytes
_LEAST: Final = 512 << 10
_MOST: Final = 64 << 20
_SOON: Final = 0.05  # seconds, beside two round trips
_LATE: Final = 0.2  # seconds, beside four


class Flow:
    """The bound, and what counts against it."""

    def __init__(self) -> None:
        self.limit = _FIRST
        self.in_flight = 0
        self._lowered_at = -math.inf

    def has_room(self, count: int) -> bool:
        return not self.in_flight or self.in_flight + count <= self.limit

    def acknowledged(self, count: int, sent_at: float, now: float, round_trip: float) -> None:
        """So many bytes, which still count as in flight. Times in seconds."""
        took, late = now - sent_at, 4 * round_trip + _LATE
        if took <= 2 * round_trip + _SOON:
            if 2 * self.in_flight >= self.limit:  # else it was no bound
                self.limit = min(self.limit + count, _MOST)
        elif took > late and sent_at >= self._lowered_at:
            # What was in flight took so long: this much less takes that much less. Not again for
            # what was sent under the old bound.
            self._lowered_at = now
            self.limit = max(int(self.in_flight * late / took), _LEAST)
