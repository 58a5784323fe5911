"""The service pysshfs@.service under a systemd of its own."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.commands import wait_until
from tests.support.procs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.proxy import Proxy
    from tests.systemd.machine import Service

#: Appends numbered blocks to a file on the mount, and says how many were taken.
_WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
taken = 0
try:
    while True:
        os.write(file, taken.to_bytes(8, "big") * 8192)
        taken += 1
        if taken == 64:
            print("busy", flush=True)
except OSError as error:
    print(taken, error.strerror, flush=True)
"""
_BLOCK = 8 * 8192

#: Aborts the connection of a mount.
_ABORT = """
number=$(awk -v place="$1" '$5 == place { split($3, part, ":"); print part[2] }' \
    /proc/self/mountinfo)
echo 1 >"/sys/fs/fuse/connections/$number/abort"
"""

#: A ProxyCommand.
_THROUGH = """#!/usr/bin/python3
import os, socket, sys, threading
there = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def back():
    while data := there.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back).start()
while data := os.read(0, 65536):
    there.sendall(data)
os._exit(0)
"""


def journal(far: Service, *words: str) -> list[dict[str, str]]:
    """What the service has logged since its last start, as the journal has it."""
    this = f"_SYSTEMD_INVOCATION_ID={far.invocation}"
    text = far.sandbox.journal("--output=json", this, *words)
    assert text, "nothing"
    return [json.loads(line) for line in text.splitlines()]


# --- its life -----------------------------------------------------------------------------------


def test_started_means_that_the_mount_answers(far: Service) -> None:
    far.start()
    assert far.cat() == "content"
    assert far.sandbox.mounted(far.mountpoint) == "fuse.pysshfs"
    assert far.shows("ActiveState") == "active"
    assert far.shows("StatusText") == "connected"
    (line,) = [each for each in journal(far) if "is mounted on" in each["MESSAGE"]]
    assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"]) == ("6", "pysshfs")
    assert line["MESSAGE"].startswith(far.source) and line["_SYSTEMD_UNIT"] == far.unit
    far.stop()
    assert far.shows("Result") == "success"
    assert far.sandbox.mounted(far.mountpoint) is None


def test_the_status_tells_of_the_connection(far: Service, link: Proxy) -> None:
    far.start()
    link.stop()
    shown = far.wait_status("not connected, trying again: ")
    assert "refused" in shown
    link.start()
    far.sandbox.systemctl("reload", far.unit)
    far.wait_status("connected: connected again after")
    assert far.cat() == "content"
    (line,) = [each for each in journal(far) if "connected again" in each["MESSAGE"]]
    assert line["PRIORITY"] == "4"


@pytest.mark.parametrize("by_program", [False, True], ids=["directly", "ProxyCommand"])
def test_stopping_under_load_delivers_what_was_taken(
    far: Service, remote: Path, by_program: bool
) -> None:
    if by_program:  # which lives as long as the daemon needs it
        far.sandbox.put("/etc/pysshfs/through", _THROUGH, 0o755)
        far.configure("log_level=info", f"ProxyCommand=/etc/pysshfs/through {far.port}")
    far.start()
    writer = ["python3", "-Ic", _WRITER, f"{far.mountpoint}/load"]
    with far.sandbox.started(writer) as (_, output):
        assert output.readline() == "busy\n"
        far.stop()
        taken, _, why = output.readline().partition(" ")
    assert why
    assert far.shows("Result") == "success"
    assert far.sandbox.mounted(far.mountpoint) is None
    assert not any("connection lost" in each["MESSAGE"] for each in journal(far))
    data = (remote / "load").read_bytes()
    assert len(data) >= int(taken) * _BLOCK > 0
    for number in range(int(taken)):
        block = data[number * _BLOCK : (number + 1) * _BLOCK]
        assert block == number.to_bytes(8, "big") * 8192, f"block {number}"


def test_unmounting_by_hand_ends_the_service_in_good_order(far: Service) -> None:
    far.start()
    far.sandbox.run(["umount", far.mountpoint])
    wait_until("the end", lambda: far.shows("ActiveState") == "inactive")
    assert far.shows("Result") == "success"


# --- a daemon that hangs, or dies ---------------------------------------------------------------


