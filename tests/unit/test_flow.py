"""How much may be on its way, on a plain model of a link."""

from __future__ import annotations

import pytest

from pysshfs.vfs.flow import Flow

_WRITE = 255 * 1024


def limit_on(rate: float, round_trip: float, seconds: float = 20, most: float = 16e6) -> Flow:
    """After so long on a link that carries `rate` bytes a second, for a writer that never waits
    and has `most` bytes to send at any time."""
    flow = Flow()
    now = free_at = 0.0
    arriving: list[tuple[float, float]] = []  # when each is acknowledged, and when it was sent
    while now < seconds:
        while flow.has_room(_WRITE) and flow.in_flight + _WRITE <= most:
            flow.in_flight += _WRITE
            free_at = max(free_at, now) + _WRITE / rate
            arriving.append((free_at + round_trip, now))
        now, sent_at = arriving.pop(0)
        flow.acknowledged(_WRITE, sent_at, now, round_trip)
        flow.in_flight -= _WRITE
    return flow


@pytest.mark.parametrize("round_trip", [0.0, 0.001, 0.01, 0.05, 0.2])
def test_a_fast_link_is_filled(round_trip: float) -> None:
    flow = limit_on(200e6, round_trip)
    assert flow.limit >= min(200e6 * round_trip, 16e6)


@pytest.mark.parametrize("rate", [0.2e6, 1e6, 3e6])
@pytest.mark.parametrize("round_trip", [0.0, 0.01, 0.05, 0.2])
def test_on_a_slow_one_nothing_waits_long(rate: float, round_trip: float) -> None:
    flow = limit_on(rate, round_trip)
    bearable = max(rate * (4 * round_trip + 0.25), 512 * 1024)
    assert flow.limit <= bearable


def test_what_is_not_used_does_not_grow() -> None:
    flow = limit_on(200e6, 0.01, most=600 * 1024)
    assert flow.limit == Flow().limit


def test_one_write_is_always_possible() -> None:
    flow = Flow()
    assert flow.has_room(1 << 30)
    flow.in_flight = 1
    assert not flow.has_room(1 << 30)
