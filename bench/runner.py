"""Carries out the runs: a server, a link for each round-trip time, a fresh mount for each run.

A `Lab` owns the server, the proxies and their directories, and removes them at the end.  One
run happens at a time; the programs take turns run by run, so that whatever else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bench.workloads import Scale, Store, Workload, Wrong
from tests.support.mounts import PYSSHFS, Mount, MountError
from tests.support.procs import CommandFailed, CommandStuck, run_limited
from tests.support.proxy import Proxy
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

#: From this round-trip time on (ms), less is written and read; see `scale_for`.
LONG_RTT_MS = 10.0

#: How each program is started in the foreground, and the type its mount has.
PROGRAMS = {
    "pysshfs": (PYSSHFS, "fuse.pysshfs"),
    "sshfs": (("sshfs", "-f"), "fuse.sshfs"),
}
#: The name under which the commands that need no mount are reported.
PLAIN_SSH = "ssh"

#: What a rehearsal works on.
REHEARSAL = Scale(files=12, changed_files=12, data=1 << 20, reads=8, writes=8)

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


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
    programs: Sequence[str]
    runs: int
    quick: bool
    small: bool
    #: Seconds a program may take on a mount, and seconds its data may take to arrive after it.
    limit: float
    plain_ssh: bool
    #: Whether there is a proxy at a round-trip time of 0 too.
    proxy_at_zero: bool


def scale_for(rtt_ms: float, *, quick: bool, small: bool) -> Scale:
    """How much the workloads do; the same for all programs."""
    if small:
        return Scale(files=64, changed_files=32, data=4 << 20, reads=50, writes=256)
    less = quick or rtt_ms >= LONG_RTT_MS
    return Scale(
        files=1024,
        changed_files=128 if less else 1024,
        data=(64 if less else 256) << 20,
        reads=200,
        writes=4096,
    )


class Lab:
    """The server, its directory and the links to it; a context manager."""

    def __init__(self, plan: Plan, server_directory: Path | None = None) -> None:
        self._plan = plan
        self._base = server_directory or _memory_directory()
        self._stack = contextlib.ExitStack()
        self._ports: dict[float, int] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._server_dir = _directory(stack, self._base)
            self._rehearsal_dir = _directory(stack, self._base)
            self._local_dir = _directory(stack, self._base)
            self._sshd = stack.enter_context(Sshd(log_level="ERROR"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def runs(self) -> Iterator[Run]:
        """Carry out the plan; each run as soon as it is over."""
        for rtt_ms in self._plan.rtts_ms:
            scale = scale_for(rtt_ms, quick=self._plan.quick, small=self._plan.small)
            store = Store(self._server_dir, self._local_dir, scale)
            for workload in self._plan.workloads:
                yield from self._rounds(workload, store, rtt_ms)

    def _rounds(self, workload: Workload, store: Store, rtt_ms: float) -> Iterator[Run]:
        amount = workload.amount(store.scale)
        for number in range(self._plan.runs):
            # Whoever goes first in one round goes last in the next.
            turns = list(self._plan.programs)[:: -1 if number % 2 else 1]
            if self._plan.plain_ssh and workload.over_ssh(store, "ssh") is not None:
                turns.append(PLAIN_SSH)
            for program in turns:
                seconds, problem = _outcome(partial(self._one, program, workload, store, rtt_ms))
                yield Run(workload.name, rtt_ms, program, number, amount, seconds, problem)

    def _one(self, program: str, workload: Workload, store: Store, rtt_ms: float) -> float:
        """A cold run: what is measured has not been looked at, but the programs are in memory.

        Dropping the caches drops the programs too, and it is not the local disk that is to be
        measured: so each run is rehearsed on a few files of its own, through a mount of its own.
        """
        rehearsal = Store(self._rehearsal_dir, self._local_dir, REHEARSAL)
        workload.prepare(rehearsal)
        workload.prepare(store)
        drop_caches()
        self._carry_out(program, workload, rehearsal, self._sshd.port)
        seconds = self._carry_out(program, workload, store, self._port(rtt_ms))
        if (missing := workload.missing(store)) is not None:
            raise Wrong(missing)
        return seconds

    def _carry_out(self, program: str, workload: Workload, store: Store, port: int) -> float:
        if program == PLAIN_SSH:
            return self._over_ssh(workload, store, port)
        argv, fstype = PROGRAMS[program]
        source = self._sshd.source(store.server)
        with Mount(source, *self._sshd.options(port), program=argv, fstype=fstype) as mount:
            # A mount may be in the table before its connection is made; this waits for it
            # without listing anything.
            mount.run(["true"], timeout=self._plan.limit)
            started = time.perf_counter()
            seconds = workload.execute(mount, store, self._plan.limit)
            if workload.settles:
                mount.unmount(timeout=self._plan.limit)
                seconds = self._settled(workload, store) - started
        return seconds

    def _settled(self, workload: Workload, store: Store) -> float:
        """When the server's directory was first looked at and found complete."""
        deadline = time.perf_counter() + self._plan.limit
        while True:
            looked = time.perf_counter()
            missing = workload.missing(store)
            if missing is None:
                return looked
            if looked > deadline:
                raise Wrong(missing)
            # Nothing tells of the data's arrival; looking itself takes longer than this.
            time.sleep(0.002)

    def _over_ssh(self, workload: Workload, store: Store, port: int) -> float:
        command = workload.over_ssh(store, shlex.join(self._sshd.ssh(port)))
        assert command is not None
        argv = ["bash", "-c", f"set -o pipefail; {command}"]
        started = time.perf_counter()
        run_limited(argv, timeout=self._plan.limit)
        return time.perf_counter() - started

    def _port(self, rtt_ms: float) -> int:
        """The port that leads to the server in this round-trip time."""
        if rtt_ms == 0 and not self._plan.proxy_at_zero:
            return self._sshd.port
        if rtt_ms not in self._ports:
            proxy = self._stack.enter_context(Proxy(self._sshd.port, rtt_ms))
            self._sshd.trust(proxy.port)
            self._ports[rtt_ms] = proxy.port
        return self._ports[rtt_ms]


def _outcome(measure: Callable[[], float]) -> tuple[float | None, str]:
    """A time, or what went wrong; a stuck or failing program does not end the benchmark."""
    try:
        return measure(), ""
    except CommandStuck as problem:
        return None, _described("stuck", problem)
    except Wrong as problem:
        return None, _described("wrong result", problem)
    except (CommandFailed, MountError, subprocess.SubprocessError, OSError) as problem:
        return None, _described("failed", problem)


def _described(kind: str, problem: Exception) -> str:
    return "\n".join([f"{kind}: {problem}", *getattr(problem, "__notes__", [])])


def drop_caches() -> bool:
    """Empty the kernel's caches; False where we may not (a fresh mount is cold all the same)."""
    os.sync()
    try:
        _DROP_CACHES.write_text("3")
    except OSError:
        return False
    return True


def _memory_directory() -> Path:
    """Memory rather than a disk, whose moods would be measured otherwise."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def _directory(stack: contextlib.ExitStack, base: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix="pysshfs-bench-", dir=base))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return path
