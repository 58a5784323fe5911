"""What is measured: one class for each workload.

A workload owns nothing but its name.  It prepares files in the server's own directory, runs a
program on the mount and checks the outcome, again in the server's directory.  A result that is
not right is `Wrong`, not a time.
"""

from __future__ import annotations

import abc
import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cache
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

    def tarball(self) -> Path:
        """An archive of the tree to be unpacked, on the client's side."""
        path = self.local / f"tree-{self.scale.changed_files}.tar"
        if not path.exists():
            source = self.tree(self.scale.changed_files)
            run_limited(["tar", "cf", str(path), "-C", str(source), "."], timeout=120)
        return path

    def local_data(self) -> Path:
        """The same bytes as `data`, on the client's side."""
        path = self.local / f"data-{self.scale.data}"
        if not path.exists():
            shutil.copyfile(self.data(), path)
        return path

    def clear_out(self) -> Path:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        return self.out


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Workload(abc.ABC):
    """The common part; a subclass says what it runs and how the outcome is told from failure."""

    name = ""
    title = ""
    #: Whether what was written counts as there only once the server's directory shows it: then
    #: the time runs until `missing` finds nothing, and else until the program has ended.
    settles = False

    def amount(self, scale: Scale) -> str:
        """What is worked on, for the table."""
        return f"{scale.files} files"

    def prepare(self, store: Store) -> None:  # noqa: B027  # most workloads need nothing made
        """Make what is needed in the server's directory, before there is a mount."""

    @abc.abstractmethod
    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        """Run it on the mount; seconds taken.  May raise Wrong."""

    def missing(self, store: Store) -> str | None:
        """What of the outcome the server's directory does not show yet, in words."""
        return None

    def over_ssh(self, store: Store, ssh: str) -> str | None:
        """A shell command that does the same without a mount; `ssh` begins one on the server."""
        return None


def _shell(mount: Mount, command: str, cwd: Path, store: Store, limit: float) -> tuple[float, str]:
    """Run a pipeline in a directory of the store, on the mount; its time and its output."""
    where = cwd.relative_to(store.server)
    argv = ["bash", "-c", f"set -o pipefail; {command}"]
    environment = {"GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C"}
    started = time.perf_counter()
    result = mount.run(argv, timeout=limit, cwd=where, env=environment)
    return time.perf_counter() - started, result.stdout


def _probe(mount: Mount, limit: float, *arguments: object) -> tuple[float, str]:
    argv = [sys.executable, "-I", PROBE, *map(str, arguments)]
    answer = json.loads(mount.run(argv, timeout=limit).stdout)
    return float(answer["seconds"]), str(answer["digest"])


