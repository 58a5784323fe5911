"""The fuzzer over the server's replies, within the suite's budget; `make fuzz` goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.hostile import sftp
from tests.hostile.fuzz import planted
from tests.hostile.fuzz.__main__ import LEAST_COVERAGE
from tests.hostile.fuzz.campaign import Campaign
from tests.hostile.fuzz.findings import Finding
from tests.hostile.fuzz.hostile import Hostile
from tests.hostile.fuzz.packets import KINDS
from tests.support.procs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 20_000
COUNT_FOR_COVERAGE = 2000  # measuring doubles the time
#: The conversations are the same each time, so that a failure is of the change that was made.
SEED = "suite"


def fuzz(*arguments: str) -> subprocess.Popen[str]:
    """In a process of its own, whose memory is watched."""
    argv = [sys.executable, "-m", "tests.hostile.fuzz", "--seed", SEED, *arguments]
    return subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def said(process: subprocess.Popen[str]) -> str:
    with process:
        words = process.communicate(timeout=900)[0]
    assert process.returncode == 0, words[-5000:]
    return words


def test_no_conversation_does_harm() -> None:
    half = COUNT // 2
    processes = [fuzz("--first", str(first), "--count", str(half)) for first in (0, half)]
    for words in map(said, processes):
        assert f"{half} conversations" in words
        (fewest,) = re.findall(r"at least (\d+) in each", words)
        assert int(fewest) >= 10


def test_the_checks_are_reached() -> None:
    """The branches of them, and with fewer conversations than the suite has."""
    words = said(fuzz("--coverage", "--count", str(COUNT_FOR_COVERAGE)))
    (total,) = re.findall(r"^TOTAL .* (\d+)%$", words, re.MULTILINE)
    assert int(total) >= LEAST_COVERAGE


def test_every_type_of_reply_is_reached_and_spoiled() -> None:
    run = Campaign("types")
    report = run.run(range(300))
    assert set(report.answered) == {*KINDS, sftp.VERSION}
    assert report.fewest >= 10
    assert len(report.spoiled) >= 12, report.spoiled


def test_a_server_that_does_no_harm_suffers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unspoiled, what was recorded is a conversation without an error of the protocol."""
    monkeypatch.setattr(Hostile, "is_honest", True)
    report = Campaign("honest").run(range(60))
    assert not report.spoiled
    assert report.sessions < 2 * report.conversations  # with those beside the first, for copies


def test_a_conversation_is_had_again_by_its_number() -> None:
    def spoiled() -> list[object]:
        run = Campaign("again")
        run.run(range(40))
        return [run.report.spoiled, run.report.answered, run.report.sessions]

    assert spoiled() == spoiled()


def test_what_must_not_be_is_told_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Finding("no")

    monkeypatch.setattr("tests.hostile.fuzz.onsession.check_sessions", fail)
    with pytest.raises(Finding) as caught:
        Campaign("told").run(range(1, 9))
    assert caught.value.__notes__ == ["conversation 1 of seed 'told'"]


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_found(bug: planted.Bug, tmp_path: Path) -> None:
    planted.copy_with(bug, tmp_path)
    result = planted.fuzzed(tmp_path, COUNT)
    assert result.returncode == 1, result.stdout[-2000:]
    (found,) = re.findall(r"^found: (.*)$", result.stdout, re.MULTILINE)
    assert re.search(bug.found, found), found
    assert re.search(r"conversation \d+ of seed 'planted'", found), found
