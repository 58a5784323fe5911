"""`pysshfsctl` against daemons that are well, cut off, stopped, aborted and killed.

Every command is run as a user runs it. What is on the mount is used by other processes only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pysshfs.cli.control_client import socket_path
from pysshfs.cli.ctl_codes import CtlCode
from pysshfs.cli.exitcodes import ExitCode
from tests.support import procs
from tests.support.commands import (
    CTL,
    ORDINARY,
    Terminal,
    Workspace,
    one_line,
    refused,
    user_options,
    wait_ended,
    wait_until,
)
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.sshd import Sshd


# Uses the mount in the way that its first argument names, says so, and waits to be ended.
_USER = """
import mmap, os, sys, time
how, place = sys.argv[1:]
if how == "directory":
    os.chdir(place)
else:
    file = open(place + "/file", "rb")
    if how == "mapping":
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        file.close()
print("ready", flush=True)
time.sleep(600)
"""


# Opens a file on the mount, waits for a word through a FIFO, writes, and keeps the file open.
_WRITER = """
import sys, time
file = open(sys.argv[1], "wb", buffering=0)
print("open", flush=True)
open(sys.argv[2]).read()
file.write(b"data\\n")
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def proxy(server: Sshd) -> Iterator[Proxy]:
    with Proxy(server.port, 0) as running:
        server.trust(running.port)
        yield running
        running.thaw()


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """What is read from it meanwhile comes to an end."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


class Programs:
    """Processes that the test started, ended with it."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, argv: Sequence[str], env: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        self._started.append(
            subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, cwd="/", start_new_session=True, env=env,
            )
        )  # fmt: skip
        return self._started[-1]

    def user(self, how: str, work: Workspace) -> subprocess.Popen[str]:
        argv = [sys.executable, "-I", "-c", _USER, how, str(work.mountpoint)]
        process = self.start(argv)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def ctl(self, work: Workspace, *words: str) -> subprocess.Popen[str]:
        return self.start([*CTL, *words], work.env)

    def close(self) -> None:
        for process in self._started:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate(timeout=10)


@pytest.fixture
def programs(work: Workspace) -> Iterator[Programs]:
    """After the workspace, whose end frees who waits on a mount."""
    made = Programs()
    yield made
    work.abort()
    made.close()


def state_of(work: Workspace, code: CtlCode = CtlCode.OK) -> dict[str, Any]:
    shown = work.ctl("status", str(work.mountpoint), "--json")
    assert shown.returncode == code, (shown.returncode, shown.stdout, shown.stderr)
    (state,) = json.loads(shown.stdout)
    assert isinstance(state, dict)
    return state


# --- status -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["none", "black hole", "stopped", "aborted", "killed"])
def test_status_is_prompt_and_true_whatever_the_daemon_does(
    work: Workspace, server: Sshd, proxy: Proxy, remote: Path, trouble: str
) -> None:
    daemon = work.mounted(server.source(remote), *server.options(proxy.port))
    if trouble == "black hole":
        proxy.freeze()
    elif trouble == "stopped":
        os.kill(daemon, signal.SIGSTOP)
    elif trouble == "aborted":
        assert work.ctl("abort", str(work.mountpoint)).returncode == CtlCode.OK
        wait_ended(daemon)
    elif trouble == "killed":
        os.kill(daemon, signal.SIGKILL)
        wait_ended(daemon)
    health = {"stopped": "not answering", "aborted": "dead", "killed": "dead"}.get(trouble, "ok")
    code = CtlCode.OK if health == "ok" else CtlCode.NOT_ANSWERING
    taken = []
    for _ in range(4):
        # The interpreter takes its time, on a busy machine more than all the rest.
        began = time.monotonic()
        work.run([sys.executable, "-c", "import json, select, socket"], check=True)
        between = time.monotonic()
        state = state_of(work, code)
        taken.append((time.monotonic() - between) - (between - began))
    if trouble == "stopped":
        os.kill(daemon, signal.SIGCONT)
    assert min(taken) < 0.12
    assert state["health"] == health
    if trouble == "stopped":
        assert state["pid"] == daemon and f"process {daemon} is stopped" in state["reason"]
    if health == "dead":
        assert "dead" in state["reason"]


