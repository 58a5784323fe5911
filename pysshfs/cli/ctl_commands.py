"""`pysshfsctl reconnect`, `drop-caches` and `abort`: what is one question, or one write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.cli.ctl_mounts import MOUNT_CONTROL, ask_daemons, mount_of, told
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.fuse.mountinfo import MountEntry

_COMMAND_SECONDS: Final = 5.0
_CACHES_SECONDS: Final = 60.0  # the kernel may wait for pages that are being read


def run(arguments: Arguments) -> CtlCode:
    place = arguments.place or ""
    entry = mount_of(place)
    if arguments.command == "abort":
        abort(place, entry)
    else:
        seconds = _CACHES_SECONDS if arguments.command == "drop-caches" else _COMMAND_SECONDS
        _command(place, entry, arguments.command, seconds)
    return CtlCode.OK


def _command(place: str, entry: MountEntry, command: str, seconds: float) -> None:
    (answer,) = ask_daemons([entry], command, seconds)
    said: dict[str, Any] = told(place, answer)
    if not said.get("ok"):
        raise CtlError(f"{place}: {said.get('error')}")


def abort(place: str, entry: MountEntry) -> None:
    """Through the control filesystem: it works whatever the daemon does. Raises CtlError."""
    try:
        mountinfo.abort(entry)
    except PermissionError:
        raise CtlError(f"{place}: not permitted to abort it", CtlCode.NOT_PERMITTED) from None
    except FileNotFoundError:
        if mountinfo.is_control_mounted():
            raise CtlError(f"{place}: its connection has ended already") from None
        raise CtlError(
            f"{place}: the FUSE control filesystem is not mounted; as root: {MOUNT_CONTROL}",
            CtlCode.NO_CONTROL,
        ) from None
    except OSError as error:
        raise CtlError(f"{place}: it cannot be aborted: {error.strerror}") from None