def test_the_watchdog_ends_a_daemon_that_hangs(far: Service) -> None:
    far.drop_in("[Service]\nWatchdogSec=1\nRestartSec=0\n")
    far.start()
    pid = far.pid
    far.sandbox.run(["kill", "-STOP", str(pid)])
    # Who waits for the mount meanwhile is not left waiting.
    stuck = far.sandbox.run(["ls", f"{far.mountpoint}/."], timeout=15, check=False)
    assert stuck.returncode != 0
    wait_until("another daemon", lambda: far.shows("NRestarts") == "1" and far.pid not in (0, pid))
    wait_until("the mount", lambda: far.shows("ActiveState") == "active")
    assert far.cat() == "content"
    time.sleep(1.5)  # in which one that does not hang would be ended, too, were it not for its word
    assert far.shows("NRestarts") == "1"
    log = far.sandbox.journal("--unit", far.unit)
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log  # and where it was


def test_a_daemon_that_is_killed_leaves_no_mount(far: Service) -> None:
    far.drop_in("[Service]\nRestart=no\n")
    far.start()
    # A program that goes on using the dead mount is not in the way.
    user = ["sh", "-c", 'cd "$1" && echo && read line', "sh", far.mountpoint]
    with far.sandbox.started(user) as (_, output):
        output.readline()
        far.sandbox.run(["kill", "-KILL", str(far.pid)])
        wait_until("the end", lambda: far.shows("ActiveState") == "failed")
        assert far.sandbox.mounted(far.mountpoint) is None


def test_an_aborted_mount_is_made_anew(far: Service) -> None:
    far.drop_in("[Service]\nRestartSec=0\n")
    far.start()
    far.sandbox.run(["sh", "-c", _ABORT, "sh", far.mountpoint])
    wait_until("another daemon", lambda: far.shows("NRestarts") == "1")
    wait_until("the mount", lambda: far.shows("ActiveState") == "active")
    assert far.cat() == "content"


# --- what fails ---------------------------------------------------------------------------------


def test_a_server_that_is_away_is_the_reason_shown_and_tried_again(
    far: Service, link: Proxy
) -> None:
    link.stop()
    far.drop_in("[Service]\nRestartSec=1\n")
    failed = far.sandbox.systemctl("start", far.unit, check=False)
    assert failed.returncode != 0
    assert far.shows("ExecMainStatus") == "4"
    shown = far.sandbox.systemctl("status", "--no-pager", far.unit, check=False).stdout
    (status,) = re.findall(r'Status: "(.*)"', shown)
    assert "127.0.0.1" in status and "refused" in status
    link.start()
    wait_until("the next try", lambda: far.shows("ActiveState") == "active")
    assert far.cat() == "content"


@pytest.mark.parametrize(
    ("option", "code", "words"),
    [
        ("PubkeyAuthentication=no", "6", "127.0.0.1"),
        ("nosuchoption", "2", "nosuchoption"),
    ],
)
def test_what_cannot_pass_by_itself_is_not_tried_again(
    far: Service, option: str, code: str, words: str
) -> None:
    far.configure(option)
    failed = far.sandbox.systemctl("start", far.unit, check=False)
    assert failed.returncode != 0
    assert (far.shows("ExecMainStatus"), far.shows("ActiveState")) == (code, "failed")
    assert words in far.shows("StatusText")
    ours = journal(far, "SYSLOG_IDENTIFIER=pysshfs")
    (line,) = [each for each in ours if each["PRIORITY"] == "3"]
    assert line["MESSAGE"] == f"pysshfs: {far.shows('StatusText')}"


# --- the log ------------------------------------------------------------------------------------


def test_with_debug_the_trace_goes_to_the_journal(far: Service) -> None:
    far.configure("debug")
    far.start()
    assert far.cat() == "content"
    lines = [each["MESSAGE"] for each in journal(far) if each["PRIORITY"] == "7"]
    traced = [line for line in lines if line.startswith("pysshfs.trace: ")]
    assert any(re.search(r" open inode=\d+ pid=\d+ .* ms ok", line) for line in traced), lines


