"""Calls on names and attributes: what they do on the server, and which errno they end in."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio

from pysshfs.errors import (
    FX_FAILURE,
    FX_PERMISSION_DENIED,
    FilesystemError,
    RemoteStatusError,
)
from pysshfs.remotefs import AttributeChange, Capabilities
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.filesystem import ROOT_NUMBER
from pysshfs.vfs.renames import RENAME_NOREPLACE
from tests.support.fake_mount import Mount, Task, mounted, settle, start
from tests.support.fake_remote import OPENSSH, ROOMY
from tests.support.memory_tree import START, MemoryTree

PLAIN = OPENSSH._replace(posix_rename=False)
FULL = ROOMY._replace(blocks_available=0)
FAILURE = RemoteStatusError(FX_FAILURE)
DENIED = RemoteStatusError(FX_PERMISSION_DENIED)


def code(error: FilesystemError) -> str:
    return errno.errorcode[error.errno]


def populated() -> MemoryTree:
    tree = MemoryTree()
    for name in (b"file", b"other"):
        tree.write_file(name, name)
    for name in (b"dir", b"empty", b"full"):
        tree.mkdir(name)
    tree.write_file(b"full/x", b"")
    tree.symlink(b"file", b"link")
    tree.mkdir(b"mnt").device = 1
    return tree


# --- errno --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("mkdir", b"file"), "EEXIST"),
        (("mkdir", b"dir"), "EEXIST"),
        (("symlink", b"link"), "EEXIST"),
        (("mknod", b"file"), "EEXIST"),
        (("hardlink", b"other"), "EEXIST"),
        (("create_exclusively", b"file"), "EEXIST"),
        (("create", b"dir"), "EISDIR"),
        (("create", b"link"), "ESTALE"),
        (("rmdir", b"full"), "ENOTEMPTY"),
        (("rmdir", b"none"), "ENOENT"),
        (("unlink", b"none"), "ENOENT"),
        (("mkdir", b"none/below"), "ENOENT"),
        (("rename", b"file", b"dir"), "EISDIR"),
        (("rename", b"dir", b"full"), "ENOTEMPTY"),
        (("rename", b"file", b"mnt/file"), "EXDEV"),
        (("rename", b"none", b"new"), "ENOENT"),
        (("rename_noreplace", b"file", b"other"), "EEXIST"),
        (("rename_noreplace", b"file", b"mnt/file"), "EXDEV"),
        (("rename_noreplace", b"none", b"new"), "ENOENT"),
        (("rename_exchange", b"file", b"other"), "EINVAL"),
        (("open_for_writing", b"dir"), "EISDIR"),
        (("fifo", b"new"), "EPERM"),
        (("lookup", b"n" * 256), "ENAMETOOLONG"),
    ],
)
async def test_errno(call: tuple[str, *tuple[bytes, ...]], expected: str) -> None:
    async with mounted(populated()) as mount:
        with pytest.raises(FilesystemError) as caught:
            await carry_out(mount, *call)
        assert code(caught.value) == expected
        await settle()
        assert mount.remote.open_handles == []


async def carry_out(mount: Mount, what: str, path: bytes, other: bytes = b"") -> None:
    directory, _, name = path.rpartition(b"/")
    above = ROOT_NUMBER
    if directory and mount.tree.exists(directory):
        above = await mount.number(directory)
    elif directory:  # the kernel knows it, but others removed it
        mount.tree.mkdir(directory)
        above = await mount.number(directory)
        mount.tree.rmdir(directory)
    fs = mount.fs
    match what:
        case "mkdir":
            await fs.mkdir(above, name, 0o755)
        case "symlink":
            await fs.symlink(above, name, b"target")
        case "mknod":
            await fs.mknod(above, name, stat.S_IFREG | 0o644)
        case "fifo":
            await fs.mknod(above, name, stat.S_IFIFO | 0o644)
        case "hardlink":
            await fs.link(await mount.number(b"file"), above, name)
        case "create":
            await fs.create(above, name, 0o644, os.O_RDWR)
        case "create_exclusively":
            await fs.create(above, name, 0o644, os.O_RDWR | os.O_EXCL)
        case "rmdir":
            await fs.rmdir(above, name)
        case "unlink":
            await fs.unlink(above, name)
        case "open_for_writing":
            await fs.open(await mount.number(path), os.O_WRONLY)
        case "lookup":
            await fs.lookup(above, name)
        case _:
            flags = {"rename": 0, "rename_noreplace": RENAME_NOREPLACE, "rename_exchange": 2}
            await mount.rename(path, other, flags[what])


@pytest.mark.parametrize("call", ["mkdir", "create", "symlink", "setattr"])
async def test_a_full_server_is_enospc(call: str) -> None:
    async with mounted(populated()) as mount:
        mount.remote.statistics = FULL
        sent = {"create": "open", "setattr": "setstat"}.get(call, call)
        mount.remote.fail_next(sent, FAILURE, times=2)
        with pytest.raises(FilesystemError) as caught:
            if call == "setattr":
                await mount.setattr(b"file", AttributeChange(size=1000))
            else:
                await carry_out(mount, call, b"new")
        assert code(caught.value) == "ENOSPC"


async def test_a_refusal_stays_a_refusal() -> None:
    async with mounted(populated()) as mount:
        for method in ("mkdir", "remove", "rmdir", "posix_rename", "setstat", "symlink"):
            mount.remote.fail_next(method, DENIED)
        for call in (
            ("mkdir", b"dir"), ("unlink", b"file"), ("rmdir", b"full"),
            ("rename", b"file", b"dir"), ("symlink", b"file"),
        ):  # fmt: skip
            with pytest.raises(FilesystemError) as caught:
                await carry_out(mount, *call)
            assert code(caught.value) == "EACCES"
        with pytest.raises(FilesystemError) as caught:
            await mount.setattr(b"file", AttributeChange(mode=0o600))
        assert code(caught.value) == "EACCES"


async def test_finding_out_goes_on_over_a_lost_connection() -> None:
    async with mounted(populated()) as mount, trio.open_nursery() as nursery:
        await mount.number(b"file")
        mount.remote.fail_next("posix_rename", FAILURE)
        mount.remote.latency = 1.0
        renaming = start(nursery, mount.fs.rename, ROOT_NUMBER, b"file", ROOT_NUMBER, b"new", 0)
        await trio.sleep(1.5)
        mount.remote.drop_connection()
        await mount.reconnect()
        await trio.sleep(5)
        with pytest.raises(FilesystemError) as caught:
            renaming.result()
        assert code(caught.value) == "EXDEV"


async def test_hard_links_need_the_extension_and_the_option() -> None:
    for capabilities, config in (
        (OPENSSH._replace(hardlink=False), VfsConfig()),
        (OPENSSH, VfsConfig(hardlinks=False)),
    ):
        async with mounted(populated(), capabilities=capabilities, config=config) as mount:
            with pytest.raises(FilesystemError) as caught:
                await carry_out(mount, "hardlink", b"new")
            assert code(caught.value) == "EPERM"


# --- renaming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("capabilities", [OPENSSH, PLAIN])
async def test_rename_replaces(capabilities: Capabilities) -> None:
    async with mounted(populated(), capabilities=capabilities) as mount:
        number = await mount.number(b"file")
        replaced = await mount.open(b"other")
        await mount.rename(b"file", b"other")
        await settle()
        names = set(mount.tree.root.children)
        assert names == {b"other", b"dir", b"empty", b"full", b"link", b"mnt"}
        assert mount.tree.read_file(b"other") == b"file"
        assert await mount.number(b"other") == number
        assert await mount.find(b"file") is None
        assert await mount.fs.read(replaced, 0, 10) == b"other"  # it lives while it is open
        await mount.close(replaced)


async def test_rename_of_a_directory_replaces_an_empty_one() -> None:
    async with mounted(populated()) as mount:
        await mount.rename(b"full", b"empty")
        assert await mount.find(b"empty/x") is not None


@pytest.mark.parametrize("pair", [(b"dir", b"file"), (b"file", b"dir"), (b"none", b"file")])
async def test_without_the_extension_nothing_is_moved_aside_in_vain(
    pair: tuple[bytes, bytes],
) -> None:
    async with mounted(populated(), capabilities=PLAIN) as mount:
        before = dict(mount.tree.root.children)
        with pytest.raises(FilesystemError):
            await mount.rename(*pair)
        assert mount.tree.root.children == before
        assert mount.remote.count("rename") == 1


async def test_without_the_extension_a_refused_rename_puts_the_target_back() -> None:
    async with mounted(populated(), capabilities=PLAIN) as mount:
        tree = mount.tree
        tree.find(b"file").device = 1  # as if it could not be moved here
        with pytest.raises(FilesystemError):
            await mount.rename(b"file", b"other")
        await settle()
        assert tree.read_file(b"other") == b"other"
        assert len(tree.root.children) == 7


async def test_without_the_extension_an_interrupted_rename_loses_no_file() -> None:
    """Interrupted after any number of replies, the old or the new content has the name."""
    for replies in range(8):
        async with (
            mounted(populated(), capabilities=PLAIN, latency=1) as mount,
            trio.open_nursery() as nursery,
        ):
            await mount.number(b"file")
            await mount.number(b"other")
            moving = start(nursery, mount.fs.rename, ROOT_NUMBER, b"file", ROOT_NUMBER, b"other", 0)
            await trio.sleep(replies + 0.5)
            moving.scope.cancel()
            await trio.sleep(5)
            assert mount.tree.read_file(b"other") in (b"file", b"other")


async def test_without_the_extension_leftovers_are_no_error() -> None:
    async with mounted(populated(), capabilities=PLAIN) as mount:
        mount.remote.fail_next("remove", DENIED)
        await mount.rename(b"file", b"other")
        assert mount.tree.read_file(b"other") == b"file"


async def test_getattr_beside_a_rename_does_not_orphan_the_file() -> None:
    """The look goes out behind the rename, under the old name, and both replies come together."""
    for _ in range(20):
        async with mounted(populated()) as mount:
            number = await mount.number(b"file")
            await beside_a_rename(mount, (b"file", b"new"), number)
            assert await mount.number(b"new") == number
            assert (await mount.setattr(b"new", AttributeChange(mode=0o600))).number == number


async def test_getattr_below_a_directory_that_is_renamed_does_not_orphan_the_file() -> None:
    for _ in range(20):
        async with mounted(populated()) as mount:
            number = await mount.number(b"full/x")
            await beside_a_rename(mount, (b"full", b"new"), number)
            assert await mount.number(b"new/x") == number


async def beside_a_rename(mount: Mount, names: tuple[bytes, bytes], number: int) -> None:
    async with trio.open_nursery() as nursery:
        mount.fs.tree.cache.clear()
        mount.remote.hold()
        old, new = names
        moving = start(nursery, mount.fs.rename, ROOT_NUMBER, old, ROOT_NUMBER, new, 0)
        await settle()
        looking: Task = start(nursery, mount.fs.getattr, number)
        await settle()
        mount.remote.release()
        await settle()
        moving.result()
        assert looking.result().number == number


async def test_a_lookup_below_a_directory_that_is_renamed_finds_the_file() -> None:
    for _ in range(20):
        async with mounted(populated()) as mount, trio.open_nursery() as nursery:
            directory = await mount.number(b"full")
            mount.remote.hold()
            moving = start(nursery, mount.fs.rename, ROOT_NUMBER, b"full", ROOT_NUMBER, b"new", 0)
            await settle()
            looking = start(nursery, mount.fs.lookup, directory, b"x")
            await settle()
            mount.remote.release()
            await settle()
            moving.result()
            assert looking.result() is not None


# --- modes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_umask", [0, 0o022, 0o077])
async def test_the_callers_mode_wins_over_the_servers_umask(server_umask: int) -> None:
    async with mounted(MemoryTree(server_umask)) as mount:
        await mount.close(await mount.create(b"f", 0o664))
        made = await mount.mkdir(b"d", 0o775)
        node = await mount.fs.mknod(ROOT_NUMBER, b"n", stat.S_IFREG | 0o664)
        for path, mode in ((b"f", 0o664), (b"d", 0o775), (b"n", 0o664)):
            assert mount.tree.find(path).mode & 0o7777 == mode
            assert (await mount.entry(path)).attributes.mode & 0o7777 == mode
        assert made.attributes.mode & 0o777 == 0o775
        assert node.attributes.mode & 0o777 == 0o664


async def test_what_was_given_its_mode_is_known_under_the_number_told() -> None:
    """The kernel goes on with the number from the reply, without looking the name up again."""
    async with mounted(MemoryTree(0o077)) as mount:
        directory = await mount.mkdir(b"d", 0o755)
        node = await mount.fs.mknod(ROOT_NUMBER, b"n", stat.S_IFREG | 0o644)
        for told in (directory, node):
            assert (await mount.fs.getattr(told.number)).number == told.number
        made_below = await mount.fs.mkdir(directory.number, b"e", 0o755)
        assert mount.tree.find(b"d/e").mode & 0o777 == 0o755
        assert (await mount.fs.getattr(made_below.number)).attributes.mode & 0o777 == 0o755


async def test_an_open_file_is_truncated_by_its_handle() -> None:
    """ftruncate may where truncate may not: the file is open for writing, its mode is read-only."""
    async with mounted() as mount:
        fh = await mount.create(b"f", 0o444)
        await mount.fs.write(fh, 0, b"0123456789")
        number = await mount.number(b"f")
        before = mount.remote.count("setstat")
        entry = await mount.fs.setattr(number, AttributeChange(size=4), fh)
        assert entry.attributes.size == 4
        assert mount.remote.count("setstat") == before
        assert mount.remote.count("fsetstat") == 1
        await mount.close(fh)
        assert mount.tree.find(b"f").data == b"0123"


async def test_an_inherited_setgid_bit_stays() -> None:
    tree = MemoryTree(0o022)
    tree.root.mode |= stat.S_ISGID
    async with mounted(tree) as mount:
        await mount.mkdir(b"d", 0o775)
        assert tree.find(b"d").mode & 0o7777 == 0o2775


async def test_a_server_that_refuses_chmod_still_makes_what_is_asked_for() -> None:
    async with mounted(MemoryTree(0o077)) as mount:
        mount.remote.fail_next("setstat", DENIED)
        mount.remote.fail_next("fsetstat", DENIED)
        made = await mount.mkdir(b"d", 0o755)
        fh = await mount.create(b"f", 0o644)
        await mount.close(fh)
        assert (await mount.fs.getattr(made.number)).attributes.mode & 0o777 == 0o700
        assert (await mount.entry(b"f")).attributes.mode & 0o777 == 0o600
        mount.forget_all()
        assert mount.fs.statistics()["inodes"] == 1


async def test_an_existing_file_keeps_its_mode_when_it_is_created_again() -> None:
    tree = MemoryTree(0o022)
    tree.write_file(b"f", b"old").mode = stat.S_IFREG | 0o600
    async with mounted(tree) as mount:
        fh = await mount.create(b"f", 0o666, os.O_RDWR | os.O_TRUNC)
        assert tree.find(b"f").mode & 0o777 == 0o600
        assert tree.read_file(b"f") == b""
        await mount.close(fh)
        assert await mount.size(b"f") == 0


async def test_masks_hide_bits_and_do_not_change_the_server() -> None:
    config = VfsConfig(file_mask=0o077, directory_mask=0o022)
    async with mounted(MemoryTree(), config=config) as mount:
        await mount.close(await mount.create(b"f", 0o664))
        await mount.mkdir(b"d", 0o777)
        assert (await mount.entry(b"f")).attributes.mode & 0o777 == 0o600
        assert (await mount.entry(b"d")).attributes.mode & 0o777 == 0o755
        assert mount.tree.find(b"f").mode & 0o777 == 0o664
        assert mount.tree.find(b"d").mode & 0o777 == 0o777


async def test_data_of_another_handle_does_not_land_behind_a_truncating_create() -> None:
    async with mounted() as mount:
        first = await mount.create(b"f")
        await mount.fs.write(first, 0, b"old data")
        second = await mount.create(b"f", flags=os.O_RDWR | os.O_TRUNC)
        await mount.close(first)
        await mount.close(second)
        assert mount.tree.read_file(b"f") == b""


@pytest.mark.parametrize("call", ["create", "open"])
async def test_an_interrupted_open_leaves_no_handle(call: str) -> None:
    async with mounted(populated(), latency=1) as mount:
        number = await mount.number(b"file")
        for wait in (0.5, 1.5, 2.5):
            async with trio.open_nursery() as nursery:
                if call == "create":
                    task = start(nursery, mount.fs.create, ROOT_NUMBER, b"file", 0o600, os.O_RDWR)
                else:
                    task = start(nursery, mount.fs.open, number, os.O_RDONLY)
                await trio.sleep(wait)
                task.scope.cancel()
            if task.value is not None:
                opened = task.value[0] if call == "create" else task.value
                await mount.close(opened.fh)
        await trio.sleep(5)
        assert mount.remote.open_handles == []


async def test_an_open_whose_look_fails_leaves_no_handle() -> None:
    async with mounted(populated()) as mount:
        number = await mount.number(b"file")
        mount.remote.fail_next("lstat", FAILURE, times=2)
        with pytest.raises(FilesystemError):
            await mount.fs.open(number, os.O_RDONLY)
        with pytest.raises(FilesystemError):
            await mount.fs.create(ROOT_NUMBER, b"new", 0o600, os.O_RDWR)
        await settle()
        assert mount.remote.open_handles == []
        mount.forget_all()
        assert mount.fs.statistics()["inodes"] == 1


# --- attributes -----------------------------------------------------------------------------------


async def test_half_a_pair_keeps_the_other_half() -> None:
    async with mounted(populated()) as mount:
        node = mount.tree.find(b"file")
        await mount.setattr(b"file", AttributeChange(mtime=5))
        assert (node.atime, node.mtime) == (START, 5)
        await mount.setattr(b"file", AttributeChange(atime=7))
        assert (node.atime, node.mtime) == (7, 5)
        await mount.setattr(b"file", AttributeChange(uid=42))
        assert (node.uid, node.gid) == (42, 1000)
        await mount.setattr(b"file", AttributeChange(gid=43))
        assert (node.uid, node.gid) == (42, 43)


async def test_half_a_pair_is_completed_from_the_server_not_from_the_cache() -> None:
    async with mounted(populated()) as mount:
        await mount.number(b"file")
        node = mount.tree.find(b"file")
        node.atime = 99  # another client
        await mount.setattr(b"file", AttributeChange(mtime=5))
        assert (node.atime, node.mtime) == (99, 5)


async def test_a_symlink_is_changed_itself() -> None:
    async with mounted(populated()) as mount:
        await mount.setattr(b"link", AttributeChange(atime=1, mtime=2))
        assert mount.tree.find(b"link").mtime == 2
        assert mount.tree.find(b"file").mtime == START
    async with mounted(populated(), capabilities=OPENSSH._replace(lsetstat=False)) as mount:
        with pytest.raises(FilesystemError) as caught:
            await mount.setattr(b"link", AttributeChange(atime=1, mtime=2))
        assert caught.value.errno == errno.EOPNOTSUPP
        assert mount.tree.find(b"file").mtime == START


async def test_size_and_times_show_what_the_server_made_of_them() -> None:
    async with mounted(populated()) as mount:
        entry = await mount.setattr(b"file", AttributeChange(size=100, mode=0o600))
        assert entry.attributes.size == 100
        assert entry.attributes.mode & 0o777 == 0o600
        assert entry.attribute_timeout > 0


# --- without a name -------------------------------------------------------------------------------


async def test_an_unlinked_open_file_lives_on() -> None:
    async with mounted(populated()) as mount:
        reader = await mount.open(b"file", os.O_RDONLY)
        writer = await mount.open(b"file", os.O_RDWR)
        number = await mount.number(b"file")
        await mount.unlink(b"file")
        assert await mount.find(b"file") is None
        assert (await mount.fs.getattr(number)).attributes.size == 4
        # The size can be set through a handle that may write only.
        entry = await mount.fs.setattr(number, AttributeChange(size=2))
        assert entry.attributes.size == 2
        entry = await mount.fs.setattr(number, AttributeChange(mtime=9))
        assert (entry.attributes.atime, entry.attributes.mtime) == (START, 9)
        assert await mount.fs.read(reader, 0, 10) == b"fi"
        await mount.close(reader)
        await mount.close(writer)
        for change in (AttributeChange(mode=0o600), AttributeChange(mtime=9)):
            with pytest.raises(FilesystemError) as caught:
                await mount.fs.setattr(number, change)
            assert code(caught.value) == "ESTALE"


async def test_a_hard_link_is_the_same_file_on_the_server() -> None:
    async with mounted(populated()) as mount:
        fh = await mount.open(b"file", os.O_WRONLY)
        await mount.fs.write(fh, 4, b"more")
        entry = mount.counted(
            await mount.fs.link(await mount.number(b"file"), ROOT_NUMBER, b"hard")
        )
        assert entry.attributes.size == 8
        await mount.close(fh)
        await mount.unlink(b"file")
        assert mount.tree.read_file(b"hard") == b"filemore"


async def test_statfs() -> None:
    async with mounted() as mount:
        assert await mount.fs.statfs() == ROOMY
    async with mounted(capabilities=OPENSSH._replace(statvfs=False)) as mount:
        assert (await mount.fs.statfs()).blocks_available > 0


async def test_dot_and_dotdot() -> None:
    async with mounted(populated()) as mount:
        number = await mount.number(b"dir")
        assert (await mount.entry(b"dir/.")).number == number
        assert (await mount.entry(b"dir/..")).number == ROOT_NUMBER


async def test_a_program_without_an_x_bit_cannot_be_run() -> None:
    async with mounted(populated()) as mount:
        mount.tree.find(b"file").mode = stat.S_IFREG | 0o644
        assert not await mount.fs.access(await mount.number(b"file"), os.X_OK)
        assert await mount.fs.access(await mount.number(b"file"), os.R_OK)
        assert await mount.fs.access(await mount.number(b"dir"), os.X_OK)


async def test_closed_handles_are_not_taken() -> None:
    async with mounted(populated()) as mount:
        fh = await mount.open(b"file")
        await mount.close(fh)
        with pytest.raises(FilesystemError) as caught:
            await mount.fs.read(fh, 0, 1)
        assert code(caught.value) == "EBADF"
