"""The tools of this package check themselves: a job that fails says where, a difference is seen."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import job, transactions
from tests.faults.effects import BlackHole, Effect
from tests.faults.rig import Rig, difference, tree
from tests.faults.spots import Spot, Way
from tests.faults.sweep import MANNERS, Point, Sweep, points

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.streams import Connection
    from tests.support.sshd import Sshd


def run_job(cwd: Path) -> tuple[int, dict[str, Any]]:
    result = subprocess.run(
        [sys.executable, "-I", "-S", job.__file__], cwd=cwd, capture_output=True, timeout=20
    )
    outcome: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, outcome


def test_the_job_asks_nothing_of_a_mount_that_a_local_directory_does_not_do(
    server: Sshd, tmp_path: Path
) -> None:
    with Rig(server) as rig:
        assert rig.run_job("job") == ""
        on_the_server = rig.tree("job")
    assert run_job(tmp_path) == (0, {"ok": True})
    assert difference(tree(tmp_path), on_the_server) == ""


def test_a_job_that_fails_names_the_step_and_the_errno(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    status, outcome = run_job(tmp_path)
    assert status == 1
    assert (outcome["step"], outcome["errno"]) == ("make_directories", "EEXIST")


def test_a_job_that_finds_something_wrong_says_what(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("")
    status, outcome = run_job(tmp_path)
    assert status == 1
    assert outcome["step"] == "list_everything" and "more" in outcome["wrong"]


def change_contents(top: Path) -> None:
    (top / "file").write_text("textual")


def change_the_mode(top: Path) -> None:
    (top / "file").chmod(0o600)


def change_the_target(top: Path) -> None:
    (top / "link").unlink()
    (top / "link").symlink_to("elsewhere")


def change_the_type(top: Path) -> None:
    (top / "dir").rmdir()
    (top / "dir").write_text("")


def add(top: Path) -> None:
    (top / "dir/new").write_text("")


def remove(top: Path) -> None:
    (top / "file").unlink()


@pytest.mark.parametrize(
    "change",
    [change_contents, change_the_mode, change_the_target, change_the_type, add, remove],
)
def test_a_difference_is_seen(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("file")
    before = tree(tmp_path)
    assert difference(tree(tmp_path), before) == ""
    change(tmp_path)
    assert len(difference(tree(tmp_path), before).splitlines()) == 1


def test_wrong_rows_are_seen(tmp_path: Path) -> None:
    transactions.work(str(tmp_path / "base"), 10)
    assert transactions.examine(str(tmp_path / "base"), 10) == ""
    for count in (9, 11):
        assert "row" in transactions.examine(str(tmp_path / "base"), count)


@pytest.mark.parametrize("way", Way)
def test_points_are_spread_evenly_over_all_packets(way: Way) -> None:
    packets = []
    for name in MANNERS[way]:
        found = points(way, name, 620, 30)
        assert len(found) == 30
        packets += [point.spot.packet or 0 for point in found]
    packets.sort()
    apart = [after - before for before, after in itertools.pairwise(packets)]
    assert packets[0] == 1 and packets[-1] > 620 - max(apart) - 1
    assert max(apart) - min(apart) <= 1
    for name in MANNERS[way]:
        every = points(way, name, 620, None)
        assert [point.spot.packet for point in every] == list(range(1, 621))


# --- a sweep itself -----------------------------------------------------------------------------


class Nothing(Effect):
    """Fires, and disturbs nothing."""

    def apply(self, connection: Connection, done: Callable[[], None]) -> None:
        done()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look finds one reconnect more."""
    seen: list[None] = []

    def count(_: Rig) -> int:
        seen.append(None)
        return len(seen)

    monkeypatch.setattr(Rig, "reconnects", count)


def at(packet: int, effect: type[Effect] = Nothing) -> Point:
    return Point(Spot(Way.TO_SERVER, packet=packet), effect)


@pytest.mark.usefixtures("counted")
def test_a_sweep_reports_what_fails_and_goes_on(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.faults.rig.JOB_LIMIT", 3)
    with Sweep(server, 1) as sweep:
        total = sweep.totals[Way.TO_SERVER]
        middle = total // 2
        sweep.run([at(packet) for packet in (1, middle, total * 9 // 10)])
        with pytest.raises(AssertionError) as failed:
            sweep.run([at(1), at(middle, BlackHole), at(1 << 20), at(middle + 20)])
        report = str(failed.value)
        assert report.startswith("2 of 4 points:")
        assert f"BlackHole before packet {middle}" in report and "did not end within 3 s" in report
        assert f"packet {1 << 20}" in report and "before it was cut" in report
        del sweep.wanted["config"]
        with pytest.raises(AssertionError, match="config is too many"):
            sweep.run([at(1)])


def test_a_run_without_a_reconnect_fails(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rig, "reconnects", lambda _: 0)
    monkeypatch.setattr("tests.faults.sweep.REST_LIMIT", 0.2)
    with (
        Sweep(server, 1) as sweep,
        pytest.raises(AssertionError, match="the reconnect"),
    ):
        sweep.run([at(1)])
