"""A mount whose network can be disturbed: server, fault proxy, mount, and the directory served.

`Rig` owns them and frees them all, whatever state they are in. One thread at a time may use it.
The process that runs the tests looks at the directory on the server's side only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias

from tests.faults import job
from tests.faults.framing import CIPHER
from tests.faults.proxy import FaultProxy
from tests.mount.places import status, wait_until
from tests.support.mounts import PYSSHFS, Mount
from tests.support.procs import CommandStuck

if TYPE_CHECKING:
    from types import TracebackType

    from tests.support.sshd import Sshd

_WITHOUT_PAUSES = (sys.executable, "-m", "tests.faults.daemon", "-f")

#: Seconds after which a job counts as hanging.
JOB_LIMIT = 30.0

#: Seconds in which a mount that nobody uses must come to rest, connected.
REST_LIMIT = 15.0


class Entry(NamedTuple):
    """What there is to know of one name in a tree."""

    type: str
    mode: int
    size: int | None
    sha256: str | None
    target: str | None


Tree: TypeAlias = dict[str, Entry]


def tree(top: Path) -> Tree:
    """All that a job leaves, by path."""
    found: Tree = {}
    for directory, subdirectories, files in os.walk(top):
        for name in [*subdirectories, *files]:
            path = Path(directory, name)
            found[str(path.relative_to(top))] = _entry(path)
    return found


def _entry(path: Path) -> Entry:
    found = path.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode):
        return Entry("directory", mode, None, None, None)
    if stat.S_ISLNK(found.st_mode):
        return Entry("symlink", mode, None, None, os.readlink(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry("file", mode, found.st_size, digest, None)


def difference(found: Tree, wanted: Tree) -> str:
    """What is wrong with a tree, one name on a line; "" for nothing."""
    lines = []
    for path in sorted(found.keys() | wanted.keys()):
        if path not in wanted:
            lines.append(f"{path} is too many: {found[path]}")
        elif path not in found:
            lines.append(f"{path} is missing")
        elif found[path] != wanted[path]:
            lines.append(f"{path} is {found[path]} instead of {wanted[path]}")
    return "\n".join(lines)


class Rig:
    """``with Rig(server) as rig: rig.run_job("name")``; `options` are the mount's, without -o.

    With `without_pauses` the mount connects anew at once even if that is often
    (`tests/faults/daemon.py`).
    """

    def __init__(self, server: Sshd, *options: str, without_pauses: bool = False) -> None:
        self.server = server
        self.root = Path(tempfile.mkdtemp(prefix="pysshfs-served-")).resolve()
        self.proxy = FaultProxy(server.port)
        self._options = options
        self._program = _WITHOUT_PAUSES if without_pauses else PYSSHFS
        self._mount: Mount | None = None

    @property
    def mount(self) -> Mount:
        assert self._mount is not None, "not mounted"
        return self._mount

    # -- what it does ------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself, whatever the state of its connection."""
        assert self.mount.status is None, f"the daemon ended; its log:\n{self.mount.log()}"
        return status(self.mount)

    def reconnects(self) -> int:
        """How often the daemon has connected anew and gone on."""
        count: int = self.status()["reconnects"]
        return count

    def rest(self, open_files: int = 0) -> None:
        """Wait until nothing is on its way any more, and nothing is still to be sent."""
        seen: list[object] = []

        def at_rest() -> bool:
            try:
                known = self.status()
            except (FileNotFoundError, ConnectionRefusedError):  # the mount is that new
                return False
            busy = ("unacknowledged_bytes", "sftp_in_flight", "requests")
            newest = self.proxy.newest()
            before, seen[:] = list(seen), [newest]
            idle = known["state"] == "up" and not any(known[name] for name in busy)
            return idle and known["open_files"] == open_files and before == [newest]

        wait_until("the mount is at rest", at_rest, REST_LIMIT)

    def directory(self, name: str) -> Path:
        """A fresh directory, on the server's side."""
        made = self.root / name
        made.mkdir()
        return made

    def run_job(self, name: str) -> str:
        """Run the job in a fresh directory of the mount; what went wrong, or ""."""
        self.directory(name)
        argv = [sys.executable, "-I", "-S", job.__file__]
        try:
            result = self.mount.run(argv, timeout=JOB_LIMIT, cwd=name, check=False)
        except CommandStuck as stuck:
            return f"{stuck}\nthe daemon's log:\n{self.mount.log()}"
        try:
            outcome = json.loads(result.stdout)
        except ValueError:
            outcome = None
        if outcome == {"ok": True} and result.returncode == 0:
            return ""
        return f"status {result.returncode}: {outcome or result.stdout}{result.stderr}"

    def tree(self, name: str) -> Tree:
        return tree(self.root / name)

    # -- its life ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.proxy.start()
            self.server.trust(self.proxy.port)
            self.remount()
        except BaseException:
            self._free()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            mount, self._mount = self._mount, None
            if mount is not None:
                if exc is not None:
                    mount.abort()
                _leave(mount, kind, exc, trace)
            if exc is None:
                assert not self.proxy.problems, self.proxy.problems
        finally:
            self._free()

    def remount(self) -> None:
        """A mount that works, in place of the one there is, if any."""
        self.put_down()
        options = [*self.server.options(self.proxy.port), CIPHER, *self._options]
        source = self.server.source(self.root)
        self._mount = Mount(source, *options, program=self._program).__enter__()

    def put_down(self) -> None:
        """Free a mount that may hang or have ended; nothing is said about it."""
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.abort()
            why = RuntimeError("put down")
            _leave(mount, type(why), why, None)

    def _free(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.put_down()
        self.proxy.stop()
        shutil.rmtree(self.root, ignore_errors=True)


def _leave(
    mount: Mount,
    kind: type[BaseException] | None,
    exc: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Whatever goes wrong with its end, no daemon stays behind."""
    try:
        mount.__exit__(kind, exc, trace)
    finally:
        if mount.status is None:
            mount.abort()
            mount.kill_daemon()
