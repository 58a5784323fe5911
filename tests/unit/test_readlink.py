"""readlink on the fake server: what the kernel is given, by each setting, and what that costs."""

from __future__ import annotations

import errno
import stat
from typing import Any

import pytest
import trio

from pysshfs.errors import FX_PERMISSION_DENIED, FilesystemError, RemoteStatusError
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import Mount, mounted, settle, start
from tests.support.memory_tree import MemoryTree


def config(symlinks: Any, transform: bool = False) -> VfsConfig:
    return VfsConfig(symlinks=symlinks, transform_symlinks=transform)


def new_tree() -> MemoryTree:
    tree = MemoryTree()
    for path in (b"d", b"d/e", b"d/e/f", b"other"):
        tree.mkdir(path)
    tree.write_file(b"other/file", b"content")
    tree.symlink(b"d/e", b"short")
    return tree


async def text(mount: Mount, path: bytes) -> bytes:
    return await mount.fs.readlink(await mount.number(path))


async def refused(mount: Mount, path: bytes) -> None:
    with pytest.raises(FilesystemError) as caught:
        await text(mount, path)
    assert caught.value.errno == errno.EPERM


# --- contain --------------------------------------------------------------------------------------

SAFE = [b"file", b"../other/file", b"../..", b"./x//y/", b"nowhere", b".", b"short", b"l"]


@pytest.mark.parametrize("target", SAFE)
async def test_a_safe_text_is_passed_on_as_it_is_and_asks_nothing_more(target: bytes) -> None:
    tree = new_tree()
    tree.symlink(target, b"d/e/l")
    async with mounted(tree) as mount:
        number = await mount.number(b"d/e/l")
        del mount.remote.calls[:]
        assert await mount.fs.readlink(number) == target
        assert await mount.fs.readlink(number) == target
        assert mount.remote.calls == [("readlink", "d/e/l")]


# The link lies in d/e; the served directory is /srv/t.
RESOLVED = [
    (b"f/../g", b"g"),
    (b"missing/../g", b"g"),
    (b"f/../../../other/file", b"../../other/file"),
    (b"/srv/t/other/file", b"../../other/file"),
    (b"//srv/t//other/./file/", b"../../other/file/"),
    (b"/srv/t", b"../.."),
    (b"/srv/t/", b"../../"),
    (b"/srv/t/d/e", b"."),
    (b"/srv/t/nowhere/yet", b"../../nowhere/yet"),
    (b"../../../t/other", b"../../other"),
    (b"../../../../srv/t/other", b"../../other"),
    (b"../../short/../x", b"../x"),  # short is d/e: its parent is d, not the root
    (b"/srv/t/short/f/../x", b"x"),
    (b"/srv/t/l1/../x", b"../../l1/x"),  # goes around in circles: the kernel finds out
    (b"/home/t/other/file", b"../../other/file"),  # as the server's REALPATH knows it
]


@pytest.mark.parametrize(("target", "expected"), RESOLVED)
async def test_what_leads_into_the_served_directory_is_relative(
    target: bytes, expected: bytes
) -> None:
    tree = new_tree()
    tree.symlink(target, b"d/e/l")
    tree.symlink(b"l2", b"l1")
    tree.symlink(b"l1", b"l2")
    async with mounted(tree) as mount:
        mount.remote.realpaths[b"/home/t/other/file"] = b"/srv/t/other/file"
        await serve(mount)
        assert await text(mount, b"d/e/l") == expected
        calls = list(mount.remote.calls)
        assert await text(mount, b"d/e/l") == expected
        assert mount.remote.calls == calls  # it is remembered


async def serve(mount: Mount, path: bytes = b"/srv/t") -> None:
    """The served directory's path is learnt with the session."""
    mount.remote.served = path
    mount.remote.drop_connection()
    await mount.reconnect()


