"""Many conversations, one after the other, each of which can be had again by its number.

A conversation is told by (seed, number): what it does, what the server does to it and the order in
which tasks run are drawn from that. Every tenth goes through the whole filesystem.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
import trio._core._run as scheduler
import trio.testing

from tests.hostile.fuzz import onmount
from tests.hostile.fuzz.findings import Finding
from tests.hostile.fuzz.hostile import Hostile
from tests.hostile.fuzz.onsession import Conversation
from tests.hostile.fuzz.programs import PROGRAMS
from tests.hostile.fuzz.recording import Conversations

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHOLE_EVERY: Final = 10
_CPU_SECONDS: Final = 20.0  # of one conversation: it hangs
_VIRTUAL_SECONDS: Final = 100_000.0  # likewise
_LOOK_EVERY: Final = 1000  # conversations
_MOST_OBJECTS: Final = 2000  # more than there were after the first look
_MOST_GROWTH: Final = 48  # MiB, likewise
_REPLIES: Final = 10


class Report:
    """What a campaign was."""

    def __init__(self) -> None:
        self.conversations = self.whole = self.sessions = self.replies = 0
        self.fewest = 1 << 30  # replies in one conversation, without its handshakes
        self.spoiled: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()  # by type
        self.seconds = 0.0
        self.objects: list[int] = []
        self.resident: list[int] = []  # MiB
        self.files: list[int] = []

    def __str__(self) -> str:
        return (
            f"{self.conversations} conversations ({self.whole} through the whole filesystem),"
            f" {self.sessions} sessions, {self.replies} replies after handshakes (at least"
            f" {self.fewest} in each), {sum(self.spoiled.values())} of them spoiled;"
            f" {self.seconds:.0f} s of processor; memory {self.resident[:1]} to"
            f" {self.resident[-1:]} MiB, objects {self.objects[:1]} to {self.objects[-1:]}"
        )


class Campaign:
    def __init__(self, seed: str) -> None:
        self.seed = seed
        self.report = Report()
        self._recorded = Conversations()

    def run(self, numbers: range, seconds: float | None = None) -> Report:
        """These conversations, or as many as `seconds` allow. The first finding ends it, with
        words by which it can be had again."""
        began, until = time.process_time(), seconds and time.monotonic() + seconds
        with _quiet():
            for number in numbers:
                if until is not None and time.monotonic() > until:
                    break
                self.one(number)
                if (number - numbers.start) % _LOOK_EVERY == _LOOK_EVERY - 1:
                    self._look_at_memory()
        self.report.seconds = time.process_time() - began
        return self.report

    def one(self, number: int) -> None:
        rng = random.Random(f"{self.seed}:{number}")
        programs = rng.sample(list(PROGRAMS), rng.choice((1, 2, 3)))
        report = self.report
        server = Hostile(rng, self._recorded, programs, report.spoiled, report.answered)
        is_whole = number % _WHOLE_EVERY == 0
        try:
            with _within(_CPU_SECONDS):
                if is_whole:
                    _in_trio(rng, server, programs)
                else:
                    Conversation(rng, server).run()
            if server.replies < _REPLIES:
                raise Finding(f"{server.replies} replies are no conversation")
        except BaseException as error:
            error.add_note(f"conversation {number} of seed {self.seed!r}")
            raise
        report.conversations += 1
        report.whole += is_whole
        report.sessions += len(server.ends)
        report.replies += server.replies
        report.fewest = min(report.fewest, server.replies)

    def _look_at_memory(self) -> None:
        gc.collect()
        report = self.report
        report.objects.append(len(gc.get_objects()))
        report.resident.append(_resident())
        report.files.append(len(os.listdir("/proc/self/fd")))
        if report.objects[-1] - report.objects[0] > _MOST_OBJECTS:
            raise Finding(f"objects that stay: {report.objects}")
        if report.files[-1] > report.files[0]:
            raise Finding(f"open files that stay: {report.files}")
        if report.resident[-1] - report.resident[0] > _MOST_GROWTH:
            raise Finding(f"memory that grows (MiB): {report.resident}")


def _in_trio(rng: random.Random, server: Hostile, programs: list[str]) -> None:
    async def main() -> None:
        with trio.fail_after(_VIRTUAL_SECONDS):
            await onmount.converse(rng, server, programs)

    scheduler._r.seed(rng.random())  # the order of tasks
    random.seed(rng.random())  # the pace of reconnecting
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Processor time."""

    def too_long(_number: int, _frame: Any) -> None:
        raise Finding(f"not at its end after {seconds:g} s of processor")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class _Formats(logging.Handler):
    """Every line is put together, and goes nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("pysshfs")
    handler = _Formats()
    before = log.propagate, log.level
    log.propagate = False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    allowed = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True  # as trio has it for tests
    try:
        yield
    finally:
        vars(scheduler)["_ALLOW_DETERMINISTIC_SCHEDULING"] = allowed
        log.removeHandler(handler)
        log.propagate, log.level = before
