"""Going into the background: one fork, before any loop or thread exists.

The child does everything; the parent waits for its `Report` on a pipe, so that the command returns
0 only when the mount answers and else prints the one line that the child sent. The child keeps the
terminal, for prompts, until it reports success.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from pysshfs.cli import journal
from pysshfs.cli.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable


# After Ctrl-C: how long the child may take before it is sent the signal once more.
_INTERRUPTED_SECONDS: Final = 2.0


class Report(NamedTuple):
    """What the child tells the parent, once."""

    code: ExitCode
    message: str = ""


class Reporter:
    """The child's end of the pipe. In the foreground there is none: `detach` does nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @property
    def will_detach(self) -> bool:
        return self._fd is not None

    def send(self, report: Report) -> None:
        """Tell the parent, which then ends. A parent that is gone already does not matter."""
        fd, self._fd = self._fd, None
        if fd is not None:
            line = json.dumps({"code": int(report.code), "message": report.message})
            with contextlib.suppress(OSError):
                os.write(fd, line.encode())
            os.close(fd)

    def detach(self) -> None:
        """Leave the terminal and the working directory, then report success."""
        if self._fd is None:
            return
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        self.send(Report(ExitCode.OK))


def complain(message: str) -> None:
    journal.complain("pysshfs", message)


def run_in_background(run: Callable[[Reporter], Report], mountpoint: str | None) -> ExitCode:
    """Fork; `run` serves the mount in the child. Returns the command's exit code.

    Whether the mount answers is tried at the mountpoint; None where that is not for us to enter.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(run, Reporter(write_end))
    os.close(write_end)
    try:
        report = _await_report(read_end, child)
    except KeyboardInterrupt:
        _wait_interrupted(child)
        report = Report(ExitCode.INTERRUPTED, "interrupted")
    if report.message:  # a reason, or a note
        complain(report.message)
    if report.code is not ExitCode.OK or report.message or mountpoint is None:
        return report.code
    try:
        os.stat(mountpoint)  # answered by the child: the mount is live
    except OSError as error:
        complain(f"{mountpoint} is mounted but does not answer: {error.strerror}")
        return ExitCode.FAILURE
    return ExitCode.OK


def _wait_interrupted(child: int) -> None:
    """Wait for the child to end: it may hold a half-made mount, or have made it just now."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # From a terminal the child has got the signal, too; a second one could disturb its cleanup.
    pidfd = os.pidfd_open(child)
    if not select.select([pidfd], [], [], _INTERRUPTED_SECONDS)[0]:
        os.kill(child, signal.SIGINT)
    os.waitpid(child, 0)
    os.close(pidfd)


def _child(run: Callable[[Reporter], Report], reporter: Reporter) -> NoReturn:
    code = ExitCode.FAILURE
    try:
        report = run(reporter)
        reporter.send(report)
        code = report.code
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
        reporter.send(Report(code, "interrupted"))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)  # never into the parent's stack


def _await_report(fd: int, child: int) -> Report:
    with os.fdopen(fd, "rb") as pipe:
        data = pipe.read()
    if data:
        told = json.loads(data)
        return Report(ExitCode(told["code"]), told["message"])
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Report(ExitCode.FAILURE, f"ended by {name} before the mount was made")
    return Report(ExitCode.FAILURE, "ended before the mount was made")
