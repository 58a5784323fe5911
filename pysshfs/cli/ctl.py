"""The `pysshfsctl` command: asks and tells the daemons of mounts. It never touches a mount.

What is mounted comes from /proc/self/mountinfo, how it fares from the daemon's control socket
(docs/control-protocol.md), and when that does not answer, from the control filesystem.

Whatever waits is bounded or ends at Ctrl-C. The commands are modules of their own, loaded when they
are asked for: `status` answers within 200 ms of its start, and loading Python is most of that.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.cli.ctl_mounts import only_mount
from pysshfs.cli.ctl_parser import ALIASES, COMMANDS, help_text, parse, usage
from pysshfs.cli.usage import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; see `CtlCode`."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; the interpreter's own flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CtlCode.OK
    except UsageError as error:
        return _wrong(words, error.message)
    except CtlError as error:
        return complain(str(error), error.code)
    except KeyboardInterrupt:
        return complain("interrupted", CtlCode.INTERRUPTED)
    return code


def _run(words: list[str]) -> CtlCode:
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(help_text())
        return CtlCode.OK
    name = ALIASES.get(words[0], words[0]) if words else None
    if name in COMMANDS and {"-h", "--help"} & set(words[1:]):
        sys.stdout.write(usage(name))
        return CtlCode.OK
    arguments = parse(words)
    command = COMMANDS[arguments.command]
    if arguments.place is None and command.takes_only:
        arguments = arguments._replace(place=only_mount())
    # importlib costs as much as the rest of this module.
    module = __import__(f"pysshfs.cli.{command.module}", fromlist=["run"])
    code: CtlCode = module.run(arguments)
    return code


def _wrong(words: list[str], message: str) -> CtlCode:
    name = ALIASES.get(words[0], words[0]) if words else ""
    sys.stderr.write(usage(name if name in COMMANDS else None).partition("\n\n")[0].rstrip() + "\n")
    return complain(message, CtlCode.USAGE)


def complain(message: str, code: CtlCode = CtlCode.FAILURE) -> CtlCode:
    """One line, whatever a file name or a server's words in it hold."""
    print(f"pysshfsctl: {printable(message)}", file=sys.stderr, flush=True)
    return code
