"""The helper of mount(8): its command line, and what is done around it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.cli import installing, mounthelper, mountlock, surroundings
from pysshfs.cli.exitcodes import ExitCode
from pysshfs.cli.mounthelper import parse_call
from pysshfs.cli.mountlock import MountLock
from pysshfs.cli.parser import join_options, parse_argv, split_options
from pysshfs.cli.usage import UsageError
from pysshfs.errors import StartupError
from pysshfs.fuse import handdown
from tests.support.procs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# --- the command line ---------------------------------------------------------------------------


def test_as_mount_calls_it() -> None:
    call = parse_call(["u@h:/d", "/mnt", "-s", "-n", "-v", "-o", "rw,Port=22,user", "-N", "17"])
    assert (call.source, call.mountpoint) == ("u@h:/d", "/mnt")
    assert call.options == ["rw", "Port=22", "user"]
    assert (call.fake, call.verbose, call.namespace) == (False, True, "/proc/17/ns/mnt")
    assert parse_call(["u@h:", "/mnt", "-sfnw", "-N/run/x"]).namespace == "/run/x"
    assert parse_call(["-r", "u@h:", "/mnt", "-t", "fuse.pysshfs"]).options == ["ro"]


def test_the_last_of_several_options_counts() -> None:
    invocation = parse_argv(parse_call(["h:", "/mnt", "-o", "ro,Port=1", "-w", "-oPort=2"]).argv())
    assert invocation.kernel_options == ["rw"]
    assert invocation.ssh_options == [("Port", "2")]


def test_nothing_becomes_an_option_by_its_place() -> None:
    """A source may begin with a dash for all that mount(8) cares: it is refused as a source."""
    call = mounthelper.Call("-oProxyCommand=x:", "/mnt", ["ro"])
    with pytest.raises(UsageError, match="may not begin with '-'"):
        parse_argv(call.argv())


def test_the_programs_name_before_the_source() -> None:
    call = parse_call(["pysshfs#u@h:/d", "/mnt"])
    assert (call.source, call.options) == ("u@h:/d", ["fsname=pysshfs#u@h:/d"])
    assert parse_call(["pysshfs#u@h:/d", "/mnt", "-o", "fsname=x"]).options == ["fsname=x"]
    assert parse_call(["u@h:pysshfs#", "/mnt"]).source == "u@h:pysshfs#"


def test_what_is_for_the_helper_alone() -> None:
    call = parse_call(["h:", "/mnt", "-o", "setuid=who,ro,drop_privileges"])
    assert (call.user, call.drop_privileges, call.options) == ("who", True, ["ro"])
    for wrong in ("setuid", "setuid=", "drop_privileges=yes"):
        with pytest.raises(UsageError, match=wrong.partition("=")[0]):
            parse_call(["h:", "/mnt", "-o", wrong])


def test_sloppy_passes_over_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    call = parse_call(["h:", "/mnt", "-s", "-o", "vers=3,ro,setuid=who,X-y,remount"])
    # What is known and refused is no matter of being sloppy.
    assert call.options == ["ro", "X-y", "remount"] and call.user == "who"
    said = capsys.readouterr().err
    assert "'vers'" in said and said.count("\n") == 1


@given(st.lists(st.text(st.sampled_from("a=,\\ \"'"), min_size=1), max_size=6))
def test_options_survive_being_joined(items: list[str]) -> None:
    assert split_options(join_options(items)) == items


def test_exit_codes_are_mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {0: 0, ExitCode.USAGE: 1, ExitCode.FUSE_UNAVAILABLE: 2, ExitCode.INTERRUPTED: 8}
    for code in ExitCode:
        monkeypatch.setattr("pysshfs.cli.main.mount", lambda _, code=code: code)
        assert mounthelper.main(["h:", "/mnt"]) == known.get(code, 32)


# --- around the mount ---------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_not_taken_by_another_file(closed: str) -> None:
    code = (
        "import os, sys; from pysshfs.cli import surroundings; surroundings.provide_files()\n"
        "fd = os.open('/', os.O_RDONLY); assert fd > 2, fd\n"
        "sys.stdin.read(); print('out'); print('err', file=sys.stderr)\n"
    )
    argv = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert done.stdout == ("out\n" if ">&-" not in f" {closed}".replace("2>&-", "") else "")


def test_home_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    surroundings.provide_home()
    assert os.environ["HOME"] == "/somewhere"
    monkeypatch.setenv("HOME", "")
    surroundings.provide_home()
    assert os.environ["HOME"] == pwd.getpwuid(os.getuid()).pw_dir
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("LOGNAME", raising=False)

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    surroundings.provide_home()
    assert (os.environ["HOME"], os.environ["LOGNAME"]) == ("/", str(os.getuid()))
    monkeypatch.setenv("LOGNAME", "")  # and is taken back afterwards


def test_options_for_mount2() -> None:
    options = ["nosuid", "nodev", "ro", "noatime", "dev", "allow_root", "max_read=8192"]
    assert handdown._arguments(options) == (1 | 2 | 4 | 1024, ",allow_other,max_read=8192")
    with pytest.raises(StartupError, match="auto_unmount"):
        handdown._arguments(["auto_unmount"])


def test_a_lock_leaves_no_file_and_the_next_one_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mountlock, "private_directory", lambda _: tmp_path)
    first = MountLock("/mnt")
    (file,) = tmp_path.iterdir()
    # Another waits, for the lock on the file that is there now, and must not get that one.
    seen: list[list[Path]] = []

    def second() -> None:
        lock = MountLock("/mnt")
        seen.append(list(tmp_path.iterdir()))
        lock.release()

    waiting = threading.Thread(target=second)
    waiting.start()
    while "lock" not in _where(waiting):
        assert waiting.is_alive()
    assert file.exists() and not seen
    first.release()
    waiting.join(10)
    assert seen == [[file]]
    assert list(tmp_path.iterdir()) == []


def _where(thread: threading.Thread) -> str:
    """What a thread waits for in the kernel, as far as that says."""
    directory = f"/proc/self/task/{thread.native_id}"
    with open(f"{directory}/syscall") as file:
        number = file.read().split()[0]
    with open(f"{directory}/wchan") as file:
        return "flock" if number == _FLOCK.get(os.uname().machine) else file.read()


# asm/unistd.h
_FLOCK = {"x86_64": "73", "aarch64": "32"}


def test_without_a_private_directory_there_is_no_lock(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: int) -> None:
        raise PermissionError("not private")

    monkeypatch.setattr(mountlock, "private_directory", refuse)
    MountLock("/mnt").release()
    assert "no lock" in caplog.text


# --- installing ---------------------------------------------------------------------------------


def test_what_others_may_change_is_not_for_root_to_run(tmp_path: Path) -> None:
    directory = tmp_path / "bin"
    directory.mkdir(0o755)
    script = directory / "mount.pysshfs"
    script.touch(0o755)
    installing._check_trust(script)
    for mode, trusted in ((0o775, False), (0o757, False), (0o1777, True), (0o755, True)):
        directory.chmod(mode)
        if trusted:
            installing._check_trust(script)
        else:
            with pytest.raises(installing.InstallationError, match=str(directory)):
                installing._check_trust(script)
    os.chown(script, 65534, 65534)
    with pytest.raises(installing.InstallationError, match="others than root"):
        installing._check_trust(script)
