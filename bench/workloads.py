"""What is measured: one class for each workload, in the order of the table of goals.

The common part, and what a workload may do, is in `bench.base`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from typing import TYPE_CHECKING

from bench import probe, tree
from bench.base import MIB, Scale, Store, Workload, Wrong, expect, run_probe, run_shell
from tests.support.procs import run_limited

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.mounts import Mount


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ListTree(Workload):
    name, title = "ls", "ls -lR"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        seconds, listing = run_shell(mount, "ls -lR", root, store, limit)
        lines = [line.split() for line in listing.splitlines() if line.startswith("-")]
        got = sorted((columns[8], int(columns[4])) for columns in lines)
        wanted = sorted((p.name, p.stat().st_size) for p in root.rglob("*") if p.is_file())
        expect("files listed", got, wanted)
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
        seconds, count = run_shell(mount, "tar c . | wc -c", root, store, limit)
        wanted = run_limited(["sh", "-c", f"tar c -C {root} . | wc -c"], timeout=60).stdout
        expect("bytes of the archive", int(count), int(wanted))
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'tar c -C {store.tree(store.scale.files)} .' | wc -c"


class SearchTree(Workload):
    name, title = "grep", "grep -r"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        seconds, count = run_shell(mount, f"grep -rF {tree.NEEDLE} . | wc -l", root, store, limit)
        expect("lines found", int(count), -(-store.scale.files // 8))
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        root = store.tree(store.scale.files)
        return f"{ssh} 'grep -rF {tree.NEEDLE} {root}' | wc -l"


class CopyTreeOut(Workload):
    name, title = "copyout", "cp -r out"

    def prepare(self, store: Store) -> None:
        store.tree(store.scale.files)
        store.clear_fetched()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        root = store.tree(store.scale.files)
        target = store.clear_fetched() / "copy"
        seconds, _ = run_shell(mount, f"cp -r . {target}", root, store, limit)
        if (difference := tree.difference(root, target)) is not None:
            raise Wrong(difference)
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        root = store.tree(store.scale.files)
        return f"{ssh} 'tar c -C {root} .' | tar x -C {store.local / 'fetched'}"


class GitStatus(Workload):
    name, title = "git", "git status"

    def prepare(self, store: Store) -> None:
        store.repository()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        seconds, changes = run_shell(
            mount, "git status --porcelain", store.repository(), store, limit
        )
        expect("changes reported", changes, "")
        return seconds

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'git -C {store.repository()} status --porcelain'"


class UnpackTree(Workload):
    name, title, writes, also_async = "untar", "tar x", True, True

    def amount(self, scale: Scale) -> str:
        return f"{scale.changed_files} files"

    def prepare(self, store: Store) -> None:
        store.tarball()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        return run_shell(mount, f"tar xf {store.tarball()}", store.out, store, limit)[0]

    def missing(self, store: Store) -> str | None:
        # tar sets modes and times, too.
        wanted = store.tree(store.scale.changed_files)
        return tree.difference(wanted, store.out, attributes=True)

    def over_ssh(self, store: Store, ssh: str) -> str:
        return f"{ssh} 'tar x -C {store.out}' < {store.tarball()}"


class CopyTreeIn(Workload):
    name, title, writes = "copyin", "cp -r in", True

    def amount(self, scale: Scale) -> str:
        return f"{scale.changed_files} files"

    def prepare(self, store: Store) -> None:
        store.local_tree()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        return run_shell(mount, f"cp -r {store.local_tree()} copy", store.out, store, limit)[0]

    def missing(self, store: Store) -> str | None:
        return tree.difference(store.tree(store.scale.changed_files), store.out / "copy")

    def over_ssh(self, store: Store, ssh: str) -> str:
        unpack = f"mkdir {store.out}/copy && tar x -C {store.out}/copy"
        return f"tar c -C {store.local_tree()} . | {ssh} '{unpack}'"


class RemoveTree(Workload):
    name, title, writes, also_async = "rm", "rm -rf", True, True

    def amount(self, scale: Scale) -> str:
        return f"{scale.changed_files} files"

    def prepare(self, store: Store) -> None:
        source = store.tree(store.scale.changed_files)
        shutil.copytree(source, store.clear_out() / "victim")

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        return run_shell(mount, "rm -rf victim", store.out, store, limit)[0]

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
        answer = run_probe(mount, limit, "read", path.name, store.scale.data)
        expect("digest of what was read", answer["digest"], _digest(path))
        return float(answer["seconds"])

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
        answer = run_probe(mount, limit, "write", "out/written", source, MIB, size)
        return float(answer["seconds"])

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
        answer = run_probe(mount, limit, "pages", path.name, scale.data, scale.reads, tree.SEED)
        content = path.read_bytes()
        offsets = probe.page_offsets(scale.data, scale.reads, tree.SEED)
        wanted = b"".join(content[at : at + probe.PAGE] for at in offsets)
        expect("digest of what was read", answer["digest"], hashlib.sha256(wanted).hexdigest())
        return float(answer["seconds"])


class WriteSmall(Workload):
    name, title = "small", "512-byte writes + fsync"

    def amount(self, scale: Scale) -> str:
        return f"{scale.writes} writes"

    def prepare(self, store: Store) -> None:
        store.local_data()
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        source, size = store.local_data(), store.scale.writes * 512
        answer = run_probe(mount, limit, "write", "out/written", source, 512, size)
        return float(answer["seconds"])

    def missing(self, store: Store) -> str | None:
        return _unequal(store.out / "written", store.local_data(), store.scale.writes * 512)


class ListBeside(Workload):
    """The median of several `ls`, each of another directory, while a long copy runs.

    The copy is broken off when they are done; what it has written is of no interest.
    """

    #: Directories listed one after the other, files in each, and how many of the listings must
    #: have ended before the copy did.
    directories, files, at_least = 7, 20, 3

    def __init__(self, name: str, title: str, *, inwards: bool) -> None:
        self.name, self.title, self._inwards = name, title, inwards

    def amount(self, scale: Scale) -> str:
        return f"{self.directories} x {self.files} files"

    def prepare(self, store: Store) -> None:
        store.copied()
        store.directories(self.directories, self.files)
        store.clear_out()

    def execute(self, mount: Mount, store: Store, limit: float) -> float:
        source = store.copied()
        ends = (source, "out/copy") if self._inwards else (source.name, os.devnull)
        paths = store.directories(self.directories, self.files)
        names = [path.relative_to(store.server) for path in paths]
        answer = run_probe(mount, limit, "beside", *ends, *names)
        expect("names listed", set(answer["names"]), {self.files})
        if answer["listings"] < self.at_least:
            raise Wrong(f"the copy ended after {answer['listings']} listings")
        return float(answer["seconds"])


def _unequal(path: Path, source: Path, size: int) -> str | None:
    """Why `path` is not the first `size` bytes of `source`."""
    if not path.exists() or path.stat().st_size != size:
        return f"{path.name} has not {size} bytes"
    with source.open("rb") as file:
        return None if path.read_bytes() == file.read(size) else f"{path.name}: contents differ"


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        ListTree(), PackTree(), SearchTree(), CopyTreeOut(), GitStatus(),
        UnpackTree(), CopyTreeIn(), RemoveTree(),
        ReadData(), WriteData(), ReadPages(), WriteSmall(),
        ListBeside("beside-out", "ls beside a copy out", inwards=False),
        ListBeside("beside-in", "ls beside a copy in", inwards=True),
    )
}  # fmt: skip
