"""The catalogue of misbehaviours: what the server does, and what programs, or the user, see.

`tests/hostile/test_cases.py` carries the cases out, `tests/hostile/prove.py` shows that each fails
without the check that it is about.
"""

from __future__ import annotations

from typing import Final

from tests.hostile import cases_files, cases_framing, cases_names, cases_start
from tests.hostile.case import Case, Outcome

CASES: Final[tuple[Case, ...]] = (
    *cases_framing.FRAMING,
    *cases_framing.ENDING,
    *cases_framing.SLOW,
    *cases_start.VERSION,
    *cases_start.LIMITS,
    *cases_start.DIRECTORY,
    *cases_start.SSH,
    *cases_files.HANDLES,
    *cases_files.READS,
    *cases_files.WRITES,
    *cases_files.STATUS,
    *cases_files.ATTRIBUTES,
    *cases_files.STATVFS,
    *cases_names.LISTINGS,
    *cases_names.NAMES,
    *cases_names.LINKS,
)


def is_shared(case: Case) -> bool:
    """Whether the case can have its turn on a mount that others use, too."""
    return case.outcome is Outcome.SURVIVES and not case.alone and not case.options
