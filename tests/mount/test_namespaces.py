"""In a user namespace: whoever made it is root there, and mounts without any help."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procs
from tests.support.commands import (
    ORDINARY,
    Workspace,
    command_for_everybody,
    user_options,
    wait_ended,
    wait_until,
)
from tests.support.rights import rights_of_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

_SYS_ADMIN = 1 << 21

#: Mounts, says so, and does what comes on its standard input, one command a line.
_SHELL = """
place=$1
shift
"$@" || exit 1
echo mounted
while read -r line; do
    eval "$line" 2>&1 | tr '\\n' ' '
    echo
done
"""


class Namespace:
    """A user and a mount namespace of an ordinary user, with a mount in it."""

    def __init__(self, work: Workspace, server: Sshd, source: str, *options: str) -> None:
        directory, name = command_for_everybody(work)
        who = [f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
        self.owner = ORDINARY if name == "nobody" else 0
        self.work = work
        command = [str(directory / "pysshfs"), source, str(work.mountpoint)]
        for option in (*user_options(server), f"IdentityFile={work.ssh}/id_ed25519", *options):
            command += ["-o", option]
        if not self.owner:
            os.chown(work.ssh / "id_ed25519", 0, 0)
        self._shell = subprocess.Popen(
            ["setpriv", *(who if self.owner else []), "unshare", "-Urm",
             "sh", "-c", _SHELL, "sh", str(work.mountpoint), *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=work.env, cwd="/", start_new_session=True,
        )  # fmt: skip
        self._read("mounted")
        lines = self.run(f"grep {work.mountpoint} /proc/self/mountinfo")
        self.connection = int(lines.split()[2].partition(":")[2])
        self.options = lines.split()[5].split(",")
        self.super_options = lines.split()[-1].split(",")
        self.others = "allow_other" in options
        self.daemon = next(pid for pid in procs.descendants(1) if self._serves(pid))

    def _serves(self, pid: int) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self.work.mountpoint) in arguments and b"pysshfs" in arguments

    def _read(self, expected: str | None = None) -> str:
        assert self._shell.stdout is not None
        line = self._shell.stdout.readline().decode()
        if expected is not None and line != f"{expected}\n":
            raise AssertionError((line, self._shell.communicate(timeout=10)))
        return line.strip()

    def run(self, command: str) -> str:
        """What a shell command in there says, in one line."""
        assert self._shell.stdin is not None
        self._shell.stdin.write(command.encode() + b"\n")
        self._shell.stdin.flush()
        return self._read()

    def close(self) -> None:
        abort = Path(f"/sys/fs/fuse/connections/{self.connection}/abort")
        if abort.exists():
            abort.write_text("1")
        procs.kill_group(self._shell.pid)
        self._shell.communicate(timeout=10)
        if procs.is_alive(self.daemon):
            os.kill(self.daemon, signal.SIGKILL)
            wait_ended(self.daemon)


@pytest.fixture
def inside(
    request: pytest.FixtureRequest, work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> Iterator[Namespace]:
    assert user
    options = getattr(request, "param", ())
    made = Namespace(work, server, server.source(remote), *options)
    yield made
    made.close()


def test_an_ordinary_user_mounts_in_a_namespace(inside: Namespace, work: Workspace) -> None:
    place = work.mountpoint
    assert {"nosuid", "nodev"} <= set(inside.options)
    assert inside.run(f"ls {place}; id -u") == "file 0"
    assert inside.run(f"echo new >{place}/new; cat {place}/new") == "new"
    # Its capabilities are the namespace's, and it gives them up as root does.
    (has,) = rights_of_all(inside.daemon)
    assert has == (_SYS_ADMIN, _SYS_ADMIN, 0, 0, 0, True)
    # Root of that namespace is this user: so are its socket and what it saves.
    directory = Path(f"/tmp/pysshfs-{inside.owner}") if inside.owner else Path("/run/pysshfs")
    assert (directory / f"{inside.connection}.sock").exists()
    ctl = f"{work.directory}/bin/pysshfsctl"
    assert f"pid {inside.daemon}" in inside.run(f"{ctl} status {place}")
    assert inside.run(f"{ctl} umount {place} && echo gone") == "gone"
    wait_ended(inside.daemon)


def test_sigterm_unmounts_in_a_namespace(inside: Namespace, work: Workspace) -> None:
    os.kill(inside.daemon, signal.SIGTERM)
    wait_ended(inside.daemon)
    wait_until(
        "it is unmounted",
        lambda: not inside.run(f"grep {work.mountpoint} /proc/self/mountinfo"),
    )


@pytest.mark.parametrize("inside", [(), ("allow_other",)], indirect=True, ids=["own", "others"])
def test_it_is_for_the_namespace_and_nobody_else(inside: Namespace, work: Workspace) -> None:
    """allow_other needs no leave of the system's there, as it lets in only whoever is in the
    namespace, or in one below. Root outside is not."""
    assert inside.run(f"ls {work.mountpoint}") == "file"
    assert ("allow_other" in inside.super_options) == inside.others
    through = f"/proc/{inside.daemon}/root"
    assert "mnt" in work.run(["ls", f"{through}{work.directory}"], check=True).stdout
    refused = work.run(["ls", f"{through}{work.mountpoint}"])
    assert refused.returncode != 0 and "Permission denied" in refused.stderr
