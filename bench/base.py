"""What a workload is, how much it works on, and the files it works on.

A `Store` owns the inputs on both sides of the link and makes each when it is first asked for.  A
workload owns nothing but its name: it prepares files in the server's own directory, runs a
program on the mount and checks the outcome, again in the server's directory.  A result that is
not right is `Wrong`, not a time.
"""

from __future__ import annotations

import abc
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import probe, tree
from tests.support.procs import run_limited

if TYPE_CHECKING:
    from tests.support.mounts import Mount

PROBE = str(Path(probe.__file__).resolve())
MIB = 1 << 20


class Wrong(Exception):
    """A workload ended without an error but did not do what it was to do."""


@dataclass(frozen=True)
class Scale:
    """How much of everything: numbers of files, bytes of data, numbers of calls."""

    files: int
    changed_files: int
    data: int
    reads: int
    writes: int
    #: Bytes of the copy beside which directories are listed; it need not come to its end.
    copied: int = 1 << 30


class Store:
    """The server's directory, and beside it what only the client's side has.

    Makes each input when it is first asked for, and keeps it for later runs.
    """

    def __init__(self, server: Path, local: Path, scale: Scale) -> None:
        self.server, self.local, self.scale = server, local, scale
        self.out = server / "out"

    def tree(self, files: int) -> Path:
        path = self.server / f"tree-{files}"
        if not path.exists():
            tree.make_tree(path, files)
        return path

    def repository(self) -> Path:
        path = self.server / f"repository-{self.scale.files}"
        if not path.exists():
            tree.make_repository(path, self.tree(self.scale.files))
        return path

    def data(self) -> Path:
        path = self.server / f"data-{self.scale.data}"
        if not path.exists():
            tree.make_data(path, self.scale.data)
        return path

    def copied(self) -> Path:
        """A file of the size of the long copy, without blocks: zeros, on either side's own disk."""
        path = self.server / f"copied-{self.scale.copied}"
        with path.open("ab") as file:
            file.truncate(self.scale.copied)
        return path

    def directories(self, count: int, files: int) -> list[Path]:
        """`count` directories of `files` empty files each, in no order of their names."""
        paths = [self.server / f"beside-{number * 7 % 31:02d}" for number in range(1, count + 1)]
        for path in paths:
            if not path.exists():
                tree.make_entries(path, files)
        return paths

    def tarball(self) -> Path:
        """An archive of the tree to be unpacked, on the client's side."""
        path = self.local / f"tree-{self.scale.changed_files}.tar"
        if not path.exists():
            source = self.tree(self.scale.changed_files)
            run_limited(["tar", "cf", str(path), "-C", str(source), "."], timeout=120)
        return path

    def local_tree(self) -> Path:
        """The same files as the tree to be unpacked, on the client's side."""
        path = self.local / f"tree-{self.scale.changed_files}"
        if not path.exists():
            shutil.copytree(self.tree(self.scale.changed_files), path)
        return path

    def local_data(self) -> Path:
        """The same bytes as `data`, on the client's side."""
        path = self.local / f"data-{self.scale.data}"
        if not path.exists():
            shutil.copyfile(self.data(), path)
        return path

    def clear_out(self) -> Path:
        """An empty directory on the server for what is written."""
        return _emptied(self.out)

    def clear_fetched(self) -> Path:
        """An empty directory on the client's side for what is fetched."""
        return _emptied(self.local / "fetched")


def _emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


class Workload(abc.ABC):
    """The common part; a subclass says what it runs and how the outcome is told from failure."""

    name = ""
    title = ""
    #: Whether it changes the server's files: then the clock runs on until a flush has returned.
    writes = False
    #: Whether it is also run with `-o async_ops`; reported as a workload of its own.
    also_async = False

    def amount(self, scale: Scale) -> str:
        """What is worked on, for the table."""
        return f"{scale.files} files"

    def prepare(self, store: Store) -> None:  # noqa: B027  # most workloads need nothing made
        """Make what is needed in the server's directory, before there is a mount."""

    @abc.abstractmethod
    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        """Run it on the mount; seconds taken.  May raise Wrong."""

    def missing(self, store: Store) -> str | None:
        """What of the outcome the server's directory does not show, in words."""
        return None

    def over_ssh(self, store: Store, ssh: str) -> str | None:
        """A shell command that does the same without a mount; `ssh` begins one on the server."""
        return None


def run_shell(
    mount: Mount, command: str, cwd: Path, store: Store, limit: float
) -> tuple[float, str]:
    """Run a pipeline in a directory of the store, on the mount; its time and its output."""
    where = cwd.relative_to(store.server)
    argv = ["bash", "-c", f"set -o pipefail; {command}"]
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C"}
    started = time.perf_counter()
    result = mount.run(argv, timeout=limit, cwd=where, env=environment)
    return time.perf_counter() - started, result.stdout


def run_probe(mount: Mount, limit: float, *arguments: object) -> probe.Answer:
    """Run ``probe.py`` with these arguments in the mount's directory."""
    argv = [sys.executable, "-I", PROBE, *map(str, arguments)]
    answer: probe.Answer = json.loads(mount.run(argv, timeout=limit).stdout)
    return answer


def expect(what: str, got: object, wanted: object) -> None:
    """Raises Wrong unless the two are equal."""
    if got != wanted:
        raise Wrong(f"{what}: {got!r} instead of {wanted!r}")
