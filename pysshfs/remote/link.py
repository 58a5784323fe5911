"""One link: a chain of SSH connections with an SFTP session at its end, made once and ended once.

`Link` owns the asyncssh connections (one for each ProxyJump hop and the last), the processes of a
ProxyCommand, the session, and what `remote/extra.py` opens beside it. It never recovers:
`remote/connection.py` makes another one.

`abort` ends it at once and waits for nothing. The socket is closed with a reset, so that a server
which still holds the other end of a half-open connection learns of it if any packet passes, and
the kernel sends nothing more of what was queued; a loss that asyncssh finds ends it the same way.
What `abort` started is over after `gone`. Only `close` lets the kernel deliver the last words.

Touched by: the task that connects, and the session's `on_lost`, called in the bridge's task.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any, Final

import asyncssh
import trio

from pysshfs.errors import (
    ConnectionLostError,
    FilesystemError,
    RemoteDirectoryError,
    RemoteStatusError,
    SftpRefusedError,
    UnreachableError,
)
from pysshfs.remote import client, fastpath
from pysshfs.remote.explain import explained
from pysshfs.remote.extra import ExtraSessions
from pysshfs.remote.session import SftpSession, Traffic, words_of

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable

    from pysshfs.remote.bridge import Bridge
    from pysshfs.remote.route import Route, Waypoint
    from pysshfs.remotefs import Capabilities

log = logging.getLogger(__name__)

# How much the server may send ahead of us (bytes): more than any bandwidth-delay product we read
# at. With asyncssh's own 2 MiB a read gets 2 MiB per round trip at most.
_WINDOW: Final = 64 * 1024 * 1024
_PACKET: Final = 255 * 1024
_SFTP_SECONDS: Final = 30  # for the session and its handshake, unless ConnectTimeout says other
# The least that the server must take in one packet (bytes). Every SSH implementation takes 32 KiB
# (RFC 4253, section 6.1); with a few bytes each request would be a flood of packets.
_LEAST_PACKET: Final = 1024
_LONGEST_PATH: Final = 4096  # bytes, of the served directory
_CLOSE_SECONDS: Final = 2
_ABORT_SECONDS: Final = 1

# struct linger (socket(7)): what happens to what was not sent when the socket is closed.
_RESET: Final = struct.pack("ii", 1, 0)
_DELIVER: Final = struct.pack("ii", 0, 0)
_ACKNOWLEDGED: Final = struct.Struct("120xQ")  # tcpi_bytes_acked (linux/tcp.h)

# Processes that were killed but do not end, as they may when they sleep in the kernel.
_undead: list[subprocess.Popen[bytes]] = []


class Link:
    """`open` once; then `abort`, or `close` in good order, once or several times."""

    def __init__(
        self,
        bridge: Bridge,
        route: Route,
        on_lost: Callable[[Link, Exception], None],
        connections: int = 1,
        traffic: Traffic | None = None,
    ) -> None:
        """`connections`: how many there may be, `extra` ones included. `traffic` counts what goes
        over all of them."""
        self._traffic = traffic
        self.session: SftpSession | None = None
        self.extra = ExtraSessions(
            self, lambda: Link(bridge, route, on_lost, traffic=traffic), connections
        )
        self.server_version = ""
        self.cipher = ""
        self.extensions: dict[bytes, bytes] = {}
        self.login = ""  # the name of the user on the server
        self.may_be_here = True  # whether the server may be this very machine
        self._bridge = bridge
        self._route = route
        self._on_lost = on_lost
        self._hops: list[asyncssh.SSHClientConnection] = []
        self._proxies: list[subprocess.Popen[bytes]] = []
        self._socket: TransportSocket | None = None  # the first hop's
        self._aborted = False

    # --- opening ----------------------------------------------------------------------------

    async def open(self, generation: int) -> client.SftpRemote:
        """Log in, start SFTP and check the directory. Raises `StartupError`s."""
        await self.log_in()
        try:
            with trio.fail_after(self._route.target_timeout or _SFTP_SECONDS):
                session = await self.start_session(lambda error: self._on_lost(self, error))
                self.session = session
                return await self._shake_hands(session, generation)
        except trio.TooSlowError:
            raise SftpRefusedError("the server does not answer SFTP requests") from None

    async def log_in(self) -> None:
        """Make all hops. Raises `StartupError`s."""
        for index in range(len(self._route)):
            waypoint = self._route.waypoint(index)
            # A reconnect has its own pace.
            attempts = 1 if self._route.settled else waypoint.config.connection_attempts
            hop = await self._open_hop(waypoint, attempts)
            fastpath.hasten(hop)
            self._hops.append(hop)
            if index == 0:
                # Whoever closes it, and asyncssh does before it says so, this is what it means:
                # the kernel must not go on delivering requests of a session that was given up.
                self._socket = hop.get_extra_info("socket")
                self._on_close(_RESET)
            self.may_be_here = len(self._hops) > 1 or _may_lead_here(self._socket)
            waypoint.logged_in(hop)

    async def _open_hop(self, waypoint: Waypoint, attempts: int) -> asyncssh.SSHClientConnection:
        for attempts_left in reversed(range(attempts)):
            try:
                return await self._try_hop(waypoint)
            except UnreachableError as error:
                if not attempts_left:
                    raise
                log.info("%s; trying again", error)
                await trio.sleep(1)  # as ssh does between ConnectionAttempts
        raise AssertionError("unreachable")

    async def _try_hop(self, waypoint: Waypoint) -> asyncssh.SSHClientConnection:
        tunnel = self._hops[-1] if self._hops else None

        async def connect() -> asyncssh.SSHClientConnection:
            sock = None
            if waypoint.config.proxy_command is not None and tunnel is None:
                sock = self._start_proxy(waypoint.config.proxy_command)
            try:
                return await asyncssh.connect(tunnel=tunnel, sock=sock, **waypoint.options())
            except BaseException:
                if sock is not None:
                    sock.close()  # asyncssh does, but not when it has not come to use it
                raise

        try:
            return await self._bridge.call(connect())
        except (asyncssh.Error, OSError, ValueError) as error:
            raise explained(waypoint, error) from None

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

    def can_log_in_again(self) -> bool:
        """Whether another login would ask nobody anything, as far as that can be told."""
        return all(self._route.waypoint(i).can_repeat() for i in range(len(self._route)))

    def is_closed(self) -> bool:
        return any(hop.is_closed() for hop in self._hops)

    async def start_session(self, on_lost: Callable[[Exception], None]) -> SftpSession:
        """An SFTP session on a channel of its own, before its handshake."""
        last = self._hops[-1]
        server = self._route.target.sftp_server
        is_command = "/" in server
        session = SftpSession(
            on_lost,
            self._bridge.before_waiting,
            self._bridge.in_a_while,
            traffic=self._traffic,
        )
        try:
            channel, _ = await self._bridge.call(
                last.create_session(
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
            what = f"the server gives no SFTP session: {words_of(error)}"
            raise SftpRefusedError(what) from None
        # Not public, and nowhere else to be had.
        least = channel._send_pktsize
        if least < _LEAST_PACKET:
            channel.abort()
            raise SftpRefusedError(f"the server takes packets of {least} bytes only")
        session.write_by(fastpath.writer(channel))
        self.server_version = str(last.get_extra_info("server_version", ""))
        self.login = str(last.get_extra_info("username", ""))
        self.cipher = str(last.get_extra_info("recv_cipher", ""))
        return session

    async def _shake_hands(self, session: SftpSession, generation: int) -> client.SftpRemote:
        try:
            self.extensions = await session.handshake()
            limits = await self._limits(session)
        except FilesystemError as error:
            raise SftpRefusedError(f"no SFTP with this server: {error}") from None
        abilities = client.capabilities(
            self.extensions, limits, large_messages="OpenSSH" in self.server_version
        )
        base = await self._check_directory(session, abilities, generation)
        # asyncssh's server goes by the client's name, and expects of ours what the draft says.
        draft = "AsyncSSH" in self.server_version
        return client.SftpRemote(
            session,
            base,
            abilities,
            generation,
            draft_symlinks=draft,
            open_extra=self.extra.open,
        )

    async def _limits(self, session: SftpSession) -> client.Limits | None:
        if self.extensions.get(b"limits@openssh.com") != b"1":
            return None
        try:
            return await client.request_limits(session)
        except RemoteStatusError as error:
            log.info("the server does not tell its limits: %s", error)
            return None

    async def _check_directory(
        self, session: SftpSession, abilities: Capabilities, generation: int
    ) -> bytes:
        wanted = self._route.target.path or b"."
        shown = os.fsdecode(wanted)
        try:
            base = await client.request_realpath(session, wanted)
            if len(base) >= _LONGEST_PATH or b"\0" in base:
                what = "with NUL in it" if b"\0" in base else f"of {len(base)} bytes"
                raise SftpRefusedError(f"{shown} on the server is a path {what}")
            found = await client.SftpRemote(session, base, abilities, generation).stat(b"")
        except ConnectionLostError as error:
            raise SftpRefusedError(f"no SFTP with this server: {error}") from None
        except FilesystemError as error:
            reason = os.strerror(error.errno)
            if shown.startswith("~"):
                reason += " (~ is not expanded: leave the directory out for the login directory)"
            raise RemoteDirectoryError(f"{shown} on the server: {reason}") from None
        if not base.startswith(b"/") or found.mode is None or not stat.S_ISDIR(found.mode):
            raise RemoteDirectoryError(f"{shown}: not a directory on the server")
        return base

    # --- is it still there? ------------------------------------------------------------------

    def suspect(self, seconds: float) -> None:
        """End the link unless something is received within `seconds`."""
        # asyncssh asks halfway, if nothing has come by then. The SSH server answers that itself:
        # an SFTP server that waits for a slow disk is not taken for a dead one.
        self._hops[-1].set_keepalive(seconds / 2, 1)

    def trust(self) -> None:
        """Back to the usual patience."""
        if self._hops:
            self._hops[-1].set_keepalive(*self._route.waypoint(len(self._hops) - 1).keepalive)

    def unsent(self) -> int:
        """Bytes that the kernel still has to deliver."""
        if self._socket is None:
            return 0
        try:
            waiting = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except OSError:
            return 0
        return int.from_bytes(waiting, sys.byteorder)

    def acknowledged(self) -> int | None:
        """Bytes that the other end's kernel has taken; None where that is not known."""
        if self._socket is None or self._socket.family == socket.AF_UNIX:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
            return int(_ACKNOWLEDGED.unpack(info)[0])
        except (OSError, struct.error):
            return None

    # --- ending -----------------------------------------------------------------------------

    def abort(self) -> None:
        """End everything at once, with a reset; waits for nothing."""
        self._aborted = True
        self.extra.abort()
        for hop in reversed(self._hops):
            hop.abort()
        for proxy in self._proxies:
            _kill(proxy)

    def _on_close(self, linger: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def gone(self) -> None:
        """Wait until what was aborted is closed and reaped, but not for long."""
        hops, self._hops = self._hops, []
        proxies, self._proxies = self._proxies, []
        try:
            with trio.move_on_after(_ABORT_SECONDS):
                await self.extra.gone()
                await self._closed(hops)
                for proxy in proxies:
                    await _ended(proxy)
        finally:
            _undead[:] = [proxy for proxy in (*_undead, *proxies) if proxy.poll() is None]

    async def _closed(self, hops: list[asyncssh.SSHClientConnection]) -> None:
        for hop in reversed(hops):
            with contextlib.suppress(asyncssh.Error, OSError):
                await self._bridge.call(hop.wait_closed())

    async def close(self) -> None:
        """End the session and all hops; nothing waits for a server that does not answer."""
        await self.extra.close()
        if not self._aborted:
            self._on_close(_DELIVER)
        if self.session is not None:
            self.session.close()
        for hop in reversed(self._hops):
            hop.close()
        with trio.move_on_after(_CLOSE_SECONDS):
            await self._closed(self._hops)
        self._on_close(_RESET)
        self.abort()
        await self.gone()


def _may_lead_here(sock: TransportSocket | None) -> bool:
    """Whether the other end may be this machine. What lies behind a proxy is not known."""
    if sock is None or sock.family == socket.AF_UNIX:
        return True
    try:
        ours, theirs = sock.getsockname()[0], sock.getpeername()[0]
    except OSError:
        return True
    # The kernel goes to an address of its own from that same address, but for 127.0.0.0/8.
    return bool(ours == theirs or ipaddress.ip_address(theirs.partition("%")[0]).is_loopback)


def _kill(proxy: subprocess.Popen[bytes]) -> None:
    if proxy.returncode is None:  # not reaped: the number is still its own
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(proxy.pid, signal.SIGKILL)


async def _ended(proxy: subprocess.Popen[Any]) -> None:
    if proxy.poll() is not None:
        return
    handle = os.pidfd_open(proxy.pid)
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        trio.lowlevel.notify_closing(handle)
        os.close(handle)
