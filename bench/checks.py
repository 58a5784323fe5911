"""What the checks on the server's word cost: ``python -m bench.checks``.

Pairs of runs, each with a fresh mount: one with the program as it is, one with a copy of it, in a
temporary directory, from which every check is taken that a usual reply, name or file passes. Who
goes first alternates. Nothing of this is in the program; that the patches fit, a test sees.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from bench import machine
from bench.base import Scale, Store
from bench.plan import PYSSHFS_PROGRAM, Plan, Program
from bench.runner import Lab, drop_caches
from bench.workloads import ListTree, PackTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.base import Workload

_ROOT: Final = Path(__file__).resolve().parents[1]
_LIMIT: Final = 120.0  # seconds for one run
_FILES: Final = 4096


class Patch(NamedTuple):
    file: str
    old: str
    new: str


_SESSION: Final = "pysshfs/remote/session.py"
_WIRE: Final = "pysshfs/remote/wire.py"
_CLIENT: Final = "pysshfs/remote/client.py"
_SANITY: Final = "pysshfs/vfs/sanity.py"
_PATHS: Final = "pysshfs/vfs/paths.py"

PATCHES: Final = (
    Patch(_SESSION, "if not 5 <= length <= wire.MAX_REPLY:", "if False:"),
    Patch(_SESSION, "if kind != pending.expected or pending.parse is None:",
          "if pending.parse is None:"),
    Patch(_WIRE, "        if count > self._end - at:\n"
          '            raise ProtocolError("truncated reply")\n', ""),
    Patch(_WIRE, "        if self._at != self._end:\n", "        if False:\n"),
    Patch(_WIRE, "    attributes = reader.attributes()\n    reader.finish()\n    return attributes",
          "    return reader.attributes()"),
    Patch(_WIRE, "    value = reader.string()\n    reader.finish()\n    return value",
          "    return reader.string()"),
    Patch(_WIRE, "    if count > _MAX_NAMES:\n"
          '        raise ProtocolError(f"{count} names in one reply")\n', ""),
    Patch(_CLIENT, "if not 0 < len(token) <= _MAX_HANDLE:", "if False:"),
    Patch(_CLIENT, "if len(data) > length:", "if False:"),
    # Names: only the dots are left out, which every server sends.
    Patch(_SANITY, '        if name in self._seen or len(name) > NAME_MAX or b"/" in name or'
          ' b"\\0" in name:\n            self._leave_out(name)\n            return False\n'
          "        self._seen.add(name)\n        self.name_bytes += len(name)\n"
          "        return True\n",
          '        return name != b"." and name != b".."\n'),
    Patch(_SANITY, "        config = self._config\n        self._seconds += seconds\n",
          "        return None\n        config = self._config\n        self._seconds += seconds\n"),
    # Attributes: as they come, but for the types that the others need.
    Patch(_SANITY, "    mode, size, uid, gid, atime, mtime = attributes\n",
          "    mode, size, uid, gid, atime, mtime = attributes\n"
          "    return FileAttributes(mode, size, uid, gid, atime, mtime)\n"),
    Patch(_PATHS, "        if len(path) >= PATH_MAX:\n"
          "            raise FilesystemError(errno.ENAMETOOLONG)\n"
          "        if is_too_deep(path, self._max_depth):\n"
          "            raise self._too_deep(parent)\n", ""),
    Patch(_PATHS, '        if path and is_too_deep(path + b"/", self._max_depth):\n',
          "        if False:\n"),
    Patch("pysshfs/vfs/readlink.py", "if symlinks.is_contained(text, _depth_of(inode)):",
          "if True:"),
)  # fmt: skip


class Measured(NamedTuple):
    """One run: seconds until the program ended, and of the daemon's processor."""

    elapsed: float
    processor: float


class Interval(NamedTuple):
    """A geometric mean of ratios, and between what it lies with 95 % confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def without_checks(place: Path) -> Program:
    """A copy of the program in `place` with all patches. Raises ValueError for one that does not
    fit."""
    shutil.copytree(_ROOT / "pysshfs", place / "pysshfs")
    for patch in PATCHES:
        file = place / patch.file
        text = file.read_text()
        if text.count(patch.old) != 1:
            raise ValueError(f"{patch.file} has {text.count(patch.old)} times {patch.old!r}")
        file.write_text(text.replace(patch.old, patch.new))
    # -P: not the directory it is started in.
    argv = ("env", f"PYTHONPATH={place}", sys.executable, "-P", "-m", "pysshfs", "-f")
    return Program("without checks", argv, PYSSHFS_PROGRAM.fstype)


def interval(ratios: Sequence[float]) -> Interval:
    """Student's t on the logarithms."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = _t(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _t(freedom: int) -> float:
    """The 97.5 % point of Student's distribution (Cornish and Fisher's expansion; to 0.002 from
    nine degrees of freedom on)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def _one(lab: Lab, program: Program, workload: Workload, store: Store) -> Measured:
    workload.prepare(store)
    drop_caches(names_only=True)
    with lab.mount(program, store.server, lab.port(0)) as mount:
        had = machine.processor(mount.pid)
        elapsed = workload.execute(mount, store, _LIMIT)
        return Measured(elapsed, machine.processor(mount.pid) - had)


def compare(pairs: int, files: int) -> bool:
    """Print what the checks cost; whether that is certain to be less than 5 %."""
    scale = Scale(files, 0, 0, 0, 0)
    plan = Plan([], [0.0], [], pairs, "usual", _LIMIT, False, False, False)
    is_cheap = True
    with Lab(plan) as lab, tempfile.TemporaryDirectory(prefix="pysshfs-checks-") as place:
        bare = without_checks(Path(place))
        store = Store(lab.server_dir, Path(place), scale)
        for workload in (ListTree(), PackTree()):
            run = partial(_one, lab, workload=workload, store=store)
            for program in (bare, PYSSHFS_PROGRAM):
                run(program)  # so that the programs are in memory
            ratios: list[Measured] = []
            for number in range(pairs):
                turns = [PYSSHFS_PROGRAM, bare][:: -1 if number % 2 else 1]
                found = {program.name: run(program) for program in turns}
                checked, free = found[PYSSHFS_PROGRAM.name], found[bare.name]
                ratios.append(
                    Measured(checked.elapsed / free.elapsed, checked.processor / free.processor)
                )
            elapsed = interval([ratio.elapsed for ratio in ratios])
            processor = interval([ratio.processor for ratio in ratios])
            print(f"| {workload.title} | {pairs} | {elapsed} | {processor} |", flush=True)
            is_cheap &= elapsed.high < 1.05
    return is_cheap


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.checks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--files", type=int, default=_FILES)
    wanted = parser.parse_args()
    began = time.monotonic()
    print(", ".join(f"{name} {value}" for name, value in machine.environment().items()))
    print("| workload | pairs | time with checks / without | the daemon's processor |")
    print("| --- | --- | --- | --- |")
    is_cheap = compare(wanted.pairs, wanted.files)
    verdict = "less than 5 %" if is_cheap else "not shown to be less than 5 %"
    print(f"{verdict}, with 95 % confidence; {time.monotonic() - began:.0f} s")
    return 0 if is_cheap else 1


if __name__ == "__main__":
    sys.exit(main())
