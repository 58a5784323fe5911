"""The demo does what it shows and leaves nothing; its server lets in whom it should.

Each demo works below a directory of its own (its TMPDIR), so that whatever it left behind is
found there: in the table of mounts, among the arguments of processes, and on the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support import procs
from tests.support.mounts import CONTROL, Entry, parse_mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEMO = (sys.executable, "-m", "pysshfs.demo")

#: Seconds for the whole of a demo; it takes two on an idle machine.
LIMIT = 90.0


def processes_below(directory: Path) -> list[int]:
    """The processes that name something in `directory` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(directory) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def mounts_below(directory: Path) -> list[Entry]:
    entries = parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())
    return [each for each in entries if each.mountpoint.startswith(os.fsencode(directory) + b"/")]


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A directory for one demo; the test fails if anything is left of it, which is then removed."""
    directory = Path(tempfile.mkdtemp(prefix="pysshfs-demo-test-")).resolve()
    yield directory
    pids, mounts = processes_below(directory), mounts_below(directory)
    for entry in mounts:
        with contextlib.suppress(OSError):
            (CONTROL / str(entry.minor) / "abort").write_text("1")
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for entry in mounts:
        argv = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        procs.run_limited([*argv, os.fsdecode(entry.mountpoint)], timeout=10, check=False)
    assert not mounts_below(directory)
    files = [each.name for each in directory.iterdir()]
    shutil.rmtree(directory)
    assert (pids, mounts, files) == ([], [], [])


class Running(NamedTuple):
    """A demo, or a server, that was started and is to be ended."""

    process: subprocess.Popen[bytes]
    output: list[str]

    def read_until(self, pattern: str, limit: float = LIMIT) -> re.Match[str]:
        """Collect lines until one matches."""
        deadline = time.monotonic() + limit
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], deadline - time.monotonic())[0]:
            line = self.process.stdout.readline().decode()
            self.output.append(line)
            if match := re.search(pattern, line):
                return match
            if not line:
                break
        raise AssertionError(f"no {pattern!r} in: {''.join(self.output)}")

    def end(self, how: signal.Signals | None) -> tuple[int, str, str]:
        """Send a signal; the status, all of stdout, and stderr."""
        if how is not None:
            self.process.send_signal(how)
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, "".join(self.output) + out.decode(), err.decode()


@contextlib.contextmanager
def started(argv: Sequence[str], directory: Path) -> Iterator[Running]:
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Unbuffered: select() knows nothing of lines that a buffer already holds.
        bufsize=0,
        cwd=procs.ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        start_new_session=True,
    ) as process:
        try:
            yield Running(process, [])
        finally:
            procs.kill_group(process.pid)


# -- the whole demo --------------------------------------------------------------------------------


def test_the_demo_mounts_reads_writes_and_leaves_nothing(workspace: Path) -> None:
    with started([*DEMO, "run"], workspace) as demo:
        status, out, err = demo.end(None)
    assert (status, err) == (0, "")
    directory = re.escape(str(workspace)) + r"/pysshfs-demo-\w+"
    for pattern in (
        rf"\$ pysshfs .*demo@127\.0\.0\.1:/project {directory}/mnt -o port=\d+,IdentityFile=",
        r"latest -> tuesday\.txt",
        r"Tuesday: the symlink",
        rf"[0-9a-f]{{64}}  {directory}/mnt/megabyte\.bin",
        r"Both are what the server has, byte for byte\.",
        rf"It arrived: {directory}/server/project/notes/new\.txt has the same 49 bytes\.",
        rf"\$ pysshfsctl status {directory}/mnt\n.* on {directory}/mnt\n",
        rf"\$ pysshfsctl umount {directory}/mnt",
        rf"All gone: the mount, its daemon \(pid \d+\), the server \(pid \d+\), the keys, "
        rf"{directory}\n$",
    ):
        assert re.search(pattern, out), (pattern, out)
    assert "Traceback" not in out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_kept_demo_can_be_used_until_it_is_asked_to_end(
    workspace: Path, how: signal.Signals
) -> None:
    with started([*DEMO, "run", "--keep"], workspace) as demo:
        where = Path(demo.read_until(r"stays mounted on (\S+) until Ctrl-C")[1])
        demo.read_until("The server's side is")
        used = procs.run_limited(["cat", str(where / "README.txt")], timeout=20)
        status, out, err = demo.end(how)
    assert used.stdout.startswith("This file is on the server")
    assert (status, err) == (0, ""), (out, err)
    assert "Asked to end." in out and "All gone: the mount" in out


def test_a_kept_demo_ends_when_somebody_else_unmounts_it(workspace: Path) -> None:
    with started([*DEMO, "run", "--keep"], workspace) as demo:
        demo.read_until("stays mounted")
        command = demo.read_until(r"^  (.* umount .*)$")[1]
        demo.read_until("The server's side is")
        procs.run_limited(["sh", "-c", f"cd -- {procs.ROOT} && {command}"], timeout=30)
        status, out, err = demo.end(None)
    assert (status, err) == (0, ""), (out, err)
    assert "All gone: the mount" in out


def test_a_mount_in_use_does_not_keep_the_demo_from_ending(workspace: Path) -> None:
    with started([*DEMO, "run", "--keep"], workspace) as demo:
        where = demo.read_until(r"stays mounted on (\S+) until Ctrl-C")[1]
        demo.read_until("The server's side is")
        with subprocess.Popen(
            ["sh", "-c", 'cd -- "$1" && echo there && exec sleep 60', "sh", where],
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as user:
            try:
                assert user.stdout is not None
                assert user.stdout.readline() == b"there\n"
                status, out, err = demo.end(signal.SIGINT)
            finally:
                procs.kill_group(user.pid)
    assert (status, err) == (0, ""), (out, err)
    assert "it is taken away all the same" in out and "All gone: the mount" in out


def test_a_failure_is_told_and_cleaned_up_after(workspace: Path) -> None:
    with started([*DEMO, "run", "--keep"], workspace) as demo:
        server = int(demo.read_until(r"An SFTP server \(pid (\d+)\)")[1])
        demo.read_until("The server's side is")
        os.kill(server, signal.SIGKILL)
        status, out, err = demo.end(None)
    assert (status, err) == (1, "pysshfs demo: the server ended by itself\n"), (out, err)
    assert "All gone" not in out


def test_an_interrupted_demo_leaves_nothing(workspace: Path) -> None:
    with started([*DEMO, "run"], workspace) as demo:
        demo.read_until("It is mounted:")
        status, out, err = demo.end(signal.SIGINT)
    assert (status, err) == (1, "pysshfs demo: interrupted\n"), (out, err)


# -- its server ------------------------------------------------------------------------------------


def served(running: Running) -> dict[str, str]:
    """What the server says once it listens, as text."""
    facts = json.loads(running.read_until("^{.*}$")[0])
    return {name: str(value) for name, value in facts.items()}


def sftp(facts: dict[str, str], commands: str, *, user: str = "", key: str = "") -> str:
    """Run commands of OpenSSH's sftp; its output.  Raises CommandFailed."""
    argv = ["sftp", "-F", "none", "-b", "-", "-P", facts["port"]]
    argv += ["-i", key or facts["client_key"], "-o", f"UserKnownHostsFile={facts['known_hosts']}"]
    argv += ["-o", "IdentitiesOnly=yes", f"{user or facts['user']}@127.0.0.1"]
    return procs.run_limited(argv, timeout=30, stdin=commands).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("text\n")
    return root


