"""What is to be run: the programs that are compared, the amounts, and what a run gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.base import Scale, Workload
from bench.goals import ASYNC
from tests.support.mounts import PYSSHFS

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Program:
    """How one of the compared is started in the foreground, and the type its mount has."""

    name: str
    argv: Sequence[str]
    fstype: str
    options: Sequence[str] = ()


PYSSHFS_PROGRAM = Program("pysshfs", PYSSHFS, "fuse.pysshfs")
#: Takes part in the rounds of workloads that are `also_async`.
ASYNC_PROGRAM = Program("pysshfs" + ASYNC, PYSSHFS, "fuse.pysshfs", ("async_ops",))
SSHFS_PROGRAM = Program("sshfs", ("sshfs", "-f"), "fuse.sshfs")
PROGRAMS = {program.name: program for program in (PYSSHFS_PROGRAM, SSHFS_PROGRAM)}
#: The name under which the commands that need no mount are reported.
PLAIN_SSH = "ssh"

#: What a rehearsal works on.
REHEARSAL = Scale(files=12, changed_files=12, data=1 << 20, reads=8, writes=8, copied=1 << 30)
_TINY = Scale(files=64, changed_files=32, data=4 << 20, reads=50, writes=256)
_WHOLE = Scale(files=1024, changed_files=1024, data=256 << 20, reads=200, writes=4096)
#: From which round-trip time on (ms) how much is done: what takes sshfs minutes is cut down.
SCALES = {
    0.0: _WHOLE,
    10.0: Scale(files=1024, changed_files=128, data=64 << 20, reads=200, writes=4096),
    50.0: Scale(files=1024, changed_files=32, data=64 << 20, reads=100, writes=4096),
}
#: The same for a quick look.
_QUICK = {
    0.0: Scale(files=1024, changed_files=256, data=128 << 20, reads=200, writes=4096),
    10.0: Scale(files=256, changed_files=48, data=64 << 20, reads=100, writes=4096),
    50.0: Scale(files=64, changed_files=16, data=32 << 20, reads=50, writes=4096),
}


@dataclass(frozen=True)
class Run:
    """One run: its time in seconds, or what went wrong instead (``stuck: ...``)."""

    workload: str
    rtt_ms: float
    program: str
    number: int
    amount: str
    seconds: float | None
    problem: str = ""


@dataclass(frozen=True)
class Plan:
    """What to run: workloads and round-trip times in order, and the limits."""

    workloads: Sequence[Workload]
    rtts_ms: Sequence[float]
    programs: Sequence[Program]
    runs: int
    #: How much is worked on: "usual", "quick", "tiny", or "whole" at every round-trip time.
    amounts: str
    #: Seconds a program may take on a mount.
    limit: float
    plain_ssh: bool
    #: Whether pysshfs takes part a second time, with async_ops.
    async_ops: bool
    #: Whether there is a proxy at a round-trip time of 0 too.
    proxy_at_zero: bool


def scale_for(rtt_ms: float, amounts: str) -> Scale:
    """How much the workloads do; the same for all programs."""
    if amounts in ("tiny", "whole"):
        return _TINY if amounts == "tiny" else _WHOLE
    scales = _QUICK if amounts == "quick" else SCALES
    return scales[max(least for least in scales if least <= rtt_ms)]
