"""Carries out the runs: a server, a link for each round-trip time, a fresh mount for each run.

A `Lab` owns the server, the proxies and their directories, and removes them at the end.  One
run happens at a time; the programs take turns run by run, so that whatever else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from bench.base import Store, Workload, Wrong
from bench.link import Link, measure
from bench.plan import ASYNC_PROGRAM, PLAIN_SSH, REHEARSAL, Plan, Program, Run, scale_for
from pysshfs.cli import ctl
from tests.support.mounts import Mount, MountError
from tests.support.procs import CommandFailed, CommandStuck, run_limited
from tests.support.proxy import Proxy
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_T = TypeVar("_T")

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


class Lab:
    """The server, its directory and the links to it; a context manager."""

    def __init__(self, plan: Plan, server_directory: Path | None = None) -> None:
        self._plan = plan
        self._base = server_directory or _memory_directory()
        self._on_disk = server_directory is not None
        self._stack = contextlib.ExitStack()
        self._ports: dict[float, int] = {}
        self._rehearsed: set[str] = set()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.server_dir = _directory(stack, self._base)
            self._rehearsal_dir = _directory(stack, self._base)
            self._local_dir = _directory(stack, self._base)
            self._sshd = stack.enter_context(Sshd(log_level="ERROR"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def links(self) -> Iterator[Link]:
        """What the links can do by themselves, loopback first."""
        yield measure(0, proxied=False)
        for rtt_ms in self._plan.rtts_ms:
            if rtt_ms or self._plan.proxy_at_zero:
                yield measure(rtt_ms, proxied=True)

    def runs(self) -> Iterator[Run]:
        """Carry out the plan; each run as soon as it is over."""
        for rtt_ms in self._plan.rtts_ms:
            scale = scale_for(rtt_ms, self._plan.amounts)
            store = Store(self.server_dir, self._local_dir, scale)
            for workload in self._plan.workloads:
                yield from self._rounds(workload, store, rtt_ms)

    def _rounds(self, workload: Workload, store: Store, rtt_ms: float) -> Iterator[Run]:
        amount = workload.amount(store.scale)
        turns = self._turns(workload, store)
        if workload.name not in self._rehearsed:
            self._rehearsed.add(workload.name)
            self._rehearse(workload, turns)
        for number in range(self._plan.runs):
            # Whoever goes first in one round goes last in the next.
            for program in turns[:: -1 if number % 2 else 1]:
                one = partial(self._one, program, workload, store, rtt_ms)
                seconds, problem = outcome(one)
                name = PLAIN_SSH if program is None else program.name
                yield Run(workload.name, rtt_ms, name, number, amount, seconds, problem)

    def _turns(self, workload: Workload, store: Store) -> list[Program | None]:
        """Who takes part in a round; None is plain ssh."""
        turns: list[Program | None] = list(self._plan.programs)
        if workload.also_async and self._plan.async_ops:
            turns.insert(1, ASYNC_PROGRAM)
        if self._plan.plain_ssh and workload.over_ssh(store, "ssh") is not None:
            turns.append(None)
        return turns

    def _rehearse(self, workload: Workload, turns: Sequence[Program | None]) -> None:
        """Have the programs in memory, and nothing else of what is measured.

        It is not the local disk that is to be measured: so each program works once on a few files
        of its own, through a mount of its own.
        """
        store = Store(self._rehearsal_dir, self._local_dir, REHEARSAL)
        for program in turns:
            workload.prepare(store)
            # Whatever is wrong will show in the runs.
            outcome(partial(self._carry_out, program, workload, store, self._sshd.port))

    def _one(
        self, program: Program | None, workload: Workload, store: Store, rtt_ms: float
    ) -> float:
        """A cold run: nothing that is measured has been looked at through this mount."""
        workload.prepare(store)
        if self._on_disk:
            # The server's files are to be cold, too; that takes the programs along.
            drop_caches()
            self._rehearse(workload, [program])
        drop_caches(names_only=True)
        return self._carry_out(program, workload, store, self.port(rtt_ms))

    def _carry_out(
        self, program: Program | None, workload: Workload, store: Store, port: int
    ) -> float:
        if program is None:
            seconds = self._over_ssh(workload, store, port)
            _check(workload, store)
            return seconds
        with self.mount(program, store.server, port) as mount:
            seconds = workload.execute(mount, store, self._plan.limit)
            if workload.writes:
                seconds += _flushed(program, mount, self._plan.limit)
                # At once: what is still on its way is not there.
                _check(workload, store)
        return seconds

    @contextlib.contextmanager
    def mount(self, program: Program, directory: Path, port: int) -> Iterator[Mount]:
        """A fresh mount of a directory of the server, connected, with nothing listed."""
        options = [*self._sshd.options(port), *program.options]
        source = self._sshd.source(directory)
        with Mount(source, *options, program=program.argv, fstype=program.fstype) as mount:
            # A mount may be in the table before its connection is made.
            mount.run(["true"], timeout=self._plan.limit)
            yield mount

    def _over_ssh(self, workload: Workload, store: Store, port: int) -> float:
        command = workload.over_ssh(store, shlex.join(self._sshd.ssh(port)))
        assert command is not None
        argv = ["bash", "-c", f"set -o pipefail; {command}"]
        started = time.perf_counter()
        run_limited(argv, timeout=self._plan.limit)
        return time.perf_counter() - started

    def port(self, rtt_ms: float) -> int:
        """The port that leads to the server in this round-trip time."""
        if rtt_ms == 0 and not self._plan.proxy_at_zero:
            return self._sshd.port
        if rtt_ms not in self._ports:
            proxy = self._stack.enter_context(Proxy(self._sshd.port, rtt_ms))
            self._sshd.trust(proxy.port)
            self._ports[rtt_ms] = proxy.port
        return self._ports[rtt_ms]


def outcome(measure: Callable[[], _T]) -> tuple[_T | None, str]:
    """A result, or what went wrong; a stuck or failing program does not end the benchmark."""
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


def _flushed(program: Program, mount: Mount, limit: float) -> float:
    """Seconds until all that was written is on the server, as far as the program can tell.

    `pysshfsctl flush` is called as a function, for starting Python is not what is measured.
    """
    said = io.StringIO()
    started = time.perf_counter()
    mount.run(["sync", "-f", "."], timeout=limit)
    if program.fstype == ASYNC_PROGRAM.fstype:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = ctl.main(["flush", str(mount.mountpoint)])
        if status != 0:
            raise Wrong(said.getvalue().strip())
    return time.perf_counter() - started


def _check(workload: Workload, store: Store) -> None:
    if (missing := workload.missing(store)) is not None:
        raise Wrong(missing)


def drop_caches(*, names_only: bool = False) -> bool:
    """Empty the kernel's caches; False where we may not (a fresh mount is cold all the same).

    With `names_only` the names and inodes, but not the contents of files: those of a fresh mount
    are not there, those of the server are in memory for good, and the programs are to stay.
    """
    if not names_only:
        os.sync()
    try:
        _DROP_CACHES.write_text("2" if names_only else "3")
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
