"""`-o async_ops` against a plain model: whatever is done, and however often the connection drops in
between, the mount shows what the model holds, and the server holds it after a flush."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.config import VfsConfig
from tests.support.cuts import begin_loss, new_tree
from tests.support.fake_mount import Mount, mounted, settle
from tests.support.fake_remote import OPENSSH

if TYPE_CHECKING:
    from pysshfs.vfs.filesystem import Entry
    from tests.support.memory_tree import MemoryTree, Node

Step: TypeAlias = tuple[str, int, int, int]
_NAMES: Final = [b"a", b"b", b"c"]
_RULES: Final = [
    *["mkdir", "create", "unlink"] * 4, *["symlink", "write", "close", "rmdir"] * 2,
    *["rename", "rename_directory", "link"] * 2,
    "look", "read", "list", "times", "mode", "flush", "pause",
    *["unheard", "unanswered", "reconnect"] * 2,
]  # fmt: skip
_STEP: Final = st.tuples(
    st.sampled_from(_RULES), st.integers(0, 8), st.integers(0, 8), st.integers(0, 60)
)


class File:
    """A file of the model."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.mtime: int | None = None  # None: whatever the server's clock says
        self.mode = 0o600
        self.names = 1


Model: TypeAlias = "dict[bytes, File | bytes | Model]"


