"""Running and ending other processes within hard time limits.

Owns no state.  A program on a FUSE mount may sleep uninterruptibly until its request is
answered, and a server's children may have left its process group; so nothing here waits for a
process without a limit, and whole trees are ended by looking their members up in /proc.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: The directory that holds the packages ``tests``, ``bench`` and ``pysshfs``.
ROOT = Path(__file__).resolve().parents[2]

#: Seconds a process may take to disappear once it has been sent SIGKILL and nothing blocks it.
_AFTER_KILL = 5.0


class CommandFailed(AssertionError):
    """A command ended with a status other than 0; ``result`` is the whole of it."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        self.result = result
        super().__init__(
            f"{result.args!r} ended with status {result.returncode}\n"
            f"stdout: {_tail(result.stdout)}\nstderr: {_tail(result.stderr)}"
        )


class CommandStuck(AssertionError):
    """A command outlived its time limit and was killed."""

    def __init__(self, argv: Sequence[str], limit: float, stdout: str, stderr: str) -> None:
        self.argv, self.limit, self.stdout, self.stderr = list(argv), limit, stdout, stderr
        super().__init__(
            f"{list(argv)!r} did not end within {limit} s\n"
            f"stdout: {_tail(stdout)}\nstderr: {_tail(stderr)}"
        )


def _tail(text: str, limit: int = 2000) -> str:
    return text if len(text) <= limit else "..." + text[-limit:]


def run_limited(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    unblock: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end, or kill its process group after `timeout` seconds.

    Output is decoded as file names are (``os.fsencode`` gives the bytes back).  `unblock` is
    called after the kill, to free a process that no signal reaches.  Raises CommandStuck, and
    with `check` CommandFailed.  The caller's working directory is not passed on.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd="/",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired:
        out, err = _put_down(process, unblock)
        raise CommandStuck(argv, timeout, os.fsdecode(out), os.fsdecode(err)) from None
    except BaseException:
        _put_down(process, unblock)
        raise
    result = subprocess.CompletedProcess(
        list(argv), process.returncode, os.fsdecode(out), os.fsdecode(err)
    )
    if check and result.returncode != 0:
        raise CommandFailed(result)
    return result


def _put_down(
    process: subprocess.Popen[bytes], unblock: Callable[[], None] | None
) -> tuple[bytes, bytes]:
    """Kill the process's group and collect what it wrote; never waits for long."""
    kill_group(process.pid)
    if unblock is not None:
        unblock()
    try:
        return process.communicate(timeout=_AFTER_KILL)
    except subprocess.TimeoutExpired as expired:
        # Still asleep in the kernel, or a grandchild holds the pipes: leave it behind.
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return expired.output or b"", expired.stderr or b""


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def wait_gone(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Whether the process ended within `timeout` seconds."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """The living processes below `pid`, parents before children, found through /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _living_parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be reaped by its parent."""
    return _living_parent(Path("/proc") / str(pid)) is not None


def _living_parent(entry: Path) -> int | None:
    """The parent's pid out of /proc/PID/stat; None for a process that is gone or a zombie."""
    try:
        # The command's name is in brackets and may itself hold brackets and blanks.
        state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else int(parent)


def end_tree(root: int, how: signal.Signals, *, spare_root: bool = False, grace: float = 3) -> None:
    """End `root` and everything below it with the signal `how`, then with SIGKILL.

    The tree is stopped first: once the parent is gone its children can no longer be found, and
    a running parent could start more meanwhile.  `spare_root` leaves `root` itself running.
    Returns when all are gone; a child of this process is still to be waited for.
    """
    frozen = _freeze(root)
    root_handle = frozen.pop(root, None) if spare_root else None
    try:
        _signal_all(frozen.values(), how)
        _signal_all(frozen.values(), signal.SIGCONT)
        if not _all_gone(frozen.values(), grace):
            _signal_all(frozen.values(), signal.SIGKILL)
            _all_gone(frozen.values(), _AFTER_KILL)
    finally:
        if root_handle is not None:
            _signal_all([root_handle], signal.SIGCONT)
            os.close(root_handle)
        for handle in frozen.values():
            os.close(handle)


def _freeze(root: int) -> dict[int, int]:
    """Stop a tree, top down, until no new member shows up; gives a pidfd for each pid.

    A pidfd, unlike a pid, cannot come to mean another process while it is held.
    """
    frozen: dict[int, int] = {}
    while new := [pid for pid in (root, *descendants(root)) if pid not in frozen]:
        for pid in new:
            try:
                frozen[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                if pid == root:
                    return frozen
                continue
            _signal_all([frozen[pid]], signal.SIGSTOP)
    return frozen


def _signal_all(handles: Iterable[int], which: signal.Signals) -> None:
    for handle in handles:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, which)


def _all_gone(handles: Iterable[int], limit: float) -> bool:
    """Wait until each pidfd reports its process's end; False when `limit` seconds were too few."""
    deadline = time.monotonic() + limit
    poller = select.poll()
    waiting = set(handles)
    for handle in waiting:
        poller.register(handle, select.POLLIN)
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for handle, _ in poller.poll(left * 1000):
            poller.unregister(handle)
            waiting.discard(handle)
    return True
