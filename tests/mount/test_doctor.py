"""`pysshfsctl doctor` on setups that work and setups that do not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli import doctor_local
from pysshfs.cli.ctl_codes import CtlCode
from tests.support.commands import CTL, ORDINARY, Workspace, user_options
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.sshd import Sshd


class Doctor:
    """Findings by their check: verdict, and all that is said."""

    def __init__(self, work: Workspace, *words: str, prefix: Sequence[str] = ()) -> None:
        began = time.monotonic()
        done = work.run([*prefix, *CTL, "doctor", "--json", *words], limit=60)
        self.seconds = time.monotonic() - began
        assert done.stderr == "", done.stderr
        self.code = done.returncode
        self.findings = {each["check"]: each for each in json.loads(done.stdout)}

    def verdict(self, check: str) -> str:
        return str(self.findings[check]["verdict"])

    def says(self, check: str) -> str:
        return f"{self.findings[check]['found']} {self.findings[check]['advice']}"

    def failed(self) -> list[str]:
        return [name for name, each in self.findings.items() if each["verdict"] == "failed"]


def options(server: Sshd, *more: str, port: int | None = None) -> list[str]:
    return [word for each in (*server.options(port), *more) for word in ("-o", each)]


def test_a_good_setup(work: Workspace, server: Sshd, remote: Path) -> None:
    found = Doctor(work, server.source(remote), *options(server))
    assert (found.code, found.failed()) == (CtlCode.OK, [])
    for check in (
        "fuse device", "control filesystem", "runtime directory", "keys", "known_hosts",
        "reachability", "login", "SFTP extensions", "round trip", "throughput",
    ):  # fmt: skip
        assert found.verdict(check) == "ok", found.findings[check]
    assert "MB/s there" in found.says("throughput") and "OpenSSH" in found.says("login")
    assert os.listdir(remote) == ["file"]  # nothing is left
    text = work.ctl("doctor", server.source(remote), *options(server), "--no-write").stdout
    assert "skipped  throughput" in text and text.count("\n") >= len(found.findings)


def test_without_a_server_only_this_machine_is_looked_at(work: Workspace) -> None:
    found = Doctor(work)
    assert found.code == CtlCode.OK and "login" not in found.findings
    assert found.verdict("agent") == "note" and "ssh-add" in found.says("agent")


def test_what_does_not_work_on_the_way(work: Workspace, server: Sshd, remote: Path) -> None:
    source = server.source(remote)
    missing = Doctor(work, server.source(remote / "none"), *options(server))
    assert (missing.code, missing.failed()) == (CtlCode.CHECKS_FAILED, ["directory"])
    unknown = Doctor(work, source, *options(server)[:4], "-o", "UserKnownHostsFile=/none")
    assert unknown.failed() == ["login"] and unknown.verdict("known_hosts") == "note"
    assert "fingerprint" in unknown.says("login")
    own = [each for each in server.options() if not each.startswith("IdentityFile=")]
    keyless = [word for each in (*own, "IdentityFile=/none") for word in ("-o", each)]
    stranger = Doctor(work, source, *keyless)
    assert stranger.failed() == ["login"] and "/none does not exist" in stranger.says("keys")
    assert "ssh-copy-id" in stranger.says("login")
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        refused = Doctor(work, source, "-p", str(port))
    assert refused.failed() == ["reachability"] and refused.verdict("login") == "skipped"
    assert "Connection refused" in refused.says("reachability")


def test_what_is_no_ssh_server_and_what_is_silent(work: Workspace, server: Sshd) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def greet() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"220 mail.example ESMTP\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        other = Doctor(work, "127.0.0.1:", "-p", str(listening.getsockname()[1]))
        greeting.join(10)
    assert other.failed() == ["reachability"] and "no SSH server" in other.says("reachability")
    with Proxy(server.port, 0) as proxy:
        proxy.freeze()  # connections are still accepted
        silent = Doctor(work, "127.0.0.1:", "-p", str(proxy.port))
        proxy.thaw()
    assert silent.failed() == ["reachability"] and "within 5 s" in silent.says("reachability")
    assert silent.seconds < 20


def test_a_directory_that_is_not_to_be_written_to(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    found = Doctor(work, server.source(Path("/proc")), *options(server))
    assert found.code == CtlCode.OK
    assert found.verdict("throughput") == "note" and "not measured" in found.says("throughput")


def test_keys_of_the_agent(work: Workspace, server: Sshd, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    running = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        work.env["SSH_AUTH_SOCK"] = str(agent)
        while not agent.exists():
            assert running.poll() is None
            time.sleep(0.01)
        assert "has no keys" in Doctor(work).says("agent")
        work.run(["ssh-add", "-q", str(server.client_key)], check=True)
        found = Doctor(work)
        assert found.verdict("agent") == "ok" and "has 1 key" in found.says("agent")
    finally:
        running.kill()
        running.wait(10)
    assert Doctor(work).verdict("agent") == "note"  # the socket is there, and nobody listens


def test_a_wrong_command_line(work: Workspace) -> None:
    for words in (["host:", "-o", "bogus=1"], ["no-colon"], ["-oProxyCommand=x:"]):
        result = work.ctl("doctor", *words)
        assert result.returncode == CtlCode.USAGE and result.stdout == ""


def test_an_ordinary_users_view(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    more = [word for each in user_options(server) for word in ("-o", each)]
    remote.chmod(0o755)
    found = Doctor(work, server.source(remote), *more, prefix=user)
    assert found.failed() == [], found.findings
    assert found.verdict("fusermount3") == "ok" and "set-user-id root" in found.says("fusermount3")
    assert str(ORDINARY) in found.says("runtime directory")


# --- this machine -------------------------------------------------------------------------------


def test_no_device(tmp_path: Path) -> None:
    found = doctor_local.device(str(tmp_path / "fuse"))
    assert found.verdict == "failed" and "modprobe" in found.advice
    (tmp_path / "fuse").touch()
    assert doctor_local.device(str(tmp_path / "fuse")).verdict == "ok"


def test_a_device_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    found = doctor_local.device(str(tmp_path / "fuse"))
    assert found.verdict == "failed" and "chmod 666" in found.advice


@pytest.mark.parametrize(("uid", "verdict"), [(0, "note"), (1000, "failed")])
def test_the_mount_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, verdict: str
) -> None:
    """Only root does without."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor_local.mount_program()
    assert (found.verdict, found.found) == (verdict, "not installed")
    program = tmp_path / "fusermount3"
    program.write_text("#!/bin/sh\necho fusermount3 version: 3.99\n")
    program.chmod(0o755)
    found = doctor_local.mount_program()
    assert found.verdict == verdict and "chmod 4755" in found.advice
    program.chmod(0o4755)
    found = doctor_local.mount_program()
    assert found.verdict == "ok" and "version 3.99" in found.found


def test_fuse_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    conf = tmp_path / "fuse.conf"
    assert "user_allow_other" in doctor_local.configuration(str(conf)).advice
    conf.write_text("# user_allow_other\n")
    assert doctor_local.configuration(str(conf)).verdict == "note"
    conf.write_text("user_allow_other  # for the backup\nmount_max = 100000\n")
    assert doctor_local.configuration(str(conf)).verdict == "ok"
    conf.write_text("mount_max=0\n")
    found = doctor_local.configuration(str(conf))
    assert found.verdict == "failed" and "raise mount_max" in found.advice


def test_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pysshfs.cli.control_client.runtime_directory", lambda _: str(tmp_path / "pysshfs")
    )
    assert doctor_local.runtime_directory().verdict == "ok"
    (tmp_path / "pysshfs").chmod(0o755)
    found = doctor_local.runtime_directory()
    assert found.verdict == "failed" and "mode 700" in found.advice
