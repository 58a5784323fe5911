"""The connection to the server: how it is made, what state it is in, how it ends.

`ServerConnection` owns the asyncssh connections (one for each ProxyJump hop and the last) and the
SFTP session on top. Its state changes synchronously, in `_set_state` only; I/O happens outside of
transitions. `generation` counts the sessions that were up: every remote handle carries it, so one
of an earlier session is never used on a later.

Touched by: the task that connects, and `_session_lost`, called by the session in the bridge's task.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import os
import signal
import socket
import stat
import subprocess
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncssh
import trio

from pysshfs.errors import (
    AuthenticationError,
    ConnectionLostError,
    FilesystemError,
    HostKeyError,
    RemoteDirectoryError,
    SftpRefusedError,
    StartupError,
    UnreachableError,
)
from pysshfs.remote import client
from pysshfs.remote.auth import Credentials, Keys, LoginClient, load_keys
from pysshfs.remote.hostkeys import HostKeyPolicy, Prompter, refused
from pysshfs.remote.session import SftpSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remote.bridge import Bridge
    from pysshfs.remote.sshconfig import HostConfig, SshConfiguration
    from pysshfs.remotefs import Capabilities

log = logging.getLogger(__name__)

# How much the server may send ahead of us (bytes): more than any bandwidth-delay product we read
# at. With asyncssh's own 2 MiB a read gets 2 MiB per round trip at most.
_WINDOW: Final = 64 * 1024 * 1024
_PACKET: Final = 255 * 1024
_KEEPALIVE_SECONDS: Final = 15
_KEEPALIVE_MISSED: Final = 3
_CONNECT_SECONDS: Final = 30
_HANDSHAKE_SECONDS: Final = 30
_MOST_HOPS: Final = 8


class State(enum.Enum):
    NEW = "new"
    CONNECTING = "connecting"
    UP = "up"
    LOST = "lost"
    CLOSED = "closed"


class Hop(NamedTuple):
    host: str
    user: str | None
    port: int | None


class Target(NamedTuple):
    """What to mount: the last hop and the directory there (b"" is the login directory)."""

    hop: Hop
    path: bytes
    sftp_server: str  # the subsystem's name, or a command when it holds a slash


def parse_jumps(text: str | None) -> list[Hop]:
    """ProxyJump's [user@]host[:port], separated by commas (ssh_config(5))."""
    hops = []
    for item in (text or "").split(","):
        item = item.strip().removeprefix("ssh://")
        if not item or item.lower() == "none":
            continue
        user, _, place = item.rpartition("@")
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = place.partition(":")
        if not host or host.startswith("-") or (port and not port.isdigit()):
            raise StartupError(f"ProxyJump: {item!r} is not [user@]host[:port]")
        hops.append(Hop(host, user or None, int(port) if port else None))
    return hops


