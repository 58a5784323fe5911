"""What programs do on the mount, as the kernel would ask for it, and what must hold of the answers.

Each step may fail with an errno; a step whose answer cannot be true raises `Finding`.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from pysshfs.errors import FilesystemError, errno_of
from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.hostile.fuzz.findings import Finding, check_entry, check_link, check_names, check_statfs
from tests.support.fake_mount import Mount

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.vfs.filesystem import Entry, Filesystem

GOOD: Final = b"good", b"nothing is wrong with this one\n" * 40
#: Bytes, none of which is 0: a hole would be seen.
CONTENT: Final = bytes(1 + number * number // 7 % 255 for number in range(6000))
NAMES: Final = [b"n%03d" % number for number in range(120)]
#: A program of this machine's own, where links to those are allowed.
SYSTEM: Final = b"/usr/bin/python3"
LINKS: Final = {
    b"link": b"file",
    b"up": b"dir/sub/../../file",
    b"inside": b"/tmp/pysshfs-recorded/dir/a",
    b"outside": b"/etc/passwd",
    b"python": SYSTEM,
    b"climbs": b"../../etc/passwd",
    b"chain": b"up",
    b"around": b"around",
}
_LARGE: Final = 2 << 20
_PATIENCE: Final = 400.0  # seconds of the virtual clock


def make_tree(directory: str) -> None:
    """What is served while conversations are recorded."""

    def write(path: str, content: bytes) -> None:
        with open(os.path.join(directory, path), "xb") as file:
            file.write(content)

    for name in ("dir/sub/deep", "empty", "many"):
        os.makedirs(os.path.join(directory, name))
    write("good", GOOD[1])
    write("file", CONTENT)
    for name in ("dir/a", "dir/b", "dir/sub/x", "dir/sub/deep/y"):
        write(name, b"content of " + name.encode())
    for path in NAMES:
        write(f"many/{path.decode()}", b"")
    for path, target in LINKS.items():
        os.symlink(os.fsdecode(target), os.path.join(directory, os.fsdecode(path)))
    with open(os.path.join(directory, "large"), "xb") as file:
        file.truncate(_LARGE)  # what a copy takes to be worth while; nobody reads it
    os.mkfifo(os.path.join(directory, "fifo"))


class Kernel(Mount):
    """A mount as the kernel drives it; `told` is what the server may have lied about."""

    def __init__(self, fs: Filesystem, told: Told) -> None:
        super().__init__(fs, cast("Any", _NoTree()))
        self.told = told
        self.open_files: set[int] = set()
        self.steps = self.failed = self.cut_off = 0

    async def attempt(self, step: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """One step; what does not end is interrupted, which is no fault if an answer is missing."""
        self.steps += 1
        with trio.move_on_after(self.told.patience()) as scope:
            try:
                await step(*arguments)
            except FilesystemError as error:
                self.failed += 1
                if not isinstance(errno_of(error), int):
                    raise Finding(f"{error!r} has no errno") from error
        if scope.cancelled_caught:
            self.cut_off += 1
            self.told.check_owed()

    async def entry(self, path: bytes) -> Entry:
        found = await self.find(path)
        if found is None:
            raise FilesystemError(errno.ENOENT)
        return found

    # --- steps --------------------------------------------------------------------------------

    async def look(self, path: bytes) -> Entry | None:
        entry = await self.find(path)
        if entry is not None:
            check_entry(entry)
            check_entry(await self.fs.getattr(entry.number))
        return entry

    async def list(self, path: bytes) -> list[bytes]:
        names: list[bytes] = []
        fh = await self.fs.opendir(await self.number(path))
        try:
            async for item in self.fs.readdir(fh, 0):
                if item.entry is not None:
                    check_entry(item.entry)
                    self.fs.delivered(fh, item)
                    self.lookups[item.number] += 1
                names.append(item.name)
        finally:
            await self.fs.releasedir(fh)
        check_names(names)
        return names[2:]

    async def read_all(self, path: bytes, part: int, most: int = 1 << 16) -> bytes:
        fh = await self.opened(path, os.O_RDONLY)
        data = b""
        try:
            while len(data) < most:
                got = await self.fs.read(fh, len(data), part)
                if len(got) > part:
                    raise Finding(f"{len(got)} bytes for a read of {part}")
                if b"\0" in got and not self.told.of_data:
                    raise Finding("zeros that nobody sent")
                data += got
                if len(got) < part:
                    break
        finally:
            await self.closed(fh)
        return data

    async def read_right(self, path: bytes, content: bytes, part: int) -> None:
        """Whatever the server did to other replies: the right bytes, or an error."""
        data = await self.read_all(path, part)
        if self.told.of_data:
            return
        if not content.startswith(data):
            raise Finding(f"{path!r}: bytes that are not in the file")
        if data != content and not self.told.of_sizes:
            raise Finding(f"{path!r}: {len(data)} bytes of {len(content)}, and no error")

    async def opened(self, path: bytes, flags: int) -> int:
        fh = await self.open(path, flags)
        self.open_files.add(fh)
        return fh

    async def made(self, path: bytes) -> int:
        fh = await self.create(path)
        self.open_files.add(fh)
        return fh

    async def closed(self, fh: int) -> None:
        self.open_files.discard(fh)
        with trio.CancelScope(shield=True), trio.move_on_after(_PATIENCE):
            await self.close(fh)

    async def wrote(self, fh: int, offset: int, data: bytes) -> None:
        written = (await self.fs.write(fh, offset, data)).written
        if not 0 < written <= len(data):
            raise Finding(f"{written} bytes written of {len(data)}")

    async def link_text(self, path: bytes) -> None:
        number = await self.number(path)
        text = await self.fs.readlink(number)
        if text != SYSTEM or self.fs.tree.config.symlinks != "contain+system":
            check_link(text, path)

    async def statistics(self) -> None:
        check_statfs(await self.fs.statfs())

    async def end_all(self) -> None:
        for fh in list(self.open_files):
            with suppress(FilesystemError):
                await self.fs.release(fh)
        self.open_files.clear()
        self.forget_all()


class _NoTree:
    tree = None


class Told:
    """What is known of the server's lies in this conversation. The true server tells none."""

    of_data = False
    of_sizes = False

    def patience(self) -> float:
        return _PATIENCE

    def check_owed(self) -> None:
        raise Finding("a step did not end")


