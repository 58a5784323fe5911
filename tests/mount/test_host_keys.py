"""Host keys: who is let in unseen, what is asked, and what is written to known_hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from tests.support import procs
from tests.support.commands import Terminal, Workspace, one_line, refused
from tests.support.sshd import HOST, Sshd

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path


class Keys:
    """The server's host key, and the known_hosts file of a workspace."""

    def __init__(self, server: Sshd, work: Workspace) -> None:
        self._server, self._work = server, work
        self.file = work.ssh / "known_hosts"
        self.key = " ".join(server.host_key_path.with_suffix(".pub").read_text().split()[:2])
        self.fingerprint = fingerprint(server.host_key_path.with_suffix(".pub"))
        self.name = f"[{HOST}]:{server.port}"
        other = work.directory / "other"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)]
        procs.run_limited(argv, timeout=20)
        self.other_key = " ".join(other.with_suffix(".pub").read_text().split()[:2])
        self.other_fingerprint = fingerprint(other.with_suffix(".pub"))

    def know(self, *lines: str) -> None:
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def options(self, *more: str) -> list[str]:
        """Everything that a login needs, but no known_hosts file other than ~/.ssh's."""
        port, identity, _ = self._server.options()
        if not any(each.startswith("HashKnownHosts") for each in more):
            more = (*more, "HashKnownHosts=no")
        return [port, identity, "GlobalKnownHostsFile=/nonexistent", *more]

    def found(self, name: str) -> list[str]:
        """The lines that ssh itself finds for a name."""
        argv = ["ssh-keygen", "-F", name, "-f", str(self.file)]
        return [
            line for line in self._work.run(argv).stdout.splitlines() if not line.startswith("#")
        ]

    def ssh(self, host: str = HOST, *more: str) -> subprocess.CompletedProcess[str]:
        """What ssh says with the same file and strict checking."""
        settings = [
            *self._server.options()[:2], f"UserKnownHostsFile={self.file}", "BatchMode=yes",
            "GlobalKnownHostsFile=/nonexistent", "StrictHostKeyChecking=yes", *more,
        ]  # fmt: skip
        options = [f"-o{each}" for each in settings]
        return self._work.run(
            ["ssh", "-F", "none", *options, f"{self._server.user}@{host}", "true"]
        )


@pytest.fixture
def keys(server: Sshd, work: Workspace) -> Keys:
    return Keys(server, work)


def fingerprint(public: Path) -> str:
    argv = ["ssh-keygen", "-l", "-f", str(public)]
    return procs.run_limited(argv, timeout=20).stdout.split()[1]


# --- unknown keys -------------------------------------------------------------------------------


@pytest.mark.parametrize("checking", ["yes", "ask", None])
def test_an_unknown_key_is_refused_without_a_terminal(
    work: Workspace, server: Sshd, keys: Keys, checking: str | None
) -> None:
    options = keys.options(*([f"StrictHostKeyChecking={checking}"] if checking else []))
    result = work.mount(server.source("/"), *options)
    refused(result, ExitCode.HOST_KEY, keys.name, "not known", keys.fingerprint)
    assert not keys.file.exists()


@pytest.mark.parametrize("checking", ["accept-new", "no", "off"])
def test_an_unknown_key_is_accepted_and_written(
    work: Workspace, server: Sshd, keys: Keys, checking: str
) -> None:
    options = keys.options(f"StrictHostKeyChecking={checking}")
    result = work.mount(server.source("/"), *options)
    assert result.returncode == ExitCode.OK
    assert keys.fingerprint in one_line(result.stderr)
    assert keys.file.read_text() == f"{keys.name} {keys.key}\n"
    assert keys.file.stat().st_mode & 0o777 == 0o600
    work.daemon()
    work.unmount()
    # Known now, to us and to ssh.
    work.mounted(server.source("/"), *keys.options("StrictHostKeyChecking=yes"))
    assert keys.ssh().returncode == 0
    assert keys.file.read_text().count("\n") == 1


