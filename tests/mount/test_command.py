"""The command: what it mounts, what it refuses and in which words, and what the daemon is like."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import DESCRIPTIONS, ExitCode
from pysshfs.cli.help import help_text
from tests.support import procs
from tests.support.commands import (
    ORDINARY,
    Workspace,
    as_ordinary_user,
    fuse_for_everybody,
    one_line,
    refused,
    wait_ended,
)
from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd(extra_config=["ListenAddress ::1"]) as running:
        yield running


def answer_once(words: bytes) -> tuple[socket.socket, int]:
    """A server that says `words` to the first who connects, and then closes."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    threading.Thread(target=serve, daemon=True).start()
    return listening, listening.getsockname()[1]


# --- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "missing"),
        (["host:"], "mount point is missing"),
        (["host:", "/mnt", "more"], "one argument too many"),
        (["nocolon", "/mnt"], "':'"),
        (["-zone:", "/mnt"], "unknown option"),
        (["--", "-oProxyCommand=x:", "/mnt"], "may not begin with '-'"),
        (["host:", "/mnt", "-o", "nonsense"], "unknown option"),
        (["host:", "/mnt", "-o", "Port=x"], "Port"),
        (["host:", "/mnt", "-F", "/nonexistent/config"], "cannot read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_is_one_line(work: Workspace, words: list[str], said: str) -> None:
    words = [str(work.mountpoint) if word == "/mnt" else word for word in words]
    result = work.run([sys.executable, "-m", "pysshfs", *words])
    refused(result, ExitCode.USAGE, said)


def test_help_is_quick_and_loads_nothing_of_the_daemon(work: Workspace) -> None:
    # The quickest of several is what the program needs itself; the others waited for processors.
    argv = [sys.executable, "-m", "pysshfs", "--help"]
    costs = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "usage: pysshfs" in work.run(argv, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.150
    code = (
        "import sys; from pysshfs.cli.main import main; main(['--help']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    loaded = work.run([sys.executable, "-c", code], check=True).stderr
    assert "'pysshfs'" in loaded
    for heavy in ("asyncssh", "trio", "pyfuse3", "asyncio", "cryptography"):
        assert f"'{heavy}'" not in loaded


def test_help_may_be_read_in_part(work: Workspace) -> None:
    done = work.run(["sh", "-c", f"{sys.executable} -m pysshfs --help | head -n 1"])
    assert done.stdout.startswith("usage: pysshfs")
    assert done.stderr == ""


def test_exit_codes_descriptions_and_manuals_agree() -> None:
    assert set(DESCRIPTIONS) == set(ExitCode)
    assert len(set(DESCRIPTIONS.values())) == len(ExitCode)
    assert all(text and "\n" not in text for text in DESCRIPTIONS.values())
    readme = (procs.ROOT / "README.md").read_text()
    table = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", readme, re.M)}
    assert table == {int(code): text for code, text in DESCRIPTIONS.items()}
    told = " ".join(help_text().split())
    for code, text in DESCRIPTIONS.items():
        assert f"{int(code)} {text}" in told
    lost = re.findall(r"exit code (\d+)", readme)
    assert lost
    assert all(int(number) in set(ExitCode) for number in lost)


# --- in the background --------------------------------------------------------------------------


def test_the_command_returns_when_the_mount_answers(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    assert work.listing() == ["file"]
    work.unmount()
    assert not procs.is_alive(daemon)


def test_a_mount_that_does_not_answer_is_no_success(work: Workspace) -> None:
    code = (
        "import sys; from pysshfs.cli import daemon; from pysshfs.cli.exitcodes import ExitCode\n"
        "def run(reporter):\n reporter.detach()\n return daemon.Report(ExitCode.OK)\n"
        "sys.exit(daemon.run_in_background(run, sys.argv[1]))\n"
    )
    place = str(work.directory / "gone")
    result = work.run([sys.executable, "-c", code, place])
    refused(result, ExitCode.FAILURE, place, "does not answer")


@pytest.mark.parametrize(
    ("end", "said"),
    [("os.kill(os.getpid(), 9)", "SIGKILL"), ("os._exit(0)", "before the mount")],
)
def test_a_daemon_that_dies_before_the_mount(work: Workspace, end: str, said: str) -> None:
    code = (
        "import os, sys; from pysshfs.cli import daemon\n"
        f"sys.exit(daemon.run_in_background(lambda reporter: {end}, '/'))\n"
    )
    refused(work.run([sys.executable, "-c", code]), ExitCode.FAILURE, said)


def test_the_daemon_has_left_its_terminal_and_its_directory(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    daemon = work.mounted(server.source(remote), *server.options())
    assert os.getsid(daemon) == daemon
    assert os.readlink(f"/proc/{daemon}/cwd") == "/"
    for standard in (0, 1, 2):
        assert os.readlink(f"/proc/{daemon}/fd/{standard}") == "/dev/null"
    state, parent = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[:2]
    assert state != "Z" and int(parent) != os.getpid()
    # No descriptor of the caller's is left open either: nobody waits for the end of a pipe.
    kinds = [os.readlink(each) for each in Path(f"/proc/{daemon}/fd").iterdir()]
    assert not [kind for kind in kinds if kind.startswith("pipe:")]


#: Runs a command as the process that inherits its orphans, and prints their states.
_HEIR = """
import ctypes, os, subprocess, sys
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
subprocess.run(sys.argv[1:], check=True)
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{entry}/stat") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except OSError:
        continue
    if int(parent) == os.getpid():
        print(entry, state)
"""


def test_nothing_but_the_daemon_is_left_by_the_command(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    argv = work.argv(server.source(remote), *server.options())
    left = work.run([sys.executable, "-c", _HEIR, *argv], check=True).stdout.splitlines()
    (line,) = left
    pid, state = line.split()
    assert int(pid) == work.daemon() and state != "Z"


@pytest.mark.parametrize("form", ["absolute", "login", "relative", "slash", "dot"])
def test_the_remote_directory_may_be_written_in_many_ways(
    work: Workspace, server: Sshd, remote: Path, form: str
) -> None:
    home = Path.home()
    above = os.path.relpath(remote, home)
    text = {
        "absolute": str(remote),
        "login": "",
        "relative": above,
        "slash": f"{remote}/",
        "dot": f"{above}/./",
    }[form]
    daemon = work.mounted(server.source(text), *server.options())
    if form == "login":
        marker = "import os; s = os.stat('.'); print(s.st_mtime_ns // 10**9, s.st_mode)"
        seen = work.run(
            ["sh", "-c", 'cd -- "$1" && exec "$2" -I -c "$3"', "sh",
             str(work.mountpoint), sys.executable, marker], check=True
        ).stdout.split()  # fmt: skip
        there = home.stat()
        assert seen == [str(there.st_mtime_ns // 10**9), str(there.st_mode)]
    else:
        assert work.listing() == ["file"]
    assert procs.is_alive(daemon)


def test_an_ipv6_address_is_written_in_brackets(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    options = [*server.options(), "StrictHostKeyChecking=no", "HashKnownHosts=no",
               f"UserKnownHostsFile={work.ssh / 'known_hosts'}"]  # fmt: skip
    result = work.mount(f"{server.user}@[::1]:{remote}", *options)
    assert result.returncode == 0, result.stderr
    assert work.listing() == ["file"]
    assert (work.ssh / "known_hosts").read_text().startswith(f"[::1]:{server.port} ")


def test_a_relative_mountpoint_is_the_callers(work: Workspace, server: Sshd, remote: Path) -> None:
    argv = work.argv(server.source(remote), *server.options())
    argv[argv.index(str(work.mountpoint))] = "mnt"
    work.run(["sh", "-c", 'cd "$0" && exec "$@"', str(work.directory), *argv], check=True)
    work.daemon()
    assert work.listing() == ["file"]


@pytest.mark.parametrize(
    "name",
    ["plain", "a blank", "with,comma", "back\\slash", "both\\,", "n\u00e4me \u2603", "a\rb"],
    ids=ascii,
)
def test_source_and_mountpoint_may_have_any_name(
    work: Workspace, server: Sshd, tmp_path: Path, name: str
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    (directory / "file").touch()
    work.mountpoint = work.directory / name
    work.mountpoint.mkdir()
    source = server.source(directory)
    work.mounted(source, *server.options())
    entry = work.entry()
    assert entry is not None
    assert os.fsdecode(entry.source) == source
    assert entry.fstype == "fuse.pysshfs"
    assert work.listing() == ["file"]
    shown = work.ctl("status", str(work.mountpoint))
    assert shown.returncode == 0, shown.stderr


# --- mount options ------------------------------------------------------------------------------


def test_set_user_id_bits_and_devices_are_ignored_by_default(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    program = remote / "whoami"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    work.mounted(server.source(remote), *server.options(), "allow_other,default_permissions")
    entry = work.entry()
    assert entry is not None
    assert {"nosuid", "nodev", "rw"} <= set(entry.options.split(","))
    as_nobody = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    os.chmod(work.directory, 0o755)
    there = str(work.mountpoint / "whoami")
    assert work.run([*as_nobody, there, "-u"], check=True).stdout.strip() == str(ORDINARY)


def test_root_may_ask_for_suid_and_dev(work: Workspace, server: Sshd, remote: Path) -> None:
    work.mounted(server.source(remote), *server.options(), "suid,dev")
    entry = work.entry()
    assert entry is not None
    assert not {"nosuid", "nodev"} & set(entry.options.split(","))


def test_nobody_else_may_ask_for_suid(work: Workspace, server: Sshd) -> None:
    argv = work.argv(server.source("/"), "suid")
    refused(work.run([*as_ordinary_user(), *argv]), ExitCode.USAGE, "'suid'", "root")


def test_read_only(work: Workspace, server: Sshd, remote: Path) -> None:
    work.mounted(server.source(remote), *server.options(), "ro")
    entry = work.entry()
    assert entry is not None and "ro" in entry.options.split(",")
    failed = work.run(["touch", str(work.mountpoint / "new")])
    assert failed.returncode != 0 and "Read-only" in failed.stderr
    assert not (remote / "new").exists()


def test_options_for_the_kernel_arrive_there(work: Workspace, server: Sshd, remote: Path) -> None:
    work.mounted(
        server.source(remote), *server.options(), "allow_other,default_permissions",
        "noexec", "noatime", "fsname=some name,subtype=other",
    )  # fmt: skip
    entry = work.entry()
    assert entry is not None
    assert {"allow_other", "default_permissions"} <= set(entry.super_options.split(","))
    assert {"noexec", "noatime"} <= set(entry.options.split(","))
    assert (entry.source, entry.fstype) == (b"some name", "fuse.other")


def test_max_read_is_obeyed(work: Workspace, server: Sshd, remote: Path) -> None:
    (remote / "big").write_bytes(bytes(1 << 20))
    work.mounted(server.source(remote), *server.options(), "max_read=8192,direct_io")
    entry = work.entry()
    assert entry is not None and "max_read=8192" in entry.super_options.split(",")
    before = work.status()["requests_served"]
    work.run(["dd", f"if={work.mountpoint}/big", "of=/dev/null", "bs=1M"], check=True)
    assert work.status()["requests_served"] - before >= (1 << 20) // 8192


def test_default_permissions_is_the_kernels_check(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    (remote / "file").chmod(0o600)
    work.mounted(server.source(remote), *server.options(), "allow_other", "default_permissions")
    os.chmod(work.directory, 0o755)
    as_nobody = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    failed = work.run([*as_nobody, "cat", str(work.mountpoint / "file")])
    assert failed.returncode != 0 and "Permission denied" in failed.stderr


def test_without_allow_other_nobody_else_gets_in(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    work.mounted(server.source(remote), *server.options())
    os.chmod(work.directory, 0o755)
    as_nobody = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    failed = work.run([*as_nobody, "ls", str(work.mountpoint)])
    assert failed.returncode != 0 and "Permission denied" in failed.stderr


# --- the mountpoint -----------------------------------------------------------------------------


def test_a_mountpoint_that_is_missing(work: Workspace, server: Sshd) -> None:
    work.mountpoint.rmdir()
    result = work.mount(server.source("/"), *server.options())
    refused(result, ExitCode.MOUNTPOINT, str(work.mountpoint), "No such file")


def test_a_mountpoint_that_is_a_file(work: Workspace, server: Sshd) -> None:
    work.mountpoint.rmdir()
    work.mountpoint.touch()
    result = work.mount(server.source("/"), *server.options())
    refused(result, ExitCode.MOUNTPOINT, str(work.mountpoint), "not a directory")


def test_a_line_break_in_a_name_does_not_make_two_lines(work: Workspace, server: Sshd) -> None:
    work.mountpoint = work.directory / "a\nb\x1b[2J"
    result = work.mount(server.source("/"), *server.options())
    refused(result, ExitCode.MOUNTPOINT, "a\\nb\\x1b[2J")


def test_files_below_the_mountpoint_are_hidden_with_a_warning(
    work: Workspace, server: Sshd, remote: Path
) -> None:
    (work.mountpoint / "mine").write_text("kept")
    result = work.mount(server.source(remote), *server.options())
    assert result.returncode == ExitCode.OK
    assert "not empty" in one_line(result.stderr)
    work.daemon()
    assert work.listing() == ["file"]
    work.unmount()
    assert (work.mountpoint / "mine").read_text() == "kept"
    (work.mountpoint / "mine").unlink()


@pytest.mark.parametrize("through", ["itself", "a symlink to it", "a symlink above it"])
def test_a_dead_mount_is_cleaned_up(
    work: Workspace, server: Sshd, remote: Path, through: str
) -> None:
    place = work.mountpoint
    daemon = work.mounted(server.source(remote), *server.options())
    os.kill(daemon, signal.SIGKILL)
    wait_ended(daemon)
    assert work.entry() is not None
    argv = work.argv(server.source(remote), *server.options())
    if through == "a symlink to it":
        (work.directory / "link").symlink_to(place)
        argv[argv.index(str(place))] = str(work.directory / "link")
    elif through == "a symlink above it":
        (work.directory / "above").symlink_to(work.directory)
        argv[argv.index(str(place))] = str(work.directory / "above" / place.name)
    result = work.run(argv)
    assert result.returncode == ExitCode.OK, result.stderr
    assert "dead mount" in one_line(result.stderr)
    assert work.daemon() != daemon
    assert work.listing() == ["file"]
    work.unmount()
    assert work.entry() is None


# --- the server ---------------------------------------------------------------------------------


def test_nobody_listens(work: Workspace, server: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    result = work.mount(server.source("/"), *server.options(port))
    refused(result, ExitCode.UNREACHABLE, "127.0.0.1", "Connection refused")


def test_a_name_that_does_not_exist(work: Workspace) -> None:
    refused(work.mount("no-such-host.invalid:"), ExitCode.UNREACHABLE, "no-such-host.invalid")


def test_a_server_that_accepts_and_stays_silent(work: Workspace, server: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        result = work.mount(server.source("/"), *server.options(port), "ConnectTimeout=1")
    refused(result, ExitCode.UNREACHABLE, "127.0.0.1", "timed out")


def test_something_else_than_ssh_answers(work: Workspace, server: Sshd) -> None:
    listening, port = answer_once(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with listening:
        result = work.mount(server.source("/"), *server.options(port), "ConnectTimeout=3")
    refused(result, ExitCode.UNREACHABLE, "127.0.0.1")


def test_a_servers_parting_words_cannot_forge_lines(work: Workspace, server: Sshd) -> None:
    words = b"first\nsecond\x1b[2Jthird"
    payload = b"\x01" + (2).to_bytes(4) + len(words).to_bytes(4) + words + bytes(4)
    padding = 8 - (5 + len(payload)) % 8 + 8
    packet = (1 + len(payload) + padding).to_bytes(4) + bytes([padding]) + payload + bytes(padding)
    listening, port = answer_once(b"SSH-2.0-x\r\n" + packet)
    with listening:
        result = work.mount(server.source("/"), *server.options(port), "ConnectTimeout=3")
    refused(result, ExitCode.UNREACHABLE, "first\\nsecond\\x1b[2Jthird")


def test_a_remote_directory_that_is_missing(work: Workspace, server: Sshd, remote: Path) -> None:
    result = work.mount(server.source(remote / "absent"), *server.options())
    refused(result, ExitCode.REMOTE_DIRECTORY, str(remote / "absent"), "No such file")


def test_a_remote_directory_that_is_a_file(work: Workspace, server: Sshd, remote: Path) -> None:
    result = work.mount(server.source(remote / "file"), *server.options())
    refused(result, ExitCode.REMOTE_DIRECTORY, str(remote / "file"), "not a directory")


@pytest.mark.parametrize(
    "sftp_server",
    ["nonsense", "/bin/true", "/bin/echo Welcome", "/nonexistent/sftp-server", "/bin/cat"],
)
def test_a_server_without_sftp(work: Workspace, server: Sshd, sftp_server: str) -> None:
    result = work.mount(server.source("/"), *server.options(), f"sftp_server={sftp_server}")
    refused(result, ExitCode.SFTP_REFUSED, "SFTP")


def test_a_server_of_another_protocol_version(work: Workspace, server: Sshd) -> None:
    answer = "printf '\\000\\000\\000\\005\\002\\000\\000\\000\\004'; exec /bin/cat >/dev/null"
    script = f'sftp_server=/bin/sh -c "{answer}"'
    result = work.mount(server.source("/"), *server.options(), script)
    refused(result, ExitCode.SFTP_REFUSED, "version 4")


def test_the_sftp_server_may_be_a_command(work: Workspace, server: Sshd, remote: Path) -> None:
    work.mounted(server.source(remote), *server.options(), f"sftp_server={SFTP_SERVER} -R")
    assert work.listing() == ["file"]
    failed = work.run(["touch", str(work.mountpoint / "new")])  # -R: the server is read-only
    assert failed.returncode != 0
    assert not (remote / "new").exists()


def test_a_server_that_dies_after_the_handshake_is_no_traceback(
    work: Workspace, server: Sshd
) -> None:
    # VERSION, then the end: the login directory is never told.
    answer = "printf '\\000\\000\\000\\005\\002\\000\\000\\000\\003'; head -c 12 >/dev/null"
    script = f'sftp_server=/bin/sh -c "{answer}"'
    result = work.mount(server.source("/"), *server.options(), script)
    message = one_line(result.stderr)
    assert "Traceback" not in message
    assert result.returncode in (ExitCode.REMOTE_DIRECTORY, ExitCode.SFTP_REFUSED)


def test_fuse_is_not_available(work: Workspace, server: Sshd) -> None:
    """/dev/fuse is hidden in a mount namespace of its own."""
    argv = work.argv(server.source("/"), *server.options())
    script = 'mount --bind /dev/null /dev/fuse && exec "$@"'
    result = work.run(["unshare", "--mount", "sh", "-c", script, "sh", *argv])
    refused(result, ExitCode.FUSE_UNAVAILABLE, "mount")


def test_without_the_device_fuse_is_not_available(work: Workspace, server: Sshd) -> None:
    argv = work.argv(server.source("/"), *server.options())
    script = (
        'mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec "$@"'
    )
    result = work.run(["unshare", "--mount", "sh", "-c", script, "sh", *argv])
    refused(result, ExitCode.FUSE_UNAVAILABLE, "/dev/fuse")


def test_an_ordinary_user_without_the_mount_helper(work: Workspace, server: Sshd) -> None:
    with fuse_for_everybody():
        argv = work.argv(server.source("/"), *server.options())
        bare = ["env", "PATH=/nonexistent", *argv]
        result = work.run([*as_ordinary_user(), *bare])
    refused(result, ExitCode.FUSE_UNAVAILABLE, "fusermount3")
