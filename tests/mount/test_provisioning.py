"""contrib/provision.sh, as a script that provisions a development VM: again and again, no leaks."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.processes import processes_naming
from tests.support.commands import wait_until
from tests.support.machine import Machine
from tests.support.procs import ROOT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sshd import Sshd

ROUNDS = 50
SCRIPT = str(ROOT / "contrib" / "provision.sh")
#: What a provisioning script does: takes something, makes something, and looks at it.
WORK = 'cp file "copy-$1" && echo "round $1" >>log && mkdir -p d/e && mv "copy-$1" d/e/copy'
#: One round after the other, each with the word that it has to say; the first failure ends it.
LOOP = """
set -eu
round=1
while [ $round -le "$1" ]; do
    "$2" "$3" "$4" sh -c "$5" sh $round
    round=$((round + 1))
done
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        # The sockets of others' mounts are not to be counted.
        script = "mkdir -p /run/pysshfs && mount -t tmpfs -o mode=700 none /run/pysshfs"
        made.run(["sh", "-c", script], check=True)
        yield made


def provision(
    machine: Machine, server: Sshd, argv: list[str], **more: str
) -> subprocess.CompletedProcess[str]:
    temporary = machine.directory / "tmp"
    temporary.mkdir(exist_ok=True)
    env = {
        "PATH": f"{machine.bin}:{machine.env['PATH']}",
        "OPTIONS": ",".join(server.options()),
        "TMPDIR": str(temporary),
    }
    return machine.run(argv, env={**env, **more}, limit=300)


def test_fifty_rounds_leave_nothing_behind(machine: Machine, server: Sshd, remote: Path) -> None:
    before = machine.mounts()
    source, place = server.source(remote), str(machine.mountpoint)
    argv = ["sh", "-c", LOOP, "sh", str(ROUNDS), SCRIPT, source, place, WORK]
    result = provision(machine, server, argv)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
    assert (remote / "log").read_text() == "".join(f"round {n + 1}\n" for n in range(ROUNDS))
    assert (remote / "d/e/copy").read_text() == "content"
    assert machine.mounts() == before
    assert os.listdir(machine.mountpoint) == []
    assert os.listdir(machine.directory / "tmp") == []
    assert machine.run(["ls", "-A", "/run/pysshfs"], check=True).stdout == ""
    assert processes_naming(machine.mountpoint) == []
    wait_until("the end of the server's sessions", lambda: not server.session_pids())


def test_what_the_work_says_is_what_the_script_says(
    machine: Machine, server: Sshd, remote: Path
) -> None:
    argv = [SCRIPT, server.source(remote), str(machine.directory / "made" / "here")]
    result = provision(machine, server, [*argv, "sh", "-c", "echo x >new; exit 9"])
    assert (result.returncode, result.stderr) == (9, "")
    assert (remote / "new").read_text() == "x\n"
    result = provision(machine, server, argv)
    assert result.returncode == 0 and "file" in result.stdout
    assert machine.entries() == []


def test_a_machine_that_is_still_booting_is_waited_for(
    machine: Machine, server: Sshd, remote: Path
) -> None:
    """Only that: every other failure is final."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = listening.getsockname()[1]
    argv = [SCRIPT, server.source(remote), str(machine.mountpoint), "true"]
    options = ",".join(server.options(closed))
    result = provision(machine, server, argv, OPTIONS=options, PATIENCE="1")
    assert result.returncode == ExitCode.UNREACHABLE
    assert result.stderr.count("Connection refused") == 2
    argv[1] = server.source(remote / "absent")
    result = provision(machine, server, argv)
    assert result.returncode == ExitCode.REMOTE_DIRECTORY
    assert result.stderr.count("\n") == 1
    assert machine.entries() == []