def _expect(what: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise Wrong(f"{what}: {got!r} instead of {wanted!r}")


class ListTree(Workload):
    name, title = "ls", "ls -lR"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        seconds, listing = _shell(mount, "ls -lR", root, store, limit)
        lines = [line.split() for line in listing.splitlines() if line.startswith("-")]
        got = sorted((columns[8], int(columns[4])) for columns in lines)
        wanted = sorted((p.name, p.stat().st_size) for p in root.rglob("*") if p.is_file())
        _expect("files listed", got, wanted)
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'ls -lR {store.tree(store.scale.files)}' | wc -c"


class PackTree(Workload):
    name, title = "tar", "tar c"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        # Into a pipe: tar does not read the files when its archive is /dev/null.
        seconds, count = _shell(mount, "tar c . | wc -c", root, store, limit)
        wanted = run_limited(["sh", "-c", f"tar c -C {root} . | wc -c"], timeout=60).stdout
        _expect("bytes of the archive", int(count), int(wanted))
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'tar c -C {store.tree(store.scale.files)} .' | wc -c"


class SearchTree(Workload):
    name, title = "grep", "grep -r"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        seconds, count = _shell(mount, f"grep -rF {tree.NEEDLE} . | wc -l", root, store, limit)
        _expect("lines found", int(count), -(-store.scale.files // 8))
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        root = store.tree(store.scale.files)
        return f"{ssh} 'grep -rF {tree.NEEDLE} {root}' | wc -l"


class GitStatus(Workload):
    name, title = "git", "git status"

    def prepare(self, store: Store) -> None:
        store.repository()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        seconds, changes = _shell(mount, "git status --porcelain", store.repository(), store, limit)
        _expect("changes reported", changes, "")
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'git -C {store.repository()} status --porcelain'"


class UnpackTree(Workload):
    name, title, settles = "untar", "tar x", True

    def amount(self, scale: Scale) -> str:
        return f"{scale.changed_files} files"

    def prepare(self, store: Store) -> None:
        store.tarball()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        return _shell(mount, f"tar xf {store.tarball()}", store.out, store, limit)[0]

    def missing(self, store: Store) -> str | None:
        return tree.difference(store.tree(store.scale.changed_files), store.out)

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'tar x -C {store.out}' < {store.tarball()}"


class RemoveTree(Workload):
    name, title, settles = "rm", "rm -rf", True

    def amount(self, scale: Scale) -> str:
        return f"{scale.changed_files} files"

    def prepare(self, store: Store) -> None:
        source = store.tree(store.scale.changed_files)
        shutil.copytree(source, store.clear_out() / "victim")

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        return _shell(mount, "rm -rf victim", store.out, store, limit)[0]

    def missing(self, store: Store) -> str | None:
        left = os.listdir(store.out)
        return f"{left} still there" if left else None

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'rm -rf {store.out}/victim'"


class ReadData(Workload):
    name, title = "read", "sequential read"

    def amount(self, scale: Scale) -> str:
        return f"{scale.data / MIB:g} MiB"

    def prepare(self, store: Store) -> None:
        store.data()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        path = store.data()
        seconds, digest = _probe(mount, limit, "read", path.name, store.scale.data)
        _expect("digest of what was read", digest, _digest(path))
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'cat {store.data()}' | wc -c"


class WriteData(Workload):
    name, title = "write", "write + fsync"

    def amount(self, scale: Scale) -> str:
        return f"{scale.data / MIB:g} MiB"

    def prepare(self, store: Store) -> None:
        store.local_data()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        source, size = store.local_data(), store.scale.data
        return _probe(mount, limit, "write", "out/written", source, MIB, size)[0]

    def missing(self, store: Store) -> str | None:
        return _unequal(store.out / "written", store.local_data(), store.scale.data)

    def over_ssh(self, store: Store, ssh: str) -> str:
        target = store.out / "written"
        return f"{ssh} 'cat > {target} && sync {target}' < {store.local_data()}"


class ReadPages(Workload):
    name, title = "random", "random 4 KiB reads"

    def amount(self, scale: Scale) -> str:
        return f"{scale.reads} reads"

    def prepare(self, store: Store) -> None:
        store.data()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        path, scale = store.data(), store.scale
        seconds, digest = _probe(
            mount, limit, "pages", path.name, scale.data, scale.reads, tree.SEED
        )
        content = path.read_bytes()
        offsets = probe.page_offsets(scale.data, scale.reads, tree.SEED)
        wanted = b"".join(content[at : at + probe.PAGE] for at in offsets)
        _expect("digest of what was read", digest, hashlib.sha256(wanted).hexdigest())
        return seconds


class WriteSmall(Workload):
    name, title = "small", "512-byte writes + fsync"

    def amount(self, scale: Scale) -> str:
        return f"{scale.writes} writes"

    def prepare(self, store: Store) -> None:
        store.local_data()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        source, size = store.local_data(), store.scale.writes * 512
        return _probe(mount, limit, "write", "out/written", source, 512, size)[0]

    def missing(self, store: Store) -> str | None:
        return _unequal(store.out / "written", store.local_data(), store.scale.writes * 512)


def _unequal(path: Path, source: Path, size: int) -> str | None:
    """Why `path` is not the first `size` bytes of `source`."""
    if not path.exists() or path.stat().st_size != size:
        return f"{path.name} has not {size} bytes"
    with source.open("rb") as file:
        return None if path.read_bytes() == file.read(size) else f"{path.name}: contents differ"


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        ListTree(), PackTree(), SearchTree(), GitStatus(), UnpackTree(), RemoveTree(),
        ReadData(), WriteData(), ReadPages(), WriteSmall(),
    )
}  # fmt: skip
