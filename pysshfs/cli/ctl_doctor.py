"""`pysshfsctl doctor`: what a mount needs, checked one after the other, and what to do about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

from pysshfs.cli import logs
from pysshfs.cli.ctl_codes import CtlCode
from pysshfs.cli.doctor_local import FAILED, Finding, local_findings
from pysshfs.cli.parser import parse_argv
from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.cli.parser import Invocation


def run(arguments: Arguments) -> CtlCode:
    invocation = _invocation(arguments)
    logs.to_stderr(logs.level_of("error"))
    report = _Report(as_json=arguments.has("--json"))
    for finding in local_findings():
        report.add(finding)
    try:
        trio.run(_remote, report, invocation, not arguments.has("--no-write"))
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        raise KeyboardInterrupt from None
    report.finish()
    return CtlCode.CHECKS_FAILED if report.has_failed else CtlCode.OK


def _invocation(arguments: Arguments) -> Invocation | None:
    """As `pysshfs` would understand it. Raises UsageError."""
    if arguments.place is None:
        return None
    words = [arguments.place, "/"]  # nothing is mounted
    for option in ("-o", "-p", "-F"):
        for value in arguments.options.get(option, []):
            words += [option, value]
    return parse_argv(words)


async def _remote(report: _Report, invocation: Invocation | None, may_write: bool) -> None:
    from pysshfs.cli import doctor_remote

    if invocation is None:
        await doctor_remote.agent(report.add)
    else:
        await doctor_remote.server(invocation, report.add, may_write=may_write)


class _Report:
    """Prints each finding when it is there; in JSON all of them in the end."""

    def __init__(self, *, as_json: bool) -> None:
        self.has_failed = False
        self._as_json = as_json
        self._findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        self._findings.append(finding)
        self.has_failed |= finding.verdict == FAILED
        if not self._as_json:
            for line in lines_of(finding):
                print(line, flush=True)

    def finish(self) -> None:
        if self._as_json:
            print(json.dumps([each._asdict() for each in self._findings], indent=2))


def lines_of(finding: Finding) -> list[str]:
    lines = [f"{finding.verdict:<8} {finding.check:<19} {finding.found}"]
    if finding.advice:
        lines.append(f"{'':<8} {'':<19} -> {finding.advice}")
    return [printable(line) for line in lines]
