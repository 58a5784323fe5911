"""What the figures come from: the machine, and the versions of all that has a part in them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from pysshfs.cli import procstat
from tests.support.mounts import PYSSHFS
from tests.support.procs import ROOT, run_limited


def environment() -> dict[str, str]:
    """The machine and the versions of everything that has a part in the figures."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "pysshfs": " ".join([_package("pysshfs"), *_commit()]),
        "sshfs": _found(["sshfs", "-V"], r"SSHFS version (\S+)"),
        "OpenSSH": _found(["ssh", "-V"], r"OpenSSH_(\S+)"),
        "libfuse": _found(["fusermount3", "-V"], r"version: (\S+)"),
        "Python": platform.python_version(),
        **{name: _package(name) for name in ("asyncssh", "pyfuse3", "trio")},
    }


def load() -> float:
    """The load of the last minute: what else the machine has to do."""
    return os.getloadavg()[0]


def processor(pid: int) -> float:
    """Seconds of the processor that a process has had, its own and the system's for it."""
    own, system = procstat.fields(pid)[11:13]
    return (int(own) + int(system)) / os.sysconf("SC_CLK_TCK")


def knows_async_ops() -> bool:
    """Whether the pysshfs that is measured has the option `async_ops`."""
    argv = [*PYSSHFS[:-1], "--help"]
    # Found like the mounts' daemon is: from the checkout.
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    return "async_ops" in result.stdout


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()


def _commit() -> list[str]:
    """The commit of the checkout, marked if it was changed; nothing where there is no git."""
    found = _found(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], r"^(\S+)$")
    return [f"({found})"] if found not in ("not installed", "unknown") else []


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