def test_a_background_daemon_logs_to_syslog(far: Service) -> None:
    options = far.machine.options(far.port)
    far.sandbox.run(["pysshfs", far.source, far.mountpoint, "-o", f"log_level=info,{options}"])
    far.sandbox.run(["umount", far.mountpoint])
    lines = far.sandbox.journal("--output=json", "_TRANSPORT=syslog", "SYSLOG_IDENTIFIER=pysshfs")
    entries = [json.loads(line) for line in lines.splitlines()]
    (line,) = [each for each in entries if "is mounted on" in each["MESSAGE"]]
    assert (line["PRIORITY"], line["SYSLOG_FACILITY"]) == ("6", "3")


# --- order --------------------------------------------------------------------------------------


def test_it_waits_for_the_network(far: Service) -> None:
    far.sandbox.put(
        "/run/systemd/system/slow-network.service",
        "[Unit]\nBefore=network-online.target\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sh -c 'read line </run/network-is-up'\n",
    )
    wanted = "/run/systemd/system/network-online.target.wants"
    for argv in (
        ["mkfifo", "/run/network-is-up"],
        ["mkdir", "-p", wanted],
        ["ln", "-s", "../slow-network.service", f"{wanted}/slow-network.service"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "stop", "network-online.target"],
        ["systemctl", "start", "--no-block", far.unit],
    ):
        far.sandbox.run(argv)
    try:
        network = "slow-network.service"
        wait_until(
            "the network to be asked for",
            lambda: far.sandbox.shows(network, "ActiveState") == "activating",
        )
        jobs = far.sandbox.systemctl("list-jobs", "--no-legend", "--plain").stdout
        assert re.search(rf"{re.escape(far.unit)} +start +waiting", jobs), jobs
        assert far.shows("ActiveState") == "inactive"
        far.sandbox.run(["sh", "-c", "echo >/run/network-is-up"])
        wait_until("the mount", lambda: far.shows("ActiveState") == "active")
    finally:
        far.sandbox.run(["rm", "-r", wanted, "/run/network-is-up"])
        far.sandbox.systemctl("stop", "slow-network.service", check=False)
        far.sandbox.systemctl("daemon-reload")
    began = int(far.shows("ExecMainStartTimestampMonotonic"))
    online = far.sandbox.shows("network-online.target", "ActiveEnterTimestampMonotonic")
    assert began >= int(online) > 0


# --- what is not in the unit, and why -----------------------------------------------------------

#: Settings that give a service a mount namespace: what it mounts is seen by itself alone.
HIDE_THE_MOUNT = (
    "ProtectSystem=yes",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "PrivateMounts=yes",
    "PrivateIPC=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "ReadOnlyPaths=/etc",
    "InaccessiblePaths=/boot",
    "TemporaryFileSystem=/srv",
    "BindPaths=/srv",
    "LogNamespace=far",
)


def is_seen(far: Service, setting: str) -> bool:
    """Whether what a service with this setting mounts is there for others while it runs."""
    far.sandbox.run(
        ["systemd-run", "--quiet", "--service-type=notify", "--unit=probe", f"--property={setting}",
         "--property=NotifyAccess=all",
         "sh", "-c", f"mount -t tmpfs probe {far.mountpoint} && systemd-notify --ready && sleep 60"]
    )  # fmt: skip
    seen = far.sandbox.mounted(far.mountpoint) == "tmpfs"
    far.sandbox.systemctl("kill", "--signal=SIGKILL", "probe")
    far.sandbox.run(["umount", far.mountpoint], check=False)
    far.sandbox.systemctl("stop", "probe", check=False)
    far.sandbox.systemctl("reset-failed", "probe", check=False)
    return seen


def test_a_setting_is_left_out_because_it_hides_the_mount(far: Service) -> None:
    assert is_seen(far, "ProtectHostname=yes")
    assert [each for each in HIDE_THE_MOUNT if is_seen(far, each)] == []
    documented = (ROOT / "docs" / "systemd.md").read_text()
    names = {each.partition("=")[0] for each in HIDE_THE_MOUNT}
    assert {name for name in names if f"`{name}=" not in documented} == set()


def test_the_daemon_itself_is_not_seen_from_a_namespace(far: Service) -> None:
    far.drop_in("[Service]\nPrivateMounts=yes\n")
    far.start()
    assert far.shows("ActiveState") == "active" and far.sandbox.mounted(far.mountpoint) is None
