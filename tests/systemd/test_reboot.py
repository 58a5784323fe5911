"""A reboot with a busy mount: what was written arrives, and a silent server is not waited for."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.sandbox import DEFAULT_STOP_SECONDS
from tests.systemd.machine import Machine, Service
from tests.systemd.pair import WHERE, Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.proxy import Proxy
    from tests.support.sandbox import Sandbox
    from tests.support.sshd import Sshd

#: Writes, holds the file open, and ends only when it is killed.
_USER = """
import os, signal, sys
for which in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(which, signal.SIG_IGN)
os.chdir(sys.argv[1])
file = open("written", "wb", buffering=0)
for _ in range(64):
    file.write(bytes(1 << 16))
print("busy", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def machine(server: Sshd) -> Iterator[Machine]:
    """One to be rebooted."""
    with Machine(server) as made:
        yield made


def reboot(sandbox: Sandbox) -> float:
    """Seconds until systemd has ended everything and asked the kernel for the reboot."""
    began = time.monotonic()
    sandbox.systemctl("reboot", check=False)
    assert sandbox.wait_ended(60), "the reboot hangs"
    return time.monotonic() - began


def make_busy(sandbox: Sandbox, mountpoint: str) -> None:
    """By a program of no unit's, which systemd kills last of all."""
    start = 'setsid python3 -Ic "$1" "$2" >/run/user.log 2>&1 &'
    sandbox.run(["sh", "-c", start, "sh", _USER, mountpoint])
    sandbox.run(["sh", "-c", "until grep -q busy /run/user.log; do sleep 0.05; done"])


@contextlib.contextmanager
def silent(link: Proxy, sandbox: Sandbox, mountpoint: str) -> Iterator[None]:
    """The server does not answer, and somebody waits for it."""
    link.freeze()
    try:
        wait = 'setsid touch "$1/new" >/run/new.log 2>&1 &'
        sandbox.run(["sh", "-c", wait, "sh", mountpoint])
        yield
    finally:
        link.thaw()


def test_a_reboot_delivers_what_was_written(far: Service, remote: Path) -> None:
    far.start()
    make_busy(far.sandbox, far.mountpoint)
    assert reboot(far.sandbox) < 20
    assert (remote / "written").read_bytes() == bytes(1 << 22)


def test_a_reboot_with_a_silent_server_is_bounded(far: Service, link: Proxy) -> None:
    """By the service's own time for stopping."""
    far.drop_in("[Service]\nTimeoutStopSec=3\n")
    far.start()
    make_busy(far.sandbox, far.mountpoint)
    with silent(link, far.sandbox, far.mountpoint):
        assert reboot(far.sandbox) < 3 + 20


def test_so_is_one_with_a_mount_unit(pair: Pair, link: Proxy) -> None:
    """umount(8) does not wait, and the daemon gets DefaultTimeoutStopSec, as every process does."""
    pair.sandbox.systemctl("start", "mnt-far.automount")
    make_busy(pair.sandbox, WHERE)
    with silent(link, pair.sandbox, WHERE):
        assert reboot(pair.sandbox) < 2 * DEFAULT_STOP_SECONDS + 20
