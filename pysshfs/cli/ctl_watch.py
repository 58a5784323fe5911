"""`pysshfsctl watch`: the state of one mount, again and again.

On a terminal it is redrawn in place, on the alternate screen (as less and top use it; xterm's
control sequences, which every terminal emulator has): lines are cut at its edge, so a resized one
is drawn anew without a trace. Elsewhere it is a line for each look. Ends at Ctrl-C, with the mount,
or after `--count` looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pysshfs.cli.ctl_codes import CtlCode
from pysshfs.cli.ctl_mounts import mount_of
from pysshfs.cli.ctl_status import gather
from pysshfs.cli.status_text import hit_rate, rendered, round_trip_text
from pysshfs.cli.usage import UsageError, printable
from pysshfs.fuse import mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pysshfs.cli.ctl_parser import Arguments
    from pysshfs.fuse.mountinfo import MountEntry

_ANSWER_SECONDS: Final = 0.5
_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_END_OF_LINE: Final = "\x1b[K"
_REST: Final = "\x1b[J"


class Speed(NamedTuple):
    """Bytes a second each way, and requests of programs a second."""

    received: float = 0.0
    sent: float = 0.0
    requests: float = 0.0


class _Rates:
    """From one look to the next."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int, int] | None = None

    def since_last(self, state: dict[str, Any], now: float) -> Speed:
        if not state["answers"]:
            self._last = None
            return Speed()
        seen = (now, state["bytes_received"], state["bytes_sent"], state["requests_served"])
        last, self._last = self._last, seen
        if last is None or now <= last[0]:
            return Speed()
        passed = now - last[0]
        return Speed(*(max(b - a, 0) / passed for a, b in zip(last[1:], seen[1:], strict=True)))


def run(arguments: Arguments) -> CtlCode:
    entry = mount_of(arguments.place or "")
    interval = arguments.number("--interval", 0.05) or 1.0
    count = arguments.number("--count", 1)
    if count is not None and count != int(count):
        raise UsageError("--count takes a whole number")
    signal.signal(signal.SIGTERM, _ended)  # the terminal is to be left as it was
    looks = _looks(entry, interval, None if count is None else int(count))
    try:
        if sys.stdout.isatty() and not arguments.has("--json"):
            last = _on_a_terminal(looks)
        else:
            last = _line_by_line(looks, as_json=arguments.has("--json"))
    except KeyboardInterrupt:
        return CtlCode.OK
    if last is None:
        print(f"{printable(os.fsdecode(entry.mountpoint))}: not mounted any more", file=sys.stderr)
    return CtlCode.OK


def _looks(
    entry: MountEntry, interval: float, count: int | None
) -> Iterator[tuple[dict[str, Any], Speed] | None]:
    """The state and the speed at each look, then None if it was unmounted. In between, and whenever
    the size of the terminal changed, whoever iterates is asked to draw again."""
    rates = _Rates()
    due = time.monotonic()
    with _Resizes() as resizes:
        while count is None or count > 0:
            if not _is_there(entry):
                yield None
                return
            (state,) = gather([entry], _ANSWER_SECONDS)
            look = state, rates.since_last(state, time.monotonic())
            yield look
            if count is not None:
                count -= 1
            due = max(due + interval, time.monotonic())
            while (count is None or count > 0) and resizes.wait(due - time.monotonic()):
                yield look


def _ended(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _is_there(entry: MountEntry) -> bool:
    return any(
        each.mountpoint == entry.mountpoint and each.minor == entry.minor
        for each in mountinfo.mounts()
    )


class _Resizes:
    """Sleeps, and wakes up early when the terminal has another size."""

    def __enter__(self) -> _Resizes:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = signal.signal(signal.SIGWINCH, self._resized)
        return self

    def _resized(self, _: int, __: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):  # it is to wake up already
            os.write(self._write_end, b"x")

    def wait(self, seconds: float) -> bool:
        """Whether it has another size; False when the time is over."""
        if not select.select([self._read_end], [], [], max(seconds, 0))[0]:
            return False
        os.read(self._read_end, 4096)
        return True

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGWINCH, self._before)
        os.close(self._read_end)
        os.close(self._write_end)


# --- drawing ------------------------------------------------------------------------------------


def _on_a_terminal(
    looks: Iterator[tuple[dict[str, Any], Speed] | None],
) -> tuple[dict[str, Any], Speed] | None:
    """Returns the last look."""
    last: tuple[dict[str, Any], Speed] | None = None
    sys.stdout.write(_ENTER)
    try:
        for last in looks:
            if last is not None:
                sys.stdout.write(screen(*last, time.time(), os.get_terminal_size()))
                sys.stdout.flush()
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
    return last


def screen(state: dict[str, Any], speed: Speed, now: float, size: os.terminal_size) -> str:
    """What a terminal of this size is sent."""
    lines = [time.strftime("%H:%M:%S", time.localtime(now)), *rendered(state, now).split("\n")]
    if state["answers"]:
        lines.append(
            f"  {'speed':<12} {_bytes(speed.received)} in, {_bytes(speed.sent)} out,"
            f" {speed.requests:.0f} requests/s"
        )
    # The cursor never goes past the last column, so nothing wraps, nor past the last line.
    cut = [line[: max(size.columns - 1, 1)] for line in lines[: max(size.lines - 1, 1)]]
    return _HOME + "".join(f"{line}{_END_OF_LINE}\n" for line in cut) + _REST


def _line_by_line(
    looks: Iterator[tuple[dict[str, Any], Speed] | None], *, as_json: bool
) -> tuple[dict[str, Any], Speed] | None:
    last: tuple[dict[str, Any], Speed] | None = None
    for last in looks:
        if last is not None:
            print(json.dumps(last[0]) if as_json else line_of(*last, time.time()), flush=True)
    return last


def line_of(state: dict[str, Any], speed: Speed, now: float) -> str:
    """One look in one line."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(now))
    waiting = "unknown" if state["waiting"] is None else state["waiting"]
    parts = [at, state["health"]]
    if state["answers"]:
        parts += [
            state["state"],
            f"rtt {round_trip_text(state)}",
            f"in {_bytes(speed.received)}",
            f"out {_bytes(speed.sent)}",
            f"{speed.requests:.0f} requests/s",
            f"serving {state['requests_active']}",
            f"unacknowledged {state['unacknowledged_bytes']}",
            f"hits {hit_rate(state['cache_hits'], state['cache_misses'])}",
        ]
    parts.append(f"waiting {waiting}")
    if state["health_reason"]:
        parts.append(state["health_reason"])
    return printable("; ".join(parts))


def _bytes(speed: float) -> str:
    """`1.2 MB/s`."""
    for unit, size in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if speed >= size:
            return f"{speed / size:.1f} {unit}"
    return f"{speed:.0f} B/s"
