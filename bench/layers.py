"""What a request costs in each layer: ``python -m bench.layers``.

One LSTAT, or what a kernel's request makes of it, on OpenSSH's server at no round trip: through the
SFTP session alone (`remote/`), through the file system with nothing remembered (`vfs/`), and from a
program through the kernel (`fuse/`); and what is answered from memory, where the server has no
part. Each row contains the one above it, but for those from memory. Requests a second, and
microseconds of processor for each request of the process that is measured: this one, or the daemon.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from bench import machine
from pysshfs.remote.bridge import Bridge
from pysshfs.remote.connection import ServerConnection
from pysshfs.remote.probe import Nobody
from pysshfs.remote.route import Hop, Target
from pysshfs.remote.sshconfig import SshConfiguration
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER, Filesystem
from tests.support.mounts import Mount
from tests.support.sshd import HOST, Sshd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.remotefs import RemoteFS
    from pysshfs.vfs.kernelcache import Entry

_FILES: Final = 256  # as many are in flight at once
_UNREMEMBERED: Final = ("dir_cache=no", "entry_timeout=0", "attr_timeout=0", "negative_timeout=0")

# Looks at the files in turn, one after the other; says how long that took.
_LOOK: Final = """
import os, sys, time
files, count = int(sys.argv[1]), int(sys.argv[2])
began = time.perf_counter()
for i in range(count):
    os.lstat(str(i % files))
print(time.perf_counter() - began)
"""


class Cost(NamedTuple):
    """Of one request: seconds that passed, and seconds of processor."""

    elapsed: float
    processor: float

    def __str__(self) -> str:
        return f"{1 / self.elapsed:,.0f} | {1e6 * self.processor:.0f}"


class Row(NamedTuple):
    """A layer, and its requests one at a time and many at once."""

    layer: str
    one: Cost
    many: Cost | None = None


async def _measured(work: Callable[[int], Awaitable[object]], count: int, at_once: int) -> Cost:
    """`work(i)` for each i below `count`, `at_once` of them in flight."""

    async def some(first: int) -> None:
        for i in range(first, count, at_once):
            await work(i)

    began, had = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for first in range(at_once):
            nursery.start_soon(some, first)
    return Cost((time.perf_counter() - began) / count, (time.process_time() - had) / count)


async def _session(remote: RemoteFS, count: int) -> list[Row]:
    async def lstat(i: int) -> None:
        await remote.lstat(b"%d" % (i % _FILES))

    one, many = await _measured(lstat, count, 1), await _measured(lstat, 4 * count, _FILES)
    return [Row("`remote/`: an LSTAT of the session", one, many)]


async def _file_system(remote: RemoteFS, count: int) -> list[Row]:
    config = VfsConfig(stat_timeout=0, directory_timeout=0, negative_timeout=0)
    forgetful, usual = Filesystem(remote, config), Filesystem(remote, VfsConfig(stat_timeout=3600))
    numbers = [(await _found(forgetful, i)).number for i in range(_FILES)]
    for i in range(_FILES):
        await _found(usual, i)

    async def asks(i: int) -> None:
        await forgetful.getattr(numbers[i % _FILES])

    async def remembers(i: int) -> None:
        assert usual.at_hand.lookup(ROOT_NUMBER, b"%d" % (i % _FILES)) is not None

    one, many = await _measured(asks, count, 1), await _measured(asks, 4 * count, _FILES)
    known = await _measured(remembers, 20 * count, 1)
    return [
        Row("`vfs/` on it: attributes, nothing remembered", one, many),
        Row("`vfs/` alone: a name from memory", known),
    ]


async def _found(filesystem: Filesystem, number: int) -> Entry:
    entry = await filesystem.lookup(ROOT_NUMBER, b"%d" % number)
    assert entry is not None
    return entry


async def _without_kernel(sshd: Sshd, directory: Path, count: int) -> list[Row]:
    bridge = Bridge()
    options = [option.partition("=") for option in sshd.options()]
    configuration = SshConfiguration([(name, value) for name, _, value in options], "none")
    target = Target(Hop(HOST, sshd.user, None), os.fsencode(directory), "sftp")
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        connection = ServerConnection(bridge, target, configuration, Nobody(), None)
        remote = await connection.connect()
        rows = [*await _session(remote, count), *await _file_system(remote, count)]
        await connection.close()
        nursery.cancel_scope.cancel()
    return rows


def _through_the_kernel(sshd: Sshd, directory: Path, count: int, *options: str) -> Cost:
    with Mount(sshd.source(directory), *sshd.options(), *options) as mount:
        argv = [sys.executable, "-I", "-c", _LOOK, str(_FILES)]
        mount.run([*argv, str(_FILES)])
        had = machine.processor(mount.pid)
        elapsed = float(mount.run([*argv, str(count)], timeout=120).stdout)
        return Cost(elapsed / count, (machine.processor(mount.pid) - had) / count)


def rows(count: int) -> list[Row]:
    with Sshd(log_level="ERROR") as sshd, tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        directory = Path(name)
        for i in range(_FILES):
            (directory / str(i)).touch()
        found = trio.run(_without_kernel, sshd, directory, count)
        asked = _through_the_kernel(sshd, directory, count, *_UNREMEMBERED)
        known = _through_the_kernel(
            sshd, directory, 4 * count, "entry_timeout=0", "attr_timeout=0", "dcache_timeout=3600"
        )
    return [
        *found[:2],
        Row("`fuse/` on both: lstat(2) of a program, nothing remembered", asked),
        *found[2:],
        Row("`fuse/` on that: lstat(2), answered on the spot", known),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.layers", description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="requests of each kind, at least")
    wanted = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in machine.environment().items()))
    print(f"\n| layer | one at a time: requests/s | us of processor | {_FILES} in flight: | us |")
    print("| --- | --- | --- | --- | --- |")
    for name, one, many in rows(wanted.count):
        print(f"| {name} | {one} | {many or ' | '} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
