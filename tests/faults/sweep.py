"""Cutting the same job at many places: the points, and what a run at one of them must give.

A `Sweep` owns its rigs, each with one mount that serves a whole sequence of runs, and what an
undisturbed job leaves and sends. The rigs work at the same time, each in a thread of its own; a run
that fails costs its rig the mount, and after a few of them the rest is not tried.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from tests.faults.effects import Close, Effect, LoseReplies, Reset
from tests.faults.rig import REST_LIMIT, Rig, Tree, difference
from tests.faults.spots import AFTER, Spot, Way
from tests.mount.places import wait_until

if TYPE_CHECKING:
    from types import TracebackType

    from tests.faults.proxy import Count
    from tests.support.sshd import Sshd

#: Bytes of a packet that still pass: within its length, its content and its tag.
_INSIDE: Final = (1, 3, 5, 19, 33, 4_097, -1, -5, -17)
_UNDISTURBED_RUNS: Final = 3
#: A job now and then needs a few packets less than it mostly does, more so when the processors are
#: busy, and then is not cut at its end: each further try cuts it so many percent earlier.
_TRIES: Final = 4
_EARLIER: Final = 2
_MOST_FAILURES: Final = 3
_LOG_LINES: Final = 12


@dataclass(frozen=True)
class Manner:
    """How a packet is cut: at `BEFORE`, `INSIDE` or `AFTER` it, and by which effects in turn."""

    where: str
    effects: tuple[type[Effect], ...] = (Reset, Close)


MANNERS: Final = {
    Way.TO_SERVER: {
        "before": Manner("before"),
        "inside": Manner("inside"),
        "after": Manner("after"),
        "replies-lost": Manner("after", (LoseReplies,)),
    },
    Way.TO_CLIENT: {
        "before": Manner("before"),
        "inside": Manner("inside"),
        "after": Manner("after"),
    },
}


@dataclass(frozen=True)
class Point:
    """One place to cut a job, counted from the job's first packet."""

    spot: Spot
    effect: type[Effect]

    def __str__(self) -> str:
        return f"{self.effect.__name__} {self.spot}"

    def earlier(self, percent: int) -> Point:
        """The same at a packet that comes so much earlier in the job."""
        packet = max((self.spot.packet or 1) * (100 - percent) // 100, 1)
        return replace(self, spot=replace(self.spot, packet=packet))


def points(way: Way, name: str, total: int, count: int | None) -> list[Point]:
    """`count` points of one manner, spread evenly over `total` packets; None: at each packet.

    The manners of one direction take turns, so that together they are spread evenly, too.
    """
    manners = MANNERS[way]
    manner = manners[name]
    if count is None:
        packets = list(range(1, total + 1))
    else:
        turn = list(manners).index(name)
        places = [index * len(manners) + turn for index in range(count)]
        packets = [1 + place * total // (count * len(manners)) for place in places]
    inside = itertools.cycle(_INSIDE)
    effects = itertools.cycle(manner.effects)
    found = []
    for packet in packets:
        bytes_inside = {"before": 0, "after": AFTER, "inside": next(inside)}[manner.where]
        found.append(Point(Spot(way, packet=packet, inside=bytes_inside), next(effects)))
    return found


def sent(before: Count, after: Count) -> dict[Way, int]:
    """The packets between two looks at the same connection."""
    assert before.number == after.number, "the connection was lost undisturbed"
    ways = {Way.TO_SERVER: (before.to_server, after.to_server)}
    ways[Way.TO_CLIENT] = (before.to_client, after.to_client)
    found = {}
    for way, (first, last) in ways.items():
        assert first.packets is not None and last.packets is not None, "not counted"
        found[way] = last.packets - first.packets
    return found


class Worker:
    """A rig, and the jobs that it ran."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._numbers = itertools.count()
        self._last = ""

    def undisturbed(self) -> tuple[Tree, dict[Way, int]]:
        """What a job leaves on the server, and the packets it takes."""
        self.rig.rest()
        before = self.rig.proxy.newest()
        name = self._job()
        self.rig.rest()
        return self.rig.tree(name), sent(before, self.rig.proxy.newest())

    def cut(self, point: Point, wanted: Tree) -> None:
        """Run a job, cut it there, and look at what came of it. AssertionError."""
        for number in range(_TRIES):
            if self._cut(point.earlier(number * _EARLIER), wanted):
                return
        raise AssertionError(f"the job ended {_TRIES} times before it was cut")

    def _cut(self, point: Point, wanted: Tree) -> bool:
        rig = self.rig
        rig.rest()
        before = rig.reconnects()
        fault = rig.proxy.arm_ahead(point.effect(), point.spot)
        name = self._job()
        if not fault.fired:
            rig.rest()  # it may still close what it had open
        fault.disarm()
        if not fault.fired:
            return False
        fault.wait()
        wait_until("the reconnect", lambda: rig.reconnects() > before, REST_LIMIT)
        # At once, and again when the next job has run: nothing may arrive late.
        self._compare(name, wanted)
        if self._last:
            self._compare(self._last, wanted)
            shutil.rmtree(rig.root / self._last)
        self._last = name
        return True

    def _job(self) -> str:
        name = f"job{next(self._numbers)}"
        problem = self.rig.run_job(name)
        assert not problem, problem
        return name

    def _compare(self, name: str, wanted: Tree) -> None:
        wrong = difference(self.rig.tree(name), wanted)
        assert not wrong, f"on the server, in {name}:\n{wrong}"

    def begin_anew(self) -> None:
        self._last = ""
        self.rig.remount()


class Sweep:
    """``with Sweep(server, rigs=2) as sweep: sweep.run(points)``."""

    def __init__(self, server: Sshd, rigs: int, *options: str) -> None:
        self._workers = [Worker(Rig(server, *options, without_pauses=True)) for _ in range(rigs)]
        self._stack = ExitStack()
        self.wanted: Tree = {}
        self.totals: dict[Way, int] = {}

    def __enter__(self) -> Self:
        with self._stack:
            for worker in self._workers:
                self._stack.enter_context(worker.rig)
            self._look_at_undisturbed_jobs()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, exc, trace)

    def _look_at_undisturbed_jobs(self) -> None:
        """Their trees must be the same; the smallest number of packets is what all of them have."""
        runs = [w.undisturbed() for w in self._workers for _ in range(_UNDISTURBED_RUNS)]
        self.wanted = runs[0][0]
        assert self.wanted, "the job leaves nothing"
        for found, _ in runs:
            assert not difference(found, self.wanted), "an undisturbed job leaves something else"
        self.totals = {way: min(counts[way] for _, counts in runs) for way in Way}

    def run(self, which: list[Point]) -> None:
        """Cut a job at each point. AssertionError with all that went wrong."""
        left = deque(which)
        failures: list[str] = []
        threads = [
            threading.Thread(target=self._work, args=(worker, left, failures))
            for worker in self._workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        not_tried = f" ({len(left)} were not tried)" if left else ""
        summary = f"{len(failures)} of {len(which)} points{not_tried}:\n\n"
        assert not failures, summary + "\n\n".join(failures)

    def _work(self, worker: Worker, left: deque[Point], failures: list[str]) -> None:
        while left and len(failures) < _MOST_FAILURES:
            try:
                point = left.popleft()
            except IndexError:
                return
            try:
                worker.cut(point, self.wanted)
            except Exception as error:
                log = "\n".join(worker.rig.mount.log().splitlines()[-_LOG_LINES:])
                what = f"{type(error).__name__}: {error}"
                failures.append(f"{point}:\n{what}\nthe end of the daemon's log:\n{log}")
                self._recover(worker, failures)

    @staticmethod
    def _recover(worker: Worker, failures: list[str]) -> None:
        try:
            worker.begin_anew()
        except Exception as error:
            failures += [f"no mount any more: {error!r}"] * _MOST_FAILURES
