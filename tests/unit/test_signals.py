"""Which pending signals mean that a call is to be abandoned; on masks, and on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pysshfs.fuse.signals import thread_wants_to_stop, wants_to_stop

STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]
OTHERS = [signal.SIGALRM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGUSR1, signal.SIGCONT]
HARMLESS = [signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP]


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
    assert not wants_to_stop(status())
    assert not wants_to_stop(status(caught=tuple(STOPS)))


def test_the_end_of_the_process() -> None:
    assert wants_to_stop(status(own=(signal.SIGKILL,)))
    assert wants_to_stop(status(shared=(signal.SIGKILL,)))


@pytest.mark.parametrize("number", STOPS)
def test_a_handled_signal_that_asks_to_stop(number: signal.Signals) -> None:
    assert wants_to_stop(status(own=(number,), caught=(number,)))
    assert wants_to_stop(status(shared=(number,), caught=(number,)))


@pytest.mark.parametrize("number", OTHERS)
def test_a_handled_signal_of_another_kind(number: signal.Signals) -> None:
    assert not wants_to_stop(status(own=(number,), caught=(number,)))
    assert not wants_to_stop(status(shared=(number,), caught=(number,)))


@pytest.mark.parametrize("number", [*STOPS, signal.SIGALRM, signal.SIGPIPE])
def test_a_blocked_or_ignored_signal(number: signal.Signals) -> None:
    assert not wants_to_stop(status(shared=(number,), blocked=(number,), caught=(number,)))
    assert not wants_to_stop(status(shared=(number,), blocked=(number,)))
    assert not wants_to_stop(status(shared=(number,), ignored=(number,)))


@pytest.mark.parametrize("number", [*STOPS, signal.SIGALRM, signal.SIGSEGV, signal.SIGUSR1])
def test_a_signal_without_a_handler_that_ends_the_process(number: signal.Signals) -> None:
    assert wants_to_stop(status(shared=(number,)))


@pytest.mark.parametrize("number", HARMLESS)
def test_a_signal_without_a_handler_that_does_not(number: signal.Signals) -> None:
    assert not wants_to_stop(status(shared=(number,)))


def test_one_of_several() -> None:
    both = (signal.SIGALRM, signal.SIGINT)
    assert wants_to_stop(status(shared=both, caught=both))
    assert not wants_to_stop(status(shared=both, caught=both, blocked=(signal.SIGINT,)))


def test_a_status_without_the_fields() -> None:
    assert not wants_to_stop(b"")
    assert not wants_to_stop(b"Name:\tSigPnd:\nState:\tR\n")


def test_a_thread_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait(10)
    assert thread_wants_to_stop(process.pid)


def test_this_very_thread() -> None:
    assert not thread_wants_to_stop(os.getpid())


@pytest.mark.parametrize(
    ("number", "stops"), [(signal.SIGINT, True), (signal.SIGWINCH, False), (signal.SIGTERM, True)]
)
def test_a_real_process_with_a_pending_signal(number: signal.Signals, stops: bool) -> None:
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
        assert not thread_wants_to_stop(process.pid)
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while b"T (stopped)" not in Path(f"/proc/{process.pid}/status").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        assert thread_wants_to_stop(process.pid) is stops
    finally:
        process.kill()
        process.communicate(timeout=10)
