"""The `pysshfs` command. Imports little: `--help` must not wait for asyncssh."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pysshfs import __version__
from pysshfs.cli import surroundings
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.parser import Action, kernel_options, parse_argv
from pysshfs.cli.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.cli.parser import Invocation
    from pysshfs.fuse.mountpoint import Place


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; see `ExitCode`."""
    surroundings.provide_files()
    try:
        invocation = parse_argv(sys.argv[1:] if argv is None else argv)
        if invocation.action is Action.HELP:
            from pysshfs.cli.help import help_text

            return _print(help_text())
        if invocation.action is Action.VERSION:
            from pysshfs.cli.help import version_text

            return _print(version_text(__version__))
        return mount(invocation)
    except UsageError as error:
        return _refused(error.message)
    except KeyboardInterrupt:
        print("pysshfs: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _refused(message: str) -> ExitCode:
    from pysshfs.cli import daemon, systemd

    systemd.Manager().status(message)
    daemon.complain(message)
    return ExitCode.USAGE


def _print(text: str) -> ExitCode:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough; the interpreter must not complain at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK


def mount(invocation: Invocation, made: Place | None = None) -> int:
    """Mount, or serve what is `made` already. Returns the exit code."""
    from pysshfs.cli import daemon, mount, systemd
    from pysshfs.fuse import inherited

    # A mount that is handed down has its options, and may not be one for us to look at.
    is_made = made is not None or invocation.mountpoint.startswith(inherited.PREFIX)
    options = invocation.kernel_options if is_made else kernel_options(invocation, os.geteuid())
    manager = systemd.Manager()

    def run(reporter: daemon.Reporter) -> daemon.Report:
        return mount.run(invocation, options, reporter, manager, made)

    if invocation.foreground:
        report = run(daemon.Reporter(None))
        if report.code is not ExitCode.OK and report.message:
            manager.status(report.message)
        if report.message:
            daemon.complain(report.message)
        return report.code
    return daemon.run_in_background(run, None if is_made else invocation.mountpoint)
