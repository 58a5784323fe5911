"""Turns runs into rows of medians and ratios, and rows into a table, Markdown and JSON.

Owns nothing.  The ratio is sshfs's time divided by pysshfs's, taken within each round of runs
and then the median of those: what disturbs a round disturbs both.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench.goals import ASYNC, goal, is_met
from bench.link import Link
from bench.plan import ASYNC_PROGRAM, PLAIN_SSH, PYSSHFS_PROGRAM, SSHFS_PROGRAM, Run
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_COLUMNS = (
    "workload",
    "amount",
    "RTT ms",
    "pysshfs s",
    "sshfs s",
    "ssh s",
    "ratios",
    "ratio",
    "goal",
    "",
)
_LEFT = 2  # so many columns are text


@dataclass(frozen=True)
class Row:
    """One workload at one round-trip time; times in seconds, None where there is none."""

    workload: str
    title: str
    amount: str
    rtt_ms: float
    ours: float | None
    theirs: float | None
    plain: float | None
    #: One for each round that has both.
    ratios: Sequence[float]
    goal: float | None
    #: What went wrong in how many runs, by program.
    problems: Sequence[str]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none, or no ratio to hold against it."""
        if self.goal is None or self.ratio is None:
            return None
        return is_met(self.ratio, self.goal)

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: ""}[self.met]


@dataclass(frozen=True)
class Results:
    """All that one invocation, or several put together, have found."""

    environment: Mapping[str, str]
    settings: Mapping[str, Any]
    links: Sequence[Link]
    runs: Sequence[Run]

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Results:
        """What `write_json` wrote; of several files the later replaces a workload at its RTT.

        Raises OSError, and ValueError when a file is something else.
        """
        cells: dict[tuple[str, float], list[Run]] = {}
        links: dict[tuple[float, bool], Link] = {}
        for path in paths:
            try:
                content = json.loads(path.read_text())
                own = rounds(Run(**run) for run in content["runs"])
                found = [Link(**link) for link in content["links"]]
            except (TypeError, KeyError, json.JSONDecodeError) as problem:
                raise ValueError(f"{path} holds no results: {problem!r}") from problem
            cells |= own
            links |= {(link.rtt_ms, link.proxied): link for link in found}
        order = sorted(cells, key=lambda cell: (cell[1], list(WORKLOADS).index(cell[0])))
        runs = [run for cell in order for run in cells[cell]]
        return cls(content["environment"], content["settings"], list(links.values()), runs)

    def write_json(self, path: Path) -> None:
        """Everything: the environment, the settings, the links, the rows and each single run."""
        content = {
            "environment": self.environment,
            "settings": self.settings,
            "links": [asdict(link) for link in self.links],
            "summary": [
                asdict(row) | {"ratio": row.ratio, "met": row.met} for row in summary(self.runs)
            ],
            "runs": [asdict(run) for run in self.runs],
        }
        path.write_text(json.dumps(content, indent=1) + "\n")


def rounds(runs: Iterable[Run]) -> dict[tuple[str, float], list[Run]]:
    """The runs of each workload at each round-trip time, in the order they were run."""
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.workload, run.rtt_ms), []).append(run)
    return groups


def summary(runs: Iterable[Run]) -> list[Row]:
    """One row for each workload and round-trip time; one more where async_ops took part."""
    rows = []
    for group in rounds(runs).values():
        rows.append(_row(group, PYSSHFS_PROGRAM.name))
        if any(run.program == ASYNC_PROGRAM.name for run in group):
            rows.append(_row(group, ASYNC_PROGRAM.name))
    return rows


def _row(group: Sequence[Run], ours: str) -> Row:
    first, asynchronous = group[0], ours == ASYNC_PROGRAM.name
    name = first.workload + (ASYNC if asynchronous else "")
    title = WORKLOADS[first.workload].title + (" -o async_ops" if asynchronous else "")
    return Row(
        workload=name,
        title=title,
        amount=first.amount,
        rtt_ms=first.rtt_ms,
        ours=_median(group, ours),
        theirs=_median(group, SSHFS_PROGRAM.name),
        plain=_median(group, PLAIN_SSH),
        ratios=_ratios(group, ours),
        goal=goal(name, first.rtt_ms),
        problems=_problems(group, (ours, SSHFS_PROGRAM.name, PLAIN_SSH)),
    )


