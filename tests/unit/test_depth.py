"""A tree has a bottom: what is deeper than `max_depth` is neither looked up, made nor listed."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import pytest

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import AttributeChange, DirectoryEntry
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.fake_remote import attributes_of
from tests.support.memory_tree import MemoryTree, Node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CONFIG = VfsConfig(max_depth=5)


class Bottomless(MemoryTree):
    """There is a directory in every directory, called `d`."""

    def find(self, path: bytes, follow: bool = False) -> Node:
        if path and set(path.split(b"/")) == {b"d"}:
            return self.root
        return super().find(path, follow)


def invented(path: bytes, reply: int) -> list[DirectoryEntry] | None:
    return [DirectoryEntry(b"d", attributes_of(MemoryTree().root))] if not reply else None


def below(depth: int, name: bytes = b"d") -> bytes:
    return b"/".join([name] * depth)


def tree_of(depth: int) -> MemoryTree:
    tree = MemoryTree()
    for each in range(1, depth + 1):
        tree.mkdir(below(each))
    return tree


async def refusal(call: Awaitable[object]) -> int:
    with pytest.raises(FilesystemError) as caught:
        await call
    return caught.value.errno


async def walked(mount: Mount, path: bytes = b"") -> int:
    """How many directories a walk comes to, which goes on where it can."""
    try:
        names = await mount.names(path)
    except FilesystemError as error:
        assert error.errno == errno.ENAMETOOLONG
        return 1
    return 1 + sum([await walked(mount, path + b"/" + name if path else name) for name in names])


@pytest.mark.parametrize("walks", [1, 2])
async def test_a_walk_in_a_bottomless_tree_ends(
    walks: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with mounted(Bottomless(), config=CONFIG) as mount:
        mount.remote.invented = invented
        for _ in range(walks):
            assert await walked(mount) == 6
        await settle()
        asked = {call[1] for call in mount.remote.calls if call[0] in ("opendir", "lstat")}
        assert max(path.count("/") for path in asked) == 3  # what is in there came with it
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert "max_depth=5" in lines[0]
    assert repr(below(5)) in lines[0]


async def test_nothing_is_listed_ahead_below_the_depth() -> None:
    async with mounted(Bottomless(), config=CONFIG) as mount:
        mount.remote.invented = invented
        for depth in range(4):
            await mount.names(below(depth))
        await settle()
        assert mount.fs.statistics()["listed_ahead"] > 0
        assert mount.fs.statistics()["listed_in_vain"] == 0


async def test_the_last_depth_can_be_used() -> None:
    async with mounted(tree_of(4), config=CONFIG) as mount:
        await mount.close(await mount.create(below(4) + b"/file"))
        await mount.mkdir(below(5))
        assert sorted(await mount.names(below(4))) == [b"d", b"file"]
        await mount.setattr(below(4) + b"/file", AttributeChange(mode=0o600))
        await mount.unlink(below(4) + b"/file")
        await mount.fs.rmdir(*await mount.parent(below(5)))
        assert await mount.names(below(4)) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda mount: mount.find(below(6)),
        lambda mount: mount.mkdir(below(5) + b"/x"),
        lambda mount: mount.create(below(5) + b"/x"),
        lambda mount: mount.unlink(below(6)),
        lambda mount: mount.rename(b"f", below(5) + b"/x"),
        lambda mount: mount.rename(below(6), b"x"),
        lambda mount: mount.names(below(5)),
    ],
)
@pytest.mark.parametrize("config", [CONFIG, CONFIG._replace(async_ops=True)])
async def test_what_is_deeper_is_refused_and_not_asked_for(
    call: Callable[[Mount], Awaitable[object]], config: VfsConfig
) -> None:
    tree = tree_of(7)
    tree.write_file(b"f", b"")
    async with mounted(tree, config=config) as mount:
        assert await refusal(call(mount)) == errno.ENAMETOOLONG
        for words in mount.remote.calls:
            assert all(word.count("/") < 5 for word in words)


async def test_symlinks_and_links_are_refused_too() -> None:
    tree = tree_of(5)
    tree.write_file(b"f", b"")
    async with mounted(tree, config=CONFIG) as mount:
        parent, file = await mount.number(below(5)), await mount.number(b"f")
        for call in (
            mount.fs.symlink(parent, b"x", b"t"),
            mount.fs.link(file, parent, b"x"),
            mount.fs.mknod(parent, b"x", 0o100644),
        ):
            assert await refusal(call) == errno.ENAMETOOLONG


async def test_a_path_that_is_too_long_is_refused() -> None:
    """Each of its names is one that can be."""
    tree = MemoryTree()
    path = b""
    while len(path) + 251 < 4096:
        path += (b"/" if path else b"") + b"n" * 250
        tree.mkdir(path)
    async with mounted(tree) as mount:
        parent = await mount.number(path)
        asked = len(mount.remote.calls)
        assert await refusal(mount.fs.lookup(parent, b"n" * 250)) == errno.ENAMETOOLONG
        assert await refusal(mount.fs.mkdir(parent, b"n" * 250, 0o755)) == errno.ENAMETOOLONG
        assert len(mount.remote.calls) == asked
