"""The walk of one unlink in docs/architecture.md is what happens."""

from __future__ import annotations

import ast
import os
import re
import signal
from typing import TYPE_CHECKING, Final

from tests.support.commands import wait_until
from tests.support.mounts import Mount
from tests.support.procs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sshd import Sshd

_HEADING: Final = "## One request, from the kernel to the server and back\n"


def section() -> str:
    text = (ROOT / "docs" / "architecture.md").read_text()
    return text.partition(_HEADING)[2].partition("\n## ")[0]


def documented_trace() -> list[str]:
    (block,) = re.findall(r"```trace\n(.*?)```", section(), re.S)
    return str(block).splitlines()


def traced(log: str, number: str) -> list[str]:
    """The lines of the trace of one request."""
    lines = [line.partition("pysshfs.trace: ")[2] for line in log.splitlines()]
    return [line for line in lines if line.split(" ")[0] == number]


def without_numbers(line: str) -> str:
    """What differs from one time to the other: serial, inode, process, time."""
    line = re.sub(r"^\d+", "N", line)
    line = re.sub(r"(inode|pid)=\d+", r"\1=N", line)
    line = re.sub(r"\(\d+,", "(N,", line)
    return re.sub(r"\d+\.\d\d ms", "T ms", line)


def test_the_trace_of_an_unlink_is_the_documented_one(server: Sshd, remote: Path) -> None:
    (remote / "dir").mkdir()
    (remote / "dir" / "notes").touch()
    with Mount(server.source(remote), *server.options(), "debug") as mount:
        mount.run(["ls", "dir"])  # what comes before it is not what this is about
        # Queued: it waits in the kernel, and nobody has read it.
        os.kill(mount.pid, signal.SIGSTOP)
        program = mount.start(["rm", "dir/notes"])
        wait_until("it is queued", mount.waiting)
        assert " unlink " not in mount.log()
        os.kill(mount.pid, signal.SIGCONT)
        assert program.wait(20) == 0
        (last,) = re.findall(r"trace: (\d+) answered unlink (.*)", mount.log())
        number, words = last
        lines = traced(mount.log(), number)
        documented = documented_trace()
        assert [*map(without_numbers, lines)] == [*map(without_numbers, documented)]
        assert all(f"pid={program.pid} " in line for line in (lines[0], lines[-1]))
        (inode,) = re.findall(r"inode=(\d+)", words)
        assert mount.run(["stat", "-c", "%i", "dir"]).stdout == f"{inode}\n"
        assert float(re.findall(r"([\d.]+) ms", words)[0]) > 0
    assert not (remote / "dir" / "notes").exists()


def test_a_failed_unlink_has_the_error_in_its_trace(server: Sshd, remote: Path) -> None:
    (remote / "file").unlink()
    (remote / "gone").touch()
    with Mount(server.source(remote), *server.options(), "debug") as mount:
        mount.run(["stat", "gone"])
        (remote / "gone").unlink()  # the kernel believes in it for a while
        assert mount.run(["unlink", "gone"], check=False).returncode != 0
        (line,) = re.findall(r"answered unlink .*", mount.log())
    assert "path='gone'" in line and line.endswith(" ms ENOENT")


def test_the_functions_that_the_walk_names_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)\.(\w+)`", section()))
    assert len(named) >= 10
    methods = {
        (node.name, member.name)
        for path in (ROOT / "pysshfs").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    # A class has what those have that it is made from.
    inherited = {("Server", name) for owner, name in methods if owner == "Calls"}
    assert named <= methods | inherited
    # A macro makes the function that is in C.
    assert "`fuse/_session.c: wrapped_unlink`" in section()
    assert "unlink, parent, 0," in (ROOT / "pysshfs/fuse/_session.c").read_text()
