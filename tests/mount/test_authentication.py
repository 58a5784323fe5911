"""Logging in: keys, the agent, passwords, prompts, the way to the server, and its configuration."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from tests.support import procs
from tests.support.commands import Workspace, refused, wait_ended
from tests.support.login_server import PASSWORD, LoginServer
from tests.support.sshd import HOST, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A program that makes a TCP connection its standard input and output.
_NETCAT = """
import os, socket, sys, threading
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd() as running:
        running.directory.chmod(0o755)  # sshd reads authorized_keys as whoever logs in
        (running.directory / "authorized_keys").chmod(0o644)
        yield running


@pytest.fixture(scope="module")
def passwords() -> Iterator[LoginServer]:
    with LoginServer("password") as running:
        yield running


@pytest.fixture(scope="module")
def questions() -> Iterator[LoginServer]:
    with LoginServer("questions", "One\x1b[2Jtime\ncode: ") as running:
        yield running


@pytest.fixture
def netcat(tmp_path: Path) -> str:
    script = tmp_path / "netcat.py"
    script.write_text(_NETCAT)
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(script))}"


def keyless(server: Sshd) -> list[str]:
    """What leads to the server, without a key."""
    port, _, known_hosts = server.options()
    return [port, known_hosts]


def make_key(server: Sshd, path: Path, passphrase: str, *more: str) -> None:
    """A key that the server accepts."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path), *more]
    procs.run_limited(argv, timeout=30)
    with (server.directory / "authorized_keys").open("a") as authorized:
        authorized.write(path.with_suffix(".pub").read_text())


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_that_the_server_does_not_know(work: Workspace, server: Sshd) -> None:
    key = work.directory / "stranger"
    procs.run_limited(["ssh-keygen", "-q", "-N", "", "-f", str(key)], timeout=20)
    result = work.mount(server.source("/"), *keyless(server), f"IdentityFile={key}")
    refused(result, ExitCode.AUTHENTICATION, "Permission denied", HOST)


@pytest.mark.parametrize("state", ["missing", "empty", "a public half alone"])
def test_a_key_that_cannot_be_used_is_said_in_the_one_line(
    work: Workspace, server: Sshd, state: str
) -> None:
    key = work.directory / "key"
    if state == "empty":
        key.touch()
    elif state == "a public half alone":
        key.write_text(server.client_key.with_suffix(".pub").read_text())
    result = work.mount(server.source("/"), *keyless(server), f"IdentityFile={key}")
    said = refused(result, ExitCode.AUTHENTICATION, "Permission denied")
    assert (str(key) in said) == (state != "a public half alone")


@pytest.mark.parametrize("unusable", ["/nonexistent", "/dev/null"])
def test_a_key_that_cannot_be_used_does_not_hinder_the_others(
    work: Workspace, server: Sshd, unusable: str
) -> None:
    more = [f"IdentityFile={unusable}", f"IdentityFile={server.client_key}"]
    work.mounted(server.source("/"), *keyless(server), *more)


def test_the_usual_keys_are_tried(work: Workspace, server: Sshd) -> None:
    (work.ssh / "id_ed25519").write_bytes(server.client_key.read_bytes())
    (work.ssh / "id_ed25519").chmod(0o600)
    work.mounted(server.source("/"), *keyless(server))


def test_the_usual_keys_are_not_tried_when_others_are_named(work: Workspace, server: Sshd) -> None:
    (work.ssh / "id_ed25519").write_bytes(server.client_key.read_bytes())
    for other in ("none", "/nonexistent"):
        result = work.mount(server.source("/"), *keyless(server), f"IdentityFile={other}")
        refused(result, ExitCode.AUTHENTICATION, "Permission denied")


def test_another_user_than_root(work: Workspace, server: Sshd) -> None:
    work.mounted(f"nobody@{HOST}:{server.directory}", *server.options())
    assert work.run(["cat", str(work.mountpoint / "authorized_keys")]).returncode == 0
    failed = work.run(["cat", str(work.mountpoint / server.host_key_path.name)])
    assert failed.returncode != 0 and "Permission denied" in failed.stderr


@pytest.mark.parametrize("form", ["openssh", "pem"])
def test_a_passphrase_is_asked_for(work: Workspace, server: Sshd, form: str) -> None:
    key = work.directory / "encrypted"
    more = ["-m", "PEM", "-t", "ecdsa"] if form == "pem" else []
    make_key(server, key, "open sesame", *more)
    if form == "pem":
        key.with_suffix(".pub").unlink()  # its public half is not to be had without decrypting
    options = [*keyless(server), f"IdentityFile={key}"]
    terminal = work.terminal(work.argv(server.source("/"), *options))
    terminal.expect(f"key {key}: ")
    assert work.entry() is None
    terminal.send("open sesame\n")
    assert terminal.wait() == ExitCode.OK, terminal.output
    work.daemon()
    assert "open sesame" not in terminal.output
    assert work.run(["stat", "-f", str(work.mountpoint)]).returncode == 0


@pytest.mark.parametrize("answer", ["wrong", ""])
def test_a_wrong_passphrase(work: Workspace, server: Sshd, answer: str) -> None:
    key = work.directory / "encrypted"
    make_key(server, key, "open sesame")
    options = [*keyless(server), f"IdentityFile={key}"]
    terminal = work.terminal(work.argv(server.source("/"), *options))
    terminal.expect(f"key {key}: ")
    terminal.send(f"{answer}\n")
    assert terminal.wait() == ExitCode.AUTHENTICATION
    lines = [line for line in terminal.output.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("pysshfs: "), terminal.output
    assert str(key) in lines[0]
    assert work.entry() is None


@pytest.mark.parametrize("how", ["no terminal", "BatchMode"])
def test_an_encrypted_key_without_anybody_to_ask(work: Workspace, server: Sshd, how: str) -> None:
    key = work.directory / "encrypted"
    make_key(server, key, "open sesame")
    options = [*keyless(server), f"IdentityFile={key}"]
    if how == "BatchMode":
        terminal = work.terminal(work.argv(server.source("/"), *options, "BatchMode=yes"))
        assert terminal.wait() == ExitCode.AUTHENTICATION
        assert "encrypted" in terminal.output
    else:
        result = work.mount(server.source("/"), *options)
        refused(result, ExitCode.AUTHENTICATION, "encrypted", str(key))


@pytest.mark.parametrize("flags", [[], ["-f"]], ids=["background", "foreground"])
def test_ctrl_c_at_a_passphrase_prompt(work: Workspace, server: Sshd, flags: list[str]) -> None:
    key = work.directory / "encrypted"
    make_key(server, key, "open sesame")
    options = [*keyless(server), f"IdentityFile={key}"]
    terminal = work.terminal(work.argv(server.source("/"), *options, flags=flags))
    terminal.expect(f"key {key}: ")
    terminal.send("\x03")
    assert terminal.wait(5) == ExitCode.INTERRUPTED
    assert "Traceback" not in terminal.output and "interrupted" in terminal.output
    assert work.entry() is None


# --- the agent ----------------------------------------------------------------------------------


class Agent:
    """ssh-agent with one key; ended by its pid."""

    def __init__(self, work: Workspace, key: Path) -> None:
        self.socket = work.directory / "agent"
        self._process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.env = {"SSH_AUTH_SOCK": str(self.socket)}
        try:
            for _ in range(1000):
                if self.socket.exists():
                    break
                procs.wait_gone(self._process, 0.01)
            work.run(["ssh-add", "-q", str(key)], env=self.env, check=True)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def agent(work: Workspace, server: Sshd) -> Iterator[Agent]:
    key = work.directory / "for-the-agent"
    make_key(server, key, "")
    made = Agent(work, key)
    key.unlink()
    yield made
    made.close()


def test_the_agent_has_the_key(work: Workspace, server: Sshd, agent: Agent) -> None:
    work.mounted(server.source("/"), *keyless(server), env=agent.env)


def test_the_agent_may_be_named(work: Workspace, server: Sshd, agent: Agent) -> None:
    work.mounted(server.source("/"), *keyless(server), f"IdentityAgent={agent.socket}")
    work.unmount()
    result = work.mount(server.source("/"), *keyless(server), "IdentityAgent=none", env=agent.env)
    refused(result, ExitCode.AUTHENTICATION)


def test_the_agent_makes_an_encrypted_key_file_no_obstacle(
    work: Workspace, server: Sshd, agent: Agent
) -> None:
    key = work.directory / "encrypted"
    make_key(server, key, "open sesame")
    # Neither a question nor a failure: the agent's key is offered first.
    options = [*keyless(server), f"IdentityFile={key}"]
    work.mounted(server.source("/"), *options, env=agent.env)


def test_only_the_configured_identity_of_the_agent(
    work: Workspace, server: Sshd, agent: Agent
) -> None:
    public = work.directory / "for-the-agent.pub"
    options = [*keyless(server), "IdentitiesOnly=yes"]
    work.mounted(server.source("/"), *options, f"IdentityFile={public}", env=agent.env)
    work.unmount()
    stranger = work.directory / "stranger"
    procs.run_limited(["ssh-keygen", "-q", "-N", "", "-f", str(stranger)], timeout=20)
    for other in (str(stranger), "/nonexistent"):
        result = work.mount(server.source("/"), *options, f"IdentityFile={other}", env=agent.env)
        refused(result, ExitCode.AUTHENTICATION, "Permission denied")


# --- passwords ----------------------------------------------------------------------------------


def test_a_password_is_asked_for(work: Workspace, passwords: LoginServer) -> None:
    terminal = work.terminal(work.argv(passwords.source(), *passwords.options()))
    terminal.expect(f"somebody@{HOST}'s password: ")
    assert work.entry() is None
    terminal.send(f"{PASSWORD}\n")
    assert terminal.wait() == ExitCode.OK, terminal.output
    work.daemon()
    assert PASSWORD not in terminal.output


def test_a_password_may_be_tried_again(work: Workspace, passwords: LoginServer) -> None:
    terminal = work.terminal(work.argv(passwords.source(), *passwords.options()))
    for answer in ("wrong", PASSWORD):
        terminal.expect("password: ")
        terminal.send(f"{answer}\n")
    assert terminal.wait() == ExitCode.OK, terminal.output
    work.daemon()


@pytest.mark.parametrize("prompts", [1, 2, None])
def test_passwords_are_asked_for_so_many_times(
    work: Workspace, passwords: LoginServer, prompts: int | None
) -> None:
    options = [*passwords.options()]
    if prompts is not None:
        options.append(f"NumberOfPasswordPrompts={prompts}")
    terminal = work.terminal(work.argv(passwords.source(), *options))
    for _ in range(prompts or 3):
        terminal.expect("password: ")
        terminal.send("wrong\n")
    assert terminal.wait() == ExitCode.AUTHENTICATION
    assert "password: " not in terminal.output
    assert work.entry() is None


@pytest.mark.parametrize("how", ["no terminal", "BatchMode"])
def test_a_password_without_anybody_to_ask(
    work: Workspace, passwords: LoginServer, how: str
) -> None:
    if how == "BatchMode":
        options = [*passwords.options(), "BatchMode=yes"]
        terminal = work.terminal(work.argv(passwords.source(), *options))
        assert terminal.wait(8) == ExitCode.AUTHENTICATION
        assert "password:" not in terminal.output
    else:
        result = work.mount(passwords.source(), *passwords.options())
        refused(result, ExitCode.AUTHENTICATION, "Permission denied")


@pytest.mark.parametrize("ending", ["", "\n", "\nmore\n"], ids=repr)
def test_the_password_comes_from_standard_input(
    work: Workspace, passwords: LoginServer, ending: str
) -> None:
    work.mounted(
        passwords.source(), *passwords.options(), "password_stdin", stdin=PASSWORD + ending
    )


@pytest.mark.parametrize("data", ["wrong\n", ""], ids=repr)
def test_a_wrong_password_on_standard_input_is_tried_once(
    work: Workspace, passwords: LoginServer, data: str
) -> None:
    before = len(passwords.attempts)
    result = work.mount(passwords.source(), *passwords.options(), "password_stdin", stdin=data)
    refused(result, ExitCode.AUTHENTICATION, "Permission denied")
    assert len(passwords.attempts) - before <= 1


def test_a_password_that_is_not_text(work: Workspace, passwords: LoginServer) -> None:
    result = work.mount(
        passwords.source(), *passwords.options(), "password_stdin", stdin=b"\xff\xfe\n"
    )
    refused(result, ExitCode.USAGE, "password_stdin")


@pytest.mark.parametrize("flags", [[], ["-f"]], ids=["background", "foreground"])
def test_ctrl_c_while_connecting(work: Workspace, server: Sshd, flags: list[str]) -> None:
    with socket.create_server((HOST, 0)) as listening:
        options = server.options(listening.getsockname()[1])
        terminal = work.terminal(work.argv(server.source("/"), *options, flags=flags))
        peer, _ = listening.accept()
        with peer:
            assert peer.recv(4) == b"SSH-"
            terminal.send("\x03")
            assert terminal.wait(5) == ExitCode.INTERRUPTED
    assert "Traceback" not in terminal.output and "interrupted" in terminal.output


def test_the_password_is_only_the_last_hops(
    work: Workspace, passwords: LoginServer, server: Sshd
) -> None:
    before = len(passwords.attempts)
    known = work.directory / "known"
    known.write_text(passwords.known_hosts.read_text() + server.known_hosts.read_text())
    jump = f"ProxyJump=gate@{HOST}:{passwords.port}"
    options = [*server.options()[:2], f"UserKnownHostsFile={known}", jump, "password_stdin"]
    result = work.mount(server.source("/"), *options, stdin=PASSWORD)
    refused(result, ExitCode.AUTHENTICATION)
    assert passwords.attempts[before:] == []


@pytest.mark.parametrize("flags", [[], ["-f"]], ids=["background", "foreground"])
def test_ctrl_c_at_a_password_prompt(
    work: Workspace, passwords: LoginServer, flags: list[str]
) -> None:
    argv = work.argv(passwords.source(), *passwords.options(), flags=flags)
    terminal = work.terminal(argv)
    terminal.expect("password: ")
    terminal.send("\x03")
    assert terminal.wait(5) == ExitCode.INTERRUPTED
    assert "Traceback" not in terminal.output and "interrupted" in terminal.output
    assert work.entry() is None


def test_a_question_is_shown_and_answered(work: Workspace, questions: LoginServer) -> None:
    terminal = work.terminal(work.argv(questions.source(), *questions.options()))
    terminal.expect("code: ")
    terminal.send(f"{PASSWORD}\n")
    assert terminal.wait() == ExitCode.OK, terminal.output
    work.daemon()
    assert questions.attempts[-1] == f"answer somebody {PASSWORD}"


def test_a_question_cannot_steer_the_terminal(work: Workspace, questions: LoginServer) -> None:
    terminal = work.terminal(work.argv(questions.source(), *questions.options()))
    terminal.expect(f"somebody@{HOST}: One?[2Jtime?code: ")
    terminal.send("\x03")
    assert terminal.wait() == ExitCode.INTERRUPTED


def test_an_answer_comes_from_standard_input(work: Workspace, questions: LoginServer) -> None:
    work.mounted(questions.source(), *questions.options(), "password_stdin", stdin=PASSWORD)


# --- configuration files ------------------------------------------------------------------------


def test_a_host_block_gives_everything(work: Workspace, server: Sshd) -> None:
    work.config(
        f"Host far\n HostName {HOST}\n Port {server.port}\n User {server.user}\n"
        f" IdentityFile {server.client_key}\n UserKnownHostsFile {server.known_hosts}\n"
        "Host *\n User wrong\n"
    )
    work.mounted("far:/", env={"LOGNAME": "somebody", "USER": "somebody"})


def test_a_match_block_applies(work: Workspace, server: Sshd) -> None:
    work.config(
        f"Match originalhost far user {server.user}\n HostName {HOST}\n Port {server.port}\n"
        f"Match all\n IdentityFile {server.client_key}\n"
        f" UserKnownHostsFile {server.known_hosts}\n"
    )
    work.mounted(f"{server.user}@far:/")
    work.unmount()
    refused(work.mount("other@far:/", "ConnectTimeout=3"), ExitCode.UNREACHABLE, "far")


def test_a_named_file_replaces_the_usual_ones(work: Workspace, server: Sshd) -> None:
    work.config(f"Host *\n Port 1\n HostName {HOST}\n")
    named = work.directory / "config"
    named.write_text(f"Host far\n HostName {HOST}\n Port {server.port}\n")
    options = server.options()[1:]
    work.mounted(f"{server.user}@far:/", *options, flags=["-F", str(named)])
    work.unmount()
    refused(work.mount(f"{server.user}@far:/", *options), ExitCode.UNREACHABLE)


def test_no_file_is_read(work: Workspace, server: Sshd) -> None:
    work.config(f"Host *\n HostName 127.0.0.2\n Port {server.port}\n")
    work.mounted(server.source("/"), *server.options(), flags=["-F", "none"])


def test_the_command_line_goes_before_the_file(work: Workspace, server: Sshd) -> None:
    work.config("Host *\n Port 1\n User nonsense\n IdentityFile /nonexistent\n Compression yes\n")
    work.mounted(server.source("/"), *server.options())


def test_an_address_from_the_file_is_in_the_commands_tokens(
    work: Workspace, server: Sshd, netcat: str
) -> None:
    work.config(f"Host far\n HostName {HOST}\n Port {server.port}\n ProxyCommand {netcat} %h %p\n")
    work.mounted(f"{server.user}@far:/", *server.options()[1:])


@pytest.mark.parametrize(
    "text", ["Port many\n", "Host far\n Port\n", "User 'unfinished\n", "User \udcff\n"], ids=ascii
)
def test_a_file_that_cannot_be_read_is_one_line(work: Workspace, server: Sshd, text: str) -> None:
    (work.ssh / "config").write_bytes(text.encode("utf-8", "surrogateescape"))
    result = work.mount("far:/", *server.options())
    refused(result, ExitCode.USAGE, "ssh configuration")


@pytest.mark.parametrize("option", ["ServerAliveInterval=1m30s", "ConnectTimeout=1m",
                                    "PubkeyAuthentication=unbound"])  # fmt: skip
def test_values_of_ssh_that_are_written_in_other_ways(
    work: Workspace, server: Sshd, option: str
) -> None:
    work.mounted(server.source("/"), *server.options(), option)


def test_a_backslash_in_a_name_is_kept(work: Workspace, passwords: LoginServer) -> None:
    work.mounted(
        f"{HOST}:/", *passwords.options(), "User=DOMAIN\\\\somebody", "password_stdin",
        stdin=PASSWORD,
    )  # fmt: skip
    assert passwords.attempts[-1] == f"password DOMAIN\\somebody {PASSWORD}"


# --- ways to the server -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(server: Sshd) -> Iterator[Sshd]:
    with Sshd() as running:
        (running.directory / "authorized_keys").write_text(
            server.client_key.with_suffix(".pub").read_text()
        )
        yield running


def test_by_way_of_another_host(work: Workspace, server: Sshd, gateway: Sshd) -> None:
    known = work.directory / "known"
    known.write_text(gateway.known_hosts.read_text() + server.known_hosts.read_text())
    work.config(
        f"Host gate\n HostName {HOST}\n Port {gateway.port}\n User {gateway.user}\n"
        f"Host far\n HostName {HOST}\n Port {server.port}\n ProxyJump gate\n"
        f"Host *\n IdentityFile {server.client_key}\n UserKnownHostsFile {known}\n"
    )
    daemon = work.mounted(f"{server.user}@far:/")
    assert len(gateway.session_pids()) > 0
    work.unmount()
    wait_ended(daemon)


def test_a_jump_host_that_cannot_be_reached(work: Workspace, server: Sshd) -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    options = [*server.options(), f"ProxyJump={HOST}:{port}"]
    refused(work.mount(server.source("/"), *options), ExitCode.UNREACHABLE, "refused")


def test_a_jump_host_that_cannot_reach_the_server(
    work: Workspace, server: Sshd, gateway: Sshd
) -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    options = [*server.options()[1:], f"port={port}", f"ProxyJump={HOST}:{gateway.port}"]
    known = work.ssh / "known_hosts"
    known.write_text(gateway.known_hosts.read_text())
    options = [each for each in options if not each.startswith("UserKnownHostsFile")]
    work.config(f"IdentityFile {server.client_key}\n")
    refused(work.mount(server.source("/"), *options), ExitCode.UNREACHABLE, HOST)


@pytest.mark.parametrize(
    "shell",
    ["{netcat} %h %p", "{netcat} %h %p 2>/dev/null", "sh -c 'echo hello >&2; {netcat} %h %p'"],
)
def test_a_command_makes_the_connection(
    work: Workspace, server: Sshd, netcat: str, shell: str
) -> None:
    proxy = f"ProxyCommand={shell.format(netcat=netcat)}".replace(",", "\\,")
    daemon = work.mounted(server.source("/"), *server.options(), proxy)
    below = procs.descendants(daemon)
    assert below
    # It holds neither the caller's pipes nor the mount's end up.
    for pid in below:
        assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
    work.unmount()
    for pid in below:
        wait_ended(pid)


@pytest.mark.parametrize("command", ["false", "/nonexistent", "echo not ssh"])
def test_a_command_that_makes_no_connection(work: Workspace, server: Sshd, command: str) -> None:
    options = [*server.options(), f"ProxyCommand={command}"]
    refused(work.mount(server.source("/"), *options), ExitCode.UNREACHABLE, HOST)


def test_what_a_proxy_command_says_is_seen_on_the_terminal(work: Workspace, server: Sshd) -> None:
    options = [*server.options(), "ProxyCommand=sh -c 'echo no way there >&2; exit 1'"]
    terminal = work.terminal(work.argv(server.source("/"), *options))
    terminal.expect("no way there")
    assert terminal.wait() == ExitCode.UNREACHABLE


# --- ciphers ------------------------------------------------------------------------------------


def has_aes() -> bool:
    return any(
        " aes" in line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("flags", "Features"))
    )


def test_the_cipher_is_aes_gcm_where_the_processor_has_it(work: Workspace, server: Sshd) -> None:
    work.mounted(server.source("/"), *server.options())
    expected = "aes128-gcm@openssh.com" if has_aes() else "chacha20-poly1305@openssh.com"
    assert work.status()["cipher"] == expected


@pytest.mark.parametrize("where", ["command line", "file"])
def test_the_users_ciphers_are_obeyed(work: Workspace, server: Sshd, where: str) -> None:
    if where == "file":
        work.config("Ciphers aes256-ctr\n")
        work.mounted(server.source("/"), *server.options())
    else:
        work.mounted(server.source("/"), *server.options(), "Ciphers=aes256-ctr")
    assert work.status()["cipher"] == "aes256-ctr"


@pytest.mark.parametrize("ciphers", ["aes128-cbc", "nonsense"])
def test_no_cipher_in_common(work: Workspace, server: Sshd, ciphers: str) -> None:
    # asyncssh looks at the server's offer in a task of its own, and now and then sees that the
    # server has hung up before that task has run (1 of 60 tries with its client alone).
    for _ in range(5):
        result = work.mount(server.source("/"), *server.options(), f"Ciphers={ciphers}")
        if "Connection lost" not in result.stderr:
            break
    refused(result, ExitCode.UNREACHABLE, "encryption")
