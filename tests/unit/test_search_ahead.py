"""A name that is looked for in directory after directory, and is in none (`vfs/searchahead.py`)."""

from __future__ import annotations

import trio

from pysshfs.vfs import searchahead
from pysshfs.vfs.config import VfsConfig
from tests.support.fake_mount import Mount, mounted
from tests.support.memory_tree import MemoryTree

ROUND_TRIP = 0.05
NAME = b".gitignore"
DIRECTORIES = [b"d%02d" % i for i in range(40)]


def tree_with(directories: list[bytes]) -> MemoryTree:
    tree = MemoryTree()
    for directory in directories:
        tree.mkdir(directory)
    return tree


async def listed(mount: Mount, directories: list[bytes]) -> None:
    """All of them are known, and by now too long for what they do not have."""
    for directory in (b"", *directories):
        await mount.names(directory)
    await trio.sleep(mount.fs.tree.config.negative_timeout)


def asked(mount: Mount) -> list[str]:
    name = NAME.decode()
    return [c[1] for c in mount.remote.calls if c[0] == "lstat" and c[1].endswith(name)]


async def search(mount: Mount, directories: list[bytes]) -> float:
    began = trio.current_time()
    for directory in directories:
        assert await mount.find(directory + b"/" + NAME) is None
    return trio.current_time() - began


def figures(mount: Mount) -> tuple[int, int]:
    told = mount.fs.statistics()
    return told["names_asked_ahead"], told["names_asked_in_vain"]


async def test_a_search_costs_a_few_round_trips() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        took = await search(mount, DIRECTORIES)
        assert took < 8 * ROUND_TRIP  # 40 one by one
        assert len(asked(mount)) == len(DIRECTORIES)
        used, in_vain = figures(mount)
        assert used > len(DIRECTORIES) - 8 and in_vain == 0


async def test_it_goes_down_before_it_goes_on() -> None:
    nested = [b"a", b"a/b", b"a/b/c", b"a/b/d", b"a/e", b"f", b"f/g", b"h", b"i", b"j"]
    async with mounted(tree_with(nested), latency=ROUND_TRIP) as mount:
        await listed(mount, nested)
        await search(mount, nested)
        assert [path.rpartition("/")[0].encode() for path in asked(mount)] == nested
        assert figures(mount)[1] == 0


async def test_it_goes_down_from_where_it_is() -> None:
    nested = [b"a", b"b", b"c", b"d", b"d/e", b"d/f", b"d/f/g", b"h"]
    async with mounted(tree_with(nested), latency=ROUND_TRIP) as mount:
        await listed(mount, nested)
        await search(mount, nested)
        assert [path.rpartition("/")[0].encode() for path in asked(mount)] == nested


async def test_waiting_for_a_name_in_one_directory_is_no_search() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        for _ in range(10):
            await search(mount, DIRECTORIES[:1])
            await trio.sleep(mount.fs.tree.config.negative_timeout)
        assert len(asked(mount)) == 10
        assert figures(mount) == (0, 0)


async def test_two_directories_are_no_search() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:3])
        assert len(asked(mount)) == 3


async def test_what_was_made_meanwhile_is_found() -> None:
    """After a second at most, as everywhere."""
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:4])  # and four more are asked ahead
        assert len(asked(mount)) == 8
        mount.tree.write_file(DIRECTORIES[4] + b"/" + NAME, b"*")
        await trio.sleep(mount.fs.tree.config.negative_timeout)
        assert await mount.find(DIRECTORIES[4] + b"/" + NAME) is not None
        mount.tree.write_file(DIRECTORIES[20] + b"/" + NAME, b"*")
        assert await mount.find(DIRECTORIES[20] + b"/" + NAME) is not None


async def test_what_is_there_is_not_called_absent() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        mount.tree.write_file(DIRECTORIES[5] + b"/" + NAME, b"*")  # before it is asked ahead
        await search(mount, DIRECTORIES[:5])
        assert await mount.find(DIRECTORIES[5] + b"/" + NAME) is not None


async def test_what_is_promised_before_the_answer_came_is_there() -> None:
    config = VfsConfig(async_ops=True)
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP, config=config) as mount:
        await mount.mkdir(b"first")  # so what the server makes of a mode is known
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:3])
        made = DIRECTORIES[5] + b"/" + NAME
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search, mount, DIRECTORIES[3:4])
            await trio.sleep(ROUND_TRIP / 2)  # asked ahead for those behind it, not answered
            await mount.mkdir(made)
            assert mount.fs.statistics()["unanswered_operations"] > 0
            await trio.sleep(ROUND_TRIP * 0.75)  # answered: absent, when it was asked
            assert mount.fs.statistics()["unanswered_operations"] > 0
            assert await mount.find(made) is not None
        await mount.fs.flush_all()


async def test_where_it_is_known_to_be_it_is_not_asked_for() -> None:
    tree = tree_with(DIRECTORIES)
    tree.write_file(DIRECTORIES[5] + b"/" + NAME, b"*")
    async with mounted(tree, latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:4])
        assert [int(path[1:3]) for path in asked(mount)] == [0, 1, 2, 3, 4, 6, 7, 8]


async def test_what_the_search_has_passed_was_asked_in_vain() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:4])
        await search(mount, DIRECTORIES[30:31])
        assert figures(mount) == (0, searchahead._FIRST_AHEAD)
        assert [int(path[1:3]) for path in asked(mount)[8:]] == [30, 31, 32, 33, 34]


async def test_what_is_too_old_is_asked_for_again() -> None:
    async with mounted(tree_with(DIRECTORIES), latency=ROUND_TRIP) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES[:4])
        await trio.sleep(mount.fs.tree.config.negative_timeout)
        await search(mount, DIRECTORIES[4:5])
        assert figures(mount) == (0, searchahead._FIRST_AHEAD)
        assert [int(path[1:3]) for path in asked(mount)[8:]] == [4, 5, 6, 7, 8]


async def test_a_search_that_goes_elsewhere_begins_anew() -> None:
    directories = [b"d%03d" % i for i in range(400)]
    async with mounted(tree_with(directories), latency=ROUND_TRIP) as mount:
        await listed(mount, directories)
        await search(mount, directories[:60])
        grown = len(asked(mount))
        await search(mount, directories[200:201])
        assert len(asked(mount)) > grown + 1 + searchahead._FIRST_AHEAD
        grown = len(asked(mount))
        await search(mount, directories[300:301])
        assert len(asked(mount)) == grown + 1 + searchahead._FIRST_AHEAD


async def test_without_a_time_for_absences_nothing_is_asked_ahead() -> None:
    async with mounted(
        tree_with(DIRECTORIES), latency=ROUND_TRIP, config=VfsConfig(negative_timeout=0)
    ) as mount:
        await listed(mount, DIRECTORIES)
        await search(mount, DIRECTORIES)
        assert figures(mount) == (0, 0)
        assert len(asked(mount)) == len(DIRECTORIES)
