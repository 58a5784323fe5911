"""Losing OpenSSH's server and finding it again, without a mount."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest
import trio

from pysshfs.remote.bridge import Bridge
from pysshfs.remote.connection import Hop, ServerConnection, State, Target
from pysshfs.remote.sshconfig import SshConfiguration
from tests.support import procs
from tests.support.login_server import PASSWORD, LoginServer
from tests.support.proxy import Proxy
from tests.support.sshd import HOST, SFTP_SERVER, Sshd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from pysshfs.errors import ConnectionLostError
    from pysshfs.remotefs import RemoteFS

#: Seconds before a test that waits for something gives up.
LIMIT = 40

#: A program that makes a TCP connection its standard input and output.
NETCAT = """
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


class Terminal:
    """Gives the answers it was made with, in turn; not there without any."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.available = bool(answers)

    def confirm(self, text: str, fingerprint: str) -> bool:
        raise AssertionError(text)

    def secret(self, text: str) -> str | None:
        self.asked.append(text)
        return self._answers.pop(0)


class Connection(ServerConnection):
    """One whose changes of state can be waited for. It is its own user."""

    in_doubt = False

    def __init__(
        self,
        bridge: Bridge,
        port: int,
        options: Sequence[str],
        terminal: Terminal | None = None,
        password: str | None = None,
        user: str | None = None,
    ) -> None:
        self.history: list[State] = []
        self.losses: list[str] = []
        self.remote: RemoteFS | None = None
        self._changed = trio.Event()
        pairs = [tuple(option.split("=", 1)) for option in options]
        super().__init__(
            bridge,
            Target(Hop(HOST, user, port), b"/", "sftp"),
            SshConfiguration([(name, value) for name, value in pairs], "none"),
            terminal or Terminal(),
            password,
        )

    def _set_state(self, state: State, reason: str, level: int = logging.INFO) -> None:
        super()._set_state(state, reason, level)
        self.history.append(state)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, state: State) -> None:
        with trio.fail_after(LIMIT):
            while self.state is not state:
                await self._changed.wait()

    async def back(self, count: int = 1) -> None:
        """Until it was connected again so many times."""
        with trio.fail_after(LIMIT):
            while self.reconnects < count or self.state is not State.UP:
                await self._changed.wait()

    def lost(self, error: ConnectionLostError) -> None:
        self.losses.append(str(error))

    async def resume(self, remote: RemoteFS) -> None:
        await remote.stat(b"")
        self.remote = remote

    def given_up(self, error: ConnectionLostError) -> None:
        self.losses.append(f"given up: {error}")


@contextlib.asynccontextmanager
async def kept_up(
    port: int,
    options: Sequence[str],
    *,
    terminal: Terminal | None = None,
    password: str | None = None,
    user: str | None = None,
) -> AsyncIterator[Connection]:
    bridge = Bridge()
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        connection = Connection(bridge, port, options, terminal, password, user)
        password = None
        connection.remote = await connection.connect()
        try:
            keeping = await nursery.start(_keep_up, connection)
            yield connection
            keeping.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await connection.close()
        nursery.cancel_scope.cancel()


async def _keep_up(connection: Connection, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await connection.keep_up(connection, reconnect=True)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(2 * LIMIT):
            await body()

    trio.run(limited, strict_exception_groups=True)


def options(server: Sshd, *more: str) -> list[str]:
    return [*server.options()[1:], "GlobalKnownHostsFile=/nonexistent", *more]


@pytest.fixture
def own() -> Iterator[Sshd]:
    """A server of the test's own."""
    with Sshd() as running:
        yield running


@pytest.fixture
def proxy(server: Sshd) -> Iterator[Proxy]:
    with Proxy(server.port, 0) as running:
        server.trust(running.port)
        yield running


# --- losing it and finding it again -------------------------------------------------------------


def test_a_server_that_is_killed_and_started_again(own: Sshd) -> None:
    async def body() -> None:
        async with kept_up(own.port, options(own)) as connection:
            assert connection.history == [State.CONNECTING, State.UP]
            del connection.history[:]
            own.kill()
            await connection.until(State.WAITING)
            assert "Connection refused" in connection.reason
            assert connection.silence() > 0
            own.start()
            await connection.back()
            assert connection.history[:3] == [State.LOST, State.CONNECTING, State.WAITING]
            assert connection.history[-1:] == [State.UP] and connection.generation == 2
            assert connection.reason.startswith("connected again after ")
            assert len(connection.losses) == 1 and connection.silence() == 0
            assert connection.remote is not None
            await connection.remote.stat(b"")
        assert connection.history[-1:] == [State.CLOSED]

    run(body)


