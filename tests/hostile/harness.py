"""How the cases are carried out: mounts, what programs see there, and what the daemon takes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.support import procs
from tests.support.mounts import PYSSHFS, Mount, mounted_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.hostile.case import Case
    from tests.hostile.server import HostileServer

_PROBE: Final = Path(__file__).with_name("probe.py")
GOOD: Final = (("read", "good"), "good\n")
# Seconds after which a daemon hangs; `prove.py` expects many to do so, and has less patience.
_LIMIT: Final = float(os.environ.get("PYSSHFS_HOSTILE_LIMIT", "40"))
# How many times longer than usual anything may take: the proofs are not about time.
_SLACK: Final = float(os.environ.get("PYSSHFS_HOSTILE_SLACK", "1"))
_COMMAND_MIB: Final = 200  # that a command takes which makes no mount

# Runs a command, and says last how much memory (KiB) it took and how it ended.
_MEASURED: Final = (
    "import resource, subprocess, sys\n"
    "status = subprocess.call(sys.argv[1:])\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, status)\n"
)


class Seen(NamedTuple):
    result: Any
    seconds: float


def probe(mount: Mount, cwd: str, actions: Sequence[Sequence[Any]]) -> list[Seen]:
    """Have a program do this in a directory of the mount."""
    words = base64.b64encode(json.dumps(actions).encode()).decode()
    argv = [sys.executable, "-I", str(_PROBE), words]
    said = mount.run(argv, timeout=_LIMIT, cwd=cwd).stdout
    return [Seen(*each) for each in json.loads(said.splitlines()[-1])]


class Memory:
    """A process's memory from now on (MiB)."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        with contextlib.suppress(PermissionError):  # not root, and the daemon is not dumpable
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what it takes now
        self._before = self._peak()

    def _peak(self) -> int:
        (line,) = [
            line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:")
        ]
        return int(line.split()[1]) >> 10

    def grown(self) -> int:
        return self._peak() - self._before


def check_sights(case: Case, seen: Sequence[Seen]) -> None:
    """What the program saw is what the case says."""
    for (action, wanted), got in zip(case.sees, seen, strict=True):
        assert got.result == wanted, f"{action}: {got.result!r:.400}, not {wanted!r:.400}"
        assert got.seconds < case.seconds * _SLACK, f"{action}: {got.seconds:.1f} s"
    assert not seen or seen[0].seconds >= case.at_least, f"{seen[0].seconds:.1f} s"


def check_good(case: Case, got: Seen) -> None:
    """The request that nothing is wrong with."""
    assert got.result == GOOD[1], f"the good request: {got.result!r:.400}"
    assert got.seconds < case.recovers * _SLACK, f"the good request: {got.seconds:.1f} s"


def check_log(case: Case, log: str) -> None:
    """It says what happened, in few lines, each of them one of ours."""
    lines = log.splitlines()
    assert len(lines) <= case.log_lines, log[:5000]
    assert len(log) < 400 * (case.log_lines + 1), log[:5000]
    for line in log.split("\n")[:-1]:
        assert line.startswith("pysshfs: ") and line.isprintable(), ascii(line)
    for words in case.says:
        assert words in log, log[:5000]


def run_case(server: HostileServer, case: Case, mount: Mount, cwd: str, log_from: int = 0) -> None:
    """On a mount that is there: the program, the good request, the daemon's memory and log."""
    memory = Memory(mount.pid)
    actions = [action for action, _ in case.sees]
    if case.blocks:
        seen = probe(mount, cwd, actions)
        server.resume_reading()
        good = probe(mount, cwd, [GOOD[0]])[0]
    else:
        *seen, good = probe(mount, cwd, [*actions, GOOD[0]])
    assert mount.status is None, mount.log()
    grown = memory.grown()
    assert server.has_misbehaved(case), "it was never asked"
    check_sights(case, seen)
    check_good(case, good)
    assert grown <= case.grows, f"the daemon grew by {grown} MiB"
    check_log(case, mount.log()[log_from:])


def refused(server: HostileServer, case: Case) -> str:
    """The command's message, when there is no mount. It is one line, and its code the case's."""
    with tempfile.TemporaryDirectory(prefix="pysshfs-hostile-") as place:
        argv = [sys.executable, "-I", "-c", _MEASURED, "env", f"--chdir={procs.ROOT}", *PYSSHFS,
                server.source(case), place]  # fmt: skip
        for option in (*server.options(case), *case.options):
            argv += ["-o", option]
        try:
            result = procs.run_limited(argv, timeout=_LIMIT)
        finally:
            was_mounted = mounted_at(Path(place)) is not None
            if was_mounted:
                procs.run_limited(["umount", "-l", place], timeout=10, check=False)
        assert not was_mounted
    kib, status = map(int, result.stdout.split())
    lines = result.stderr.split("\n")
    assert status == case.status, result.stderr[:5000]
    assert lines[1:] == [""] and lines[0].isprintable(), ascii(result.stderr[:5000])
    assert len(lines[0]) < 1000, lines[0][:5000]
    for words in case.says:
        assert words in lines[0], lines[0][:5000]
    assert kib >> 10 < _COMMAND_MIB, f"{kib >> 10} MiB"
    return lines[0]


def mounts(server: HostileServer, case: Case | None) -> Mount:
    """A mount of one case's directory, or of all, each request of which is to reach the server."""
    options = (*server.options(case), *(case.options if case is not None else ("dir_cache=no",)))
    return Mount(server.source(case), *options, env={**os.environ, "XDG_STATE_HOME": server.state})
