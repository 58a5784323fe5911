"""The kinds of units that systemd has for mounts: .mount, .automount, lines of fstab."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from tests.support.commands import wait_until
from tests.systemd.machine import UNITS
from tests.systemd.pair import WHERE, Pair

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.proxy import Proxy
    from tests.support.sandbox import Sandbox
    from tests.support.sshd import Sshd
    from tests.systemd.machine import Machine


def cat(sandbox: Sandbox) -> str:
    return sandbox.run(["cat", f"{WHERE}/file"]).stdout


def test_a_mount_unit(pair: Pair) -> None:
    sandbox = pair.sandbox
    pair.install(("Options=_netdev,", "Options=_netdev,log_level=info,"))
    sandbox.systemctl("start", "mnt-far.mount")
    assert pair.is_mounted() and cat(sandbox) == "content"
    after = sandbox.shows("mnt-far.mount", "After").split()
    assert {"network-online.target", "remote-fs-pre.target"} <= set(after)
    assert "remote-fs.target" in sandbox.shows("mnt-far.mount", "Before").split()
    # What the daemon says in the background goes to the journal, and belongs to the unit.
    assert "is mounted on" in sandbox.journal("--unit=mnt-far.mount", "--priority=info..info")
    sandbox.systemctl("stop", "mnt-far.mount")
    assert not pair.is_mounted()
    assert sandbox.shows("mnt-far.mount", "Result") == "success"


def test_the_first_access_mounts(pair: Pair) -> None:
    """Within a second of what the command takes: the trap itself costs next to nothing."""
    sandbox = pair.sandbox
    sandbox.systemctl("start", "mnt-far.automount")
    assert sandbox.mounted(WHERE) == "autofs"
    began = time.monotonic()
    assert cat(sandbox) == "content"
    access = time.monotonic() - began
    assert pair.is_mounted()
    # From the start of mount(8) to its end.
    start, end = (
        int(sandbox.shows("mnt-far.mount", f"{change}TimestampMonotonic")) / 1_000_000
        for change in ("InactiveExit", "ActiveEnter")
    )
    print(f"mount(8) took {end - start:.2f} s, the first access {access:.2f} s")
    assert access - (end - start) < 1.0


def test_what_is_not_used_is_unmounted(pair: Pair) -> None:
    sandbox = pair.sandbox
    pair.install(("TimeoutIdleSec=10min", "TimeoutIdleSec=1"))
    sandbox.systemctl("start", "mnt-far.automount")
    with sandbox.started(["sh", "-c", f"cd {WHERE} && echo && read line"]) as (_, output):
        output.readline()
        assert pair.is_mounted()
        time.sleep(2)  # there is nothing to be seen of an expiry that does not come
        assert pair.is_mounted(), "unmounted under a program that uses it"
    wait_until("the idle mount to be unmounted", lambda: not pair.is_mounted())
    assert sandbox.mounted(WHERE) == "autofs"


def test_a_mount_that_fails_says_why_and_the_next_access_tries_again(
    pair: Pair, link: Proxy
) -> None:
    sandbox = pair.sandbox
    link.stop()
    sandbox.systemctl("start", "mnt-far.automount")
    refused = sandbox.run(["ls", f"{WHERE}/."], check=False)
    assert refused.returncode != 0 and sandbox.mounted(WHERE) == "autofs"
    assert sandbox.shows("mnt-far.mount", "ActiveState") == "failed"
    sandbox.run(["journalctl", "--sync"])
    shown = sandbox.systemctl("status", "--no-pager", "mnt-far.mount", check=False).stdout
    assert re.search(r": pysshfs: 127\.0\.0\.1.*refused", shown), shown
    link.start()
    assert cat(sandbox) == "content"


def test_a_line_of_fstab(
    pair: Pair, machine: Machine, server: Sshd, remote: Path, link: Proxy
) -> None:
    sandbox = pair.sandbox
    pair.remove()
    (line,) = [
        line
        for line in (UNITS / "examples" / "fstab").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    _, where, kind, options, *rest = line.split()
    identity = "IdentityFile=/etc/pysshfs/id_far,UserKnownHostsFile=/etc/pysshfs/known_hosts"
    assert identity in options and "x-systemd.automount" in options and where == WHERE
    options = options.replace(identity, machine.options(link.port))
    sandbox.put("/etc/fstab", " ".join([server.source(remote), where, kind, options, *rest]) + "\n")
    sandbox.systemctl("daemon-reload")
    assert sandbox.shows("mnt-far.automount", "SourcePath") == "/etc/fstab"
    assert sandbox.shows("mnt-far.automount", "TimeoutIdleUSec") == "10min"
    assert sandbox.shows("mnt-far.mount", "TimeoutUSec") == "30s"
    assert "network-online.target" in sandbox.shows("mnt-far.mount", "After").split()
    sandbox.systemctl("start", "mnt-far.automount")
    assert cat(sandbox) == "content" and pair.is_mounted()
    sandbox.systemctl("stop", "mnt-far.automount")
    assert sandbox.mounted(WHERE) is None
