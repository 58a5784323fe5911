"""Names that are asked for one by one: after a few, their directory is listed for them."""

from __future__ import annotations

import trio

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.memory_tree import MemoryTree

ROUND_TRIP = 0.05


def tree_with(count: int, directory: bytes = b"d") -> MemoryTree:
    tree = MemoryTree()
    tree.mkdir(directory)
    for i in range(count):
        tree.write_file(directory + b"/%03d" % i, b"x" * i)
    return tree


async def look_at(mount: Mount, count: int) -> None:
    number = await mount.number(b"d")
    for i in range(count):
        entry = await mount.fs.lookup(number, b"%03d" % i)
        assert entry is not None and entry.attributes.size == i
        mount.counted(entry)


async def test_many_names_of_a_directory_cost_a_few_round_trips() -> None:
    async with mounted(tree_with(100), latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        await look_at(mount, 100)
        assert trio.current_time() - began < 8 * ROUND_TRIP
        # That directory's, and the one's above; and one because the first file might be one.
        assert mount.remote.count("opendir") == 2 + 1
        assert mount.remote.count("lstat") <= 8


async def test_two_names_list_nothing() -> None:
    async with mounted(tree_with(10)) as mount:
        await look_at(mount, 2)
        await trio.sleep(3)  # and then two others
        number = await mount.number(b"d")
        for name in (b"005", b"006"):
            found = await mount.fs.lookup(number, name)
            assert found is not None
            mount.counted(found)
        await settle()
        assert mount.remote.count("opendir") == 0


async def test_one_name_again_and_again_lists_nothing() -> None:
    async with mounted(tree_with(3), config=VfsConfig(stat_timeout=0.1)) as mount:
        for _ in range(10):
            await mount.entry(b"d/001")
            await trio.sleep(0.15)
        assert mount.remote.count("opendir") == 0


async def test_a_walk_by_names_lists_ahead() -> None:
    """As git looks at what it has in its index: every file of every directory, nothing listed."""
    tree = MemoryTree()
    for i in range(20):
        tree.mkdir(b"d%02d" % i)
        for j in range(10):
            tree.write_file(b"d%02d/%d" % (i, j), b"x")
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        began = trio.current_time()
        for i in range(20):
            number = await mount.number(b"d%02d" % i)
            for j in range(10):
                found = await mount.fs.lookup(number, b"%d" % j)
                assert found is not None
                mount.counted(found)
        took = trio.current_time() - began
        assert took < 30 * ROUND_TRIP  # 220 one by one
        figures = mount.fs.statistics()
        assert figures["directories_opened_in_vain"] <= 3  # the first files might be directories
        assert mount.remote.count("opendir") == 21 + figures["directories_opened_in_vain"]
        assert figures["listed_in_vain"] == 0


async def test_what_a_listing_from_just_now_has_not_is_absent() -> None:
    async with mounted(tree_with(5), config=VfsConfig(negative_timeout=1)) as mount:
        await mount.names(b"d")
        number = await mount.number(b"d")
        for i in range(90, 93):  # it is a search
            assert await mount.fs.lookup(number, b"%03d" % i) is None
        await settle()  # and the directory is listed anew for it
        asked = mount.remote.count("lstat")
        for i in range(100, 120):
            assert await mount.fs.lookup(number, b"%03d" % i) is None
        assert mount.remote.count("lstat") == asked
        await trio.sleep(1.1)
        mount.tree.write_file(b"d/100", b"new")
        found = await mount.fs.lookup(number, b"100")
        assert found is not None
        mount.counted(found)


async def test_one_name_that_is_in_no_directory_is_asked_for_in_three() -> None:
    """As git does with .gitignore."""
    tree = MemoryTree()
    for i in range(20):
        tree.mkdir(b"d%02d" % i)
    async with mounted(tree) as mount:
        for name in await mount.names():
            await mount.names(name)
            assert await mount.find(name + b"/.gitignore") is None
        assert (
            sum(
                c == ("lstat", f"d{i:02}/.gitignore") for i in range(20) for c in mount.remote.calls
            )
            == 3
        )


async def test_what_was_made_on_the_server_a_moment_ago_is_found() -> None:
    async with mounted(tree_with(5)) as mount:
        await mount.names(b"d")
        mount.tree.write_file(b"d/new", b"new")
        assert await mount.find(b"d/new") is not None


async def test_a_search_for_what_is_absent_asks_once_a_second() -> None:
    """A compiler's search for headers: each name is in one of many directories, or in none."""
    async with mounted(tree_with(50)) as mount:
        number = await mount.number(b"d")
        for i in range(400):
            assert await mount.fs.lookup(number, b"not-%d" % i) is None
            await trio.sleep(0.01)
        assert mount.remote.count("lstat") < 40
        assert mount.remote.count("opendir") <= 5


async def test_a_name_that_was_answered_for_is_known_to_be_absent() -> None:
    """What is made then is ours, also when the reply is lost."""
    async with mounted(tree_with(5)) as mount:
        await mount.mkdir(b"known")  # so the server's clock is
        await mount.names(b"d")
        parent = await mount.number(b"d")
        for name in (b"a", b"b", b"c"):
            assert await mount.fs.lookup(parent, name) is None
        await settle()
        asked = mount.remote.count("lstat")
        assert await mount.fs.lookup(parent, b"new") is None
        assert mount.remote.count("lstat") == asked
        mount.remote.hold()
        async with trio.open_nursery() as nursery:

            async def make() -> None:
                mount.counted(await mount.fs.mkdir(parent, b"new", 0o755))

            nursery.start_soon(make)
            await settle()
            mount.remote.drop_connection()
            await mount.reconnect()
        assert mount.tree.exists(b"d/new")


async def test_what_was_changed_here_is_asked_for() -> None:
    async with mounted(tree_with(5)) as mount:
        await mount.names(b"d")
        await mount.setattr(b"d/003", AttributeChange(mode=0o600))
        number = await mount.number(b"d/003")
        for _ in range(2):
            mount.forget_all()
            mount.fs.tree.cache.drop_attributes(number)
            assert (await mount.entry(b"d/003")).attributes.mode & 0o777 == 0o600
            await mount.names(b"d")


async def test_a_directory_that_is_too_long_is_tried_once() -> None:
    config = VfsConfig(cache_entries=100)
    async with mounted(tree_with(300), config=config) as mount:
        for i in range(30):
            assert await mount.find(b"d/%03d" % i) is not None
            await trio.sleep(0.2)
        assert [call for call in mount.remote.calls if call[0] == "opendir"].count(
            ("opendir", "d")
        ) == 1
        assert mount.remote.open_handles == []


async def test_without_caches_nothing_is_listed() -> None:
    config = VfsConfig(stat_timeout=0, directory_timeout=0, negative_timeout=0, link_timeout=0)
    async with mounted(tree_with(30), config=config) as mount:
        await look_at(mount, 30)
        await settle()
        assert mount.remote.count("opendir") == 0
