"""What `pysshfsctl doctor` checks of the way to a server, and there. Every step has a time limit,
and nobody is asked anything: what would ask is a finding."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import trio

from pysshfs import errors
from pysshfs.cli.doctor_local import FAILED, NOTE, OK, SKIPPED, Finding
from pysshfs.remote.bridge import Bridge
from pysshfs.remote.probe import Probe, agent_keys
from pysshfs.remote.route import Hop, Target
from pysshfs.remote.sshconfig import SshConfiguration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pysshfs.cli.parser import Invocation

_AGENT_SECONDS: Final = 5
_REACH_SECONDS: Final = 5
_LOGIN_SECONDS: Final = 45  # ConnectTimeout, and what SFTP may take, are in it
_ASK_SECONDS: Final = 10
_TRANSFER_BYTES: Final = 8 * 1024 * 1024
_TRANSFER_SECONDS: Final = 5.0  # each way

# What a server may lack, and what is lost then.
_EXTENSIONS: Final = {
    "posix-rename@openssh.com": "renaming over a file takes two steps",
    "hardlink@openssh.com": "no hard links",
    "statvfs@openssh.com": "df shows invented numbers",
    "fsync@openssh.com": "fsync does not reach the disk",
    "limits@openssh.com": "requests are as small as the protocol's least",
    "lsetstat@openssh.com": "times and owners of symlinks cannot be set",
    "copy-data": "copies on the server go over the network",
}


async def agent(told: Callable[[Finding], None]) -> None:
    """Without a server."""
    async with _bridge() as bridge:
        told(await _agent(bridge))


async def server(
    invocation: Invocation, told: Callable[[Finding], None], *, may_write: bool
) -> None:
    source, settings = invocation.source, invocation.settings
    target = Target(Hop(source.host, source.user, None), source.path, settings.sftp_server)
    async with _bridge() as bridge:
        told(await _agent(bridge))
        try:
            configuration = SshConfiguration(invocation.ssh_options, invocation.ssh_config_file)
            probe = Probe(bridge, target, configuration)
        except errors.StartupError as error:
            told(Finding("ssh configuration", FAILED, str(error), "see ssh_config(5)"))
            return
        try:
            await _steps(probe, told, may_write)
        finally:
            with trio.CancelScope(shield=True):
                await probe.close()


@contextlib.asynccontextmanager
async def _bridge() -> AsyncIterator[Bridge]:
    """asyncio for asyncssh, for as long as it takes."""
    async with trio.open_nursery() as nursery:
        bridge = Bridge()
        await nursery.start(bridge.run)
        yield bridge
        nursery.cancel_scope.cancel()


async def _agent(bridge: Bridge) -> Finding:
    path = os.environ.get("SSH_AUTH_SOCK")
    if not path:
        advice = "if your key has a passphrase: eval $(ssh-agent) && ssh-add"
        return Finding("agent", NOTE, "none (SSH_AUTH_SOCK is not set)", advice)
    count = -1
    reason = "no answer"
    with trio.move_on_after(_AGENT_SECONDS):
        try:
            count = await agent_keys(bridge, path)
        except Exception as error:  # asyncssh's and the system's, of many kinds
            reason = str(error) or type(error).__name__
    if count < 0:
        advice = "start one: eval $(ssh-agent) && ssh-add"
        return Finding("agent", NOTE, f"{path}: {reason}", advice)
    if count == 0:
        return Finding("agent", NOTE, f"{path} has no keys", "ssh-add")
    return Finding("agent", OK, f"{path} has {count} key{'' if count == 1 else 's'}")


async def _steps(probe: Probe, told: Callable[[Finding], None], may_write: bool) -> None:
    told(_keys(probe))
    told(_known_hosts(probe))
    reached = await _reached(probe)
    told(reached)
    if reached.verdict == FAILED:
        told(Finding("login", SKIPPED, "the server is not reached"))
        return
    login = await _login(probe)
    told(login)
    if login.verdict == FAILED:
        return
    told(_extensions(probe))
    told(await _limited("round trip", _round_trip(probe), _ASK_SECONDS))
    if may_write:
        seconds = 3 * _TRANSFER_SECONDS
        told(await _limited("throughput", _throughput(probe), seconds))
    else:
        told(Finding("throughput", SKIPPED, "--no-write"))


def _keys(probe: Probe) -> Finding:
    keys = probe.keys()
    passed_over = "; ".join(keys.passed_over)
    count = len(keys.pairs)
    if not count:
        advice = "make one: ssh-keygen && ssh-copy-id HOST; or name it: -o IdentityFile=PATH"
        if "encrypted" in passed_over:
            advice = "have the agent hold it: ssh-add"
        return Finding("keys", NOTE, passed_over or "none in ~/.ssh", advice)
    text = f"{count} usable" + (f"; {passed_over}" if passed_over else "")
    return Finding("keys", OK, text)


def _known_hosts(probe: Probe) -> Finding:
    count, files = probe.host_keys(), ", ".join(probe.known_hosts())
    if count:
        return Finding("known_hosts", OK, f"{count} key{'' if count == 1 else 's'} of the host")
    return Finding(
        "known_hosts", NOTE, f"no key of the host in {files or 'any file: there is none'}",
        "connect once with ssh, and compare the fingerprint",
    )  # fmt: skip


async def _reached(probe: Probe) -> Finding:
    address = probe.address
    if address is None:
        return Finding("reachability", SKIPPED, "the way leads over a proxy: see login")
    host, port = address
    name, reason, banner = "reachability", f"no answer within {_REACH_SECONDS} s", b""
    with trio.move_on_after(_REACH_SECONDS):
        try:
            stream = await trio.open_tcp_stream(host, port)
            async with stream:
                while b"\n" not in banner and len(banner) < 1024:
                    part = await stream.receive_some(256)
                    if not part:
                        break
                    banner += part
        except OSError as error:
            reason = _reason(error)
        except trio.BrokenResourceError:
            reason = "the connection is reset"
    if banner.startswith(b"SSH-"):
        shown = banner.partition(b"\n")[0].decode("ascii", "replace").strip()
        return Finding(name, OK, f"{host} port {port}: {shown}")
    if banner:
        advice = "this is no SSH server: is the port right (-p PORT)?"
        return Finding(name, FAILED, f"{host} port {port} says {banner[:40]!r}", advice)
    advice = "is the name right, the host up, sshd running, and no firewall in between?"
    return Finding(name, FAILED, f"{host} port {port}: {reason}", advice)


def _reason(error: BaseException) -> str:
    """trio tries several addresses, and tells of each why it did not answer."""
    inner = error.__cause__ if error.__cause__ is not None else error
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    if isinstance(inner, OSError):
        number = inner.errno or 0  # below 0 are those of name resolution
        return os.strerror(number) if number > 0 else inner.strerror or str(inner)
    return str(error)


async def _login(probe: Probe) -> Finding:
    name, reason, advice = "login", f"not done within {_LOGIN_SECONDS} s", "try ssh -v HOST"
    with trio.move_on_after(_LOGIN_SECONDS):
        try:
            await probe.connect()
        except errors.HostKeyError as error:
            reason, advice = str(error), "connect once with ssh, and compare the fingerprint"
        except errors.AuthenticationError as error:
            reason = str(error)
            advice = (
                "ssh-copy-id HOST, or ssh-add; a password is asked for when you mount, not here"
            )
        except errors.RemoteDirectoryError as error:
            name, reason, advice = "directory", str(error), "make it, or mount another one"
        except errors.SftpRefusedError as error:
            reason, advice = str(error), "the server needs 'Subsystem sftp' in its sshd_config"
        except errors.StartupError as error:
            reason = str(error)
        else:
            software, cipher = probe.software
            return Finding(name, OK, f"{software}, cipher {cipher}; the directory is there")
    return Finding(name, FAILED, reason, advice)


def _extensions(probe: Probe) -> Finding:
    missing = {name: loss for name, loss in _EXTENSIONS.items() if name not in probe.extensions}
    if not missing:
        return Finding("SFTP extensions", OK, f"all {len(_EXTENSIONS)} that are used")
    text = "; ".join(f"no {name}: {loss}" for name, loss in missing.items())
    return Finding("SFTP extensions", NOTE, text, "OpenSSH 9.0 or later on the server has all")


async def _limited(name: str, step: Awaitable[Finding], seconds: float) -> Finding:
    finding = Finding(
        name, FAILED, f"no answer within {seconds:.0f} s", "is the server overloaded?"
    )
    with trio.move_on_after(seconds):
        try:
            finding = await step
        except errors.FilesystemError as error:
            finding = Finding(name, NOTE, f"not measured: {os.strerror(error.errno)}",
                              "the directory is not writable")  # fmt: skip
        except errors.ConnectionLostError as error:
            finding = Finding(name, FAILED, str(error), "is the network stable?")
    return finding


async def _round_trip(probe: Probe) -> Finding:
    seconds = await probe.round_trip(5)
    return Finding("round trip", OK, f"{seconds * 1000:.1f} ms")


async def _throughput(probe: Probe) -> Finding:
    found = await probe.throughput(_TRANSFER_BYTES, _TRANSFER_SECONDS)
    text = f"{found.written / 1e6:.1f} MB/s there, {found.read / 1e6:.1f} MB/s back"
    return Finding("throughput", OK, text)
