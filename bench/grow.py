"""How cost grows with what is mounted: time for each item, and the daemon's memory.

Each point has a fresh mount with a fresh daemon, whose peak of resident memory (VmHWM) is read
before it is unmounted.  Files and directories are empty or sparse on the server: what the server
needs for them is not what is measured.  A point that takes too long ends its series.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import tree
from bench.base import MIB, Scale, Store, expect, run_probe, run_shell
from bench.plan import SSHFS_PROGRAM
from bench.plot import Panel
from bench.report import markdown_table
from bench.runner import drop_caches, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bench.plan import Program
    from bench.runner import Lab
    from tests.support.mounts import Mount

_READER_BYTES = 8 * MIB
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB$", re.M)


@dataclass(frozen=True)
class Point:
    """One measurement: seconds in all and until the first item; memory in KiB."""

    series: str
    program: str
    rtt_ms: float
    #: Entries, files, bytes or readers, as the series has it.
    size: int
    #: What `seconds` is divided by: entries and files, or MiB.
    items: float
    seconds: float | None
    first: float | None
    fresh_kib: int
    peak_kib: int
    problem: str = ""

    @property
    def each(self) -> float | None:
        """Microseconds for each item."""
        return None if self.seconds is None else self.seconds / self.items * 1e6


@dataclass(frozen=True)
class Series:
    """One thing that grows.

    `make` writes what has this size below a directory of the server; `work` uses it on a mount of
    that directory and gives the seconds in all and, where that is of interest, to the first item.
    """

    title: str
    unit: str
    sizes: Sequence[int]
    make: Callable[[Path, int], None]
    work: Callable[[Mount, Store, int, float], tuple[float, float | None]]
    items: Callable[[int], float] = float
    #: What the daemon may take (MiB); more is a problem of the point.
    most_mib: float = math.inf


def _listed(mount: Mount, _: Store, size: int, limit: float) -> tuple[float, float]:
    answer = run_probe(mount, limit, "entries", "directory")
    expect("entries", answer["entries"], size)
    return float(answer["seconds"]), float(answer["first"])


def _walked(
    command: str, mount: Mount, store: Store, size: int, limit: float
) -> tuple[float, None]:
    seconds, count = run_shell(mount, f"{command} | grep -c file-", store.server, store, limit)
    expect("files found", int(count), size)
    return seconds, None


def _read(mount: Mount, _: Store, size: int, limit: float) -> tuple[float, None]:
    answer = run_probe(mount, limit, "drain", "file")
    expect("bytes read", answer["bytes"], size)
    return float(answer["seconds"]), None


def _read_at_once(mount: Mount, store: Store, size: int, limit: float) -> tuple[float, None]:
    reading = f"for n in $(seq {size}); do cat $n | wc -c & done | sort | uniq -c; wait"
    seconds, counts = run_shell(mount, reading, store.server, store, limit)
    expect("readers and bytes of each", counts.split(), [str(size), str(_READER_BYTES)])
    return seconds, None


def _make_files(root: Path, count: int) -> None:
    for number in range(1, count + 1):
        _make_sparse(root / str(number), _READER_BYTES)


def _make_sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _make_tree(root: Path, files: int) -> None:
    tree.make_bare_tree(root / "tree", files)


_TREES = (1_000, 10_000, 100_000)

SERIES: Mapping[str, Series] = {
    "directory": Series(
        "listing a directory (ls -U)",
        "entry",
        (10, 100, 1_000, 10_000, 100_000, 1_000_000),
        lambda root, size: tree.make_entries(root / "directory", size),
        _listed,
        most_mib=500,
    ),
    "find": Series("find", "file", _TREES, _make_tree, partial(_walked, "find .")),
    "ls": Series("ls -lR", "file", _TREES, _make_tree, partial(_walked, "ls -lR")),
    "file": Series(
        "reading a file",
        "MiB",
        tuple(1 << power for power in (10, 15, 20, 25, 30, 33)),
        lambda root, size: _make_sparse(root / "file", size),
        _read,
        lambda size: size / MIB,
    ),
    "readers": Series(
        f"reading {_READER_BYTES // MIB} MiB each in parallel",
        "MiB",
        (1, 4, 16, 64, 256),
        _make_files,
        _read_at_once,
        lambda size: size * _READER_BYTES / MIB,
    ),
}


def measure(
    lab: Lab, names: Sequence[str], program: Program, rtt_ms: float, limit: float, largest: int
) -> Iterator[Point]:
    """All points of the named series, each as soon as it is over.

    `limit` is in seconds for each point; the first that fails is the last of its series.
    `largest` leaves out greater sizes.
    """
    for name in names:
        for size in SERIES[name].sizes:
            if size > largest:
                break
            point = _point(lab, name, program, rtt_ms, size, limit)
            yield point
            if point.problem:
                break


def _point(lab: Lab, name: str, program: Program, rtt_ms: float, size: int, limit: float) -> Point:
    series = SERIES[name]
    place = lab.server_dir / f"{name}-{size}"
    place.mkdir()
    memory = [0, 0]
    try:
        series.make(place, size)
        drop_caches(names_only=True)

        def measured() -> tuple[float, float | None]:
            with lab.mount(program, place, lab.port(rtt_ms)) as mount:
                memory[0] = _peak_kib(mount.pid)
                # Only where the files lie is of interest of the store.
                store = Store(place, place, Scale(0, 0, 0, 0, 0))
                times = series.work(mount, store, size, limit)
                memory[1] = _peak_kib(mount.pid)
            return times

        times, problem = outcome(measured)
    finally:
        shutil.rmtree(place)
    seconds, first = times or (None, None)
    items = series.items(size)
    fresh, peak = memory
    if not problem and peak / 1024 > series.most_mib and program is not SSHFS_PROGRAM:
        problem = f"memory of {peak / 1024:.0f} MiB, more than {series.most_mib:g}"
    return Point(name, program.name, rtt_ms, size, items, seconds, first, fresh, peak, problem)


def _peak_kib(pid: int) -> int:
    """The most memory the process ever had at once."""
    found = _PEAK.search(Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


# -- what is shown of it ---------------------------------------------------------------------------


def line(point: Point) -> str:
    """One point in one line, for the terminal."""
    series = SERIES[point.series]
    if point.each is None:
        result = point.problem.partition("\n")[0]
    else:
        first = "" if point.first is None else f", the first after {point.first * 1e3:.1f} ms"
        result = (
            f"{point.seconds:.3f} s{first}; {point.each:.1f} us for each {series.unit}; "
            f"memory {point.peak_kib / 1024:.0f} MiB, fresh {point.fresh_kib / 1024:.0f}"
        )
        if point.problem:
            result += f": {point.problem}"
    return f"{series.title}, {_size(point)}, RTT {point.rtt_ms:g} ms, {point.program}: {result}"


def _size(point: Point) -> str:
    match point.series:
        case "file":
            return f"{point.size / MIB:g} MiB" if point.size >= MIB else f"{point.size >> 10} KiB"
        case "readers":
            return f"{point.size} readers"
        case "directory":
            return f"{point.size:,} entries"
    return f"{point.size:,} files"


def write_json(
    path: Path, points: Iterable[Point], environment: Mapping[str, str], settings: dict[str, Any]
) -> None:
    content = {
        "environment": environment,
        "settings": settings,
        "points": [asdict(point) | {"us_each": point.each} for point in points],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def load(paths: Sequence[Path]) -> tuple[dict[str, str], list[Point]]:
    """The last one's environment, and the points `write_json` wrote, those of a later file in the
    place of the same of an earlier one; OSError, ValueError if it wrote none."""
    environment: dict[str, str] = {}
    points: dict[tuple[str, str, float, int], Point] = {}
    for path in paths:
        environment, found = _load(path)
        points |= {(one.series, one.program, one.rtt_ms, one.size): one for one in found}
    return environment, list(points.values())


def _load(path: Path) -> tuple[dict[str, str], list[Point]]:
    try:
        content = json.loads(path.read_text())
        points = [Point(**_without(point, "us_each")) for point in content["points"]]
        return content["environment"], points
    except (TypeError, KeyError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path} holds no points: {problem!r}") from problem


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def markdown(environment: Mapping[str, str], points: Sequence[Point]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in environment.items())
    head = ["what", "size", "RTT ms", "seconds", "first, ms", "us each", "VmHWM MiB", "fresh MiB"]
    return f"Measured on: {machine}.\n\n" + markdown_table(head, (_cells(p) for p in points))


def _cells(point: Point) -> list[str]:
    series = SERIES[point.series]
    return [
        series.title,
        _size(point),
        f"{point.rtt_ms:g}",
        point.problem.partition(":")[0] if point.seconds is None else f"{point.seconds:.3f}",
        "" if point.first is None else f"{point.first * 1e3:.1f}",
        "" if point.each is None else f"{point.each:.1f} / {series.unit}",
        f"{point.peak_kib / 1024:.0f}",
        f"{point.fresh_kib / 1024:.0f}",
    ]


def panels(points: Sequence[Point]) -> list[Panel]:
    """Time for each item on the left, memory on the right; a flat line is a cost that stays."""
    drawn = []
    for names, across, unit in (
        (("directory",), "entries of a directory", "entry"),
        (("find", "ls"), "files of a tree", "file"),
        (("file",), "bytes of a file", "MiB"),
        (("readers",), "parallel readers", "MiB"),
    ):
        times = [(SERIES[name].title, _curve(points, name, "each")) for name in names]
        memory = [(SERIES[name].title, _curve(points, name, "memory")) for name in names]
        if names == ("directory",):
            times = [
                ("us each", times[0][1]),
                ("us to the first", _curve(points, "directory", "first")),
            ]
        if any(line for _, line in memory):
            drawn.append(Panel(f"time, us for each {unit}", across, times))
            drawn.append(Panel("memory of the daemon, MiB", across, memory))
    return drawn


def _curve(points: Sequence[Point], name: str, what: str) -> list[tuple[float, float]]:
    """(size, value) of the points of a series that came to their end."""
    own = [point for point in points if point.series == name and point.seconds is not None]
    return [(point.size, _value(point, what)) for point in own]


def _value(point: Point, what: str) -> float:
    match what:
        case "each":
            return point.each or 0.0
        case "first":
            return (point.first or 0.0) * 1e6
    return point.peak_kib / 1024