OUTSIDE = [
    b"../../..", b"../../../x", b"/", b"//host/x", b"/etc/passwd", b"/srv", b"/srv/t2/x", b"/srvt",
    b"f/../../../../x", b"/srv/t/../x", b"/srv/t/../../etc/passwd", b"short/../../../../etc",
]  # fmt: skip


@pytest.mark.parametrize("target", OUTSIDE)
async def test_what_leads_elsewhere_is_refused(target: bytes) -> None:
    tree = new_tree()
    tree.symlink(target, b"d/e/l")
    async with mounted(tree) as mount:
        mount.remote.realpaths[target] = b"/srv/t/../../etc"  # it may say what it likes
        await serve(mount)
        await refused(mount, b"d/e/l")
        calls = list(mount.remote.calls)
        await refused(mount, b"d/e/l")
        assert mount.remote.calls == calls


@pytest.mark.parametrize("served", [b"/", b"//", b"/srv/../..", b"", b"srv", b"/\0"])
async def test_a_served_directory_at_the_root_or_nowhere(served: bytes) -> None:
    tree = new_tree()
    tree.symlink(b"/other/file", b"d/l")
    tree.symlink(b"/", b"d/root")
    tree.symlink(b"/", b"root")
    tree.symlink(b"..", b"up")
    async with mounted(tree) as mount:
        await serve(mount, served)
        if served.strip(b"/"):
            for path in (b"d/l", b"d/root", b"root", b"up"):
                await refused(mount, path)
        elif served:
            assert await text(mount, b"d/l") == b"../other/file"
            assert await text(mount, b"d/root") == b"../"
            assert await text(mount, b"root") == b"./"
            assert await text(mount, b"up") == b"."  # as on the server


@pytest.mark.parametrize("target", [b"", b"x" * 4096, b"a\0b"])
async def test_what_cannot_be_a_target_is_an_error(target: bytes) -> None:
    tree = new_tree()
    tree.symlink(target, b"l")
    async with mounted(tree) as mount:
        with pytest.raises(FilesystemError) as caught:
            await text(mount, b"l")
        assert caught.value.errno == errno.EIO


async def test_a_text_that_becomes_too_long_is_an_error() -> None:
    tree = new_tree()
    tree.symlink(b"/" + b"/".join([b"x" * 240] * 16) + b"/" + b"y" * 236, b"d/e/f/l")
    async with mounted(tree) as mount:
        with pytest.raises(FilesystemError) as caught:
            await text(mount, b"d/e/f/l")
        assert caught.value.errno == errno.ENAMETOOLONG


# --- links that move ------------------------------------------------------------------------------


async def test_a_link_that_moves_up_is_judged_by_where_it_lies_then() -> None:
    """Its text is remembered; that it was safe is not."""
    tree = new_tree()
    tree.symlink(b"../../other/file", b"d/e/l")
    async with mounted(tree) as mount:
        await serve(mount)
        assert await text(mount, b"d/e/l") == b"../../other/file"
        await mount.rename(b"d/e/l", b"l")
        await refused(mount, b"l")
        await mount.rename(b"l", b"d/l")
        await refused(mount, b"d/l")
        await mount.rename(b"d/l", b"d/e/l")
        assert await text(mount, b"d/e/l") == b"../../other/file"


async def test_a_directory_that_moves_up_takes_its_links_along() -> None:
    tree = new_tree()
    tree.symlink(b"../../../other/file", b"d/e/f/l")
    tree.symlink(b"/srv/t/other/file", b"d/e/f/absolute")
    async with mounted(tree) as mount:
        await serve(mount)
        number, absolute = await mount.number(b"d/e/f/l"), await mount.number(b"d/e/f/absolute")
        assert await mount.fs.readlink(number) == b"../../../other/file"
        assert await mount.fs.readlink(absolute) == b"../../../other/file"
        await mount.rename(b"d/e/f", b"f")
        # The kernel has the very inodes still, and their texts are remembered.
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.readlink(number)
        assert caught.value.errno == errno.EPERM
        assert await mount.fs.readlink(absolute) == b"../other/file"


