"""What `pysshfsctl doctor` checks on this machine: FUSE, its mount program, its settings.

Each check returns a `Finding`, which says what to do if something does not work. Nothing waits
without a limit.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.cli.control_client import private_directory
from pysshfs.cli.ctl_mounts import MOUNT_CONTROL
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator

_FUSE_DEVICE: Final = "/dev/fuse"
_FUSE_CONF: Final = "/etc/fuse.conf"
_MOUNT_MAX: Final = 1000  # fusermount3's default
_PROGRAM_SECONDS: Final = 5

OK: Final = "ok"
NOTE: Final = "note"  # something does not work that not everybody needs
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


class Finding(NamedTuple):
    """What one check found, and what to do about it."""

    check: str
    verdict: str
    found: str
    advice: str = ""


def local_findings() -> Iterator[Finding]:
    yield device()
    yield mount_program()
    yield configuration()
    yield control_filesystem()
    yield runtime_directory()


def device(path: str = _FUSE_DEVICE) -> Finding:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("fuse device", FAILED, f"no {path}", "as root: modprobe fuse")
    except OSError as error:
        return Finding(
            "fuse device", FAILED, f"{path}: {error.strerror}",
            f"as root: chmod 666 {path} (udev's rules do that on most systems)",
        )  # fmt: skip
    return Finding("fuse device", OK, f"{path} can be opened")


def mount_program() -> Finding:
    """Only root mounts without fusermount3, which has to be set-user-id root."""
    name, needed = "fusermount3", os.geteuid() != 0
    bad = FAILED if needed else NOTE
    path = shutil.which(name)
    if path is None:
        return Finding(name, bad, "not installed", "install the package fuse3")
    found = os.stat(path)
    if found.st_uid != 0 or not found.st_mode & stat.S_ISUID:
        advice = f"as root: chown root {path} && chmod 4755 {path}"
        return Finding(name, bad, f"{path} is not set-user-id root", advice)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_PROGRAM_SECONDS
        )
        version = done.stdout.strip().rpartition(" ")[2]
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name, bad, f"{path} does not run: {error}", "install the package fuse3")
    return Finding(name, OK, f"{path}, version {version}, set-user-id root")


def configuration(path: str = _FUSE_CONF) -> Finding:
    """Whether others may be let in, and whether there is room for one more mount."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.partition("#")[0].strip() for line in file]
    except FileNotFoundError:
        lines = []
    except OSError as error:
        return Finding("fuse.conf", NOTE, f"{path}: {error.strerror}", f"as root: chmod 644 {path}")
    most = _MOUNT_MAX
    for line in lines:
        name, _, value = line.replace(" ", "").partition("=")
        if name == "mount_max" and value.lstrip("-").isdigit():
            most = int(value)
    mounted = sum(mountinfo.is_fuse(entry) for entry in mountinfo.mounts())
    if 0 <= most <= mounted and os.geteuid() != 0:
        return Finding(
            "fuse.conf", FAILED, f"mount_max is {most}, and {mounted} filesystems are mounted",
            f"as root: raise mount_max in {path}",
        )  # fmt: skip
    if "user_allow_other" not in lines and os.geteuid() != 0:
        return Finding(
            "fuse.conf", NOTE, "only root may use -o allow_other",
            f"if you need it, as root: echo user_allow_other >> {path}",
        )  # fmt: skip
    return Finding("fuse.conf", OK, "nothing in the way")


def control_filesystem() -> Finding:
    if mountinfo.is_control_mounted():
        return Finding("control filesystem", OK, f"mounted on {mountinfo.CONNECTIONS}")
    return Finding(
        "control filesystem", NOTE, "not mounted: no abort, and status knows less",
        f"as root: {MOUNT_CONTROL}",
    )  # fmt: skip


def runtime_directory() -> Finding:
    try:
        return Finding("runtime directory", OK, private_directory(os.geteuid()))
    except OSError as error:
        return Finding(
            "runtime directory", FAILED, f"{error.filename or error}: no place for control sockets",
            "make it a directory of yours alone (mode 700), or remove what is there",
        )  # fmt: skip