# --- programs -----------------------------------------------------------------------------------


async def walk(kernel: Kernel) -> None:
    async def each(path: bytes) -> None:
        names = await kernel.list(path)
        is_true = not (kernel.told.of_data or kernel.told.of_sizes)
        if path == b"many" and is_true and sorted(names) != NAMES:
            raise Finding("a listing that is not the directory's, and no error")
        for name in names[:8]:
            await kernel.attempt(kernel.look, path + b"/" + name if path else name)

    for path in (b"", b"dir", b"dir/sub", b"many", b"empty", b"dir/sub/deep"):
        await kernel.attempt(each, path)


async def read(kernel: Kernel) -> None:
    await kernel.attempt(kernel.read_right, b"file", CONTENT, 4096)
    await kernel.attempt(kernel.read_right, b"dir/a", b"content of dir/a", 1 << 17)
    await kernel.attempt(kernel.statistics)
    await kernel.attempt(kernel.read_right, b"file", CONTENT, 1 << 17)


async def links(kernel: Kernel) -> None:
    for path in LINKS:
        await kernel.attempt(kernel.link_text, path)
    await kernel.attempt(kernel.look, b"fifo")


async def write(kernel: Kernel) -> None:
    async def anew() -> None:
        fh = await kernel.made(b"new")
        try:
            for at in range(3):
                await kernel.wrote(fh, 2000 * at, CONTENT[2000 * at : 2000 * at + 2000])
            await kernel.fs.fsync(fh)
            await kernel.fs.setattr(await kernel.number(b"new"), AttributeChange(size=5000), fh)
        finally:
            await kernel.closed(fh)

    async def again() -> None:
        fh = await kernel.opened(b"new", os.O_RDWR)
        try:
            await kernel.wrote(fh, 100, b"changed")
            await kernel.fs.flush(fh)
            if len(await kernel.fs.read(fh, 0, 50)) > 50:
                raise Finding("more than was asked for")
        finally:
            await kernel.closed(fh)

    await kernel.attempt(anew)
    await kernel.attempt(kernel.look, b"new")
    await kernel.attempt(again)
    await kernel.attempt(kernel.unlink, b"new")