async def test_where_a_link_leads_is_found_anew_when_it_has_moved() -> None:
    tree = new_tree()
    tree.mkdir(b"f")
    tree.symlink(b"f/../../other/file", b"d/e/l")
    async with mounted(tree) as mount:
        await serve(mount)
        number = await mount.number(b"d/e/l")
        assert await mount.fs.readlink(number) == b"../other/file"  # d/other/file
        await mount.rename(b"d/e/l", b"d/l")
        assert await mount.fs.readlink(number) == b"../other/file"  # other/file
        await mount.rename(b"d/l", b"l")
        with pytest.raises(FilesystemError):
            await mount.fs.readlink(number)


async def test_a_link_that_moves_while_the_server_is_asked_is_resolved_anew() -> None:
    tree = new_tree()
    tree.symlink(b"f/../../../other/file", b"d/e/l")
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        number = await mount.number(b"d/e/l")
        parents = await mount.parent(b"d/e/l")
        await mount.number(b"other")
        mount.remote.hold()
        reading = start(nursery, mount.fs.readlink, number)
        await settle()
        mount.remote.deliver_now()  # its text; what f is, is being asked
        await settle()
        renaming = start(nursery, mount.fs.rename, *parents, ROOT_NUMBER, b"l", 0)
        await settle()
        mount.remote.release()
        await reading.ended.wait()
        renaming.result()
        # From the root it is outside, by `..` too many: /other/file of the server's root, clamped.
        assert await mount.fs.readlink(number) == b"other/file"
        assert reading.result() == b"other/file"


async def test_after_a_late_rename_links_are_judged_by_where_the_kernel_believes_them() -> None:
    """A directory is moved down by a call whose caller has left: the kernel has it at its old place
    until it looks it up, and a program whose working directory it is has so for ever."""
    tree = new_tree()
    tree.mkdir(b"top")
    tree.mkdir(b"top/sub")
    tree.symlink(b"../../other/file", b"top/l")
    tree.symlink(b"../../../other/file", b"top/sub/l")
    tree.symlink(b"/srv/t/other/file", b"top/absolute")
    async with mounted(tree) as mount, trio.open_nursery() as nursery:
        await serve(mount)
        number, below = await mount.number(b"top/l"), await mount.number(b"top/sub/l")
        absolute = await mount.number(b"top/absolute")
        for each in (number, below):
            with pytest.raises(FilesystemError):
                await mount.fs.readlink(each)
        new_parent = await mount.number(b"d")
        mount.remote.hold()
        task = start(nursery, mount.fs.rename, ROOT_NUMBER, b"top", new_parent, b"top", 0)
        await settle()
        task.scope.cancel()
        await settle()
        mount.remote.release()
        await settle()
        with pytest.raises(FilesystemError):
            await mount.fs.readlink(absolute)
        for each in (number, below):
            with pytest.raises(FilesystemError) as caught:
                await mount.fs.readlink(each)
            assert caught.value.errno == errno.EPERM
        assert await text(mount, b"d/top/l") == b"../../other/file"  # it was looked up
        assert await mount.fs.readlink(below) == b"../../../other/file"


async def test_after_a_refused_promise_links_are_judged_by_where_the_kernel_believes_them() -> None:
    """A directory was moved up, as far as the kernel knows; the server says that it was not."""
    tree = new_tree()
    tree.symlink(b"../../../other/file", b"d/e/f/l")
    async with mounted(tree, config=VfsConfig(async_ops=True)) as mount:
        await serve(mount)
        await mount.names()
        await mount.names(b"d/e")
        number, old = await mount.number(b"d/e/f/l"), await mount.number(b"d/e")
        assert await mount.fs.readlink(number) == b"../../../other/file"
        mount.remote.hold()
        mount.remote.fail_next("posix_rename", RemoteStatusError(FX_PERMISSION_DENIED))
        await mount.fs.rename(old, b"f", ROOT_NUMBER, b"f", 0)  # at once
        mount.remote.release()
        await settle()
        assert mount.tree.exists(b"d/e/f/l")
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.readlink(number)
        assert caught.value.errno == errno.EPERM
        assert await text(mount, b"d/e/f/l") == b"../../../other/file"  # it was looked up
        with pytest.raises(FilesystemError):
            mount.fs.raise_broken_promise()