class Machine:
    """The mount beside its model; each rule is a method. Paths are numbered."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.root: Any = {}
        self.open: list[tuple[int, File]] = []
        self.is_down = False
        # The kernel knows the directories: it does not look them up each time.
        self.numbers: dict[bytes, int] = {}

    def parent(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self.numbers[directory], name

    async def find(self, path: bytes) -> Entry | None:
        entry = await self.mount.fs.lookup(*self.parent(path))
        return None if entry is None else self.mount.counted(entry)

    async def entry(self, path: bytes) -> Entry:
        entry = await self.find(path)
        assert entry is not None
        return entry

    def place(self, number: int) -> tuple[bytes, Any, bytes]:
        """The path, its directory in the model, and its name there; up to two deep."""
        name = _NAMES[number % 3]
        if number < 3:
            return b"top/" + name, self.root, name
        above = _NAMES[number // 3]
        directory = self.root.get(above)
        if not isinstance(directory, dict):
            return self.place(number % 3)
        return b"top/" + above + b"/" + name, directory, name

    async def step(self, rule: str, one: int, two: int, size: int) -> None:
        await getattr(self, rule)(*self.place(one), two, size)

    async def _absent(self, path: bytes, directory: Any, name: bytes) -> bool:
        if name in directory:
            return False
        await self.up()
        assert await self.find(path) is None
        return True

    async def mkdir(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        if await self._absent(path, directory, name):
            made = await self.mount.fs.mkdir(*self.parent(path), 0o755)
            self.numbers[path] = self.mount.counted(made).number
            directory[name] = {}

    async def create(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        if await self._absent(path, directory, name):
            flags = os.O_RDWR | os.O_EXCL
            opened, made = await self.mount.fs.create(*self.parent(path), 0o600, flags)
            self.mount.counted(made)
            directory[name] = File()
            self.open.append((opened.fh, directory[name]))

    async def symlink(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        if await self._absent(path, directory, name):
            target = b"target%d" % two
            self.mount.counted(await self.mount.fs.symlink(*self.parent(path), target))
            directory[name] = target

    def _opened(self, two: int) -> tuple[int, File] | None:
        return self.open[two % len(self.open)] if self.open else None

    async def write(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        opened = self._opened(two)
        if opened is not None:
            fh, file = opened
            at = min(size, len(file.data))
            data = b"%02d" % (size % 100) * (two + 1)
            await self.mount.fs.write(fh, at, data)
            file.data[at : at + len(data)] = data
            file.mtime = None

    async def close(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        opened = self._opened(two)
        if opened is not None:
            self.open.remove(opened)
            await self.mount.close(opened[0])

    async def _release(self, file: object) -> None:
        """A file without a name would not outlive the connection."""
        for opened in [opened for opened in self.open if opened[1] is file]:
            self.open.remove(opened)
            await self.mount.close(opened[0])

    async def unlink(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        known = directory.get(name, {})
        if not isinstance(known, dict):
            await self._release(known)
            if isinstance(known, File):
                known.names -= 1
            await self.up()
            await self.entry(path)
            await self.mount.fs.unlink(*self.parent(path))
            del directory[name]

    async def rmdir(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        if directory.get(name) == {}:
            await self.up()
            await self.entry(path)
            await self.mount.fs.rmdir(*self.parent(path))
            del directory[name]

    async def rename(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        new_path, new_directory, new_name = self.place(two)
        moved = directory.get(name)
        if moved is None or isinstance(moved, dict):
            return
        replaced = new_directory.get(new_name)
        # Of two names of one file rename(2) makes none.
        if replaced is moved or isinstance(replaced, dict):
            return
        if two % 2:  # else it moves while it is open
            await self._release(moved)
        await self._release(replaced)
        if isinstance(replaced, File):
            replaced.names -= 1
        await self.up()
        await self.entry(path)
        await self.find(new_path)
        await self.mount.fs.rename(*self.parent(path), *self.parent(new_path), 0)
        new_directory[new_name] = directory.pop(name)

    async def rename_directory(
        self, path: bytes, directory: Any, name: bytes, two: int, size: int
    ) -> None:
        new_path, _, new_name = self.place(two % 3)
        old_path, _, old_name = self.place(size % 3)
        if not isinstance(self.root.get(old_name), dict) or new_name in self.root:
            return
        await self.up()
        await self.entry(old_path)
        await self.find(new_path)
        await self.mount.fs.rename(*self.parent(old_path), *self.parent(new_path), 0)
        self.root[new_name] = self.root.pop(old_name)
        for known in [
            known for known in self.numbers if (known + b"/").startswith(old_path + b"/")
        ]:
            self.numbers[new_path + known[len(old_path) :]] = self.numbers.pop(known)

    async def link(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        """A second name; from then on neither is changed, since each is remembered by itself."""
        new_path, new_directory, new_name = self.place(two)
        linked = directory.get(name)
        if isinstance(linked, File) and await self._absent(new_path, new_directory, new_name):
            await self._release(linked)
            number = (await self.entry(path)).number
            self.mount.counted(await self.mount.fs.link(number, *self.parent(new_path)))
            new_directory[new_name] = linked
            linked.names += 1

    async def look(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        await self.up()
        entry = await self.find(path)
        known = directory.get(name)
        assert (entry is None) == (known is None)
        if isinstance(known, File):
            assert entry is not None
            assert entry.attributes.size == len(known.data)
            assert entry.attributes.mode & 0o777 == known.mode
            assert known.mtime in (None, entry.attributes.mtime)

    async def read(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        known = directory.get(name)
        if isinstance(known, File):
            await self.up()
            opened = await self.mount.fs.open((await self.entry(path)).number, os.O_RDONLY)
            assert await self.mount.fs.read(opened.fh, 0, 1000) == bytes(known.data)
            await self.mount.close(opened.fh)

    async def list(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        await self.up()
        fh = await self.mount.fs.opendir(self.numbers[path.rpartition(b"/")[0]])
        names = await self.mount.read_names(fh)
        await self.mount.fs.releasedir(fh)
        assert sorted(names) == sorted(directory)

    async def times(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        known = directory.get(name)
        if isinstance(known, File) and known.names == 1:
            await self.up()
            change = AttributeChange(atime=1_000_000_000, mtime=1_000_000_000 + size)
            told = await self.mount.fs.setattr((await self.entry(path)).number, change)
            assert told.attributes.mtime == change.mtime
            known.mtime = change.mtime

    async def mode(self, path: bytes, directory: Any, name: bytes, two: int, size: int) -> None:
        known = directory.get(name)
        if isinstance(known, File) and known.names == 1:
            await self.up()
            known.mode = [0o600, 0o640, 0o644][two % 3]
            change = AttributeChange(mode=known.mode)
            told = await self.mount.fs.setattr((await self.entry(path)).number, change)
            assert told.attributes.mode & 0o777 == known.mode

    async def flush(self, *_: Any) -> None:
        await self.up()
        await self.mount.fs.flush_all()
        self.mount.fs.raise_broken_promise()
        self.compare()

    async def pause(self, *_: Any) -> None:
        if not self.is_down:
            await trio.sleep(0.3)

    async def unheard(self, *_: Any) -> None:
        """What is sent from now on is not carried out."""
        if not self.is_down:
            begin_loss(self.mount, carried_out=False)
            self.mount.remote.hold()
            self.is_down = True

    async def unanswered(self, *_: Any) -> None:
        """What is sent from now on is carried out, but nobody hears of that."""
        if not self.is_down:
            begin_loss(self.mount, carried_out=True)
            self.is_down = True

    async def reconnect(self, *_: Any) -> None:
        if self.is_down:
            self.mount.remote.drop_connection()
            await settle()
            self.is_down = False
            await self.mount.reconnect()

    async def up(self) -> None:
        """Whatever may have to ask the server must not wait for ever: sometimes it is down, and
        only what is known to be answered at once goes on without it."""
        if self.is_down and not self._goes_on():
            await self.reconnect()

    def _goes_on(self) -> bool:
        return False

    def compare(self) -> None:
        assert found(self.mount.tree.find(b"top")) == held(self.root)


class Daring(Machine):
    """Goes on while the connection is down, and finds it again only when it has to wait."""

    async def step(self, rule: str, one: int, two: int, size: int) -> None:
        finished = trio.Event()

        async def rescue() -> None:
            with trio.move_on_after(5):
                await finished.wait()
                return
            await self.reconnect()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rescue)
            await super().step(rule, one, two, size)
            finished.set()

    def _goes_on(self) -> bool:
        return True


def held(model: Any) -> dict[bytes, object]:
    return {
        name: held(item) if isinstance(item, dict) else _plain(item) for name, item in model.items()
    }


def _plain(item: Any) -> object:
    return (bytes(item.data), item.mode) if isinstance(item, File) else item


def found(node: Node) -> dict[bytes, object]:
    there: dict[bytes, object] = {}
    for name, child in node.children.items():
        if child.is_directory:
            there[name] = found(child)
        else:
            is_file = not child.is_symlink
            there[name] = (bytes(child.data), child.mode & 0o777) if is_file else child.target
    return there


async def run(steps: list[Step], tree: MemoryTree, kind: type[Machine]) -> None:
    config = VfsConfig(async_ops=True, write_delay=0.1)
    small = OPENSSH._replace(max_write=16, max_read=64)
    async with mounted(tree, config=config, capabilities=small, latency=0.05) as mount:
        machine = kind(mount)
        await mount.fs.getattr(1)
        machine.numbers[b"top"] = (await mount.mkdir(b"top")).number
        for number in (0, 1):
            await machine.step("mkdir", number, 0, 0)
        for step in steps:
            await machine.step(*step)
        for opened in list(machine.open):
            await mount.close(opened[0])
        await machine.reconnect()
        await machine.flush()
        assert len(mount.fs.tree.promises) == 0
        await trio.sleep(1)
        assert mount.fs.server.waiting == 0
        for file in _files(machine.root, b"top"):
            path, known = file
            assert known.mtime in (None, tree.find(path).mtime)


def _files(model: Any, path: bytes) -> list[tuple[bytes, File]]:
    files: list[tuple[bytes, File]] = []
    for name, item in model.items():
        if isinstance(item, dict):
            files += _files(item, path + b"/" + name)
        elif isinstance(item, File):
            files.append((path + b"/" + name, item))
    return files


@pytest.mark.parametrize("kind", [Machine, Daring])
@pytest.mark.parametrize("umask", [0, 0o027])
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(_STEP, min_size=10, max_size=60))
def test_the_server_holds_what_the_model_holds(
    kind: type[Machine], umask: int, steps: list[Step]
) -> None:
    tree = new_tree()
    tree.umask = umask
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(run, steps, tree, kind, clock=clock)
