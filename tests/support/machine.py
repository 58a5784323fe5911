"""A machine of its own, as far as mount(8) is concerned: /etc/fstab, the helpers in /sbin, mounts.

`Machine` is a workspace whose commands run in a mount namespace, where /etc/fstab is a file of the
test's and /sbin an overlay; the real ones are not touched, and what is mounted there is seen there
only. The interpreter, the checkout and its packages are bound to places in the workspace that
everybody may enter: set-user-id programs such as mount(8) take away the capability by which other
tests let an ordinary user read them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pysshfs.cli.control_client import ask, socket_path
from pysshfs.fuse import mountinfo
from tests.support import procs
from tests.support.commands import LIMIT, ORDINARY, Workspace, wait_ended

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysshfs.fuse.mountinfo import MountEntry
    from tests.support.sshd import Sshd

#: The ordinary user, in the machine's /etc/passwd, up to the home directory.
NAME = "somebody"
USER = f"{NAME}:x:{ORDINARY}:{ORDINARY}:"

#: Detaches the copies of others' FUSE mounts, lest these live for as long as the namespace does.
_LET_GO = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
from pysshfs.fuse import mountinfo
libc = ctypes.CDLL(None)
for entry in reversed(mountinfo.mounts()):
    if mountinfo.is_fuse(entry):
        libc.umount2(entry.mountpoint, 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""

#: Becomes the namespace's holder: says that everything is in place, and waits for its end.
_SET_UP = """
set -eu
mount -t tmpfs none "$1/layers"
mkdir "$1/layers/upper" "$1/layers/work"
mount -t overlay -o "lowerdir=$2,upperdir=$1/layers/upper,workdir=$1/layers/work" none "$2"
mount --bind "$1/fstab" /etc/fstab
for each in python checkout packages; do
    mount --bind "$(cat "$1/$each.from")" "$1/$each"
