"""What is pending for a thread, and whether it is exiting; on masks, and on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysshfs.fuse.signals import Pending, is_exiting, is_exiting_in, pending, pending_in

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
OTHERS = [signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGUSR1, signal.SIGCONT]
HALTS = [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
HARMLESS = [signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]


def status(
    own: tuple[signal.Signals, ...] = (),
    shared: tuple[signal.Signals, ...] = (),
    blocked: tuple[signal.Signals, ...] = (),
    ignored: tuple[signal.Signals, ...] = (),
    caught: tuple[signal.Signals, ...] = (),
) -> bytes:
    """/proc/TID/status with these signals in its masks."""
    lines = ["Name:\tprogram", "State:\tD (disk sleep)", "Threads:\t3", "SigQ:\t1/3000"]
    masks = {"SigPnd": own, "ShdPnd": shared, "SigBlk": blocked, "SigIgn": ignored,
             "SigCgt": caught}  # fmt: skip
    for name, members in masks.items():
        bits = sum(1 << (number - 1) for number in members)
        lines.append(f"{name}:\t{bits:016x}")
    return "\n".join([*lines, "CapInh:\t0000000000000000", ""]).encode()


def test_nothing_pending() -> None:
    assert pending_in(status()) is Pending.NONE
    assert pending_in(status(caught=tuple(STOPS))) is Pending.NONE


def test_the_end_of_the_process() -> None:
    assert pending_in(status(own=(signal.SIGKILL,))) is Pending.FATAL
    assert pending_in(status(shared=(signal.SIGKILL,))) is Pending.FATAL


@pytest.mark.parametrize("number", STOPS)
def test_a_handled_signal_that_asks_to_stop(number: signal.Signals) -> None:
    assert pending_in(status(own=(number,), caught=(number,))) is Pending.STOP
    assert pending_in(status(shared=(number,), caught=(number,))) is Pending.STOP


@pytest.mark.parametrize("number", [*OTHERS, *HALTS])
def test_a_handled_signal_of_another_kind(number: signal.Signals) -> None:
    assert pending_in(status(own=(number,), caught=(number,))) is Pending.HANDLED
    assert pending_in(status(shared=(number,), caught=(number,))) is Pending.HANDLED


@pytest.mark.parametrize("number", [*STOPS, *HALTS, signal.SIGALRM, signal.SIGPIPE])
def test_a_blocked_or_ignored_signal(number: signal.Signals) -> None:
    for masks in (
        status(shared=(number,), blocked=(number,), caught=(number,)),
        status(shared=(number,), blocked=(number,)),
        status(shared=(number,), ignored=(number,)),
    ):
        assert pending_in(masks) is Pending.NONE


@pytest.mark.parametrize("number", [*STOPS, signal.SIGALRM, signal.SIGSEGV, signal.SIGUSR1])
def test_a_signal_without_a_handler_that_ends_the_process(number: signal.Signals) -> None:
    assert pending_in(status(shared=(number,))) is Pending.FATAL


@pytest.mark.parametrize("number", HALTS)
def test_a_signal_without_a_handler_that_halts_the_process(number: signal.Signals) -> None:
    assert pending_in(status(shared=(number,))) is Pending.HANDLED


@pytest.mark.parametrize("number", HARMLESS)
def test_a_signal_without_a_handler_that_does_nothing(number: signal.Signals) -> None:
    assert pending_in(status(shared=(number,))) is Pending.NONE


def test_the_weightiest_of_several() -> None:
    three = (signal.SIGALRM, signal.SIGINT, signal.SIGUSR1)
    alarm_and_stop = three[:2]
    assert pending_in(status(shared=three, caught=alarm_and_stop)) is Pending.FATAL
    assert pending_in(status(shared=three, caught=three)) is Pending.STOP
    masks = status(shared=three, caught=three, blocked=(signal.SIGINT,))
    assert pending_in(masks) is Pending.HANDLED


def test_a_status_without_the_fields() -> None:
    assert pending_in(b"") is Pending.NONE
    assert pending_in(b"Name:\tSigPnd:\nState:\tR\n") is Pending.NONE


def test_a_thread_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait(10)
    assert pending(process.pid) is Pending.FATAL
    assert is_exiting(process.pid)


def test_a_thread_of_another_process_namespace() -> None:
    """The kernel calls it 0: it is there, and not to be looked at."""
    assert pending(0) is Pending.UNKNOWN
    assert not is_exiting(0)


def test_this_very_thread() -> None:
    assert pending(os.getpid()) is Pending.NONE
    assert not is_exiting(os.getpid())


@pytest.mark.parametrize("name", ["sh", "a b", "x) S 1 (y", ") 4 4 4 4 4 4 4"])
def test_the_flags_are_found_behind_any_name(name: str) -> None:
    stat = f"1234 ({name}) D 1 1234 1234 0 -1 %d 120 0 0 0 0 0 0 0 20 0 1 0 5 6 7\n"
    assert is_exiting_in((stat % 0x40400C).encode())
    assert not is_exiting_in((stat % 0x400008).encode())


def test_a_stat_that_is_cut_short() -> None:
    assert not is_exiting_in(b"")
    assert not is_exiting_in(b"1234 (sh) D 1 1234")


def test_a_zombie_is_exiting() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_exiting(process.pid)
    process.wait(10)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGINT, Pending.STOP),
        (signal.SIGWINCH, Pending.HANDLED),
        (signal.SIGTERM, Pending.STOP),
    ],
)
def test_a_real_process_with_a_pending_signal(number: signal.Signals, expected: Pending) -> None:
    """A stopped process with handlers keeps what it is sent pending."""
    code = (
        "import signal, time\n"
        f"signal.signal({int(number)}, lambda *_: None)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert pending(process.pid) is Pending.NONE
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while b"T (stopped)" not in Path(f"/proc/{process.pid}/status").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        assert pending(process.pid) is expected
    finally:
        process.kill()
        process.communicate(timeout=10)
