"""Whether standard error leads to the journal, how a line for it tells its severity, and what a
command says there.

systemd names the stream that it has given a service in `JOURNAL_STREAM` (systemd.exec(5)); a number
in front of a line there is its priority (sd-daemon(3)).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

# From syslog(3), as sd-daemon(3) has them.
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to `fd` goes to the journal, and not to somewhere that whoever
    started us has redirected it to."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError):
        found = os.fstat(fd)
        return (str(found.st_dev), str(found.st_ino)) == (device, inode)
    return False


def complain(program: str, message: str) -> None:
    """Say it on standard error: one line, whatever a file name or a server's words in it hold."""
    line = f"{program}: {printable(message)}"
    if is_journal(2):
        line = with_priority(line, logging.ERROR)
    print(line, file=sys.stderr, flush=True)


def with_priority(text: str, level: int) -> str:
    """Each line of a message in front of the journal's mark for its severity (sd-daemon(3))."""
    mark = next(f"<{priority}>" for least, priority in _PRIORITIES if level >= least)
    return "\n".join(mark + line for line in text.split("\n"))