def asked(work: Workspace, server: Sshd, keys: Keys) -> Terminal:
    terminal = work.terminal(work.argv(server.source("/"), *keys.options()))
    terminal.expect(keys.name)
    terminal.expect(keys.fingerprint)
    terminal.expect("(yes/no/fingerprint)? ")
    assert work.entry() is None
    return terminal


@pytest.mark.parametrize("answer", ["yes", "the fingerprint", "nonsense first"])
def test_the_user_is_asked_and_agrees(
    work: Workspace, server: Sshd, keys: Keys, answer: str
) -> None:
    terminal = asked(work, server, keys)
    if answer == "nonsense first":
        terminal.send("perhaps\n")
        terminal.expect("Please answer")
    terminal.send(keys.fingerprint + "\n" if answer == "the fingerprint" else "yes\n")
    assert terminal.wait() == ExitCode.OK, terminal.output
    work.daemon()
    assert keys.found(keys.name) == [f"{keys.name} {keys.key}"]


@pytest.mark.parametrize("answer", ["no\n", "\n", "\x04"], ids=["no", "nothing", "end of file"])
def test_the_user_is_asked_and_does_not_agree(
    work: Workspace, server: Sshd, keys: Keys, answer: str
) -> None:
    terminal = asked(work, server, keys)
    terminal.send(answer)
    assert terminal.wait() == ExitCode.HOST_KEY
    assert "not accepted" in terminal.output
    assert work.entry() is None
    assert not keys.file.exists()


def test_the_user_is_asked_and_interrupts(work: Workspace, server: Sshd, keys: Keys) -> None:
    terminal = asked(work, server, keys)
    terminal.send("\x03")
    assert terminal.wait() == ExitCode.INTERRUPTED
    assert "Traceback" not in terminal.output and "interrupted" in terminal.output
    assert work.entry() is None
    assert not keys.file.exists()


def test_batch_mode_does_not_ask(work: Workspace, server: Sshd, keys: Keys) -> None:
    terminal = work.terminal(work.argv(server.source("/"), *keys.options("BatchMode=yes")))
    assert terminal.wait() == ExitCode.HOST_KEY
    assert "?" not in terminal.output


# --- known keys ---------------------------------------------------------------------------------


def test_a_hashed_entry_is_matched(work: Workspace, server: Sshd, keys: Keys) -> None:
    keys.know(f"{keys.name} {keys.key}")
    work.run(["ssh-keygen", "-H", "-f", str(keys.file)], check=True)
    assert keys.file.read_text().startswith("|1|")
    work.mounted(server.source("/"), *keys.options())


def test_a_hashed_entry_is_written(work: Workspace, server: Sshd, keys: Keys) -> None:
    options = keys.options("StrictHostKeyChecking=accept-new", "HashKnownHosts=yes")
    assert work.mount(server.source("/"), *options).returncode == ExitCode.OK
    text = keys.file.read_text()
    assert text.startswith("|1|") and HOST not in text
    assert len(keys.found(keys.name)) == 1
    assert keys.ssh().returncode == 0


@pytest.mark.parametrize("pattern", ["[127.0.0.*]:*", "*", "[127.0.0.?]:{port},!elsewhere"])
def test_entries_may_be_patterns(work: Workspace, server: Sshd, keys: Keys, pattern: str) -> None:
    keys.know(f"{pattern.format(port=server.port)} {keys.key}")
    assert keys.ssh().returncode == 0
    work.mounted(server.source("/"), *keys.options())


