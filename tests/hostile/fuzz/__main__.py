"""``python -m tests.hostile.fuzz``: mutated conversations, for as long as one likes.

    --seed WORD      which conversations (default: random; it is printed)
    --first NUMBER   where to begin, say at one that was found
    --count NUMBER   how many; --seconds NUMBER: for how long (default: 60 s)
    --coverage       how much of the checks was reached (branches; takes about twice as long)

Ends with 1, the conversation's number and a traceback, at the first thing that must not be.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import traceback
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from coverage import Coverage

    from tests.hostile.fuzz.campaign import Report

#: Where the server's word is checked.
CHECKS: Final = (
    "pysshfs/remote/wire.py",
    "pysshfs/remote/session.py",
    "pysshfs/remote/client.py",
    "pysshfs/vfs/sanity.py",
)
LEAST_COVERAGE: Final = 95.0  # percent, of statements and branches of all of them
_ENOUGH: Final = 1000  # conversations, to ask that of
_ENDLESS: Final = 1 << 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz")
    parser.add_argument("--seed", default="")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--coverage", action="store_true")
    given = parser.parse_args()
    seed = given.seed or secrets.token_hex(4)
    seconds = given.seconds if given.seconds or given.count else 60.0
    numbers = range(given.first, given.first + (given.count or _ENDLESS))
    print(f"seed {seed}", flush=True)
    coverage = _coverage() if given.coverage else None
    try:
        report = _run(seed, numbers, seconds)
        print(report)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        print(f"found: {summary(error)}", flush=True)
        return 1
    return 0 if coverage is None else _covered(coverage, report.conversations)


def _run(seed: str, numbers: range, seconds: float | None) -> Report:
    # Not before: what is imported is covered, too.
    from tests.hostile.fuzz.campaign import Campaign

    return Campaign(seed).run(numbers, seconds)


def summary(error: BaseException) -> str:
    """What it is, and how it can be had again."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error} ({notes})"


def _coverage() -> Coverage:
    import coverage

    measured = coverage.Coverage(
        branch=True, include=list(CHECKS), data_file=None, config_file=False
    )
    measured.start()
    return measured


def _covered(measured: Coverage, conversations: int) -> int:
    measured.stop()
    percent = measured.report(show_missing=True, file=sys.stdout)
    if percent < LEAST_COVERAGE and conversations >= _ENOUGH:
        print(f"the checks are covered by {percent:.1f} % only")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
