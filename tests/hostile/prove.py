"""Show that each check has a case that fails without it: ``python -m tests.hostile.prove``.

Each proof (`proofs.py`) is a patch to a copy of the program, in a temporary directory; there the
cases that rest on the check are run, which must fail, and the others of the first one's group,
which must not. With words as arguments, only proofs whose check or cases have one of them.
``--record`` writes the result to docs/hostile-catalogue.md.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.hostile.case import Outcome
from tests.hostile.catalogue import CASES, is_shared
from tests.hostile.proofs import LAYERED, PROOFS, Proof

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.hostile.case import Case

_ROOT: Final = Path(__file__).resolve().parents[2]
_RECORD: Final = _ROOT / "docs" / "hostile-catalogue.md"
_TESTS: Final = "tests/hostile/test_cases.py"
_PATIENCE: Final = "8"  # seconds for a program; many hang without the check
_BY_NAME: Final = {case.name: case for case in CASES}


class Result(NamedTuple):
    proof: Proof
    survived: list[str]  # cases that should have failed
    harmed: list[str]  # others of their groups, that failed, too

    @property
    def is_good(self) -> bool:
        return not self.survived and not self.harmed


def _test_of(case: Case) -> str:
    if case.outcome is Outcome.REFUSED:
        return f"{_TESTS}::test_no_mount[{case.name}]"
    which = "test_the_session_goes_on" if is_shared(case) else "test_a_mount_of_its_own"
    return f"{_TESTS}::{which}[{case.name}]"


def _failed(copy: Path, names: Iterable[str]) -> set[str]:
    """Run these cases on the copy; which of them failed."""
    tests = [_test_of(_BY_NAME[name]) for name in names]
    argv = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *tests]
    limits = {"PYSSHFS_HOSTILE_LIMIT": _PATIENCE, "PYSSHFS_HOSTILE_SLACK": "10"}
    environment = {**os.environ, **limits}
    said = subprocess.run(argv, cwd=copy, env=environment, capture_output=True, text=True)
    if said.returncode not in (0, 1):
        raise RuntimeError(said.stdout + said.stderr)
    return set(re.findall(r"^(?:FAILED|ERROR) \S+\[(\S+)\]", said.stdout, re.MULTILINE))


def _without(proof: Proof, copy: Path) -> Result:
    """Take the check out of the copy, run the cases, and put it back."""
    file = copy / proof.file
    text = file.read_text()
    if text.count(proof.old) != 1:
        raise RuntimeError(f"{proof.check}: {text.count(proof.old)} places in {proof.file}")
    group = _BY_NAME[proof.breaks[0]].group
    others = [case.name for case in CASES if case.group == group and case.name not in proof.breaks]
    file.write_text(text.replace(proof.old, proof.new))
    try:
        failed = _failed(copy, [*proof.breaks, *others])
    finally:
        file.write_text(text)
    survived = [name for name in proof.breaks if name not in failed]
    return Result(proof, survived, sorted(failed - set(proof.breaks)))


def _copy_to(place: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pysshfs", "tests"):
        shutil.copytree(_ROOT / name, place / name, ignore=ignored)
    shutil.copy(_ROOT / "pyproject.toml", place)


def _prove_one(proof: Proof, copies: queue.SimpleQueue[Path]) -> Result:
    copy, began = copies.get(), time.monotonic()
    try:
        result = _without(proof, copy)
    finally:
        copies.put(copy)
    verdict = "ok" if result.is_good else "NOT PROVEN"
    lines = [f"{verdict}: {proof.check} ({time.monotonic() - began:.0f} s)"]
    for words, names in (("pass without it", result.survived), ("fail, too", result.harmed)):
        if names:
            lines.append(f"    {words}: {', '.join(names)}")
    print("\n".join(lines), flush=True)
    return result


def _prove(proofs: Sequence[Proof], jobs: int) -> list[Result]:
    """Each job has a copy of its own: several proofs at once, since most wait for hung mounts."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    with (
        tempfile.TemporaryDirectory(prefix="pysshfs-prove-") as directory,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for number in range(jobs):
            place = Path(directory) / str(number)
            _copy_to(place)
            copies.put(place)
        return list(pool.map(lambda proof: _prove_one(proof, copies), proofs))


def _table(results: Sequence[Result]) -> str:
    """The catalogue, and what each case rests on."""
    checks: dict[str, list[str]] = {}
    for result in results:
        for name in result.proof.breaks:
            checks.setdefault(name, []).append(result.proof.check)
    lines = [
        "# The catalogue of misbehaviours",
        "",
        "Written by `make prove`. The server of `tests/hostile/` does each of these to a real",
        "mount, or to a command that is to make one. For each check in the last column, the cases",
        "that name it failed when it was taken out of a copy of the program, and no others of the",
        "first one's group did. Where that column is in italics no single check decides, for the",
        "reason given.",
        "",
        f"{len(CASES)} cases, {len(results)} checks.",
        "",
        "| group | case | the server | outcome | rests on |",
        "|---|---|---|---|---|",
    ]
    for case in CASES:
        rests = "; ".join(checks.get(case.name, [])) or f"*{LAYERED[case.name]}*"
        row = (case.group, f"`{case.name}`", case.does, case.outcome.value, rests)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.prove", description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    wanted = parser.parse_args()
    proofs = [
        proof
        for proof in PROOFS
        if not wanted.words
        or any(word in text for word in wanted.words for text in (proof.check, *proof.breaks))
    ]
    results = _prove(proofs, wanted.jobs)
    bad = [result for result in results if not result.is_good]
    print(f"{len(results) - len(bad)} of {len(results)} checks are proven")
    if wanted.record and not bad and not wanted.words:
        _RECORD.write_text(_table(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