# --- what is said of it ---------------------------------------------------------------------------


async def test_a_refusal_is_logged_once_for_each_link(caplog: pytest.LogCaptureFixture) -> None:
    tree = new_tree()
    tree.symlink(b"/etc/pass\nwd", b"l")
    tree.symlink(b"../x", b"m")
    async with mounted(tree) as mount:
        await serve(mount)
        for _ in range(3):
            await refused(mount, b"l")
            await refused(mount, b"m")
    said = _said(caplog)
    assert said == [
        r"the link 'l' to '/etc/pass\nwd' is not followed: -o symlinks=all would allow it",
        "the link 'm' to '../x' is not followed: -o symlinks=all would allow it",
    ]


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "pysshfs.vfs.readlink"
    ]


async def test_a_server_full_of_such_links_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tree = new_tree()
    for number in range(250):
        tree.symlink(b"/x", b"l%d" % number)
    async with mounted(tree) as mount:
        await serve(mount)
        for number in range(200):
            await refused(mount, b"l%d" % number)
        assert len(_said(caplog)) == 101
        assert "further links" in _said(caplog)[-1]
        await trio.sleep(61)
        for number in range(250):
            await refused(mount, b"l%d" % number)
        assert len(_said(caplog)) == 202


# --- contain+system -------------------------------------------------------------------------------


def is_system_file(path: bytes) -> bool:
    return path.startswith(b"/usr/")


@pytest.mark.parametrize("symlinks", ["contain", "contain+system"])
async def test_links_to_the_systems_own_files(
    symlinks: str, caplog: pytest.LogCaptureFixture
) -> None:
    tree = new_tree()
    tree.symlink(b"/usr/bin/python3", b"python3")
    tree.symlink(b"/srv/t/other/file", b"inside")
    tree.symlink(b"/etc/passwd", b"outside")
    tree.symlink(b"../usr/bin/python3", b"climbs")
    async with mounted(tree, config=config(symlinks), is_system_file=is_system_file) as mount:
        await serve(mount)
        assert await text(mount, b"inside") == b"other/file"
        await refused(mount, b"outside")
        await refused(mount, b"climbs")
        if symlinks == "contain":
            await refused(mount, b"python3")
        else:
            del mount.remote.calls[:]
            assert await text(mount, b"python3") == b"/usr/bin/python3"
            assert ("realpath", "/usr/bin/python3") not in mount.remote.calls
    said = _said(caplog)
    assert ("-o symlinks=contain+system would" in said[-1]) is (symlinks == "contain")
    assert ["=all would" in line for line in said[:2]] == [True, True]


async def test_what_lies_in_the_served_directory_is_the_servers() -> None:
    """/usr of the server is mounted: its links to /usr lead there, not to ours."""
    tree = new_tree()
    tree.symlink(b"/usr/other/file", b"l")
    chosen = config("contain+system")
    async with mounted(tree, config=chosen, is_system_file=is_system_file) as mount:
        await serve(mount, b"/usr")
        assert await text(mount, b"l") == b"other/file"


async def test_a_mount_for_others_passes_no_system_file() -> None:
    tree = new_tree()
    tree.symlink(b"/usr/bin/python3", b"l")
    async with mounted(tree, config=config("contain+system"), is_system_file=None) as mount:
        await serve(mount)
        await refused(mount, b"l")


# --- all, strict, none ----------------------------------------------------------------------------

