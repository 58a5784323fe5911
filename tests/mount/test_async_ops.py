"""`-o async_ops` on a real mount: what the server holds after a flush, also when its sessions end
in the middle, and where failures are told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.control_client import ask
from tests.mount import trees
from tests.mount.places import wait_until
from tests.mount.trouble import Network, socket_of, status, wait_up
from tests.support import procs
from tests.support.commands import CTL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mounts import Mount


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A tree in directories, as a tar file; the tree is beside it."""
    trees.make(tmp_path / "tree")
    many = tmp_path / "tree/many"
    many.mkdir()
    for number in range(300):
        (many / f"{number}").write_text(f"{number}\n" * number)
    procs.run_limited(
        ["tar", "cf", str(tmp_path / "tree.tar"), "-C", str(tmp_path), "tree"], timeout=60
    )
    return tmp_path / "tree.tar"


def flush(mount: Mount) -> dict[str, object]:
    return ask(socket_of(mount), "flush", 60)


def test_a_tree_is_unpacked_and_removed(network: Network, archive: Path) -> None:
    with network.mount("async_ops") as mount:
        mount.run(["tar", "xf", str(archive)], timeout=60)
        assert flush(mount).get("ok")
        wanted = trees.snapshot(str(archive.parent / "tree"))
        assert trees.snapshot(str(network.served / "tree")) == wanted
        assert status(mount)["unanswered_operations"] == 0
        mount.run(["rm", "-rf", "tree"], timeout=60)
        assert flush(mount).get("ok")
        assert list(network.served.iterdir()) == []
        mount.run(["tar", "xf", str(archive)], timeout=60)
    # Unmounting delivers, too.
    assert trees.snapshot(str(network.served / "tree")) == wanted


def test_a_repository_is_cloned(network: Network, tmp_path: Path) -> None:
    script = f"""
        cd {tmp_path}; git init -q origin; cd origin
        git config user.name n; git config user.email e@e
        for i in 1 2 3 4 5 6 7 8 9; do mkdir d$i; echo $i > d$i/file; git add . ; git commit -qm $i
        done
    """
    procs.run_limited(["sh", "-ec", script], timeout=60)
    with network.mount("async_ops") as mount:
        clone = ["git", "clone", "-q", "--no-hardlinks", str(tmp_path / "origin"), "clone"]
        mount.run(clone, timeout=60)
        assert mount.run(["git", "status", "--short"], cwd="clone", timeout=60).stdout == ""
        mount.run(["git", "fsck", "--strict"], cwd="clone", timeout=60)
        assert flush(mount).get("ok")
    served = str(network.served / "clone")
    safe = ["git", "-c", f"safe.directory={served}", "-C", served]
    procs.run_limited([*safe, "fsck", "--strict"], timeout=60)
    assert procs.run_limited([*safe, "status", "--short"], timeout=60).stdout == ""


def test_a_tree_is_renamed_and_linked_while_sessions_end(network: Network) -> None:
    """All of it in directories that were made here, so that nothing waits for the server."""
    script = """
import os
os.mkdir("d"); os.mkdir("d/a")
for i in range(300):
    with open(f"d/a/{i}", "w") as file: file.write(str(i))
os.mkdir("d/b")
print(flush=True)
input()
for i in range(300):
    os.rename(f"d/a/{i}", f"d/b/{i}")
    os.link(f"d/b/{i}", f"d/a/{i}")
os.rename("d/a", "d/c")
os.rename("d/b", "d/a")
"""
    with network.mount("async_ops") as mount:
        running = mount.start([sys.executable, "-I", "-c", script])
        assert running.stdout is not None and running.stdin is not None
        running.stdout.readline()
        running.stdin.write(b"\n")
        running.stdin.flush()
        for sessions in range(1, 3):
            network.sshd.kill_sessions()
            wait_up(mount, sessions)
        assert running.wait(60) == 0
        assert flush(mount).get("ok")
    for name in ("a", "c"):
        found = {path.name: path.read_text() for path in (network.served / "d" / name).iterdir()}
        assert found == {str(number): str(number) for number in range(300)}
    assert (network.served / "d/a/7").samefile(network.served / "d/c/7")


def test_sessions_that_end_in_the_middle(network: Network, archive: Path) -> None:
    with network.mount("async_ops") as mount:
        running = mount.start(["sh", "-c", f"tar xf {archive} && rm -rf tree && tar xf {archive}"])
        for sessions in range(1, 4):
            network.sshd.kill_sessions()
            wait_up(mount, sessions)
        assert running.wait(60) == 0
        assert flush(mount).get("ok")
        wanted = trees.snapshot(str(archive.parent / "tree"))
        assert trees.snapshot(str(network.served / "tree")) == wanted


def test_failures_are_told_to_flush_and_to_fsync_of_the_directory(network: Network) -> None:
    script = """
import os
os.mkdir("made")
os.mkdir("made/one")
input()
try:
    with open("made/theirs", "w") as file: file.write("ours")
except OSError:
    pass  # it may be known by then
directory = os.open("made", os.O_RDONLY)
for _ in range(2):
    try:
        os.fsync(directory)
        print("fine")
    except OSError as error:
        print("failed")
with open("made/theirs", "r") as file: print(file.read())
os.mkdir("made/more")
"""
    with network.mount("async_ops") as mount:
        mount.allow_log_errors = True
        running = mount.start([sys.executable, "-I", "-c", script])
        wait_until("the directory", (network.served / "made/one").exists, 10)
        (network.served / "made/theirs").write_text("theirs")
        (network.served / "made/more").mkdir()
        output, errors = running.communicate(b"\n", timeout=30)
        assert output.split() == [b"failed", b"fine", b"theirs"], errors
        told = procs.run_limited([*CTL, "flush", str(mount.mountpoint)], timeout=30, check=False)
        assert told.returncode != 0
        told = procs.run_limited([*CTL, "flush", str(mount.mountpoint)], timeout=30, check=False)
        assert told.returncode == 0
        assert "made/more" in mount.log()
    assert network.saved() == {"theirs": b"ours"}