def processor_has_aes() -> bool:
    """AES-GCM is about twice as fast as asyncssh's first choice where the processor helps."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(
                " aes" in line for line in file if line.startswith(("flags", "Features"))
            )
    except OSError:
        return False


class ServerConnection:
    """The way to one served directory."""

    def __init__(
        self,
        bridge: Bridge,
        target: Target,
        configuration: SshConfiguration,
        prompter: Prompter,
        password: str | None,
        on_lost: Callable[[Exception], None],
    ) -> None:
        self.state = State.NEW
        self.generation = 0
        self.server_version = ""
        self.cipher = ""
        self.extensions: dict[bytes, bytes] = {}
        self._bridge = bridge
        self._target = target
        self._configuration = configuration
        self._prompter = prompter
        self._password = password
        self._on_lost = on_lost
        self._links: list[asyncssh.SSHClientConnection] = []
        self._proxies: list[subprocess.Popen[bytes]] = []
        self._session: SftpSession | None = None

    def _set_state(self, state: State, reason: str = "") -> None:
        if state is not self.state:
            self.state = state
            log.info("connection %s%s", state.value, f": {reason}" if reason else "")

    @property
    def session(self) -> SftpSession | None:
        return self._session

    # --- connecting -------------------------------------------------------------------------

    async def connect(self) -> client.SftpRemote:
        """Log in, start SFTP and check the directory. Raises `StartupError`s."""
        self._set_state(State.CONNECTING)
        try:
            link = await self._log_in()
            session = await self._start_sftp(link)
            with trio.fail_after(_HANDSHAKE_SECONDS):
                remote = await self._shake_hands(session)
        except trio.TooSlowError:
            await self.close()
            raise SftpRefusedError("the server does not answer SFTP requests") from None
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.close()
            raise
        self._set_state(State.UP)
        return remote

    async def _log_in(self) -> asyncssh.SSHClientConnection:
        hop = self._target.hop
        config = self._configuration.for_host(*hop)
        jumps = parse_jumps(config.proxy_jump)
        if len(jumps) >= _MOST_HOPS:
            raise StartupError(f"ProxyJump: more than {_MOST_HOPS - 1} hops")
        link: asyncssh.SSHClientConnection | None = None
        for jump in jumps:
            # The given password is the last hop's: no other server gets to see it.
            credentials = Credentials(self._prompter, None)
            jump_config = self._configuration.for_host(*jump)
            link = await self._open_link(jump, jump_config, credentials, link)
        credentials = Credentials(self._prompter, self._password)
        return await self._open_link(hop, config, credentials, link)

    async def _open_link(
        self,
        hop: Hop,
        config: HostConfig,
        credentials: Credentials,
        tunnel: asyncssh.SSHClientConnection | None,
    ) -> asyncssh.SSHClientConnection:
        for attempts_left in reversed(range(config.connection_attempts)):
            try:
                link = await self._try_link(hop, config, credentials, tunnel)
            except UnreachableError as error:
                if not attempts_left:
                    raise
                log.info("%s; trying again", error)
                await trio.sleep(1)  # as ssh does between ConnectionAttempts
            else:
                self._links.append(link)
                return link
        raise AssertionError("unreachable")

    async def _try_link(
        self,
        hop: Hop,
        config: HostConfig,
        credentials: Credentials,
        tunnel: asyncssh.SSHClientConnection | None,
    ) -> asyncssh.SSHClientConnection:
        policy = HostKeyPolicy(config, self._prompter)
        keys = self._load_keys(config)
        sock = None
        if config.proxy_command is not None and tunnel is None:
            sock = self._start_proxy(config.proxy_command)
        try:
            return await self._bridge.call(
                asyncssh.connect(
                    hop.host,
                    () if hop.port is None else hop.port,
                    tunnel=tunnel,
                    sock=sock,
                    **self._link_options(hop, config, policy, credentials, keys),
                )
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise refused(policy, error) from None
        except asyncssh.KeyExchangeFailed as error:
            # With a host key known, only its kind is asked for: a server without is another one.
            is_host_key = "host key" in error.reason
            kind = HostKeyError if is_host_key else UnreachableError
            raise kind(f"{hop.host}: {error.reason}") from None
        except asyncssh.PermissionDenied as error:
            reasons = [error.reason, *keys.passed_over]
            raise AuthenticationError("; ".join(reasons)) from None
        except (asyncssh.KeyEncryptionError, asyncssh.KeyImportError) as error:
            raise AuthenticationError(f"{hop.host}: a key cannot be used: {error}") from None
        except socket.gaierror as error:
            raise UnreachableError(f"{hop.host}: {error.strerror}") from None
        except (asyncssh.Error, TimeoutError) as error:
            reason = str(error) or "timed out"
            raise UnreachableError(f"{hop.host}: {reason}") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise UnreachableError(f"{hop.host}: {reason}") from None
        except ValueError as error:  # asyncssh's word for an option it cannot use
            raise StartupError(f"ssh options: {error}") from None

    def _start_proxy(self, command: str) -> socket.socket:
        """Start a ProxyCommand, in the shell as ssh does; a socket that leads to it.

        asyncssh's own way lacks the shell, takes what the command says on stderr for the server's
        words and the end of its stderr for the connection's. Here it says it on the terminal, or
        nowhere: a pipe of the caller's must not stay open for as long as the mount.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            proxy = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=None if os.isatty(2) else subprocess.DEVNULL,
                start_new_session=True,
            )
        self._proxies.append(proxy)
        return ours

    def _may_ask(self, config: HostConfig) -> bool:
        return self._prompter.available and not config.batch_mode

    def _load_keys(self, config: HostConfig) -> Keys:
        may_ask = self._may_ask(config)
        ask = functools.partial(_ask_passphrase, self._prompter) if may_ask else None
        return load_keys(config.identity_files, ask)

    def _link_options(
        self,
        hop: Hop,
        config: HostConfig,
        policy: HostKeyPolicy,
        credentials: Credentials,
        keys: Keys,
    ) -> dict[str, Any]:
        account = f"{hop.user}@{hop.host}" if hop.user else hop.host
        options: dict[str, Any] = {
            "config": self._configuration.paths,
            "known_hosts": policy.trusted,
            "client_factory": functools.partial(
                LoginClient,
                policy,
                credentials,
                account,
                self._may_ask(config),
                config.password_prompts,
            ),
            "client_keys": keys.pairs,
        }
        if config.identities_only and keys.identities:
            options["agent_identities"] = keys.identities
        elif config.identities_only:
            options["agent_path"] = None
        if not config.has_host_key_algorithms:
            place = config.address(hop.host, hop.port)
            options["server_host_key_algs"] = policy.algorithms(*place)
        if hop.user is not None:
            options["username"] = hop.user
        if not config.has_ciphers and processor_has_aes():
            options["encryption_algs"] = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
        if not config.has_keepalive:
            options["keepalive_interval"] = _KEEPALIVE_SECONDS
            options["keepalive_count_max"] = _KEEPALIVE_MISSED
        if not config.has_connect_timeout:
            options["connect_timeout"] = _CONNECT_SECONDS
        return options

    # --- SFTP -------------------------------------------------------------------------------

    async def _start_sftp(self, link: asyncssh.SSHClientConnection) -> SftpSession:
        server = self._target.sftp_server
        is_command = "/" in server
        session = SftpSession(self._session_lost, self._bridge.write_gathered)
        try:
            await self._bridge.call(
                link.create_session(
                    lambda: session,
                    server if is_command else None,
                    subsystem=None if is_command else server,
                    encoding=None,
                    window=_WINDOW,
                    max_pktsize=_PACKET,
                    request_pty=False,
                )
            )
        except (asyncssh.Error, OSError) as error:
            raise SftpRefusedError(f"the server gives no SFTP session: {error}") from None
        self._session = session
        self.server_version = str(link.get_extra_info("server_version", ""))
        self.cipher = str(link.get_extra_info("recv_cipher", ""))
        return session

    async def _shake_hands(self, session: SftpSession) -> client.SftpRemote:
        try:
            self.extensions = await session.handshake()
            limits = None
            if self.extensions.get(b"limits@openssh.com") == b"1":
                limits = await client.request_limits(session)
        except FilesystemError as error:
            raise SftpRefusedError(f"no SFTP with this server: {error}") from None
        self.generation += 1
        abilities = client.capabilities(
            self.extensions, limits, large_messages="OpenSSH" in self.server_version
        )
        base = await self._check_directory(session, abilities)
        # asyncssh's server goes by the client's name, and expects of ours what the draft says.
        draft = "AsyncSSH" in self.server_version
        return client.SftpRemote(
            session, base, abilities, self.generation, draft_symlinks=draft
        )

    async def _check_directory(
        self, session: SftpSession, abilities: Capabilities
    ) -> bytes:
        wanted = self._target.path or b"."
        shown = os.fsdecode(wanted)
        try:
            base = await client.request_realpath(session, wanted)
            found = await client.SftpRemote(session, base, abilities, self.generation).stat(b"")
        except FilesystemError as error:
            reason = os.strerror(error.errno)
            if shown.startswith("~"):
                reason += " (~ is not expanded: leave the directory out for the login directory)"
            raise RemoteDirectoryError(f"{shown} on the server: {reason}") from None
        if not base.startswith(b"/") or found.mode is None or not stat.S_ISDIR(found.mode):
            raise RemoteDirectoryError(f"{shown}: not a directory on the server")
        return base

    async def login_owner(self) -> tuple[int, int]:
        """Owner and group of the login directory: protocol 3 says no more of who we are there."""
        if self._session is None:
            raise SftpRefusedError("not connected")
        home = await client.request_realpath(self._session, b".")
        abilities = client.capabilities({}, None, large_messages=False)
        found = await client.SftpRemote(self._session, home, abilities, self.generation).stat(b"")
        if found.uid is None or found.gid is None:
            raise StartupError("idmap=user: the server does not say whose the login directory is")
        return found.uid, found.gid

    # --- ending -----------------------------------------------------------------------------

    def _session_lost(self, error: Exception) -> None:
        if self.state is State.UP:
            self._set_state(State.LOST, str(error))
            self._on_lost(error)

    def drop(self) -> None:
        """Fail whatever is still asked of the server, at once: the mount ends and does not wait."""
        self._set_state(State.CLOSED)
        if self._session is not None:
            self._session.fail(ConnectionLostError("unmounting"))

    async def close(self) -> None:
        """End the session and all hops; nothing waits for a server that does not answer."""
        self._set_state(State.CLOSED)
        if self._session is not None:
            self._session.close()
        links, self._links = self._links, []
        for link in reversed(links):
            link.close()
        with trio.move_on_after(2):
            for link in reversed(links):
                with contextlib.suppress(asyncssh.Error, OSError):
                    await self._bridge.call(link.wait_closed())
        for link in links:
            link.abort()
        proxies, self._proxies = self._proxies, []
        for proxy in proxies:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(proxy.pid, signal.SIGKILL)
            proxy.wait()


def _ask_passphrase(prompter: Prompter, filename: str) -> str | None:
    return prompter.secret(f"Passphrase for the key {filename}: ")
