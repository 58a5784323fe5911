"""One mount from beginning to end: connect, mount, serve, flush, unmount.

Puts the layers together; every long-lived task of the daemon is in a nursery of this module or
below one. The order matters: whatever can fail or ask does so before the mount is made, and no
path is opened after it that could lie under it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from pysshfs import errors
from pysshfs.cli import logs, privileges, surroundings, systemd, vfsconfig
from pysshfs.cli.daemon import Report
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.mountlock import MountLock
from pysshfs.cli.prompts import PromptInterruptedError, Terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pysshfs.cli.daemon import Reporter
    from pysshfs.cli.options import Settings
    from pysshfs.cli.parser import Invocation
    from pysshfs.cli.systemd import Manager
    from pysshfs.fuse.mountpoint import Place, Wanted
    from pysshfs.fuse.requests import Policy
    from pysshfs.fuse.session import FuseSession
    from pysshfs.remote.connection import ServerConnection
    from pysshfs.vfs.filesystem import Filesystem
    from pysshfs.vfs.undelivered import UndeliveredStore

log = logging.getLogger(__name__)

_EXIT_CODES: Final[dict[type[errors.PysshfsError], ExitCode]] = {
    errors.MountpointError: ExitCode.MOUNTPOINT,
    errors.UnreachableError: ExitCode.UNREACHABLE,
    errors.HostKeyError: ExitCode.HOST_KEY,
    errors.AuthenticationError: ExitCode.AUTHENTICATION,
    errors.RemoteDirectoryError: ExitCode.REMOTE_DIRECTORY,
    errors.SftpRefusedError: ExitCode.SFTP_REFUSED,
    errors.FuseUnavailableError: ExitCode.FUSE_UNAVAILABLE,
    errors.StartupError: ExitCode.USAGE,
    PromptInterruptedError: ExitCode.INTERRUPTED,
}
# How long unmounting may spend on delivering what is still buffered (seconds).
_FLUSH_SECONDS: Final = 60
# The same when the mount was aborted, and for what is written during the above (seconds).
_ABORT_SECONDS: Final = 5
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(
    invocation: Invocation,
    options: Sequence[str],
    reporter: Reporter,
    manager: Manager,
    made: Place | None = None,
) -> Report:
    """Serve the mount until it ends. Reports success through `reporter` once it is mounted, and to
    the service manager once it answers.

    `made` is a mount that was made before, by the same program.
    """
    settings = invocation.settings
    privileges.keep_secrets()
    surroundings.provide_home()
    level = logs.level_of(settings.log_level)
    logs.to_stderr(level, in_foreground=not reporter.will_detach)
    with contextlib.ExitStack() as held:
        try:
            from pysshfs.fuse import inherited, mountpoint

            if made is None and inherited.descriptor(invocation.mountpoint) is None:
                held.enter_context(MountLock(mountpoint.absolute(invocation.mountpoint)))
            place = made or mountpoint.prepare(invocation.mountpoint, wanted(invocation))
            later = _later_log(settings, reporter)
            tables = vfsconfig.tables(settings)
            password = [_password_from_stdin()] if settings.password_stdin else []
        except errors.AlreadyMountedError as note:
            return Report(ExitCode.OK, str(note))
        except errors.StartupError as error:
            return Report(startup_code(error), str(error))

        def detached() -> None:
            held.close()
            reporter.detach()
            if later is not None:
                logs.switch_to(later, level)

        if manager.watchdog:
            # It ends us with SIGABRT when we hang; where, is then in the journal.
            faulthandler.enable()
        return _outcome(
            _Plan(invocation, place, list(options), password, detached, tables, manager)
        )


def _outcome(plan: _Plan) -> Report:
    """Mount and serve, to the end."""
    try:
        code = trio.run(_mount_and_serve, plan, strict_exception_groups=True)
    except KeyboardInterrupt:
        return Report(ExitCode.INTERRUPTED, "interrupted")
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            # What else is in there was torn down by it.
            return Report(ExitCode.INTERRUPTED, "interrupted")
        expected = _expected(group)
        if expected is None:
            raise
        return Report(startup_code(expected), str(expected))
    return Report(code, "")


def wanted(invocation: Invocation) -> Wanted:
    """The mount as mountinfo will show it."""
    from pysshfs.fuse.mountpoint import Wanted

    settings = invocation.settings
    return Wanted(
        os.fsencode(settings.fsname or invocation.source.text),
        f"fuse.{settings.subtype or 'pysshfs'}",
        settings.if_not_mounted,
    )


def startup_code(error: errors.PysshfsError) -> ExitCode:
    """Of the command that this error ends."""
    return _EXIT_CODES.get(type(error), ExitCode.FAILURE)


def _expected(group: BaseExceptionGroup[BaseException]) -> errors.PysshfsError | None:
    """The first exception of the group; None if one of them is not raised on purpose."""
    if group.split(errors.PysshfsError)[1] is not None:
        return None
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, errors.PysshfsError) else None


def _later_log(settings: Settings, reporter: Reporter) -> logging.Handler | None:
    """The log of the background process, opened while paths still mean what the user meant."""
    if settings.log_file is not None:
        try:
            return logs.open_log_file(settings.log_file)
        except OSError as error:
            raise errors.StartupError(f"log_file: {settings.log_file}: {error.strerror}") from None
    if reporter.will_detach:
        return logs.background_handler(logs.level_of(settings.log_level))
    return None


def _password_from_stdin() -> str:
    """The first line of stdin, as sshfs's password_stdin has it."""
    try:
        return sys.stdin.buffer.readline().rstrip(b"\n").decode()
    except UnicodeDecodeError:
        raise errors.StartupError("password_stdin: the password is not UTF-8 text") from None