def test_a_connection_that_is_reset(server: Sshd, proxy: Proxy) -> None:
    async def body() -> None:
        async with kept_up(proxy.port, options(server)) as connection:
            started = time.monotonic()
            proxy.reset()
            await connection.back()
            assert time.monotonic() - started < 3  # at once, without any wait
            assert State.WAITING not in connection.history

    run(body)


def test_a_session_that_is_killed_while_a_request_is_out(openssh: Sshd) -> None:
    async def body() -> None:
        async with kept_up(openssh.port, options(openssh)) as connection:
            assert connection.session is not None and 0 < connection.round_trip < 1
            for pid in openssh.session_pids():
                os.kill(pid, signal.SIGSTOP)
            assert connection.remote is not None
            reply = connection.remote.stat(b"")
            await trio.sleep(2.1)
            assert connection.silence() > 2
            openssh.kill_sessions()
            await connection.back()
            assert reply.error is not None

    run(body)


def test_a_silent_way_and_somebody_who_knows_it(server: Sshd, proxy: Proxy) -> None:
    async def body() -> None:
        async with kept_up(proxy.port, options(server)) as connection:
            proxy.freeze()
            assert connection.remote is not None
            reply = connection.remote.stat(b"")
            connection.reconnect_now("asked for")
            assert reply.error is not None and connection.losses == ["asked for"]
            await connection.until(State.CONNECTING)
            connection.reconnect_now("asked for again")  # while the try hangs
            proxy.thaw()
            await connection.back()

    run(body)


async def was_reset(server: Sshd) -> bool:
    """Whether the first session ended with a reset, as the server's log says."""
    with trio.fail_after(LIMIT):
        while True:
            said = server.log()
            if "Read error from remote host" in said or "Connection reset by user" in said:
                return True
            if "Disconnected from user" in said or "Connection closed by user" in said:
                return False
            await trio.sleep(0.02)


def test_the_server_learns_of_a_reset(own: Sshd) -> None:
    async def body() -> None:
        async with kept_up(own.port, options(own)) as connection:
            connection.reconnect_now("asked for")
            await connection.back()
            assert await was_reset(own)

    run(body)


def test_a_server_that_stands_still_is_reset(own: Sshd) -> None:
    """What is still queued for it must not be carried out behind the back of the next session."""

    async def body() -> None:
        more = options(own, "ServerAliveInterval=1", "ServerAliveCountMax=1")
        async with kept_up(own.port, more) as connection:
            stopped = own.session_pids()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            await connection.back()
            assert "keepalive" in connection.losses[0]
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            assert await was_reset(own)

    run(body)


class Relay:
    """Passes one connection on to a server, and sees how the client ends it."""

    def __init__(self, port: int) -> None:
        self.client_ended = ""
        self._resetting: list[socket.socket] = []
        self._target = port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._listening, socket.create_connection((HOST, self._target)) as server:
            client, _ = self._listening.accept()
            back = threading.Thread(target=self._pass_on, args=(server, client))
            back.start()
            ended = self._pass_on(client, server)
            back.join()
            self.client_ended = "reset" if client in self._resetting else ended
            client.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> str:
        try:
            while data := source.recv(65536):
                try:
                    sink.sendall(data)
                except ConnectionResetError:  # which is told once: `recv` then says it is the end
                    self._resetting.append(sink)
                except OSError:
                    pass
        except ConnectionResetError:
            return "reset"
        finally:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
        return "end"

    def join(self) -> str:
        self._thread.join(LIMIT)
        return self.client_ended


@pytest.mark.parametrize("how", ["end", "reset"])
def test_closing_is_no_reset(own: Sshd, how: str) -> None:
    relay = Relay(own.port)
    own.trust(relay.port)

    async def body() -> None:
        async with kept_up(relay.port, options(own)) as connection:
            if how == "reset":
                connection.reconnect_now("asked for")

    run(body)
    assert relay.join() == how


# --- being refused ------------------------------------------------------------------------------


def test_a_key_that_is_not_accepted_any_more(own: Sshd) -> None:
    authorized = own.directory / "authorized_keys"

    async def body() -> None:
        async with kept_up(own.port, options(own, "IdentitiesOnly=yes")) as connection:
            text = authorized.read_text()
            authorized.write_text("")
            own.kill_sessions()
            await connection.until(State.FAILED)
            assert connection.losses[1].startswith("given up: Permission denied")
            assert "pysshfsctl reconnect" in connection.reason
            tried = connection.history.count(State.CONNECTING)
            connection.wanted()
            await trio.sleep(3)
            assert connection.history.count(State.CONNECTING) == tried
            authorized.write_text(text)
            connection.reconnect_now("asked for")
            await connection.back()

    run(body)


