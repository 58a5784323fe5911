"""Mount first, then serve with fewer rights, or from another namespace than the mount's.

For `drop_privileges` and `-N` of the helper of mount(8). This process mounts as root
(`fuse/handdown.py`), its child becomes what is to serve the mount, and when that fails the mount is
taken back here. In another namespace there need be nothing but the mountpoint: the daemon stays in
this one, with its files.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from pysshfs.cli import daemon, logs, main, privileges
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.mount import startup_code, wanted
from pysshfs.cli.mountlock import MountLock
from pysshfs.cli.parser import kernel_options
from pysshfs.cli.usage import UsageError
from pysshfs.errors import AlreadyMountedError, StartupError
from pysshfs.fuse import mountpoint
from pysshfs.fuse.handdown import User, hand_down, take_back

if TYPE_CHECKING:
    from pysshfs.cli.identity import Identity
    from pysshfs.cli.parser import Invocation
    from pysshfs.fuse.mountpoint import Place


def mount(
    invocation: Invocation, identity: Identity | None, namespace: str | None, bare: bool
) -> ExitCode:
    """Mount and have it served, in the background; `bare`: with no privilege at all.

    Raises UsageError.
    """
    if os.geteuid() != 0:
        raise UsageError("options 'drop_privileges' and -N are for root only")
    logs.to_stderr(logs.level_of(invocation.settings.log_level))
    options = kernel_options(invocation, 0)
    user = User(0, 0) if identity is None else User(identity.uid, identity.gid)
    try:
        with MountLock(mountpoint.absolute(invocation.mountpoint)) as lock:
            place = hand_down(invocation.mountpoint, wanted(invocation), options, user, namespace)
            code = ExitCode.FAILURE
            try:
                code = _served(invocation, place, identity, bare, lock)
            finally:
                if code is not ExitCode.OK:
                    take_back(place, namespace)
    except AlreadyMountedError as note:
        daemon.complain(str(note))
        return ExitCode.OK
    except StartupError as error:
        daemon.complain(str(error))
        return startup_code(error)
    return code


def _served(
    invocation: Invocation,
    place: Place,
    identity: Identity | None,
    bare: bool,
    lock: MountLock,
) -> ExitCode:
    """Start the daemon; this process lives until the daemon answers."""
    child = os.fork()
    if child == 0:
        lock.forget()
        _serve(invocation, place, identity, bare)
    while True:
        try:
            return ExitCode(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        except KeyboardInterrupt:
            continue  # the child has got it, too, and ends
        except ValueError:  # ended by a signal
            return ExitCode.FAILURE


def _serve(invocation: Invocation, place: Place, identity: Identity | None, bare: bool) -> NoReturn:
    code = int(ExitCode.FAILURE)
    try:
        if bare:
            privileges.give_up_everything(lambda: identity.become() if identity else None)
        elif identity is not None:
            identity.become()
        code = main.mount(invocation, place)
    except (UsageError, OSError) as error:
        daemon.complain(str(error))
    except KeyboardInterrupt:
        daemon.complain("interrupted")
        code = ExitCode.INTERRUPTED
    finally:
        sys.stdout.flush()
        os._exit(code)  # never into the parent's stack
