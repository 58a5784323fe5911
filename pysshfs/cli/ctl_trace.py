"""`pysshfsctl trace`: the operations of a mount as they happen, until Ctrl-C or its end.

The daemon chooses what is wanted and sends a line for each (docs/control-protocol.md); it never
waits for this program, and what it had to leave out is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from pysshfs.cli.control_client import follow
from pysshfs.cli.ctl_codes import CtlCode, CtlError
from pysshfs.cli.ctl_mounts import mount_of, silence, socket_of
from pysshfs.cli.usage import UsageError, printable, shown

if TYPE_CHECKING:
    from pysshfs.cli.ctl_parser import Arguments

_ANSWER_SECONDS: Final = 5.0

# As the kernel calls them, with those that libfuse names otherwise.
OPERATIONS: Final = frozenset([
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink",
    "rename", "link", "open", "read", "write", "flush", "release", "fsync", "opendir",
    "readdirplus", "releasedir", "fsyncdir", "statfs", "access", "create", "copy_file_range",
])  # fmt: skip


def run(arguments: Arguments) -> CtlCode:
    place = arguments.place or ""
    entry = mount_of(place)
    count = arguments.number("--count", 1)
    wanted = _wanted(arguments, os.fsdecode(entry.mountpoint))
    with contextlib.suppress(KeyboardInterrupt):
        _show(place, socket_of(entry), wanted, count, as_json=arguments.has("--json"))
    return CtlCode.OK


def _wanted(arguments: Arguments, mountpoint: str) -> dict[str, Any]:
    """The arguments of the question. Raises UsageError."""
    operations = [
        name for value in arguments.options.get("--operation", []) for name in value.split(",")
    ]
    for name in operations:
        if name not in OPERATIONS:
            raise UsageError(
                f"no operation {shown(name)}; there are {', '.join(sorted(OPERATIONS))}"
            )
    pid = arguments.number("--pid", 0)
    path = arguments.value("--path")
    if path is not None and path.startswith(mountpoint):  # never looked at, only compared
        path = path[len(mountpoint) :]
    return {
        "operations": operations,
        "pid": None if pid is None else int(pid),
        "path": path,
        "least_ms": arguments.number("--min-ms", 0),
        "errors": arguments.has("--errors"),
    }


def _show(
    place: str, path: str, wanted: dict[str, Any], count: float | None, *, as_json: bool
) -> None:
    lines = follow(path, "trace", _ANSWER_SECONDS, wanted)
    try:
        first = next(lines, None)
    except (OSError, ValueError) as error:
        raise CtlError(f"{place}: {silence(error, None)}", silence(error, None).code) from None
    if first is None or not first.get("ok"):
        said = first.get("error") if first else "the daemon hung up"
        raise CtlError(f"{place}: {said}")
    for line in lines:
        if as_json:
            print(json.dumps(line), flush=True)
        elif "dropped" in line:
            print(f"pysshfsctl: {line['dropped']} operations were left out", file=sys.stderr)
        else:
            print(line_of(line), flush=True)
        if count is not None and "dropped" not in line:
            count -= 1
            if count <= 0:
                return


def line_of(traced: dict[str, Any]) -> str:
    """One operation in one line: when, how long, who, what, on what, with which result."""
    at = time.strftime("%H:%M:%S", time.localtime(traced["at"]))
    fraction = f"{traced['at'] % 1:.3f}"[1:]
    paths = [each for each in (traced["path"], traced["new_path"]) if each is not None]
    named = " to ".join(each or "." for each in paths) or f"inode {traced['inode']}"
    span = ""
    if traced["offset"] is not None:
        span = f" {traced['length']} bytes at {traced['offset']}"
    return printable(
        f"{at}{fraction} {traced['ms']:>9.2f} ms  pid {traced['pid']:<8}"
        f"{traced['operation']:<12} {traced['result']:<8} {named}{span}"
    )
