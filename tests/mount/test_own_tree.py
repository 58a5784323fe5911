"""Mounts that meet themselves: this machine's tree mounted within itself, and over ~/.ssh."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.mount.places import wait_until
from tests.mount.trouble import (
    Belongings,
    Network,
    go,
    python,
    reconnect,
    status,
    wait_requests,
    wait_up,
)
from tests.support import procs
from tests.support.mounts import Mount
from tests.support.sshd import INTERNAL_SFTP, SFTP_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Seconds within which a walk into the mount itself has failed: 2 until the server counts as
#: silent, half a second until that is looked at, for each of the few calls that fail.
_FREED = 15.0

_WALK = "print('ready', flush=True); input(); os.stat('sub/mnt'); os.listdir('sub/mnt')"

_WARNING = "walked into this mount"


@pytest.fixture(params=[SFTP_SERVER, INTERNAL_SFTP], ids=["program", "internal"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with Network(sftp=request.param) as made:
        (made.served / "file").write_text("content")
        (made.served / "sub/mnt").mkdir(parents=True)
        (made.served / "other").mkdir()
        (made.served / "other/file").write_text("other")
        yield made


def own_tree(network: Network, *options: str) -> Mount:
    """The served directory, mounted below itself."""
    mount = network.mount(*options, mountpoint=network.served / "sub/mnt")
    mount.allow_log_errors = True
    return mount


def assert_it_serves(mount: Mount) -> None:
    assert mount.run(["cat", "file", "other/file"], timeout=10).stdout == "contentother"
    assert mount.run(["stat", "-c", "%s", "other/file"], timeout=10).stdout == "5\n"


def wait_let_go(mount: Mount) -> None:
    """The server walks on for a while, for what was listed ahead."""

    def is_idle() -> bool:
        known = status(mount)
        return not known["requests"] and not known["sftp_in_flight"]

    wait_until("the server walks no more", is_idle, 60)


@pytest.mark.parametrize(
    "walker",
    [["find", "."], ["ls", "-R", "."]],
    ids=lambda argv: argv[0],
)
def test_a_walk_into_the_mount_itself_ends_in_an_error(network: Network, walker: list[str]) -> None:
    with own_tree(network, "dir_cache=no") as mount:
        began = time.monotonic()
        walked = mount.run(walker, timeout=60, check=False)
        assert time.monotonic() - began < _FREED
        assert walked.returncode != 0 and "sub/mnt" in walked.stderr
        assert_it_serves(mount)
        assert mount.log().count(_WARNING) == 1
        wait_let_go(mount)


@pytest.mark.parametrize("network", [SFTP_SERVER], indirect=True, ids=["program"])
def test_from_the_cache_the_walk_comes_to_the_end_of_all_paths(network: Network) -> None:
    """What the daemon remembers it tells the server, too: then nothing waits for itself, and the
    tree goes on and on until paths are too long."""
    with own_tree(network) as mount:
        walked = mount.run(["find", ".", "-name", "file"], timeout=60, check=False)
        assert walked.stdout.count("\n") > 2
        assert_it_serves(mount)
        wait_let_go(mount)


def test_the_caller_is_told_why_and_others_wait_meanwhile(network: Network) -> None:
    """A request behind the one that stands still is answered when that has failed."""
    with own_tree(network, "dir_cache=no") as mount:
        walker = python(mount, "import os\n" + _WALK)
        go(walker)
        wait_requests(mount, walker.pid)
        assert mount.run(["cat", "other/file"], timeout=_FREED).stdout == "other"
        _, said = walker.communicate(timeout=_FREED)
        assert re.search(rb"OSError: \[Errno \d+\]", said)
        assert_it_serves(mount)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL], ids=lambda which: which.name)
def test_the_walker_is_freed_by_a_signal(network: Network, which: signal.Signals) -> None:
    walk = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + _WALK
    with own_tree(network, "dir_cache=no") as mount:
        walker = python(mount, walk)
        go(walker)
        wait_requests(mount, walker.pid)
        wait_until(
            "the server waits for itself",
            lambda: any(r["seconds"] > 0.3 for r in status(mount)["requests"]), 10,
        )  # fmt: skip
        os.kill(walker.pid, which)
        assert procs.wait_gone(walker, 2)
        assert_it_serves(mount)


@pytest.mark.parametrize("way", ["abort", "umount -l", "umount -f", "SIGTERM"])
@pytest.mark.parametrize("after", [0.2, 2.6])
def test_the_mount_can_be_ended_at_any_moment(network: Network, way: str, after: float) -> None:
    with own_tree(network, *(["dir_cache=no"] if after < 2 else [])) as mount:
        belongings = Belongings(mount)
        walker = mount.start(["sh", "-c", "exec find . >/dev/null 2>&1"])
        time.sleep(after)  # the moment is what this is about
        if way == "abort":
            mount.abort()
        elif way == "SIGTERM":
            os.kill(mount.pid, signal.SIGTERM)
        else:
            procs.run_limited([*way.split(), str(mount.mountpoint)], timeout=5, check=False)
        # The kernel aborts for umount -f what it then may find in use.
        expected = {"abort": {11}, "umount -f": {0, 11}}.get(way, {0})
        mount.expected_status = mount.wait_daemon(_FREED)
        assert mount.expected_status in expected
        assert procs.wait_gone(walker, _FREED)
        belongings.assert_gone(still_mounted=mount.expected_status == 11)
        # The server is free, too.
        again = [*network.sshd.ssh(), "cat", str(network.served / "file")]
        assert procs.run_limited(again, timeout=10).stdout == "content"
        if mount.is_mounted():
            procs.run_limited(["umount", "-l", str(mount.mountpoint)], timeout=5)


def test_changes_within_itself_fail_and_nothing_stays_behind(network: Network) -> None:
    code = """