done
echo ready
exec sleep infinity
"""

#: The programs of an installation for all users, by the modules that they run.
_PROGRAMS = {
    "pysshfs": "pysshfs.cli.main",
    "pysshfsctl": "pysshfs.cli.ctl",
    "mount.pysshfs": "pysshfs.cli.mounthelper",
}


class Machine(Workspace):
    """``with Machine() as machine: machine.fstab(...); machine.run(["mount", ...])``."""

    def __init__(self) -> None:
        super().__init__()
        self.directory.chmod(0o755)
        self.bin = self.directory / "bin"
        self._fstab = self.directory / "fstab"
        self._fstab.touch()
        self._holder: subprocess.Popen[str] | None = None

    def fstab(self, *lines: str) -> None:
        """The lines of /etc/fstab."""
        self._fstab.write_text("".join(f"{line}\n" for line in lines))

    def line(self, source: str, kind: str, *options: str, place: Path | None = None) -> str:
        """One line of it, escaped as fstab(5) wants it."""
        fields = [source, str(place or self.mountpoint), kind, ",".join(options), "0", "0"]
        return " ".join(field.replace("\\", "\\134").replace(" ", "\\040") for field in fields)

    def make_users(self, server: Sshd) -> list[str]:
        """Give home and mountpoint to the ordinary user, with the key; what goes before a command
        of that user."""
        key = self.ssh / "id_ed25519"
        shutil.copy(server.client_key, key)
        for path in (self.home, self.ssh, key, self.mountpoint):
            os.chown(path, ORDINARY, ORDINARY)
        key.chmod(0o600)
        server.directory.chmod(0o755)  # for known_hosts
        # mount(8) does not hand HOME on to helpers: who somebody is, is looked up.
        self._replace("/etc/passwd", "root:x:0:0::/root:/bin/sh", f"{USER}:{self.home}:/bin/sh")
        self._replace("/etc/group", "root:x:0:", f"home:x:{ORDINARY}:", f"more:x:4242:{NAME}")
        return ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]

    def _replace(self, path: str, *lines: str) -> None:
        file = self.directory / Path(path).name
        file.write_text("".join(f"{line}\n" for line in lines))
        self.run(["mount", "--bind", str(file), path], check=True)

    # -- in the namespace --------------------------------------------------------------------

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a command there."""
        assert self._holder is not None
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--wdns=/", "--", *argv]

    def run(
        self,
        argv: Sequence[str],
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = False,
        limit: float = LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        return super().run(self.inside(argv), stdin, env, check, limit)

    @property
    def pid(self) -> int:
        """A process in the namespace."""
        assert self._holder is not None
        return self._holder.pid

    def mounts(self) -> list[MountEntry]:
        """Everything that is mounted there."""
        return mountinfo.parse_mountinfo(Path(f"/proc/{self.pid}/mountinfo").read_bytes())

    def entry(self, mountpoint: Path | None = None) -> MountEntry | None:
        place = os.fsencode(mountpoint or self.mountpoint)
        found = [entry for entry in self.mounts() if entry.mountpoint == place]
        return found[-1] if found else None

    def entries(self) -> list[MountEntry]:
        """The FUSE mounts of this workspace."""
        return self._entries()

    def _entries(self) -> list[MountEntry]:
        if self._holder is None:
            return []
        below = os.fsencode(self.directory) + b"/"
        return [
            entry
            for entry in self.mounts()
            if entry.mountpoint.startswith(below) and entry.fstype.startswith("fuse.")
        ]

    def ended(self, mountpoint: Path | None = None) -> None:
        """Nothing is mounted there any more, and the daemons that were asked for have ended."""
        assert self.entry(mountpoint) is None
        for pid in self._daemons:
            wait_ended(pid)

    # -- its life ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        origins = {
            "python": sys.base_prefix,
            "checkout": str(procs.ROOT),
            "packages": sysconfig.get_path("purelib"),
        }
        (self.directory / "layers").mkdir()
        for name, origin in origins.items():
            (self.directory / name).mkdir()
            (self.directory / f"{name}.from").write_text(origin)
        self._write_programs()
        sbin = os.path.realpath("/sbin")
        argv = ["unshare", "--mount", "--propagation=private"]
        argv += [sys.executable, "-I", "-c", _LET_GO, str(procs.ROOT), "sh", "-c", _SET_UP, "sh"]
        self._holder = subprocess.Popen(
            [*argv, str(self.directory), sbin],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        try:
            assert self._holder.stdout.readline() == "ready\n"
        except BaseException:
            self._release()
            raise
        return self

    def _write_programs(self) -> None:
        self.bin.mkdir()
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        interpreter = self.directory / "python" / "bin" / version
        path = f"{self.directory}/checkout:{self.directory}/packages"
        for name, module in _PROGRAMS.items():
            program = self.bin / name
            code = (
                f"import sys; sys.argv[0] = {str(program)!r}\n"
                f"from {module} import main; sys.exit(main())"
            )
            program.write_text(
                f"#!/bin/sh\nexport PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1\n"
                f"export LD_LIBRARY_PATH={self.directory}/python/lib\n"
                f'exec {shlex.join([str(interpreter), "-c", code])} "$@"\n'
            )
            program.chmod(0o755)

    def install_helpers(self) -> None:
        """As `make install` does: mount(8) finds them in /sbin."""
        links = (
            f"ln -s {self.bin}/mount.pysshfs /sbin/ && ln -s mount.pysshfs /sbin/mount.fuse.pysshfs"
        )
        self.run(["sh", "-c", links], check=True)

    def __exit__(self, *failure: object) -> None:
        sockets = [socket_path(each.minor, mountinfo.owner(each)) for each in self._entries()]
        for path in sockets:
            with contextlib.suppress(OSError, ValueError):
                self._daemons.add(int(ask(path, "status", 2)["pid"]))
        self.abort()
        for pid in self._daemons:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in sockets:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # the number will be another mount's
        self._release()
        super().__exit__(*failure)

    def _release(self) -> None:
        """The namespace goes, with its mounts."""
        if self._holder is not None:
            procs.kill_group(self._holder.pid)
            self._holder.wait(10)
            if self._holder.stdout is not None:
                self._holder.stdout.close()
            self._holder = None
