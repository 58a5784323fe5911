"""A systemd to be tried on: booted as the first process of namespaces of its own.

`sandbox.sh`, beside this file, makes them, on an overlay of this machine's root: what happens
inside is written nowhere. Only the network is the machine's, so that servers outside can be
reached, and `shared`, a directory with the same path on both sides. A `Sandbox` owns the whole:
with its end every process inside is killed and every mount is gone. Needs root.

Programs inside are started from here by nsenter and have a time limit; the process that runs the
tests never looks at a mount in there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import IO

_SCRIPT = Path(__file__).with_suffix(".sh")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_SECONDS = 30.0
#: What the sandbox starts at boot; `wants` hold what a test has enabled.
_TARGET = """[Unit]
Description=All that this sandbox starts
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""
_JOURNAL = "[Journal]\nStorage=volatile\nForwardToConsole=no\nRateLimitIntervalSec=0\n"
#: How long systemd waits for what has no time of its own to stop in, and for any process at last.
DEFAULT_STOP_SECONDS = 3
_MANAGER = f"""[Manager]
DefaultTimeoutStopSec={DEFAULT_STOP_SECONDS}s
DefaultTimeoutStartSec=30s
"""


class Sandbox:
    """``with Sandbox() as sandbox: sandbox.systemctl("start", ...)``"""

    def __init__(self) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="pysshfs-sandbox-")).resolve()
        self._cgroup = self._top.name
        self.shared = self._top / "shared"
        self.shared.mkdir()
        self.console = self._top / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0  # the pid of systemd, as it is called outside
        self._handle: int | None = None  # the same, and sure not to be another's
        self.put("/etc/systemd/system/sandbox.target", _TARGET)
        self.put("/etc/systemd/journald.conf", _JOURNAL)
        self.put("/etc/systemd/system.conf", _MANAGER)

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file below /etc, before the boot or after it."""
        if self._process is not None:
            script = 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"'
            self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], stdin=text)
            return
        made = self._top / path.removeprefix("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        made.chmod(mode)

    # -- its life ----------------------------------------------------------------------------

    def boot(self) -> None:
        """Returns when everything that is started at boot is."""
        # It ends with the process that runs the tests, however that ends.
        argv = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount"]
        argv += ["sh", str(_SCRIPT), "outer", str(self._top), self._cgroup]
        argv += [f"{self.shared}=rw", *map(str, _hidden_directories())]
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _BOOT_SECONDS
        while not self._is_there():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"systemd did not start:\n{self.console.read_text()}")
            time.sleep(0.01)
        self._handle = os.pidfd_open(self._init)
        self.run(["systemctl", "is-system-running", "--wait"], timeout=_BOOT_SECONDS, check=False)

    def _is_there(self) -> bool:
        """Whether the first process inside is systemd, and listens."""
        assert self._process is not None
        for pid in procs.descendants(self._process.pid):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                if re.search(r"^Name:\tsystemd$(?s:.*)^NSpid:.*\t1$", status, re.MULTILINE):
                    self._init = pid
                    return os.path.exists(f"/proc/{pid}/root/run/systemd/private")
        return False

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_ended(self, limit: float) -> bool:
        """After a reboot or poweroff inside: whether all of it ended within `limit` seconds."""
        assert self._process is not None
        return procs.wait_gone(self._process, limit)

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if exc is not None:
            with contextlib.suppress(Exception):
                exc.add_note(self.journal()[-6000:])
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            if self._handle is not None:
                # The kernel kills what is left in the namespaces, and so ends every mount there.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
                procs.wait_gone(self._process, 10)
                os.close(self._handle)
            procs.kill_group(self._process.pid)
            self._process.wait(10)
        script = (
            'mount -t cgroup2 cgroup2 "$1" && cd "$1" && [ ! -d "$2" ] || '
            'find "$2" -depth -type d -exec rmdir {} +'
        )
        place = self._top / "cgroup"
        place.mkdir(exist_ok=True)
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", str(place), self._cgroup]
        procs.run_limited(argv, timeout=10, check=False)
        shutil.rmtree(self._top)

    # -- what is done inside -----------------------------------------------------------------

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in there, as root."""
        assert self.is_running, "it is down, and its number may be another process's"
        enter = ["nsenter", f"--target={self._init}", "--mount", "--pid", "--ipc", "--uts",
                 "--cgroup", "--root", "--wd", "env", "-i", f"PATH={_PATH}", "LANG=C.UTF-8",
                 "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"]  # fmt: skip
        return [*enter, *argv]

    def run(
        self, argv: Sequence[str], stdin: str | None = None, timeout: float = 20, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in there to its end; after `timeout` seconds it is killed."""
        return procs.run_limited(self.inside(argv), timeout=timeout, stdin=stdin, check=check)

    @contextlib.contextmanager
    def started(self, argv: Sequence[str]) -> Iterator[tuple[IO[str], IO[str]]]:
        """A program in there, its stdin and its stdout; it has to end when its stdin does."""
        process = subprocess.Popen(
            self.inside(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdin, process.stdout
            process.stdin.close()
            process.wait(10)
        finally:
            process.kill()
            process.stdin.close()
            process.stdout.close()
            process.wait(5)

    def systemctl(
        self, *words: str, check: bool = True, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        return self.run(["systemctl", *words], check=check, timeout=timeout)

    def shows(self, unit: str, name: str, *flags: str) -> str:
        shown = self.systemctl(*flags, "show", "--value", f"--property={name}", "--", unit)
        return shown.stdout.strip()

    def journal(self, *words: str) -> str:
        self.run(["journalctl", "--sync"], check=False)
        return self.run(["journalctl", "--no-pager", "--quiet", *words]).stdout

    def mounted(self, mountpoint: str) -> str | None:
        """The type of what is mounted on top there, without touching it."""
        found = None
        for line in Path(f"/proc/{self._init}/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            if fields.split(" ")[4] == mountpoint:
                found = rest.split(" ")[0]
        return found


def _hidden_directories() -> list[Path]:
    """What the programs need and an overlay of / does not show, or what the sandbox covers."""
    root = os.stat("/").st_dev
    needed = dict.fromkeys(Path(p).resolve() for p in (procs.ROOT, sys.prefix, sys.base_prefix))
    return [
        path
        for path in needed
        if path.stat().st_dev != root or path.parts[:2] in (("/", "tmp"), ("/", "run"))
    ]
