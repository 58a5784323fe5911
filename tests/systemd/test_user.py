"""The service of a user's session, under that user's own manager (`systemd --user`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.commands import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.proxy import Proxy
    from tests.support.sshd import Sshd
    from tests.systemd.machine import Machine

UNIT = "pysshfs@far.service"
_HOME = "/run/home"
_RUNTIME = "/run/session"

#: What logind would start; there is none in the sandbox.
_MANAGER = """[Service]
Type=notify
User={user}
Environment=HOME={home} XDG_RUNTIME_DIR={runtime}
ExecStart=/lib/systemd/systemd --user --unit=basic.target
Delegate=yes
KillMode=mixed
"""


class Session:
    """A user, and the manager that runs for them."""

    def __init__(self, machine: Machine) -> None:
        self.sandbox, self.user = machine.sandbox, machine.everybody
        self.group = "root" if self.user == "root" else "nogroup"
        self.mountpoint = f"{_HOME}/far"

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        who = ["setpriv", f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups", "env"]
        where = [f"HOME={_HOME}", f"XDG_RUNTIME_DIR={_RUNTIME}"]
        return self.sandbox.run([*who, *where, *argv], check=check)

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("systemctl", "--user", *words, check=check)

    def shows(self, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", UNIT).stdout.strip()

    def put(self, path: str, text: str) -> None:
        self.sandbox.put(path, text, 0o600)
        self.sandbox.run(["chown", "-R", f"{self.user}:{self.group}", _HOME, _RUNTIME])


@pytest.fixture
def session(machine: Machine, server: Sshd, remote: Path, link: Proxy) -> Iterator[Session]:
    made = Session(machine)
    sandbox = made.sandbox
    sandbox.run(["mkdir", "-p", "-m", "0700", made.mountpoint, _RUNTIME])
    made.put(f"{_HOME}/.ssh/id_ed25519", server.client_key.read_text())
    made.put(f"{_HOME}/.ssh/known_hosts", server.known_hosts.read_text())
    options = f"Port={link.port},UserKnownHostsFile={_HOME}/.ssh/known_hosts"
    options += f",IdentityFile={_HOME}/.ssh/id_ed25519"
    lines = [f"SOURCE={server.source(remote)}", f"MOUNTPOINT={made.mountpoint}"]
    made.put(f"{_HOME}/.config/pysshfs/far.conf", "\n".join([*lines, f"OPTIONS={options}\n"]))
    sandbox.put("/run/systemd/system/session.service",
                _MANAGER.format(user=made.user, home=_HOME, runtime=_RUNTIME))  # fmt: skip
    sandbox.systemctl("daemon-reload")
    sandbox.systemctl("start", "session.service")
    try:
        yield made
    except BaseException as error:
        error.add_note(sandbox.journal("-n", "60"))
        raise
    finally:
        made.systemctl("kill", "--signal=SIGKILL", UNIT, check=False)
        sandbox.systemctl("stop", "session.service")
        sandbox.run(["umount", "-l", made.mountpoint], check=False)
        sandbox.run(["rm", "-r", _HOME, _RUNTIME, "/run/systemd/system/session.service"])
        sandbox.systemctl("daemon-reload")


def test_a_users_own_service(session: Session) -> None:
    session.systemctl("start", UNIT)
    assert session.run("cat", f"{session.mountpoint}/file").stdout == "content"
    assert session.shows("StatusText") == "connected"
    session.run("kill", "-KILL", session.shows("MainPID"))
    wait_until("the mount to go", lambda: session.sandbox.mounted(session.mountpoint) is None)
    wait_until("another try", lambda: session.shows("SubState") == "auto-restart")
    session.systemctl("stop", UNIT)


def test_fusermount3_needs_its_set_user_id_bit(session: Session) -> None:
    session.put(f"{_HOME}/.config/systemd/user/{UNIT}.d/test.conf",
                "[Service]\nNoNewPrivileges=yes\n")  # fmt: skip
    session.systemctl("daemon-reload")
    started = session.systemctl("start", UNIT, check=False)
    if session.user == "root":  # for whom nothing is set-user-id
        assert started.returncode == 0
    else:
        assert started.returncode != 0 and session.shows("ExecMainStatus") == "9"
        assert "fusermount3" in session.shows("StatusText")
