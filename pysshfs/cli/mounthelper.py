"""The helper of mount(8): /sbin/mount.pysshfs and /sbin/mount.fuse.pysshfs.

Called as mount(8) calls helpers (its section EXTERNAL HELPERS), by it, by systemd and by autofs:
`SPEC DIR [-sfnvrw] [-N namespace] [-o options] [-t type]`. What it adds to `pysshfs`: the options
that only make sense there (`setuid=`, `drop_privileges`), the exit codes of mount(8), and that it
always mounts in the background. For an ordinary user mount(8) has given up its rights before.
"""

from __future__ import annotations

import getopt
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.cli import journal, surroundings
from pysshfs.cli import main as command
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.options import find_option
from pysshfs.cli.parser import join_options, parse_argv, split_options
from pysshfs.cli.usage import UsageError, printable, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME: Final = "mount.pysshfs"
_USAGE: Final = f"{_NAME} [user@]host:[dir] dir [-sfnvrw] [-N namespace] [-o options] [-t type]"
# In an fstab line of the type `fuse`, and in old ones, the program's name precedes the source.
_PREFIX: Final = "pysshfs#"
_TYPES: Final = ("pysshfs", "fuse.pysshfs", "fuse")

# mount(8), EXIT STATUS. Everything else is a mount failure.
MOUNT_FAILURE: Final = 32
_MOUNT_CODES: Final = {
    ExitCode.OK: 0,
    ExitCode.USAGE: 1,  # incorrect invocation or permissions
    ExitCode.FUSE_UNAVAILABLE: 2,  # system error
    ExitCode.INTERRUPTED: 8,
}


class Call(NamedTuple):
    """The helper's command line."""

    source: str
    mountpoint: str
    options: list[str]  # for pysshfs, each an item of -o
    fake: bool = False
    verbose: bool = False
    namespace: str | None = None
    user: str | None = None  # setuid=
    drop_privileges: bool = False

    def argv(self) -> list[str]:
        """For `pysshfs`."""
        words = ["-o", join_options(self.options)] if self.options else []
        return [*words, "--", self.source, self.mountpoint]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns an exit code of mount(8)."""
    surroundings.provide_files()
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["-h"], ["--help"]):
        print(f"usage: {_USAGE}")
        return 0
    try:
        return _mount_code(_mount(parse_call(words)))
    except UsageError as error:
        _say(error.message)
        return _mount_code(ExitCode.USAGE)
    except KeyboardInterrupt:
        _say("interrupted")
        return _mount_code(ExitCode.INTERRUPTED)


def _mount_code(code: int) -> int:
    return _MOUNT_CODES.get(ExitCode(code), MOUNT_FAILURE)


def _say(message: str) -> None:
    journal.complain(_NAME, message)


# --- the command line ---------------------------------------------------------------------------


def parse_call(words: Sequence[str]) -> Call:
    """Raises UsageError for what is not understood."""
    try:
        flags, arguments = getopt.gnu_getopt(list(words), "sfnvrwN:o:t:")
    except getopt.GetoptError as error:
        raise UsageError(f"{error.msg}; usage: {_USAGE}") from None
    if len(arguments) != 2:
        raise UsageError(f"a source and a directory are needed; usage: {_USAGE}")
    source, mountpoint = arguments
    given: list[str] = []
    for flag, value in flags:
        if flag == "-o":
            given += split_options(value)
        elif flag in ("-r", "-w"):
            given.append("ro" if flag == "-r" else "rw")
        elif flag == "-t" and value not in _TYPES:
            raise UsageError(f"this is not for the type {shown(value)}, but for 'fuse.pysshfs'")
    names = dict(flags)
    call = Call(
        source.removeprefix(_PREFIX),
        mountpoint,
        _without_unknown(given) if "-s" in names else given,
        fake="-f" in names,
        verbose="-v" in names,
        namespace=_namespace(names["-N"]) if "-N" in names else None,
    )
    if source.startswith(_PREFIX) and not any(each.startswith("fsname=") for each in given):
        # As it stands in fstab, or `mount -a` does not see that it is mounted.
        call.options.append(f"fsname={source}")
    return _own_options(call)


def _namespace(text: str) -> str:
    """As mount(8) takes it: a process, or a file that stands for the namespace."""
    return f"/proc/{text}/ns/mnt" if text.isascii() and text.isdigit() else text


def _without_unknown(options: Sequence[str]) -> list[str]:
    """-s, as autofs gives it, for lines that were written for another filesystem."""
    known = []
    for option in options:
        name = option.partition("=")[0]
        if find_option(name) is None:
            _say(f"option {shown(name)} is not known, and is ignored")
        else:
            known.append(option)
    return known


def _own_options(call: Call) -> Call:
    """Take out what is not for pysshfs."""
    others = []
    for option in call.options:
        name, equals, value = option.partition("=")
        if name == "setuid":
            if not value:
                raise UsageError("option 'setuid' needs a value: the name of a user")
            call = call._replace(user=value)
        elif name == "drop_privileges":
            if equals:
                raise UsageError("option 'drop_privileges' takes no value")
            call = call._replace(drop_privileges=True)
        else:
            others.append(option)
    return call._replace(options=others)


# --- mounting -----------------------------------------------------------------------------------


def _mount(call: Call) -> int:
    invocation = parse_argv(call.argv())
    # mount(8) waits for the helper, debug or not.
    invocation = invocation._replace(foreground=False)
    identity = None
    if call.user is not None:
        from pysshfs.cli import identity as identities

        identity = identities.of(call.user)
    if call.fake:
        return ExitCode.OK
    if call.drop_privileges or call.namespace is not None:
        from pysshfs.cli import handover

        code: int = handover.mount(invocation, identity, call.namespace, call.drop_privileges)
    else:
        if identity is not None:
            identity.become()
        code = command.mount(invocation)
    if code == ExitCode.OK and call.verbose:
        print(f"{_NAME}: {printable(call.source)} mounted on {printable(call.mountpoint)}.")
    return code
