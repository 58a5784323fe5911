"""Turns runs into medians and ratios, and prints them beside the machine they come from.

Owns nothing.  The ratio is sshfs's time divided by pysshfs's, taken within each round of runs
and then the median of those: what disturbs a round disturbs both.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.runner import PLAIN_SSH
from bench.workloads import WORKLOADS
from tests.support.procs import run_limited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.runner import Run

Row = dict[str, object]
_COLUMNS = ("workload", "amount", "RTT ms", "pysshfs s", "sshfs s", "ratio", "ssh s", "runs")


def environment() -> dict[str, str]:
    """The machine and the versions of everything that has a part in the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "sshfs": _found(["sshfs", "-V"], r"SSHFS version (\S+)"),
        "OpenSSH": _found(["ssh", "-V"], r"OpenSSH_(\S+)"),
        "libfuse": _found(["fusermount3", "-V"], r"version: (\S+)"),
        "Python": platform.python_version(),
        **{name: _package(name) for name in ("asyncssh", "pyfuse3", "trio", "pysshfs")},
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def _found(argv: list[str], pattern: str) -> str:
    try:
        result = run_limited(argv, timeout=20, check=False)
    except OSError:
        return "not installed"
    found = re.search(pattern, result.stdout + result.stderr)
    return found[1].rstrip(",") if found else "unknown"


def _package(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def summary(runs: Sequence[Run]) -> list[Row]:
    """One row for each workload and round-trip time, in the order they were run."""
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.workload, run.rtt_ms), []).append(run)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Run]) -> Row:
    first = group[0]
    ratio = median_ratio(group)
    return {
        "workload": WORKLOADS[first.workload].title,
        "amount": first.amount,
        "RTT ms": f"{first.rtt_ms:g}",
        "pysshfs s": _median(group, "pysshfs"),
        "sshfs s": _median(group, "sshfs"),
        "ratio": "" if ratio is None else f"{ratio:.2f}",
        "ssh s": _median(group, PLAIN_SSH),
        "runs": str(1 + max(run.number for run in group)),
    }


def median_ratio(group: Sequence[Run]) -> float | None:
    """The median over the rounds of sshfs's time / pysshfs's; None if no round has both."""
    times = {(run.program, run.number): run.seconds for run in group}
    ratios = []
    for number in {run.number for run in group}:
        ours, theirs = times.get(("pysshfs", number)), times.get(("sshfs", number))
        if ours and theirs:
            ratios.append(theirs / ours)
    return statistics.median(ratios) if ratios else None


def _median(group: Sequence[Run], program: str) -> str:
    """The median time; the kind of problem if some run had one, with how many had."""
    own = [run for run in group if run.program == program]
    times = [run.seconds for run in own if run.seconds is not None]
    text = f"{statistics.median(times):.3f}" if times else ""
    problems = [run.problem.partition(":")[0] for run in own if run.problem]
    if problems:
        text = f"{text} {problems[0]} {len(problems)}/{len(own)}".strip()
    return text


def table(runs: Sequence[Run]) -> str:
    """The summary in columns."""
    lines = [list(_COLUMNS)] + [[str(row[name]) for name in _COLUMNS] for row in summary(runs)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def write_json(path: Path, runs: Sequence[Run], settings: dict[str, object]) -> None:
    """Everything: the environment, the settings, the summary and each single run."""
    content = {
        "environment": environment(),
        "settings": settings,
        "summary": summary(runs),
        "runs": [asdict(run) for run in runs],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