async def names(kernel: Kernel) -> None:
    fs = kernel.fs

    async def symlink() -> None:
        kernel.counted(await fs.symlink(await kernel.number(b"made"), b"l", b"../file"))

    async def link() -> None:
        number = await kernel.number(b"dir/b")
        kernel.counted(await fs.link(number, await kernel.number(b"made"), b"hard"))

    async def mknod() -> None:
        kernel.counted(await fs.mknod(ROOT_NUMBER, b"node", stat.S_IFREG | 0o600))

    async def remove_directory(name: bytes) -> None:
        await fs.rmdir(*await kernel.parent(name))

    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: kernel.mkdir(b"made"),
        lambda: kernel.mkdir(b"dir"),
        symlink,
        lambda: kernel.link_text(b"made/l"),
        link,
        mknod,
        lambda: kernel.rename(b"node", b"made/l"),
        lambda: kernel.rename(b"made/hard", b"made/l", 1),
        lambda: kernel.rename(b"made/hard", b"other", 1),
        lambda: remove_directory(b"made"),
        lambda: kernel.unlink(b"made/l"),
        lambda: remove_directory(b"made"),
        lambda: kernel.unlink(b"other"),
        lambda: kernel.unlink(b"missing"),
        lambda: kernel.look(b"missing"),
    ]
    for step in steps:
        await kernel.attempt(step)


async def attributes(kernel: Kernel) -> None:
    for change in (
        AttributeChange(mode=0o100640),
        AttributeChange(atime=1_500_000_000, mtime=1_500_000_001),
        AttributeChange(uid=1000),
    ):
        await kernel.attempt(kernel.setattr, b"dir/b", change)
    await kernel.attempt(kernel.setattr, b"dir/sub/x", AttributeChange(size=5))
    await kernel.attempt(kernel.look, b"dir/sub/x")
    await kernel.attempt(kernel.statistics)


async def copying(kernel: Kernel) -> None:
    async def copy() -> None:
        source = await kernel.opened(b"large", os.O_RDONLY)
        target = await kernel.made(b"copy")
        try:
            count = await kernel.fs.copy_file_range(source, 0, target, 0, _LARGE)
            if not 0 <= count <= _LARGE:
                raise Finding(f"{count} bytes copied of {_LARGE}")
        finally:
            await kernel.closed(source)
            await kernel.closed(target)

    await kernel.attempt(copy)
    await kernel.attempt(kernel.unlink, b"copy")


async def together(kernel: Kernel) -> None:
    """Many steps at once, some of which are interrupted."""

    async def interrupted(seconds: float, step: Callable[[], Awaitable[object]]) -> None:
        with trio.move_on_after(seconds):
            await kernel.attempt(step)

    async with trio.open_nursery() as nursery:
        for path in (b"dir/a", b"dir/b", b"link", b"many", b"good", b"dir/sub/x"):
            nursery.start_soon(kernel.attempt, kernel.look, path)
        for seconds in (0.0, 0.001, 5):
            nursery.start_soon(
                interrupted, seconds, lambda: kernel.read_right(b"file", CONTENT, 2048)
            )
            nursery.start_soon(interrupted, seconds, lambda: kernel.list(b"many"))


PROGRAMS: Final[dict[str, Callable[[Kernel], Awaitable[None]]]] = {
    "walk": walk,
    "read": read,
    "links": links,
    "write": write,
    "names": names,
    "attributes": attributes,
    "copying": copying,
    "together": together,
}
