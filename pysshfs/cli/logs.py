"""Where log lines go: stderr, which may be the journal, or a file or syslog in the background.

Lines are for operators and carry no secrets. Whatever names of files and words of a server are in
a message, it is made one line of printable text here, and not where it is logged. asyncssh's own
log is kept at warnings: its debug lines cost time even when nobody reads them.
"""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pysshfs.cli import journal
from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    _ExceptionInfo: TypeAlias = (
        tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    )

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_TERMINAL_FORMAT = "pysshfs: %(message)s"
_DEBUG_FORMAT = "pysshfs: %(relativeCreated)d ms %(levelname)s %(name)s: %(message)s"
_JOURNAL_DEBUG_FORMAT = "%(name)s: %(message)s"  # the journal knows the time, and the severity
_SYSLOG = Path("/dev/log")


class _Formatter(logging.Formatter):
    """What is logged must neither forge a line nor steer a terminal. (A traceback has lines.)"""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExceptionInfo) -> str:
        kind, error, trace = ei
        if kind is None or error is None:
            return ""
        told = traceback.TracebackException(kind, error, trace, lookup_lines=False)
        _leave_out_lines(told)
        return "".join(told.format()).rstrip("\n")


class _JournalFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return journal.with_priority(super().format(record), record.levelno)


def _leave_out_lines(told: traceback.TracebackException) -> None:
    """Without the text of the source: its files may lie under the mount by now."""
    told.stack = traceback.StackSummary.from_list(
        [
            traceback.FrameSummary(frame.filename, frame.lineno, frame.name, line="")
            for frame in told.stack
        ]
    )
    for other in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if other is not None:
            _leave_out_lines(other)


def level_of(name: str) -> int:
    level: int = getattr(logging, name.upper())
    return level


def to_stderr(level: int, *, in_foreground: bool = False) -> None:
    """For the foreground, and for the command until it detaches."""
    handler = logging.StreamHandler()
    handler.setFormatter(_stderr_formatter(level, in_foreground))
    switch_to(handler, level)


def _stderr_formatter(level: int, in_foreground: bool) -> logging.Formatter:
    is_debug = level <= logging.DEBUG
    if not journal.is_journal(2):
        return _Formatter(_DEBUG_FORMAT if is_debug else _TERMINAL_FORMAT)
    if is_debug:
        return _JournalFormatter(_JOURNAL_DEBUG_FORMAT)
    # The journal names what the unit runs, which is mount(8) where we go into the background.
    return _JournalFormatter("%(message)s" if in_foreground else _TERMINAL_FORMAT)


def open_log_file(path: str) -> logging.Handler:
    """The handler for -o log_file; opened before the mount. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    stream = os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter(_FORMAT))
    return handler


def background_handler(level: int) -> logging.Handler:
    """For the background without a log file: the journal, where stderr leads to it, else syslog."""
    if not journal.is_journal(2):
        return syslog_handler()
    # Of its own: the process will have another stderr. The unit that the lines are shown with is
    # then that of the command, mount(8) say, however it ends.
    fd = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    handler = logging.StreamHandler(os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace"))
    handler.setFormatter(_stderr_formatter(level, in_foreground=False))
    return handler


def syslog_handler() -> logging.Handler:
    """Nowhere when there is no syslog."""
    if not _SYSLOG.exists():
        return logging.NullHandler()
    facility = logging.handlers.SysLogHandler.LOG_DAEMON
    handler = logging.handlers.SysLogHandler(str(_SYSLOG), facility)
    handler.ident = f"pysshfs[{os.getpid()}]: "
    handler.setFormatter(_Formatter("%(message)s"))
    return handler


def switch_to(handler: logging.Handler, level: int) -> None:
    """From now on, all lines of this level and above go there and nowhere else."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    # Its warnings tell of programs that end after the loop, as a failed ProxyCommand does.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