def test_an_entry_without_the_port_is_good_enough(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    keys.know(f"{HOST} {keys.key}")
    assert keys.ssh().returncode == 0
    work.mounted(server.source("/"), *keys.options())


def test_another_servers_key_on_the_usual_port_is_not_a_changed_key(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    keys.know(f"{HOST} {keys.other_key}")
    message = refused(work.mount(server.source("/"), *keys.options()), ExitCode.HOST_KEY)
    assert "not known" in message and "CHANGED" not in message
    options = keys.options("StrictHostKeyChecking=accept-new")
    assert work.mount(server.source("/"), *options).returncode == ExitCode.OK
    assert keys.ssh().returncode == 0


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("checking", ["yes", "ask", "accept-new", "no"])
def test_a_changed_key_is_refused_with_both_fingerprints(
    work: Workspace, server: Sshd, keys: Keys, checking: str, hashed: bool
) -> None:
    keys.know(f"{keys.name} {keys.other_key}")
    if hashed:
        work.run(["ssh-keygen", "-H", "-f", str(keys.file)], check=True)
    before = keys.file.read_text()
    options = keys.options(f"StrictHostKeyChecking={checking}")
    result = work.mount(server.source("/"), *options)
    refused(
        result, ExitCode.HOST_KEY, "CHANGED", keys.fingerprint, keys.other_fingerprint,
        f"ssh-keygen -R '{keys.name}'",
    )  # fmt: skip
    assert keys.file.read_text() == before


def test_a_server_without_a_key_of_the_known_kind_is_refused(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    other = work.directory / "ecdsa"
    work.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(other)], check=True)
    key = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    keys.know(f"{keys.name} {key}")
    options = keys.options("StrictHostKeyChecking=accept-new")
    refused(work.mount(server.source("/"), *options), ExitCode.HOST_KEY, "host key")


@pytest.mark.parametrize("checking", ["ask", "accept-new", "no"])
@pytest.mark.parametrize("pattern", ["{name}", "*", HOST])
def test_a_revoked_key_is_refused(
    work: Workspace, server: Sshd, keys: Keys, pattern: str, checking: str
) -> None:
    keys.know(f"@revoked {pattern.format(name=keys.name)} {keys.key}")
    options = keys.options(f"StrictHostKeyChecking={checking}")
    refused(work.mount(server.source("/"), *options), ExitCode.HOST_KEY, "revoked")


def test_a_revoked_key_is_refused_though_it_is_known(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    keys.know(f"{keys.name} {keys.key}", f"@revoked * {keys.key}")
    refused(work.mount(server.source("/"), *keys.options()), ExitCode.HOST_KEY, "revoked")


def test_a_key_known_for_the_address_says_nothing_of_the_name(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    keys.know(f"{keys.name} {keys.key}")
    result = work.mount(f"{server.user}@localhost:/", *keys.options("AddressFamily=inet"))
    refused(result, ExitCode.HOST_KEY, f"[localhost]:{server.port}", "not known")


def test_a_name_is_the_same_in_any_case(work: Workspace, server: Sshd, keys: Keys) -> None:
    options = keys.options("StrictHostKeyChecking=accept-new", "AddressFamily=inet")
    assert work.mount(f"{server.user}@LocalHost:/", *options).returncode == ExitCode.OK
    assert keys.file.read_text().startswith(f"[localhost]:{server.port} ")
    assert keys.ssh("LocalHost").returncode == 0
    work.daemon()
    work.unmount()
    work.mounted(f"{server.user}@LOCALHOST:/", *keys.options("AddressFamily=inet"))


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["none", "/dev/null"])
def test_no_file_does_not_mean_no_checking(
    work: Workspace, server: Sshd, keys: Keys, file: str
) -> None:
    keys.know(f"{keys.name} {keys.key}")
    result = work.mount(server.source("/"), *keys.options(f"UserKnownHostsFile={file}"))
    refused(result, ExitCode.HOST_KEY, "not known")


def test_no_file_in_the_configuration_does_not_mean_no_checking(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    work.config("UserKnownHostsFile none\n")
    refused(work.mount(server.source("/"), *keys.options()), ExitCode.HOST_KEY, "not known")


def test_no_file_to_write_to_is_no_obstacle(work: Workspace, server: Sshd, keys: Keys) -> None:
    options = keys.options("UserKnownHostsFile=none", "StrictHostKeyChecking=no")
    result = work.mount(server.source("/"), *options)
    assert result.returncode == ExitCode.OK
    assert keys.fingerprint in one_line(result.stderr)


def test_the_line_goes_after_a_last_line_without_its_end(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    keys.file.write_text(f"elsewhere {keys.other_key}")
    options = keys.options("StrictHostKeyChecking=accept-new")
    assert work.mount(server.source("/"), *options).returncode == ExitCode.OK
    expected = f"elsewhere {keys.other_key}\n{keys.name} {keys.key}\n"
    assert keys.file.read_text() == expected
    assert keys.ssh().returncode == 0


def test_a_bad_line_hides_no_other(work: Workspace, server: Sshd, keys: Keys) -> None:
    keys.know("nonsense", "|1|bad|bad| x", "@what * x", f"{keys.name} {keys.other_key}")
    options = keys.options("StrictHostKeyChecking=accept-new", "log_level=error")
    refused(work.mount(server.source("/"), *options), ExitCode.HOST_KEY, "CHANGED")


def test_a_missing_directory_for_the_file_is_made(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    work.ssh.rmdir()
    options = keys.options("StrictHostKeyChecking=accept-new")
    assert work.mount(server.source("/"), *options).returncode == ExitCode.OK
    assert work.ssh.stat().st_mode & 0o777 == 0o700
    assert keys.ssh().returncode == 0


def test_the_systems_file_counts(work: Workspace, server: Sshd, keys: Keys) -> None:
    system = work.directory / "system_known_hosts"
    system.write_text(f"{keys.name} {keys.key}\n")
    port, identity, _ = server.options()
    work.mounted(server.source("/"), port, identity, f"GlobalKnownHostsFile={system}")
    assert not keys.file.exists()


# --- names --------------------------------------------------------------------------------------


def test_an_alias_is_looked_up_and_written_without_the_port(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    options = keys.options("HostKeyAlias=Cluster", "StrictHostKeyChecking=accept-new")
    assert work.mount(server.source("/"), *options).returncode == ExitCode.OK
    assert keys.file.read_text() == f"cluster {keys.key}\n"
    assert keys.ssh(HOST, "HostKeyAlias=Cluster").returncode == 0
    work.daemon()
    work.unmount()
    work.mounted(server.source("/"), *keys.options("HostKeyAlias=Cluster"))
    work.unmount()
    refused(work.mount(server.source("/"), *keys.options()), ExitCode.HOST_KEY, keys.name)


def test_a_jump_host_is_checked_by_itself(work: Workspace, server: Sshd, keys: Keys) -> None:
    with Sshd() as gateway:
        (gateway.directory / "authorized_keys").write_text(
            server.client_key.with_suffix(".pub").read_text()
        )
        jump = f"ProxyJump={gateway.user}@{HOST}:{gateway.port}"
        work.config(f"Host {HOST}\n IdentityFile {server.client_key}\n")
        # The last host alone is known: the way there is not trusted.
        keys.know(f"{keys.name} {keys.key}")
        result = work.mount(server.source("/"), *keys.options(jump))
        refused(result, ExitCode.HOST_KEY, f"[{HOST}]:{gateway.port}", "not known")
        # The gateway alone is known: it may not speak for the last host.
        public = gateway.host_key_path.with_suffix(".pub").read_text().split()
        keys.know(f"[{HOST}]:{gateway.port} {public[0]} {public[1]}")
        result = work.mount(server.source("/"), *keys.options(jump))
        refused(result, ExitCode.HOST_KEY, keys.name, "not known")


def test_behind_a_proxy_command_the_key_is_still_the_hosts(
    work: Workspace, server: Sshd, keys: Keys
) -> None:
    ssh = " ".join(server.ssh())
    proxy = f"ProxyCommand={ssh} -W %h:%p"
    result = work.mount(server.source("/"), *keys.options(proxy))
    refused(result, ExitCode.HOST_KEY, keys.name, "not known")
    keys.know(f"{keys.name} {keys.other_key}")
    result = work.mount(server.source("/"), *keys.options(proxy))
    refused(result, ExitCode.HOST_KEY, "CHANGED")
    keys.know(f"{keys.name} {keys.key}")
    work.mounted(server.source("/"), *keys.options(proxy))