def _ratios(group: Sequence[Run], ours: str) -> list[float]:
    """sshfs's time / ours for each round that has both, in order."""
    times = {(run.program, run.number): run.seconds for run in group}
    ratios = []
    for number in sorted({run.number for run in group}):
        own, theirs = times.get((ours, number)), times.get((SSHFS_PROGRAM.name, number))
        if own and theirs:
            ratios.append(theirs / own)
    return ratios


def _median(group: Sequence[Run], program: str) -> float | None:
    times = [r.seconds for r in group if r.program == program and r.seconds is not None]
    return statistics.median(times) if times else None


def _problems(group: Sequence[Run], programs: Sequence[str]) -> list[str]:
    """The kind of problem, with how many runs of how many had one."""
    found = []
    for program in programs:
        own = [run for run in group if run.program == program]
        kinds = [run.problem.partition(":")[0] for run in own if run.problem]
        if kinds:
            found.append(f"{program}: {kinds[0]} {len(kinds)}/{len(own)}")
    return found


# -- as text -------------------------------------------------------------------------------------


def _cells(row: Row) -> list[str]:
    return [
        row.title,
        row.amount,
        f"{row.rtt_ms:g}",
        *(_seconds(value) for value in (row.ours, row.theirs, row.plain)),
        " ".join(f"{ratio:.2f}" for ratio in row.ratios),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.goal is None else f"{row.goal:g}",
        "; ".join([*([row.verdict] if row.verdict else []), *row.problems]),
    ]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(runs: Iterable[Run]) -> str:
    """The summary in columns."""
    lines = [list(_COLUMNS), *(_cells(row) for row in summary(runs))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    text = [_aligned(line, widths) for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    last = len(cells) - 1
    aligned = [
        cell.ljust(width) if column < _LEFT or column == last else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def conclusion(runs: Iterable[Run]) -> str:
    """How many goals are met, in one line."""
    verdicts = [row.met for row in summary(runs) if row.goal is not None]
    return f"goals met: {verdicts.count(True)} of {len(verdicts)}"


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def markdown(results: Results) -> str:
    """The ratios beside their goals, the links' own limits, and all medians."""
    links = "\n".join(f"- {link}" for link in results.links)
    machine = ", ".join(f"{name} {value}" for name, value in results.environment.items())
    return "\n\n".join(
        [
            f"Measured on: {machine}.",
            "Ratio / goal; goals that are not met are bold:",
            _matrix(summary(results.runs)),
            f"{conclusion(results.runs).capitalize()}.",
            "What the links can do by themselves, without SSH (`bench/link.py`):",
            links,
            "Seconds, medians of all runs, and the ratio of each round:",
            markdown_table(
                [*_COLUMNS[:-1], "verdict"], (_cells(row) for row in summary(results.runs))
            ),
        ]
    )


def _matrix(rows: Sequence[Row]) -> str:
    """Workloads down, round-trip times across."""
    rtts = sorted({row.rtt_ms for row in rows})
    titles = {row.workload: row.title for row in rows}
    cells = {(row.workload, row.rtt_ms): _ratio_and_goal(row) for row in rows}
    return markdown_table(
        ["workload", *(f"RTT {rtt:g} ms" for rtt in rtts)],
        ([title, *(cells.get((name, rtt), "") for rtt in rtts)] for name, title in titles.items()),
    )


def _ratio_and_goal(row: Row) -> str:
    if row.ratio is None:
        return ", ".join(row.problems)
    ratio = f"**{row.ratio:.2f}**" if row.met is False else f"{row.ratio:.2f}"
    return ratio if row.goal is None else f"{ratio} / {row.goal:g}"
