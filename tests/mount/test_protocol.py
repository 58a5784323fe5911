"""docs/control-protocol.md: its tables are compared with what a real daemon and pysshfsctl say."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from pysshfs.cli import control_client, control_server
from pysshfs.cli.control_client import ask, follow, socket_path
from pysshfs.cli.ctl_codes import CtlCode
from tests.support.commands import Workspace, wait_until
from tests.support.procs import ROOT
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sshd import Sshd

TEXT: Final = (ROOT / "docs" / "control-protocol.md").read_text()
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "list of strings": (list,),
    "list of objects": (list,),
    "null": (type(None),),
}


def table(name: str) -> dict[str, str]:
    """The fields of a table in the document, and their types."""
    _, marker, rest = TEXT.partition(f"<!-- fields: {name} -->\n")
    assert marker, name
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", rest.partition("\n\n")[0], re.M)
    assert rows, name
    return dict(rows)


def assert_as_documented(found: dict[str, Any], *names: str) -> None:
    """Every field is in a table, every field of the tables is there, and of the right type."""
    expected: dict[str, str] = {}
    for name in names:
        expected |= table(name)
    assert set(found) == set(expected), set(found) ^ set(expected)
    for field, types in expected.items():
        allowed = [kind for word in types.split(" or ") for kind in TYPES[word]]
        assert type(found[field]) in allowed, (field, found[field], types)
        if types == "list of strings":
            assert all(isinstance(each, str) for each in found[field])


def path_of(work: Workspace) -> str:
    entry = work.entry()
    assert entry is not None
    return socket_path(entry.minor, os.geteuid())


def blocked(work: Workspace, name: str) -> subprocess.Popen[bytes]:
    """A program that waits for the server."""
    process = subprocess.Popen(
        ["cat", f"{work.mountpoint}/{name}"], stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until("it waits", lambda: work.status()["requests"])
    return process


def test_status_is_as_documented_whatever_the_state(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    with Proxy(server.port, 0) as proxy:
        server.trust(proxy.port)
        daemon = work.mounted(server.source(remote), *server.options(proxy.port))
        path, place = path_of(work), str(work.mountpoint)
        well = ask(path, "status", 5)
        assert_as_documented(well, "status")
        assert_as_documented(well["kernel"], "kernel")
        assert well["last_error"] is None and well["requests"] == []
        proxy.reset()
        wait_until("it is up again", lambda: ask(path, "status", 5)["reconnects"])
        assert_as_documented(ask(path, "status", 5)["last_error"], "last_error")
        proxy.freeze()
        process = blocked(work, "none")
        busy = ask(path, "status", 5)
        assert_as_documented(busy, "status")
        (request,) = busy["requests"]
        assert_as_documented(request, "request")
        (shown,) = json.loads(work.ctl("status", place, "--json").stdout)
        assert_as_documented(shown, "status", "mount")
        assert_as_documented(shown["requests"][0], "request", "program")
        proxy.stop()
        wait_until("it has noticed", lambda: ask(path, "status", 30)["state"] == "waiting")
        down = ask(path, "status", 5)
        assert_as_documented(down, "status")
        (row,) = [line for line in TEXT.splitlines() if line.startswith("| `state` |")]
        assert (
            {well["state"], down["state"]} == {"up", "waiting"} <= set(re.findall(r"`(\w+)`", row))
        )
        process.kill()
        process.wait(10)
        os.kill(daemon, signal.SIGSTOP)
        (silent,) = json.loads(work.ctl("status", place, "--json").stdout)
        os.kill(daemon, signal.SIGCONT)
        assert_as_documented(silent, "mount", "silent")
        health = TEXT.partition("| `health` | string |")[2].split("\n")[0]
        assert all(f"`{each['health']}`" in health for each in (shown, silent))


def test_answers_to_commands_are_as_documented(work: Workspace, server: Sshd, remote: Path) -> None:
    (remote / "dir").mkdir()
    work.mounted(server.source(remote), *server.options())
    path = path_of(work)
    done = {"protocol": 1, "ok": True}
    assert ask(path, "flush", 20) == done
    assert_as_documented(ask(path, "drop-caches", 20), "drop-caches")
    lines = follow(path, "trace", 5, {"pid": None, "path": None, "least_ms": None})
    assert next(lines) == done
    work.run(["sh", "-c", 'cd "$0"; cat file; echo x > n; mv n o; ln o p', str(work.mountpoint)])
    seen = {}
    while "link" not in seen:
        line = next(lines)
        assert_as_documented(line, "trace")
        seen[line["operation"]] = line
    assert {"read", "write", "rename"} <= set(seen)
    assert seen["read"]["offset"] == 0 and seen["rename"]["new_path"] == "o"
    lines.close()
    assert ask(path, "reconnect", 20) == done


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("nonsense", "malformed"),
        ('{"command": "status", "protocol": 7}', "protocol"),
        ('{"command": "umount"}', "unknown-command"),
        ('{"command": "trace", "path": 5}', "bad-argument"),
    ],
)
def test_errors_are_as_documented(
    work: Workspace, server: Sshd, remote: Path, asked: str, code: str
) -> None:
    work.mounted(server.source(remote), *server.options())
    (answer,) = control_client.ask_all([path_of(work)], asked.encode() + b"\n", 10)
    assert answer.told is not None
    assert set(answer.told) == {"protocol", "error", "code"} and answer.told["code"] == code
    assert f"| `{code}` |" in TEXT


def test_numbers_in_the_document_are_those_of_the_program() -> None:
    assert f"This is version {control_client.PROTOCOL}." in TEXT
    assert f"at most {control_client.MOST_QUESTION:,} bytes" in TEXT
    assert f"{control_server._MOST_ASKERS} askers at once" in TEXT
    assert f"{control_server._MOST_TRACERS} may trace" in TEXT
    commands = set(re.findall(r"^## `([\w-]+)`$", TEXT, re.M))
    assert commands == {"status", "flush", "reconnect", "drop-caches", "trace"}
    source = (ROOT / "pysshfs/cli/control_server.py").read_text()
    codes = set(re.findall(r'_RefusedError\(\s*"([\w-]+)"', source))
    rows = TEXT.partition("| code | meaning |\n|---|---|\n")[2].partition("\n\n")[0]
    assert codes == set(re.findall(r"^\| `([a-z-]+)` \|", rows, re.M))
    assert table("dropped") == {"dropped": "integer"}


def test_many_at_once_are_answered(work: Workspace, server: Sshd, remote: Path) -> None:
    """And those beyond the limit are told so; afterwards all is as before."""
    work.mounted(server.source(remote), *server.options())
    path = path_of(work)
    answers: list[str] = []

    def one() -> None:
        told = ask(path, "status", 20)
        answers.append(told.get("code", "ok"))

    threads = [threading.Thread(target=one) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 60 and set(answers) <= {"ok", "busy"}
    assert work.ctl("status", str(work.mountpoint)).returncode == CtlCode.OK
