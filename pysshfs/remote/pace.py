"""How long to wait before connecting again, and before a new session is trusted. Pure functions."""

from __future__ import annotations

from typing import Final

_MOST_SECONDS: Final = 30.0  # between the beginnings of two tries, unless one takes longer


def _longest_pause(failures: int) -> float:
    return min(_MOST_SECONDS, 2.0 ** min(failures, 10))


def pause(failures: int, chance: float) -> float:
    """Seconds from the beginning of one try to that of the next, after `failures` in a row.
    `chance` is between 0 and 1: many clients of one server must not all come back at once."""
    return _longest_pause(failures) * (1 + chance) / 2


def shortest_pause(failures: int) -> float:
    """Seconds from the end of a try to the next, however much it is wanted."""
    return min(5.0, _longest_pause(failures) / 2)


def fence(round_trip: float) -> float:
    """Seconds for the old session to end in, when something was in doubt."""
    return max(0.25, 4 * round_trip)