def test_the_server_serves_one_folder_to_one_key(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    argv = [*DEMO, "serve", "--root", str(folder), "--state", str(state)]
    with started(argv, tmp_path) as server:
        facts = served(server)
        assert sorted(facts) == ["client_key", "host_key", "known_hosts", "port", "user"]
        assert state.stat().st_mode & 0o777 == 0o700
        assert {each.stat().st_mode & 0o777 for each in state.iterdir()} == {0o600}
        got = tmp_path / "got"
        listed = sftp(facts, f"get file {got}\nput {got} copy\nln -s file link\nls -1 /\n")
        assert listed.splitlines()[-3:] == ["/copy", "/file", "/link"]
        assert (folder / "copy").read_text() == "text\n"
        assert os.readlink(folder / "link") == "file"
        for refused in ({"user": "other"}, {"key": facts["host_key"]}):
            with pytest.raises(procs.CommandFailed, match="Permission denied"):
                sftp(facts, "pwd\n", **refused)
        assert server.end(signal.SIGTERM)[::2] == (0, "")


@pytest.mark.parametrize("how", [signal.SIGINT, None])
def test_the_server_ends_when_it_is_told_or_nobody_is_left_to_tell_it(
    folder: Path, tmp_path: Path, how: signal.Signals | None
) -> None:
    argv = [*DEMO, "serve", "--root", str(folder), "--state", str(tmp_path / "state")]
    with started(argv, tmp_path) as server:
        served(server)
        # Without a signal, communicate() closes its standard input, which is enough.
        assert server.end(how)[::2] == (0, "")


def test_the_server_comes_back_with_the_same_keys(folder: Path, tmp_path: Path) -> None:
    argv = [*DEMO, "serve", "--root", str(folder), "--state", str(tmp_path / "state")]
    with started(argv, tmp_path) as server:
        facts = served(server)
        server.end(signal.SIGTERM)
    with started([*argv, "--port", facts["port"]], tmp_path) as server:
        assert served(server) == facts
        assert "/file" in sftp(facts, "ls -1 /\n")


def test_the_server_keeps_no_keys_where_others_can_look(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with started(
        [*DEMO, "serve", "--root", str(folder), "--state", str(state)], tmp_path
    ) as server:
        status, out, err = server.end(None)
    assert (status, out) == (1, "")
    assert err == f"pysshfs demo server: {state}: must be yours, with mode 0700, to keep keys in\n"
    assert not list(state.iterdir())