class _Plan(NamedTuple):
    """What was settled before the loop started."""

    invocation: Invocation
    place: Place
    options: list[str]  # the kernel's
    password: list[str]  # the one given, if any; taken out by whoever needs it
    mounted: Callable[[], None]  # to be called once, when the mount is made
    tables: vfsconfig.Tables  # with idmap=file
    manager: Manager


async def _mount_and_serve(plan: _Plan) -> ExitCode:
    from pysshfs.remote.bridge import Bridge
    from pysshfs.remote.connection import ServerConnection
    from pysshfs.remote.route import Hop, Target
    from pysshfs.remote.sshconfig import SshConfiguration
    from pysshfs.vfs.filesystem import Filesystem
    from pysshfs.vfs.undelivered import UndeliveredStore

    invocation = plan.invocation
    source, settings = invocation.source, invocation.settings
    bridge = Bridge()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plan.manager.keep_alive)
        await nursery.start(bridge.run)
        connection = ServerConnection(
            bridge,
            Target(Hop(source.host, source.user, None), source.path, settings.sftp_server),
            SshConfiguration(invocation.ssh_options, invocation.ssh_config_file),
            Terminal(),
            plan.password.pop() if plan.password else None,
            settings.max_conns,
        )
        plan.manager.status(f"connecting to {source.text}")
        remote = await connection.connect()
        if not settings.reconnect and settings.max_conns == 1:
            connection.forget_passwords()
        try:
            store = UndeliveredStore.open(settings.undelivered_quota, source.text)
            config = await vfsconfig.vfs_config(
                settings, plan.place, plan.tables, connection, remote
            )
            is_system_file = vfsconfig.system_files(plan.options)
            filesystem = Filesystem(remote, config, store=store, is_system_file=is_system_file)
            filesystem.server.on_demand = connection.wanted
            bridge.end_threads()
            code = await _serve(plan, connection, filesystem, store)
        finally:
            with trio.CancelScope(shield=True):
                await connection.close()
        nursery.cancel_scope.cancel()
    return code


async def _serve(
    plan: _Plan,
    connection: ServerConnection,
    filesystem: Filesystem,
    store: UndeliveredStore,
) -> ExitCode:
    from pysshfs.cli.control_server import ControlServer
    from pysshfs.fuse.session import Ended, FuseSession
    from pysshfs.vfs.filesystem import ROOT_NUMBER

    source, settings, place = plan.invocation.source, plan.invocation.settings, plan.place
    manager = plan.manager
    # The first question after the mount has its answer, and so have those that must not hang.
    try:
        await filesystem.getattr(ROOT_NUMBER)
    except errors.UnmappedOwnerError as error:
        raise errors.StartupError(f"nothing could be shown of {source.text}: {error}") from None
    await filesystem.statfs()
    session = FuseSession(filesystem, _policy(settings, connection))
    background = settings.max_background
    congestion = settings.congestion_threshold or max(background * 3 // 4, 1)
    control = ControlServer(source.text, place.path, session, filesystem, connection, store.saved)
    end = _End(connection, filesystem, manager)
    needs = _needs(connection, place)  # it looks at paths
    # From before the mount on: a signal must not leave it behind, dead.
    with trio.open_signal_receiver(*_SIGNALS) as numbers:
        session.mount(place, _mount_options(plan), background, congestion)
        try:
            control.open()
            privileges.give_up(needs)
            _warn_of_others(plan)
            plan.mounted()
            log.info("%s is mounted on %s", source.text, place.path)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_ready, session, connection, manager)
                nursery.start_soon(control.run)
                nursery.start_soon(end.on_signal, numbers, nursery.cancel_scope)
                nursery.start_soon(end.keep_up, nursery.cancel_scope, settings.reconnect)
                ended = await session.serve()
                manager.stopping(f"{ended.value}: delivering what was written")
                end.code = ExitCode.ABORTED if ended is Ended.ABORTED else ExitCode.OK
                await end.deliver(_FLUSH_SECONDS if ended is Ended.UNMOUNTED else _ABORT_SECONDS)
                nursery.cancel_scope.cancel()
            await end.deliver_last()
        finally:
            end.give_up_rest()
            control.close()
            # An aborted mount stays in place, dead, until it is unmounted: programs that go on
            # must not find themselves in the directory below.
            is_gone = session.close(unmount=end.code is not ExitCode.ABORTED)
    if end.code is ExitCode.ABORTED:
        log.warning("the connection of %s was aborted", place.path)
    elif not is_gone:
        log.warning("%s stays mounted, without a daemon: %s", place.path, _who_unmounts(place))
    return end.code


