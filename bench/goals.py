"""The goals: by how much pysshfs is to be faster than sshfs, for each workload and round trip.

A goal is a ratio, sshfs's time divided by pysshfs's.  Workloads without one are reported all the
same.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The round-trip times (ms) there are goals for, in the order of the tuples below.
RTTS_MS: Final = (0.0, 1.0, 10.0, 50.0)

#: What is added to a workload's name when it runs with `-o async_ops`.
ASYNC: Final = "-async"

_WALKS = (1.4, 5, 25, 50)
_CREATES = (1.2, 3, 3.5, 4)
_BESIDE = (2, 2, 2, 2)

GOALS: Final[Mapping[str, tuple[float, float, float, float]]] = MappingProxyType(
    {
        "ls": (1.3, 2.5, 8, 14),
        "tar": _WALKS,
        "grep": _WALKS,
        "copyout": _WALKS,
        "git": (1.0, 3, 8, 10),
        "untar": _CREATES,
        "copyin": _CREATES,
        "untar" + ASYNC: (1.5, 10, 40, 60),
        "rm" + ASYNC: (1.0, 5, 15, 20),
        "read": (1.3, 2, 10, 25),
        "write": (1.0, 1.0, 1.5, 4),
        "random": (0.6, 1.2, 0.95, 0.95),
        "small": (0.5, 1.0, 1.2, 1.2),
        "beside-out": _BESIDE,
        "beside-in": _BESIDE,
    }
)


def goal(workload: str, rtt_ms: float) -> float | None:
    """The ratio to be reached; None where none was set."""
    if workload not in GOALS or rtt_ms not in RTTS_MS:
        return None
    return GOALS[workload][RTTS_MS.index(rtt_ms)]


def is_met(ratio: float, wanted: float) -> bool:
    """Whether a ratio reaches a goal, to the two decimals it is shown with."""
    return round(ratio, 2) >= wanted
