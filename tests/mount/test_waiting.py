"""What programs see while the server cannot be reached, and of it when it can be again."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.mount.places import read_a_line, wait_until
from tests.mount.trouble import (
    DOWN,
    Network,
    go,
    python,
    reconnect,
    status,
    wait_noticed,
    wait_requests,
    wait_up,
)
from tests.support import procs
from tests.support.commands import as_ordinary_user

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mount

#: Seconds within which a program that is interrupted goes on.
_PROMPTLY = 1.0

_PRELUDE = """
import errno, mmap, os, signal, sys, time
def ready():
    print("ready", flush=True)
    input()
def outcome(call):
    began = time.monotonic()
    try:
        result = call()
        result = "ok" if result is None else result
    except KeyboardInterrupt:
        result = "interrupted"
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(f"{result} {time.monotonic() - began:.2f}", flush=True)
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        for name in ("file", "other"):
            (made.served / name).write_text("content")
        (made.served / "directory").mkdir()
        yield made


def program(mount: Mount, before: str, after: str) -> subprocess.Popen[bytes]:
    """A program that has done what comes `before` and, when told to go, does the rest."""
    return python(mount, f"{_PRELUDE}\n{before}\nready()\n{after}\n")


def outcome(running: subprocess.Popen[bytes], limit: float = 20) -> tuple[str, float]:
    words = read_a_line(running, limit).decode().rsplit(maxsplit=1)
    assert len(words) == 2, running.communicate(timeout=5)
    return words[0], float(words[1])


_ASKS = {
    "stat": "os.stat('file').st_size",
    "open": "open('file').read()",
    "listdir": "len(os.listdir('directory'))",
}
_CHANGES = {
    "mkdir": "os.mkdir('made')",
    "create": "open('made', 'x').close()",
    "unlink": "os.unlink('file')",
    "rename": "os.rename('file', 'made')",
    "chmod": "os.chmod('file', 0o600)",
    "truncate": "os.truncate('file', 1)",
    "symlink": "os.symlink('file', 'made')",
    "rmdir": "os.rmdir('directory')",
}


# --- waiting, and being freed ---------------------------------------------------------------------


@pytest.mark.parametrize("call", _ASKS.values(), ids=_ASKS)
def test_what_asks_waits_and_is_answered(network: Network, call: str) -> None:
    with network.mount("dir_cache=no", "hard") as mount:
        asking = program(mount, "", f"outcome(lambda: {call})")
        with network.is_down():
            wait_noticed(mount)
            go(asking)
            wait_requests(mount, asking.pid)
            assert not procs.wait_gone(asking, 3)  # it does not give up
        result, took = outcome(asking)
        assert (
            result
            == {"stat": "7", "open": "content", "listdir": "0"}[
                next(name for name, text in _ASKS.items() if text == call)
            ]
        )
        assert took > 3
        asking.communicate(timeout=5)


@pytest.mark.parametrize("call", [*_ASKS.values(), *_CHANGES.values()], ids=[*_ASKS, *_CHANGES])
def test_what_waits_is_interrupted_at_once_and_nothing_happens(network: Network, call: str) -> None:
    before = contents(network.served)
    with network.mount("dir_cache=no") as mount:
        asking = program(mount, "", f"outcome(lambda: {call})")
        with network.is_down():
            wait_noticed(mount)
            go(asking)
            wait_requests(mount, asking.pid)
            began = time.monotonic()
            os.kill(asking.pid, signal.SIGINT)
            assert outcome(asking)[0] == "interrupted"
            assert time.monotonic() - began < _PROMPTLY
            assert not status(mount)["requests"]
            asking.communicate(timeout=5)
        wait_up(mount)
        assert mount.run(["cat", "other"]).stdout == "content"  # behind whatever was sent
        assert contents(network.served) == before


def contents(directory: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.lstat().st_mode, path.lstat().st_size) for path in directory.iterdir()}


@pytest.mark.parametrize("how", DOWN)
def test_with_a_timeout_calls_fail_with_etimedout(network: Network, how: str) -> None:
    with network.mount("dir_cache=no", "timeout=2") as mount:
        asking = program(mount, "", "outcome(lambda: os.stat('file'))")
        with network.is_down(how):
            go(asking)
            result, took = outcome(asking)
            assert result == "ETIMEDOUT" and 1.5 < took < 8
            asking.communicate(timeout=5)
        wait_until("it serves", lambda: not mount.run(["cat", "file"], check=False).returncode, 20)


def test_other_users_are_not_kept_waiting_as_the_owner_is(network: Network) -> None:
    """A user who lets others in must not be able to hang them for good."""
    code = f"{_PRELUDE}\nready()\noutcome(lambda: os.stat('other').st_size)"
    with network.mount("dir_cache=no", "allow_other", "others_timeout=2") as mount:
        mount._directory.chmod(0o755)  # for the others to come as far as the mount
        other = mount.start([*as_ordinary_user(), sys.executable, "-I", "-c", code])
        assert read_a_line(other) == b"ready\n"
        owner = program(mount, "", "outcome(lambda: os.stat('file').st_size)")
        with network.is_down():
            wait_noticed(mount)
            go(owner)
            go(other)
            result, took = outcome(other)
            assert result == "ETIMEDOUT" and 1.5 < took < 5
            wait_requests(mount, owner.pid)
        result, took = outcome(owner)
        assert result == "7" and took > 2
        owner.communicate(timeout=5)
        other.communicate(timeout=5)