def test_too_many_keys_are_a_refusal_and_no_failure_of_the_network(tmp_path: Path) -> None:
    """OpenSSH then disconnects with the code of a protocol error."""
    with Sshd(extra_config=["Match all", "MaxAuthTries 1"]) as own:
        other = tmp_path / "other"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)]
        procs.run_limited(argv, timeout=20)
        authorized = own.directory / "authorized_keys"

        async def body() -> None:
            more = options(own, f"IdentityFile={other}", "IdentitiesOnly=yes")
            async with kept_up(own.port, more) as connection:
                authorized.write_text("")
                own.kill_sessions()
                await connection.until(State.FAILED)

        run(body)


@pytest.mark.parametrize("strict", ["yes", "accept-new", "no"])
def test_a_host_key_that_changed(own: Sshd, tmp_path: Path, strict: str) -> None:
    """Also when the first connection had accepted what it found."""
    known = own.known_hosts if strict == "yes" else tmp_path / "known_hosts"
    private, public = own.host_key_path, own.host_key_path.with_suffix(".pub")
    kept = private.read_bytes(), public.read_bytes()
    settings = options(own, f"StrictHostKeyChecking={strict}")[2:]
    identity = f"IdentityFile={own.client_key}"

    async def body() -> None:
        settled = [identity, f"UserKnownHostsFile={known}", *settings]
        async with kept_up(own.port, settled) as connection:
            own.kill()
            private.unlink()
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)]
            procs.run_limited(argv, timeout=20)
            before = known.read_text()
            own.start()
            await connection.until(State.FAILED)
            assert "CHANGED" in connection.reason
            assert known.read_text() == before
            own.kill()
            private.write_bytes(kept[0])
            public.write_bytes(kept[1])
            own.start()
            connection.reconnect_now("asked for")
            await connection.back()

    run(body)


def test_a_key_behind_the_certificate_of_before_is_not_accepted(tmp_path: Path) -> None:
    """Not even when unknown keys are: the first connection is past."""
    authority, certificate = tmp_path / "authority", tmp_path / "certificate"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(authority)]
    procs.run_limited(argv, timeout=20)
    with Sshd(extra_config=[f"HostCertificate {certificate}"]) as own:
        argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-h", "-n", HOST]
        procs.run_limited([*argv, str(own.host_key_path.with_suffix(".pub"))], timeout=20)
        shutil.copy(own.directory / "host_ed25519-cert.pub", certificate)
        own.restart()
        public = authority.with_suffix(".pub").read_text()
        own.known_hosts.write_text(f"@cert-authority [{HOST}]:{own.port} {public}")

        async def body() -> None:
            more = options(own, "StrictHostKeyChecking=accept-new")
            async with kept_up(own.port, more) as connection:
                certificate.unlink()
                own.restart()
                await connection.until(State.FAILED)
                assert "not the one from before" in connection.reason
                assert own.known_hosts.read_text().count("\n") == 1

        run(body)


# --- noticing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def address() -> Iterator[None]:
    """Another address on the loopback interface, which comes and goes."""
    number = ipaddress.ip_address("127.77.0.0") + os.getpid() % 65000 + 1
    argv = ["ip", "address", "add", f"{number}/32", "dev", "lo"]
    procs.run_limited(argv, timeout=10)
    try:
        yield
    finally:
        argv[2] = "del"
        procs.run_limited(argv, timeout=10)


def test_a_silent_way_is_noticed_when_an_address_changes(server: Sshd, proxy: Proxy) -> None:
    async def body() -> None:
        async with kept_up(proxy.port, options(server)) as connection:
            proxy.freeze()
            started = time.monotonic()
            with address():
                await connection.until(State.CONNECTING)
            assert 4 < time.monotonic() - started < 12
            assert "addresses changed" in connection.losses[0]
            proxy.thaw()
            await connection.back()

    run(body)


def test_an_address_that_changes_is_no_harm_to_a_slow_server(openssh: Sshd) -> None:
    """The SFTP server stands still, as with a disk that hangs; the SSH server does not."""

    async def body() -> None:
        async with kept_up(openssh.port, options(openssh)) as connection:
            assert connection.remote is not None
            stopped = [pid for pid in openssh.session_pids() if _is_sftp_server(pid)]
            assert len(stopped) == 1
            os.kill(stopped[0], signal.SIGSTOP)
            reply = connection.remote.stat(b"")
            with address():
                await trio.sleep(8)
            os.kill(stopped[0], signal.SIGCONT)
            await reply
            assert connection.losses == []

    run(body)