TEXTS = [b"a/b", b"../x", b"/srv/t/other/file", b"/etc/passwd", b"a/../../../x", b"/srv/t/d"]
R = None  # refused
SETTINGS = {
    ("all", False): TEXTS,
    ("all", True): [b"a/b", b"../x", b"../other/file", b"/etc/passwd", b"a/../../../x", b"."],
    ("strict", False): [b"a/b", R, R, R, R, R],
    ("strict", True): [b"a/b", R, R, R, R, b"."],
    ("none", False): [R] * 6,
    ("contain", False): [b"a/b", b"../x", b"../other/file", R, R, b"."],
    ("contain", True): [b"a/b", b"../x", b"../other/file", R, R, b"."],
    ("follow", False): [b"a/b", b"../x", b"../other/file", R, R, b"."],
}


@pytest.mark.parametrize(("setting", "expected"), SETTINGS.items())
async def test_settings(setting: tuple[str, bool], expected: list[bytes | None]) -> None:
    tree = new_tree()
    for number, target in enumerate(TEXTS):
        tree.symlink(target, b"d/l%d" % number)
    async with mounted(tree, config=config(*setting)) as mount:
        await serve(mount)
        for number, shown in enumerate(expected):
            if shown is None:
                await refused(mount, b"d/l%d" % number)
            else:
                assert await text(mount, b"d/l%d" % number) == shown


async def test_none_asks_the_server_nothing_and_shows_links() -> None:
    tree = new_tree()
    async with mounted(tree, config=config("none")) as mount:
        entry = await mount.entry(b"short")
        assert stat.S_ISLNK(entry.attributes.mode)
        await refused(mount, b"short")
        assert mount.remote.count("readlink") == 0


async def test_strict_names_contain_for_what_that_allows(caplog: pytest.LogCaptureFixture) -> None:
    tree = new_tree()
    tree.symlink(b"../other", b"d/l")
    tree.symlink(b"/other", b"d/m")
    async with mounted(tree, config=config("strict")) as mount:
        await refused(mount, b"d/l")
        await refused(mount, b"d/m")
    assert ["=contain would" in line for line in _said(caplog)] == [True, False]


@pytest.mark.parametrize("symlinks", ["contain", "contain+system", "all", "strict", "none"])
@pytest.mark.parametrize("async_ops", [False, True])
async def test_a_new_link_is_stored_as_it_is_given(symlinks: str, async_ops: bool) -> None:
    chosen = config(symlinks)._replace(async_ops=async_ops)
    async with mounted(new_tree(), config=chosen) as mount:
        await serve(mount)
        made = mount.counted(await mount.fs.symlink(ROOT_NUMBER, b"l", b"/etc/../x"))
        assert stat.S_ISLNK(made.attributes.mode)
        assert made.attributes.size == 9
        await mount.fs.flush_all()
        assert mount.tree.find(b"l").target == b"/etc/../x"
        if symlinks != "all":
            with pytest.raises(FilesystemError):
                await mount.fs.readlink(made.number)


async def test_texts_without_measure_do_not_fill_the_memory() -> None:
    """Links with the longest texts there are, each of which is resolved to another."""
    tree = new_tree()
    long = b"/".join([b"x"] * 2000)
    for number in range(300):
        tree.symlink(b"d/../%d/%s" % (number, long), b"l%d" % number)
    config = VfsConfig(cache_entries=100, cache_size=16 << 20)
    async with mounted(tree, config=config) as mount:
        for number in range(300):
            assert await text(mount, b"l%d" % number) == b"%d/%s" % (number, long)
        cache = mount.fs.tree.cache
        kept = [cache.link(await mount.number(b"l%d" % number)) for number in range(300)]
        assert sum(text is not None for text in kept) <= 2
        resolved = [cache.resolved_link(await mount.number(b"l%d" % n)) for n in range(300)]
        assert 0 < sum(place is not None for place in resolved) < 10
        assert mount.fs.statistics()["metadata_bytes"] < mount.fs.tree.budget.metadata.most