async def _tell_ready(session: FuseSession, connection: ServerConnection, manager: Manager) -> None:
    """Once the kernel has its first answer; from then on, how the connection fares."""
    await session.answering.wait()
    await manager.ready(systemd.connection_status(connection.state.value, connection.reason))
    connection.on_state = manager.connection


def _who_unmounts(place: Place) -> str:
    if place.device is not None:
        return "whoever mounted it is to unmount it"
    return f"unmounting failed (umount {place.path})"


def _needs(connection: ServerConnection, place: Place) -> privileges.Needs:
    """What is still to be done after the mount."""
    from pysshfs.fuse.mountpoint import libfuse_runs_umount

    outside = connection.outside
    is_ours = place.device is None
    return privileges.Needs(
        unmounts=place.path if is_ours else None,
        sockets=outside.agents,
        starts_programs=outside.starts_programs
        or (is_ours and os.geteuid() == 0 and libfuse_runs_umount()),
    )


class _End:
    """Why the daemon ends, and with which code."""

    def __init__(
        self, connection: ServerConnection, filesystem: Filesystem, manager: Manager
    ) -> None:
        self.code = ExitCode.OK
        self._was_delivered = False  # all that was written until a signal came
        self._connection = connection
        self._filesystem = filesystem
        self._manager = manager

    async def on_signal(self, numbers: AsyncIterator[int], scope: trio.CancelScope) -> None:
        """SIGTERM, SIGINT and SIGHUP unmount, after delivering what is buffered; a second one
        does not wait for that."""
        number = await anext(numbers)
        name = signal.Signals(number).name
        self._manager.stopping(f"{name}: delivering what was written, then unmounting")
        log.info("%s: unmounting", name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver_then_stop, scope)
            await anext(numbers)
            scope.cancel()

    async def _deliver_then_stop(self, scope: trio.CancelScope) -> None:
        self._was_delivered = await self.deliver(_FLUSH_SECONDS)
        scope.cancel()

    async def deliver(self, seconds: float) -> bool:
        """Wait until the server has what was written, for as long; whether it has."""
        with trio.move_on_after(seconds), contextlib.suppress(errors.ConnectionLostError):
            await self._filesystem.flush_all()
            return True
        return False

    async def deliver_last(self) -> None:
        """What programs wrote while the rest was on its way: from now on they cannot."""
        if self._was_delivered:
            await self.deliver(_ABORT_SECONDS)

    def give_up_rest(self) -> None:
        """What is not delivered by now is saved here, and whatever still waits fails."""
        undelivered = self._filesystem.tree.writebacks.unacknowledged
        promised = len(self._filesystem.tree.promises)
        if undelivered or promised:
            log.error(
                "%d written bytes, and %d operations, did not reach the server",
                undelivered,
                promised,
            )
            if self.code is ExitCode.OK:
                self.code = ExitCode.UNDELIVERED
        self._filesystem.end("unmounting")
        self._connection.drop()

    async def keep_up(self, scope: trio.CancelScope, reconnect: bool) -> None:
        """Returns only when the connection is lost and must not be made again."""
        await self._connection.keep_up(self._filesystem.server, reconnect=reconnect)
        self._manager.stopping(f"connection lost: {self._connection.reason}: unmounting")
        log.error("the connection to the server is lost: unmounting")
        self.code = ExitCode.CONNECTION_LOST
        scope.cancel()


# --- options ------------------------------------------------------------------------------------


def _mount_options(plan: _Plan) -> list[bytes]:
    """As libfuse takes them. The file system type shows as fuse.pysshfs, the source as given."""
    from pysshfs.fuse.session import escape_option

    shown = wanted(plan.invocation)
    return [
        *(os.fsencode(option) for option in plan.options),
        b"fsname=" + escape_option(shown.source),
        b"subtype=" + escape_option(os.fsencode(shown.fstype.removeprefix("fuse."))),
    ]


def _warn_of_others(plan: _Plan) -> None:
    if "allow_other" in plan.options and "default_permissions" not in plan.options:
        log.warning(
            "allow_other without default_permissions: every user of this machine may do to %s"
            " whatever the login on the server may",
            plan.invocation.source.text,
        )


def _policy(settings: Settings, connection: ServerConnection) -> Policy:
    from pysshfs.fuse.requests import Policy

    return Policy(
        owner=os.getuid(),
        interrupt_grace=settings.interrupt_grace,
        timeout=settings.timeout,
        others_timeout=settings.others_timeout,
        silence=connection.silence,
        may_be_here=connection.may_be_here,
    )