# --- answered all the same ------------------------------------------------------------------------


@pytest.mark.parametrize("how", DOWN)
def test_what_is_fresh_in_the_cache_is_served(network: Network, how: str) -> None:
    look = """
held = open("file")
def look():
    names, file = sorted(os.listdir(".")), os.stat("file")
    return names, file.st_size, file.st_mode & 0o777, held.seek(0), held.read()
look()
"""
    with network.mount("dcache_timeout=300", "entry_timeout=0", "attr_timeout=0") as mount:
        running = program(mount, look, "outcome(look)")
        with network.is_down(how):
            if how == "stopped":
                wait_noticed(mount)
            go(running)
            result, took = outcome(running)
            assert result == "(['directory', 'file', 'other'], 7, 420, 0, 'content')"
            assert took < _PROMPTLY
            running.communicate(timeout=5)


@pytest.mark.parametrize("how", DOWN)
@pytest.mark.parametrize("was_asked", [False, True])
def test_the_root_and_df_answer_within_a_second(
    network: Network, how: str, was_asked: bool
) -> None:
    before = "os.statvfs('.'); os.stat('.')" if was_asked else ""
    after = "outcome(lambda: os.statvfs('.').f_bsize > 0)\noutcome(lambda: os.stat('.').st_mode)"
    with network.mount("dir_cache=no") as mount:
        running = program(mount, before, after.replace("\n", "\ninput()\n"))
        with network.is_down(how):
            if how == "stopped":
                wait_noticed(mount)
            go(running)
            result, took = outcome(running, 5)
            assert result == "True" and took < 1.3
            go(running)
            result, took = outcome(running, 5)
            assert int(result) & 0o40000 and took < 1.3
            running.communicate(timeout=5)
            if how == "stopped":
                # It looks at the mount, opens it and asks: each has its second.
                df = procs.run_limited(["df", str(mount.mountpoint)], timeout=5)
                assert df.stdout.count("\n") == 2


# --- open files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DOWN)
def test_open_files_survive(network: Network, how: str) -> None:
    """A reader in the middle, a writer with unacknowledged data, a mapping and a listing."""
    large = os.urandom(6 << 20)
    (network.served / "large").write_bytes(large)
    crowd = network.served / "crowd"
    crowd.mkdir()
    for number in range(5000):
        (crowd / f"n{number:04}").touch()
    code = """
reading = open("large", "rb", buffering=0)
head = reading.read(100_000)
writing = os.open("written", os.O_CREAT | os.O_RDWR)
os.write(writing, b"a" * 300_000)
mapping = mmap.mmap(os.open("large", os.O_RDONLY), 0, prot=mmap.PROT_READ)
mapped = mapping[:4096]
listing = os.scandir("crowd")
names = [next(listing).name for _ in range(10)]
ready()
os.write(writing, b"b" * 300_000)
print("going on", flush=True)
input()
import hashlib
def digest(data):
    return hashlib.sha256(data).hexdigest()
while part := reading.read(1 << 20):
    head += part
outcome(lambda: digest(head))
outcome(lambda: digest(mapping[:]))
names += [entry.name for entry in listing]
outcome(lambda: f"{len(names)} {len(set(names))}")
os.write(writing, b"c" * 300_000)
outcome(lambda: os.fsync(writing))
outcome(lambda: os.close(writing))
"""
    digest = hashlib.sha256(large).hexdigest()
    with network.mount("no_readahead", "ServerAliveInterval=1") as mount:
        running = python(mount, _PRELUDE + code)
        with network.is_down(how):
            if how == "stopped":
                wait_noticed(mount)
            go(running)
            assert read_a_line(running) == b"going on\n"
            go(running)
            wait_requests(mount, running.pid)
            wait_noticed(mount)
        out, err = running.communicate(timeout=60)
        said = [line.rsplit(maxsplit=1)[0] for line in out.decode().splitlines()]
        assert said == [digest, digest, "5000 5000", "ok", "ok"], (said, err)
        assert status(mount)["reconnects"] >= 1
    written = (network.served / "written").read_bytes()
    assert written == b"a" * 300_000 + b"b" * 300_000 + b"c" * 300_000


