"""Programs read their way through directories while another client changes them on the server:
what a program gets is what the file was at its open(2), or not longer before than is documented."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pysshfs.errors import FilesystemError
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Sequence

TTL = 1.0
LATENCY = 0.03
NAMES = [b"f%02d" % i for i in range(16)]
DIRECTORIES = [b"a", b"b"]

# (kind, which directory, which file): reading everything in order, reading one, changing one on
# the server or through the mount, removing and making it on the server, waiting, losing the link.
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["list", "read on", "read one", "change", "write", "remove", "wait", "drop"]
        ),
        st.integers(0, len(DIRECTORIES) - 1),
        st.integers(0, len(NAMES) - 1),
    ),
    max_size=60,
)


class World:
    """The server's tree and, for each path, what it has been since when (None: absent)."""

    def __init__(self) -> None:
        self.tree = MemoryTree()
        self.history: dict[bytes, list[tuple[float, bytes | None]]] = {}
        self.version = 0
        for directory in DIRECTORIES:
            self.tree.mkdir(directory)
            for name in NAMES:
                self.put(directory + b"/" + name)

    def new_content(self) -> bytes:
        self.version += 1  # each of a size of its own: SFTP's whole seconds hide nothing
        return b"%d." % self.version * self.version

    def put(self, path: bytes) -> None:
        data = self.new_content()
        self.tree.write_file(path, data)
        self.note(path, data)

    def remove(self, path: bytes) -> None:
        if self.tree.exists(path):
            self.tree.remove(path)
            self.note(path, None)

    def note(self, path: bytes, data: bytes | None) -> None:
        self.history.setdefault(path, []).append((trio.current_time(), data))

    def may_be(self, path: bytes, data: bytes | None, since: float) -> bool:
        """Whether the file was this at some moment from `since` on."""
        was = self.history[path]
        ends = [began for began, _ in was[1:]] + [float("inf")]
        return any(end >= since and data == had for (_, had), end in zip(was, ends, strict=True))


async def read(mount: Mount, path: bytes) -> bytes | None:
    try:
        number = await mount.number(path)
        opened = await mount.fs.open(number, os.O_RDONLY)
    except (AssertionError, FilesystemError):
        return None
    try:
        return await mount.fs.read(opened.fh, 0, 1 << 17)
    finally:
        await mount.close(opened.fh)


async def run(script: Sequence[tuple[str, int, int]]) -> None:
    world = World()
    places = dict.fromkeys(DIRECTORIES, 0)
    config = VfsConfig(prefetch_ttl=TTL, stat_timeout=0.5, directory_timeout=0.5)
    async with mounted(world.tree, latency=LATENCY, config=config) as mount:
        for kind, which, index in script:
            directory = DIRECTORIES[which]
            path = directory + b"/" + NAMES[index]
            match kind:
                case "list":
                    await mount.names(directory)
                    places[directory] = 0
                case "read on" | "read one":
                    if kind == "read on":
                        path = directory + b"/" + NAMES[places[directory] % len(NAMES)]
                        places[directory] += 1
                    began = trio.current_time()
                    found = await read(mount, path)
                    # A name that is believed to be there, or not, is as old as that belief.
                    oldest = began - TTL - 2 * LATENCY
                    assert world.may_be(path, found, oldest), (path, found, oldest)
                case "change":
                    world.put(path)
                case "write":
                    data = world.new_content()
                    try:
                        fh = await mount.open(path, os.O_WRONLY | os.O_TRUNC)
                    except (AssertionError, FilesystemError):
                        continue
                    await mount.fs.write(fh, 0, data)
                    await mount.close(fh)
                    world.note(path, b"")
                    world.note(path, data)
                case "remove":
                    world.remove(path)
                case "drop":
                    mount.remote.drop_connection()
                    await mount.reconnect()
                case _:
                    await trio.sleep(0.3)
        await trio.sleep(3 * TTL)  # what nobody has come to is given up by then


@settings(max_examples=150, deadline=None)
@given(steps)
def test_what_is_read_was_true_a_moment_ago(script: list[tuple[str, int, int]]) -> None:
    reading_through = [("list", 0, 0)] + [("read on", 0, 0)] * 5
    trio.run(run, reading_through + script, clock=trio.testing.MockClock(autojump_threshold=0))