def _is_sftp_server(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().startswith(SFTP_SERVER.encode())


# --- the way there ------------------------------------------------------------------------------


def there(group: int) -> bool:
    """Whether anything is left of a process group, if only to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def is_child(pid: int) -> bool:
    """Whether a process of ours runs, or is there to be reaped."""
    return os.path.exists(f"/proc/{pid}")


async def ended(groups: list[int]) -> None:
    """Their leaders are ours to reap, and reaped they are; the others are the system's."""
    assert [group for group in groups if is_child(group)] == []
    with trio.fail_after(5):
        while any(map(there, groups)):  # noqa: ASYNC110  # no event tells
            await trio.sleep(0.02)


def test_a_proxy_command_is_started_anew_and_none_stays(server: Sshd, tmp_path: Path) -> None:
    script, pids = tmp_path / "netcat.py", tmp_path / "pids"
    script.write_text(NETCAT)
    command = f"sh -c 'echo $$ >> {pids}; {shlex.quote(sys.executable)} {script} %h %p'"

    async def body() -> None:
        proxied = options(server, f"ProxyCommand={command}")
        async with kept_up(server.port, proxied) as connection:
            for count in (1, 2):
                connection.reconnect_now("asked for")
                await connection.back(count)
            started = [int(line) for line in pids.read_text().split()]
            assert len(started) == 3
            await ended(started[:2])
            assert there(started[2])
        await ended(started)

    run(body)


def test_a_jump_host_that_is_killed(own: Sshd, server: Sshd) -> None:
    async def body() -> None:
        own.known_hosts.write_text(own.known_hosts.read_text() + server.known_hosts.read_text())
        jump = f"ProxyJump={own.user}@{HOST}:{own.port}"
        keys = [f"IdentityFile={server.client_key}", f"IdentityFile={own.client_key}"]
        known = [f"UserKnownHostsFile={own.known_hosts}"]
        async with kept_up(server.port, [jump, *keys, *known]) as connection:
            own.kill()
            await connection.until(State.WAITING)
            own.start()
            await connection.back()

    run(body)


# --- from memory --------------------------------------------------------------------------------


class Reconnector:
    """`tests.mount.reconnector` as a process."""

    def __init__(self, home: Path, host: str, pairs: list[tuple[str, str]]) -> None:
        plan = json.dumps({"host": host, "options": pairs})
        self._watchdog = threading.Timer(LIMIT, self._stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mount.reconnector", plan],
            cwd=procs.ROOT,
            env={"HOME": str(home), "PATH": os.environ["PATH"], "LOGNAME": "root"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._watchdog.start()

    def _stop(self) -> None:
        self._process.kill()

    def until(self, state: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == state:
                return
        raise AssertionError(f"it ended before it was {state}")

    def tell(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, list[str]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, list[str]] = json.loads(line)
                return found
        raise AssertionError("it ended without a word")

    def __enter__(self) -> Reconnector:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._stop()
        self._watchdog.cancel()
        self._process.communicate()


def make_home(own: Sshd, home: Path) -> None:
    """All that a login takes, in files: an Include, a key, a certificate for it, known hosts."""
    ssh = home / ".ssh"
    (ssh / "more").mkdir(parents=True)
    key, authority = ssh / "key", ssh / "authority"
    for path in (key, authority):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        procs.run_limited(argv, timeout=20)
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", own.user]
    procs.run_limited([*argv, str(key.with_suffix(".pub"))], timeout=20)
    (ssh / "key-cert.pub").rename(ssh / "certificate")
    principal = f"cert-authority {authority.with_suffix('.pub').read_text()}"
    (own.directory / "authorized_keys").write_text(principal)
    shutil.copy(own.known_hosts, ssh / "known_hosts")
    (ssh / "config").write_text("Include more/*\nMatch final\n  ServerAliveCountMax 2\n")
    (ssh / "more" / "one").write_text(
        f"Host far\n  HostName {HOST}\n  Port {own.port}\n  User {own.user}\n"
        "  IdentityFile ~/.ssh/key\n  CertificateFile ~/.ssh/certificate\n"
        "  IdentitiesOnly yes\n"
    )


def test_a_reconnect_opens_no_file_and_imports_nothing(own: Sshd, tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(own, home)
    with Reconnector(home, "far", []) as program:
        program.until("up")
        home.rename(tmp_path / "away")
        program.tell()
        own.kill()
        program.until("waiting")
        own.start()
        program.until("up")
        authorized = own.directory / "authorized_keys"
        kept = authorized.read_text()
        authorized.write_text("")
        own.kill_sessions()
        program.until("failed")
        authorized.write_text(kept)
        program.tell()
        assert program.result() == {"looked_at": [], "modules": []}


def test_a_proxy_command_and_jumps_take_no_file_either(
    own: Sshd, server: Sshd, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    make_home(own, home)
    (home / "netcat.py").write_text(NETCAT)
    shutil.copy(home / "netcat.py", tmp_path)
    with (home / ".ssh" / "known_hosts").open("a") as known:
        known.write(server.known_hosts.read_text())
    with (home / ".ssh" / "more" / "one").open("a") as config:
        netcat = f"{shlex.quote(sys.executable)} {tmp_path / 'netcat.py'} %h %p"
        config.write(f"  ProxyCommand {netcat}\n")
        config.write(
            f"Host further\n  HostName {HOST}\n  Port {server.port}\n  User {server.user}\n"
            f"  IdentityFile {server.client_key}\n  ProxyJump far\n"
        )
    with Reconnector(home, "further", []) as program:
        program.until("up")
        home.rename(tmp_path / "away")
        program.tell()
        own.kill_sessions()
        program.until("up")
        program.tell()
        found = program.result()
        assert found["modules"] == []
        assert set(found["looked_at"]) <= {"open '/dev/null'"}  # what the command says


# --- secrets ------------------------------------------------------------------------------------


def test_a_passphrase_is_asked_for_once(own: Sshd, tmp_path: Path) -> None:
    key = tmp_path / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(key)]
    procs.run_limited(argv, timeout=20)
    shutil.copy(key.with_suffix(".pub"), own.directory / "authorized_keys")
    terminal = Terminal("open sesame")

    async def body() -> None:
        settings = [f"IdentityFile={key}", *options(own)[1:], "IdentitiesOnly=yes"]
        async with kept_up(own.port, settings, terminal=terminal) as connection:
            key.unlink()
            key.with_suffix(".pub").unlink()
            for count in (1, 2):
                connection.reconnect_now("asked for")
                await connection.back(count)
            assert len(terminal.asked) == 1

    run(body)


def test_nobody_is_asked_for_another_passphrase(own: Sshd, tmp_path: Path) -> None:
    key = tmp_path / "key"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f", str(key)]
    procs.run_limited(argv, timeout=20)
    authorized = own.directory / "authorized_keys"
    terminal = Terminal("open sesame")

    async def body() -> None:
        settings = options(own, f"IdentityFile={key}", "IdentitiesOnly=yes")
        async with kept_up(own.port, settings, terminal=terminal) as connection:
            shutil.copy(key.with_suffix(".pub"), authorized)
            connection.reconnect_now("asked for")
            await connection.until(State.FAILED)
            assert terminal.asked == [] and str(key) in connection.reason

    run(body)


@pytest.mark.parametrize("given", [True, False], ids=["given", "typed"])
@pytest.mark.parametrize("method", ["password", "questions"])
def test_a_password_that_was_needed_is_kept(method: str, given: bool) -> None:
    async def body() -> None:
        terminal = Terminal() if given else Terminal("wrong", PASSWORD)
        async with kept_up(
            passwords.port,
            passwords.options()[1:],
            terminal=terminal,
            password=PASSWORD if given else None,
            user="somebody",
        ) as connection:
            for count in (1, 2):
                connection.reconnect_now("asked for")
                await connection.back(count)
            with trio.fail_after(LIMIT):
                while len(passwords.attempts) < (3 if given else 4):  # noqa: ASYNC110  # a thread
                    await trio.sleep(0.01)
            assert len(terminal.asked) == (0 if given else 2)

    with LoginServer(method) as passwords:
        run(body)
        assert all(line.endswith(PASSWORD) for line in passwords.attempts[-3:])
        assert len(passwords.attempts) == (3 if given else 4)  # none that is known to be wrong


class Secret(str):
    """A password whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_a_password_that_was_not_needed_is_forgotten(server: Sshd) -> None:
    async def body() -> None:
        password = Secret("not needed")
        seen = weakref.ref(password)
        kept = kept_up(server.port, options(server), password=password)
        vars(kept)["kwds"].clear()  # it would keep them for another use
        del password
        async with kept as connection:
            gc.collect()
            assert seen() is None
            connection.reconnect_now("asked for")
            await connection.back()

    run(body)