def test_a_log_writer_loses_and_doubles_no_line(network: Network) -> None:
    """And its readers, here and at the server, see the same: as `tail -f` would."""
    writer_code = """
fd = os.open("log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
ready()
for number in range(600):
    os.write(fd, b"line %d\\n" % number)
    time.sleep(0.01)
os.close(fd)
print("closed", flush=True)
"""
    tail_code = """
open("log", "a").close()
fd = os.open("log", os.O_RDONLY)
ready()
seen = b""
while not seen.endswith(b"line 599\\n"):
    part = os.read(fd, 65536)
    seen += part
    if not part:
        time.sleep(0.05)
        os.fstat(fd)
sys.stdout.write(seen.decode())
"""
    with network.mount("dcache_timeout=1") as mount:
        mount.allow_log_errors = True
        writer, tail = python(mount, _PRELUDE + writer_code), python(mount, _PRELUDE + tail_code)
        go(writer)
        go(tail)
        for number in range(3):
            time.sleep(0.5)  # it writes on
            network.sshd.restart() if number % 2 else reconnect(mount)
            wait_up(mount, number + 1)
        out, err = writer.communicate(timeout=60)
        assert out == b"closed\n", err
        seen, err = tail.communicate(timeout=30)
        expected = "".join(f"line {number}\n" for number in range(600))
        assert (network.served / "log").read_text() == expected
        assert seen.decode() == expected, err


def test_a_file_renamed_while_open_and_down(network: Network) -> None:
    """Renamed before, it is found under its new name; renamed while down, when that is done."""
    before = (
        "fd = os.open('file', os.O_RDWR); os.write(fd, b'1'); os.fsync(fd)\n"
        "os.rename('file', 'moved')"
    )
    after = (
        "os.write(fd, b'2')\noutcome(lambda: os.rename('moved', 'again'))\n"
        "outcome(lambda: os.fsync(fd))\noutcome(lambda: os.pread(fd, 9, 0))"
    )
    with network.mount() as mount:
        running = program(mount, before, after)
        with network.is_down():
            wait_noticed(mount)
            go(running)
            wait_requests(mount, running.pid)
        out, err = running.communicate(timeout=30)
        said = [line.rsplit(maxsplit=1)[0] for line in out.decode().splitlines()]
        assert said == ["ok", "ok", "b'12ntent'"], (said, err)
        assert sorted(os.listdir(network.served)) == ["again", "directory", "other"]
        assert (network.served / "again").read_text() == "12ntent"


def test_a_file_that_became_something_else_is_stale_and_no_other(network: Network) -> None:
    before = "fd, other = os.open('file', os.O_RDWR), os.open('other', os.O_RDWR)"
    after = (
        "outcome(lambda: os.read(fd, 9))\noutcome(lambda: os.read(other, 9))\n"
        "outcome(lambda: os.listdir('file'))"
    )
    with network.mount("dcache_timeout=0") as mount:
        mount.allow_log_errors = True
        running = program(mount, before, after)
        with network.is_down():
            wait_noticed(mount)
            (network.served / "file").unlink()
            (network.served / "file").mkdir()
        wait_up(mount)
        go(running)
        out, err = running.communicate(timeout=30)
        said = [line.rsplit(maxsplit=1)[0] for line in out.decode().splitlines()]
        assert said == ["ESTALE", "b'content'", "[]"], (said, err)
        assert "file" in mount.log() and "ESTALE" in mount.log()


# --- what the server takes no more ----------------------------------------------------------------


@pytest.mark.parametrize("why", ["full", "read-only"])
@pytest.mark.parametrize("last", ["os.fsync(fd)", "os.close(fd)"], ids=["fsync", "close"])
def test_a_disk_that_takes_no_more_after_reconnecting(
    network: Network, why: str, last: str
) -> None:
    disk = network.served / "disk"
    disk.mkdir()
    procs.run_limited(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], timeout=10)
    try:
        opened = "fd = os.open('disk/file', os.O_CREAT | os.O_RDWR)"
        opened += "\nos.write(fd, b'1')\nos.fsync(fd)"
        after = f"os.write(fd, b'2' * 500_000)\noutcome(lambda: {last})"
        with network.mount() as mount:
            mount.allow_log_errors = True
            running = program(mount, opened, after)
            with network.is_down():
                wait_noticed(mount)
                go(running)
                wait_requests(mount, running.pid)
                if why == "full":
                    fill = ["dd", "if=/dev/zero", f"of={disk}/filler", "bs=64k"]
                    procs.run_limited(fill, timeout=10, check=False)
                else:
                    again = ["mount", "-o", "remount,ro", str(disk)]
                    wait_until(
                        "nobody has it open",
                        lambda: procs.run_limited(again, timeout=5, check=False).returncode == 0, 5,
                    )  # fmt: skip
            assert outcome(running)[0] == ("ENOSPC" if why == "full" else "ESTALE")
            running.communicate(timeout=10)
            wait_until("it is saved", lambda: bool(network.saved()), 5)
            saved, taken = network.saved()["file"], (disk / "file").read_bytes()
            whole = b"1" + b"2" * 500_000
            assert taken == whole[: len(taken)]
            # All that the server has not is in what was saved.
            assert len(saved) == len(whole) and saved[len(taken) :] == whole[len(taken) :]
    finally:
        procs.run_limited(["umount", "-l", str(disk)], timeout=10)