def test_status_says_what_waits_and_that_nothing_is_answered(
    work: Workspace, server: Sshd, proxy: Proxy, remote: Path, programs: Programs
) -> None:
    (remote / "other").write_text("x")
    work.mounted(server.source(remote), *server.options(proxy.port))
    proxy.freeze()
    reader = programs.start(["cat", f"{work.mountpoint}/other"])
    wait_until("it waits", lambda: state_of(work)["requests"])
    (request,) = state_of(work)["requests"]
    assert request["operation"] == "lookup" and request["path"] == "other"
    assert request["pid"] == request["process"] == reader.pid and request["program"] == "cat"
    assert request["uid"] == os.getuid()
    status = [*CTL, "status", str(work.mountpoint)]
    wait_until("it is said", lambda: work.run(status).returncode == CtlCode.NOT_ANSWERING, limit=15)
    shown = work.run(status).stdout
    assert "not answering: 1 request waiting, none was answered for" in shown
    assert "lookup of other for" in shown and f"pid {reader.pid} (cat)" in shown
    proxy.thaw()
    assert reader.communicate(timeout=20)[0] == "x"
    assert state_of(work)["health"] == "ok"


def test_requests_wait_for_a_stopped_daemon(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    os.kill(daemon, signal.SIGSTOP)
    try:
        programs.start(["cat", f"{work.mountpoint}/file"])
        wait_until("it waits", lambda: state_of(work, CtlCode.NOT_ANSWERING)["waiting"])
        state = state_of(work, CtlCode.NOT_ANSWERING)
        assert state["health_reason"].endswith("; 1 request waiting")
    finally:
        os.kill(daemon, signal.SIGCONT)


def test_what_was_settled_with_the_kernel(work: Workspace, server: Sshd, remote: Path) -> None:
    options = ["max_background=37", "congestion_threshold=20"]
    work.mounted(server.source(remote), *server.options(), *options)
    state = state_of(work)
    assert (state["max_background"], state["congestion_threshold"]) == (37, 20)
    assert state["kernel"]["max_background"] == 37
    shown = work.ctl("status", str(work.mountpoint)).stdout
    assert "max_background 37, congestion_threshold 20" in shown
    # The control filesystem has the last word.
    entry = work.entry()
    assert entry is not None
    limit = f"/sys/fs/fuse/connections/{entry.minor}/max_background"
    work.run(["sh", "-c", f"echo 41 > {limit}"], check=True)
    assert state_of(work)["max_background"] == 41


def test_without_the_control_filesystem_it_is_said_how_to_mount_it(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    work.mounted(server.source(remote), *server.options())
    place = str(work.mountpoint)
    without = ["unshare", "-m", "sh", "-c", 'umount /sys/fs/fuse/connections && exec "$@"', "sh"]
    advice = "mount -t fusectl fusectl /sys/fs/fuse/connections"
    shown = work.ctl("status", place, prefix=without)
    assert shown.returncode == CtlCode.OK and advice in shown.stdout
    refused(work.ctl("abort", place, prefix=without), CtlCode.NO_CONTROL, advice)
    assert advice in work.ctl("doctor", prefix=without).stdout
    # The advice is right.
    there = [*without[:-1], "sh", "sh", "-c", f'{advice} && exec "$@"', "sh"]
    (state,) = json.loads(work.ctl("status", place, "--json", prefix=there).stdout)
    assert state["waiting"] == 0 and work.listing() == ["file"]


def test_nothing_below_the_mountpoint_is_looked_at(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    work.mounted(server.source(remote), *server.options())
    programs.user("open file", work)
    trace = work.directory / "strace"
    watched = ["strace", "-f", "-qq", "-s", "500", "-e", "trace=%file", "-o", str(trace)]
    place = str(work.mountpoint)
    for words in (["status", place], ["umount", place, "--kill"]):
        result = work.ctl(*words, prefix=watched)
        assert result.returncode == (CtlCode.OK if words[0] == "status" else CtlCode.BUSY)
        calls = [line for line in trace.read_text().splitlines() if "execve(" not in line]
        # Unmounting it is all that is ever done to it, and nothing was unmounted.
        assert len(calls) > 50 and not [line for line in calls if f'"{place}' in line]


# --- what ends it -------------------------------------------------------------------------------


def test_abort_frees_everybody_and_ends_the_daemon(
    work: Workspace, server: Sshd, proxy: Proxy, remote: Path, programs: Programs
) -> None:
    log = work.directory / "log"
    daemon = work.foreground(server.source(remote), *server.options(proxy.port), log=log)
    proxy.freeze()
    waiting = [programs.start(["ls", f"{work.mountpoint}/{i}"]) for i in range(5)]
    wait_until("they wait", lambda: state_of(work)["requests_active"] == 5)
    assert work.ctl("abort", str(work.mountpoint)).returncode == CtlCode.OK
    for process in waiting:
        assert process.wait(10) != 0
    assert daemon.wait(20) == ExitCode.ABORTED
    assert "aborted" in one_line(log.read_text())
    assert work.run(["ls", str(work.mountpoint)]).returncode != 0
    assert state_of(work, CtlCode.NOT_ANSWERING)["health"] == "dead"
    assert work.ctl("umount", str(work.mountpoint)).returncode == CtlCode.OK
    assert work.entry() is None


@pytest.mark.parametrize("silent", [False, True])
def test_kill_ends_those_who_use_it(
    work: Workspace, server: Sshd, proxy: Proxy, remote: Path, programs: Programs, silent: bool
) -> None:
    daemon = work.mounted(server.source(remote), *server.options(proxy.port))
    users = {how: programs.user(how, work) for how in ("directory", "open file", "mapping")}
    bystander = programs.start(["sleep", "600"])
    if silent:
        proxy.freeze()
    place = str(work.mountpoint)
    listed = work.ctl("umount", place, "--kill")
    assert listed.returncode == CtlCode.BUSY and "--yes" in listed.stderr
    lines = {int(line.split()[0]): line for line in listed.stdout.splitlines()}
    assert set(lines) == {process.pid for process in users.values()}
    words = {"directory": "working directory", "open file": "open file", "mapping": "mapped file"}
    for how, process in users.items():
        assert words[how] in lines[process.pid] and "python" in lines[process.pid]
        assert process.poll() is None
    assert work.entry() is not None
    done = work.ctl("umount", place, "--kill", "--yes")
    assert done.returncode == CtlCode.OK, done.stderr
    assert {process.wait(5) for process in users.values()} == {-signal.SIGTERM}
    assert bystander.poll() is None
    assert work.entry() is None
    wait_ended(daemon)


def test_kill_asks_first_and_means_who_ignores_it_too(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    work.mounted(server.source(remote), *server.options())
    stubborn = programs.start(
        ["sh", "-c", 'trap "" TERM; cd "$0" && echo ready && sleep 600', str(work.mountpoint)]
    )
    assert stubborn.stdout is not None and stubborn.stdout.readline() == "ready\n"
    for answer, code in (("no\n", CtlCode.BUSY), ("yes\n", CtlCode.OK)):
        asking = work.terminal([*CTL, "umount", "--kill", str(work.mountpoint)])
        asking.expect("(yes/no)? ")
        asking.send(answer)
        assert asking.wait() == code
        assert (stubborn.poll() is None) == (answer == "no\n")
    assert stubborn.wait(5) == -signal.SIGKILL
    assert work.entry() is None


def test_a_lazy_unmount_leaves_who_uses_it_alone(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    user = programs.user("open file", work)
    refused(work.ctl("umount", str(work.mountpoint)), CtlCode.BUSY, "busy", "--kill")
    assert work.ctl("umount", "--lazy", str(work.mountpoint)).returncode == CtlCode.OK
    assert work.entry() is None and procs.is_alive(daemon) and user.poll() is None
    user.kill()
    wait_ended(daemon)


def test_force_waits_for_nobody_and_saves_what_was_not_delivered(
    work: Workspace, server: Sshd, proxy: Proxy, remote: Path, programs: Programs
) -> None:
    saved = work.directory / "state"
    daemon = work.mounted(
        server.source(remote), *server.options(proxy.port), env={"XDG_STATE_HOME": str(saved)}
    )
    os.mkfifo(work.directory / "go")
    new, go = work.mountpoint / "new", work.directory / "go"
    writer = programs.start([sys.executable, "-I", "-c", _WRITER, str(new), str(go)])
    assert writer.stdout is not None and writer.stdout.readline() == "open\n"
    proxy.freeze()
    go.write_text("go\n")
    assert writer.stdout.readline() == "written\n"
    wait_until("it is buffered", lambda: work.status()["unacknowledged_bytes"])
    done = work.ctl("umount", "--force", str(work.mountpoint))
    assert done.returncode == CtlCode.OK, done.stderr
    assert work.entry() is None and writer.poll() is None
    wait_ended(daemon)
    (data,) = (saved / "pysshfs/undelivered").glob("*.data")
    assert data.read_bytes() == b"data\n"


def test_the_socket_of_a_killed_daemon_goes_with_its_mount(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    entry = work.entry()
    assert entry is not None
    path = Path(socket_path(entry.minor, os.geteuid()))
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    assert path.exists()
    assert work.ctl("umount", str(work.mountpoint)).returncode == CtlCode.OK
    assert work.entry() is None and not path.exists()


# --- trace --------------------------------------------------------------------------------------


def traced(work: Workspace, programs: Programs, *words: str) -> subprocess.Popen[str]:
    """One who traces, once that is on."""
    before = work.status()["traced_by"]
    process = programs.ctl(work, "trace", str(work.mountpoint), "--json", *words)
    wait_until("it traces", lambda: work.status()["traced_by"] == before + 1)
    return process


def seen_by(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What it printed until it was interrupted, which is how one ends it."""
    time.sleep(0.2)  # the last lines are on their way, and no event says so
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (CtlCode.OK, "")
    return [json.loads(line) for line in out.splitlines()]


def test_the_trace_has_what_is_wanted_and_nothing_else(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    (remote / "dir").mkdir()
    work.mounted(server.source(remote), *server.options())
    everything = traced(work, programs)
    some = traced(work, programs, "--operation", "unlink,rename", "--operation", "mkdir")
    errors = traced(work, programs, "--errors", "--path", str(work.mountpoint / "dir"))
    script = "cd dir; echo x > a; mv a b; rm b; mkdir c; cat none; cat ../none; exit 0"
    program = programs.start(["sh", "-c", f'cd "$0" && {script}', str(work.mountpoint)])
    ours = traced(work, programs, "--pid", str(program.pid))
    assert program.wait(20) == 0
    done = [
        (each["operation"], each["path"], each["new_path"], each["result"])
        for each in seen_by(some)
    ]
    assert done == [
        ("rename", "dir/a", "dir/b", "ok"),
        ("unlink", "dir/b", None, "ok"),
        ("mkdir", "dir/c", None, "ok"),
    ]
    found = seen_by(everything)
    assert len({each["id"] for each in found}) == len(found)
    (written,) = [each for each in found if each["operation"] == "write"]
    assert (written["path"], written["offset"], written["length"]) == ("dir/a", 0, 2)
    assert {each["result"] for each in seen_by(errors)} <= {"ENOENT"}
    assert {each["pid"] for each in seen_by(ours)} <= {program.pid}
    wait_until("nobody traces", lambda: not work.status()["traced_by"])


def test_what_is_answered_on_the_spot_is_traced_too(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    work.mounted(server.source(remote), *server.options())
    stat = ["sh", "-c", 'for i in 1 2 3 4 5; do stat "$0/file" > /dev/null; done']
    argv = [*stat, str(work.mountpoint)]
    work.run(argv, check=True)
    before = work.status()["requests_answered_at_once"]
    tracing = traced(work, programs, "--min-ms", "0")
    work.run(["cat", f"{work.mountpoint}/file"], check=True)
    known = work.status()
    assert known["requests_answered_at_once"] == before
    seen = {each["operation"] for each in seen_by(tracing)}
    assert {"open", "release"} <= seen
    wait_until("nobody traces", lambda: not work.status()["traced_by"])
    work.run(["cat", f"{work.mountpoint}/file"], check=True)
    assert work.status()["requests_answered_at_once"] > before


def test_a_slow_reader_of_the_trace_slows_nobody(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    deep = "/".join(letter * 250 for letter in "abcd")
    (remote / deep).mkdir(parents=True)
    work.mounted(server.source(remote), *server.options(), "entry_timeout=0", "attr_timeout=0")
    slow = traced(work, programs)
    slow.send_signal(signal.SIGSTOP)
    before = work.status()
    # More than the socket and what the daemon keeps can hold: a lookup for each part of the path.
    code = "import os, sys\nfor _ in range(500): os.lstat(sys.argv[1])"
    argv = [sys.executable, "-I", "-c", code, f"{work.mountpoint}/{deep}"]
    work.run(argv, check=True, limit=60)
    after = work.status()
    served = after["requests_served"] - before["requests_served"]
    assert served >= 2000
    assert after["memory_bytes"] - before["memory_bytes"] < 16 << 20
    slow.send_signal(signal.SIGCONT)
    with killed_after(slow, 20):
        assert slow.stdout is not None
        told = 0
        for line in map(json.loads, slow.stdout):
            if "dropped" in line:
                break
            told += 1
    assert told + line["dropped"] >= served and line["dropped"] > 100
    slow.send_signal(signal.SIGINT)
    wait_until("nobody traces", lambda: not work.status()["traced_by"])


def test_a_trace_ends_with_the_mount(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    work.mounted(server.source(remote), *server.options())
    tracing = traced(work, programs)
    assert work.ctl("umount", str(work.mountpoint)).returncode == CtlCode.OK
    tracing.communicate(timeout=10)
    assert tracing.returncode == CtlCode.OK


# --- watch --------------------------------------------------------------------------------------


def frame_of(watching: Terminal) -> list[str]:
    """The lines of the next one, which is drawn over the one before."""
    watching.expect("\x1b[H")
    lines = watching.expect("\x1b[J").split("\x1b[K\r\n")
    assert lines.pop() == "" and "\x1b" not in "".join(lines)
    return lines


def test_watch_on_a_terminal(work: Workspace, server: Sshd, remote: Path) -> None:
    source = server.source(remote)
    work.mounted(source, *server.options())
    # The interval is for those who only wait: a terminal that changes is drawn at once.
    watching = work.terminal([*CTL, "watch", "--interval", "30", str(work.mountpoint)])
    assert watching.expect("\x1b[?1049h\x1b[?25l") == ""
    frame_of(watching)
    watching.resize(50, 200)
    shown = frame_of(watching)
    assert shown[1] == f"{source} on {work.mountpoint}"
    assert any(line.startswith("  state        up for") for line in shown)
    assert shown[-1].startswith("  speed")
    watching.resize(5, 20)
    assert frame_of(watching)[1:] == [line[:19] for line in shown[1:4]]
    watching.send("\x03")
    assert watching.wait() == CtlCode.OK
    assert watching.output.replace("^C", "") == "\x1b[?25h\x1b[?1049l"


def test_watch_elsewhere_is_a_line_each_time_and_ends_with_the_mount(
    work: Workspace, server: Sshd, remote: Path, programs: Programs
) -> None:
    work.mounted(server.source(remote), *server.options())
    place = str(work.mountpoint)
    few = work.ctl("watch", place, "--count", "3", "--interval=0.1")
    assert few.returncode == CtlCode.OK
    lines = few.stdout.splitlines()
    assert len(lines) == 3 and all("; ok; up; rtt " in line for line in lines)
    states = work.ctl("watch", place, "--count", "2", "--interval=0.1", "--json").stdout
    assert [json.loads(line)["health"] for line in states.splitlines()] == ["ok", "ok"]
    watching = programs.ctl(work, "watch", place, "--interval", "0.1")
    assert watching.stdout is not None and "ok" in watching.stdout.readline()
    assert work.ctl("umount", place).returncode == CtlCode.OK
    _, err = watching.communicate(timeout=10)
    assert watching.returncode == CtlCode.OK
    assert err == f"{place}: not mounted any more\n"


# --- caches -------------------------------------------------------------------------------------


def test_dropped_caches_are_asked_for_again(work: Workspace, server: Sshd, remote: Path) -> None:
    long = ["dcache_timeout=3600", "entry_timeout=3600", "attr_timeout=3600", "kernel_cache"]
    work.mounted(server.source(remote), *server.options(), *long, "negative_timeout=3600")
    (remote / "dir").mkdir()
    show = ["sh", "-c", 'cd "$0"; cat file; stat -c %a file; cat late; ls']
    argv = [*show, str(work.mountpoint)]
    first = work.run(argv).stdout
    assert first == "content644\ndir\nfile\n"
    old = (remote / "file").stat()
    (remote / "file").write_text("CONTENT")
    (remote / "file").chmod(0o600)
    os.utime(remote / "file", ns=(old.st_atime_ns, old.st_mtime_ns))
    (remote / "late").write_text("late\n")
    assert work.run(argv).stdout == first
    # What is mounted on a directory of it stays.
    place = f"{work.mountpoint}/dir"
    work.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        assert work.ctl("drop-caches", str(work.mountpoint)).returncode == CtlCode.OK
        assert work.run(argv).stdout == "CONTENT600\nlate\ndir\nfile\nlate\n"
        assert work.run(["stat", "-f", "-c", "%T", place]).stdout == "tmpfs\n"
    finally:
        work.run(["umount", place], check=True)


# --- whose --------------------------------------------------------------------------------------


def test_an_ordinary_user_rules_his_own_mount_and_so_does_root(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    argv = [*user, *work.argv(server.source(remote), *user_options(server))]
    work.run(argv, check=True)
    daemon = work.daemon()
    place = str(work.mountpoint)
    for prefix in (user, []):
        (state,) = json.loads(work.ctl("status", place, "--json", prefix=prefix).stdout)
        assert state["pid"] == daemon and state["owner"] == ORDINARY and state["waiting"] == 0
        for command in ("drop-caches", "reconnect", "flush"):
            done = work.ctl(command, place, prefix=prefix)
            assert (done.returncode, done.stderr) == (CtlCode.OK, "")
    everything = work.ctl("status", "--json", prefix=user).stdout
    assert [each["mountpoint"] for each in json.loads(everything)] == [place]
    assert work.ctl("abort", place, prefix=user).returncode == CtlCode.OK
    wait_ended(daemon)
    assert work.ctl("umount", place, prefix=user).returncode == CtlCode.OK
    assert work.entry() is None


def test_the_only_mount_need_not_be_named(
    work: Workspace, server: Sshd, remote: Path, user: list[str]
) -> None:
    argv = [*user, *work.argv(server.source(remote), *user_options(server))]
    work.run(argv, check=True)
    work.daemon()
    assert work.ctl("flush", prefix=user).returncode == CtlCode.OK
    refused_ = work.ctl("umount", prefix=user)
    assert refused_.returncode == CtlCode.USAGE and work.entry() is not None