import os, sys
for call in (lambda: os.mkdir('sub/mnt/made'), lambda: open('sub/mnt/new', 'w').close(),
             lambda: os.rename('sub/mnt/file', 'sub/mnt/moved')):
    try:
        call()
    except OSError as error:
        print(error.errno, flush=True)
"""
    with own_tree(network) as mount:
        numbers = mount.python(code, timeout=60).stdout.split()
        assert len(numbers) == 3 and str(errno.EINTR) not in numbers
        assert_it_serves(mount)


# --- over ~/.ssh ----------------------------------------------------------------------------------


@pytest.fixture
def home(network: Network) -> Path:
    """A home with all that a login needs in ~/.ssh, and nothing of it on the command line."""
    home = network.directory / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    sshd = network.sshd
    assert network.proxy is not None
    shutil.copy(sshd.client_key, home / ".ssh/id_ed25519")
    shutil.copy(sshd.known_hosts, home / ".ssh/known_hosts")
    (home / ".ssh/config").write_text(
        f"Host server\n HostName {sshd.host}\n Port {network.proxy.port}\n User {sshd.user}\n"
        " IdentityFile ~/.ssh/id_ed25519\n UserKnownHostsFile ~/.ssh/known_hosts\n"
        " StrictHostKeyChecking yes\n"
    )
    # What lies there while it is mounted leads nowhere.
    for name in ("config", "known_hosts", "id_ed25519"):
        (network.served / name).write_text("not what is wanted\n")
    return home


@pytest.mark.parametrize("network", [SFTP_SERVER], indirect=True, ids=["program"])
def test_a_mount_over_the_keys_reconnects_and_never_looks_at_itself(
    network: Network, home: Path
) -> None:
    env = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
    source = f"server:{network.served}"
    with Mount(source, "debug", mountpoint=home / ".ssh", env=env) as mount:
        mount.allow_log_errors = True
        assert mount.run(["cat", "config"]).stdout == "not what is wanted\n"
        quiet = traced(mount)
        assert quiet > 0
        # Nobody but the daemon does anything meanwhile: whatever is traced is its doing.
        reconnect(mount)
        wait_up(mount, 1)
        network.sshd.restart()
        wait_up(mount, 2)
        assert traced(mount) == quiet
        assert mount.run(["cat", "file", "other/file"]).stdout == "contentother"
        assert traced(mount) > quiet


def traced(mount: Mount) -> int:
    """How many requests of programs the daemon has served."""
    return len(re.findall(r" \w+ inode=\d+ pid=[1-9]\d* ", mount.log()))
