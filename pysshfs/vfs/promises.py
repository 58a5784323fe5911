"""What programs were told is done, before the server said so: `-o async_ops`.

Making and removing names, and setting attributes, in directories all of whose names are known
(`vfs/names.py`) is answered at once; the requests go to the server in order, one behind another,
and stay in the log of `vfs/calls.py` until they are answered, on however many sessions. What was
made gets the attributes that the server is going to give it, by what it gave to others (`Marks`);
the truth replaces them when it comes, and the kernel is told where it differs.

Nothing overtakes what it depends on. One session carries out in order; calls on a file whose OPEN
has no answer wait for its handle in the log; and whoever changes a name, or looks at what a program
must not be told of in advance, waits for what is promised of that name (`settled`). So of each name
at most one promise is open (a rename is one of both its names), but for attributes, which are set
one after the other; and after a lost connection each is settled by looking, or is repeated, as any
other call is.

A promise that is broken is logged, and kept for the next fsync of its directory and for who asks
for all (`pysshfsctl flush`); of a file that is open, its own fsync and close report it, too.

Bounds: at most `_MOST` promises; who makes one more waits, and can be interrupted there: nothing of
it was sent. Owned by the `Tree`; suspends in `know_names`, `room` and what waits only.
"""

from __future__ import annotations

import errno
import logging
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import trio
from cachetools import LRUCache

from pysshfs.errors import FilesystemError
from pysshfs.remotefs import Attributes
from pysshfs.vfs.directories import DirectoryStream
from pysshfs.vfs.expected import Expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.reply import Reply
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)

_MOST: Final = 2048
_MOST_DIRECTORIES: Final = 1024


class Promises:
    """Those that are open, by path, and those that were broken, by directory."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        config = tree.config
        # What is shown must be what the server has: with a mask it cannot be compared.
        self.enabled = config.async_ops and not (config.file_mask or config.directory_mask)
        self._open: dict[bytes, list[Reply[Any]]] = {}
        self._changing: Counter[bytes] = Counter()  # of these, that do more than set attributes
        self._count = 0
        self._changed = trio.Event()
        # Directories in which something was made lately without knowing all names.
        self._made_in: LRUCache[int, bool] = LRUCache(_MOST_DIRECTORIES)
        self._broken: dict[int, FilesystemError] = {}

    def __len__(self) -> int:
        return self._count

    # --- making one -------------------------------------------------------------------------

    def may_make(self, parent: Inode, name: bytes) -> bool:
        """Whether a new thing of this name can be promised: it is certain to be absent, and what
        the server will make of it is known."""
        marks = self._tree.marks
        if not self.enabled or not marks.is_known:
            return False
        if not self._tree.owners.is_known(marks.uid, marks.gid):
            return False
        inherits_group = parent.told is None or parent.told.mode & stat.S_ISGID
        return not inherits_group and self._tree.cache.names.lacks(parent.number, name)

    def may_remove(self, parent: Inode, name: bytes) -> bool:
        """Whether this name is certain to be there."""
        if not self.enabled:
            return False
        names = self._tree.cache.names.all_of(parent.number)
        return names is not None and name in names

    def knows_names(self, directory: Inode) -> bool:
        """Whether operations on the names in this directory may be promised."""
        return self.enabled and self._tree.cache.names.all_of(directory.number) is not None

    async def know_names(self, directory: Inode) -> None:
        """List a directory in which a second name is going to be made, so that the next ones can be
        promised. Without a listing they are not. One that is on its way is waited for."""
        names, number = self._tree.cache.names, directory.number
        fetching = self._tree.walk.under_way(directory)
        if fetching is not None and names.all_of(number) is None:
            await fetching.wait()
        if names.all_of(number) is not None or number not in self._made_in:
            self._made_in[number] = True
            return
        del self._made_in[number]
        stream = DirectoryStream(self._tree, directory)
        try:
            await stream.read_ahead(self._tree.cache.capacity // 4)
        except FilesystemError:
            pass  # what is done there next will say so
        finally:
            stream.close()

    @property
    def has_room(self) -> bool:
        """Whether there is, and a session to send on: then `room` returns at once."""
        return self._count < _MOST and self._tree.server.is_up

    async def room(self) -> None:
        """Wait until there is room for one more. Raises when there is no hope of a server."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._tree.server.check()
        await self._until(lambda: self._count < _MOST)
        self._tree.server.check()

    def keep(
        self,
        path: bytes,
        directory: Inode,
        reply: Reply[Any],
        broken: Callable[[], None],
        is_fine: Callable[[BaseException], bool] = lambda _error: False,
        *,
        sets_attributes: bool = False,
    ) -> None:
        """`reply` is the answer to what was promised of `path`, a name in `directory`. When it is a
        refusal that is not `is_fine`, `broken` sets right what was believed."""
        self._tree.inodes.hold(directory)

        def answered(reply: Reply[Any]) -> None:
            error = reply.error
            if isinstance(error, FilesystemError) and not is_fine(error):
                self.broken(repr(path), directory, error)
                broken()
            self._tree.inodes.let_go(directory)

        reply.add_callback(answered)
        self.wait_for(path, reply, sets_attributes=sets_attributes)

    def wait_for(self, path: bytes, reply: Reply[Any], *, sets_attributes: bool = False) -> None:
        """Nothing else is done about `path` before this is answered; but other attributes are set
        if it does no more than set some."""
        if reply.done:
            return
        self._count += 1
        self._open.setdefault(path, []).append(reply)
        if not sets_attributes:
            self._changing[path] += 1

        def answered(reply: Reply[Any]) -> None:
            self._count -= 1
            replies = self._open[path]
            replies.remove(reply)
            if not replies:
                del self._open[path]
            if not sets_attributes:
                self._changing[path] -= 1
                if not self._changing[path]:
                    del self._changing[path]
            self.wake_all()

        reply.add_callback(answered)

    def wake_all(self) -> None:
        """Have those who wait look again."""
        self._changed.set()
        self._changed = trio.Event()

    def broken_by_data(self, inode: Inode) -> None:
        """Its close was promised to deliver what was written, and that failed afterwards."""
        if self.enabled and inode.parent is not None:
            error = FilesystemError(errno.EIO, "data was not delivered after its close")
            self.broken(repr(inode.name), inode.parent, error)

    def broken(self, what: str, directory: Inode, error: FilesystemError) -> None:
        """Kept until somebody asks."""
        log.error("%s: a program was told that it is done, but it is not: %s", what, error)
        self._broken[directory.number] = error

    @property
    def unreported(self) -> int:
        """In how many directories something failed of which nobody has been told."""
        return len(self._broken)

    # --- waiting and reporting ------------------------------------------------------------------

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for answers until it is so. Raises when there is no hope of a server."""
        while not is_so():
            changed = self._changed
            self._tree.server.check()
            self._tree.server.hurry()
            await changed.wait()

    async def settled(self, *paths: bytes) -> None:
        """Wait until nothing is promised of these paths."""
        await self._until(lambda: not any(path in self._open for path in paths))

    async def settled_but_for_attributes(self, path: bytes) -> None:
        """Wait until no more is promised of this path than attributes."""
        await self._until(lambda: path not in self._changing)

    def is_settled(self, path: bytes) -> bool:
        """Whether `settled` would return at once."""
        return path not in self._open

    def is_settled_below(self, path: bytes) -> bool:
        """The same, and nothing is promised of what lies in it if it is a directory."""
        prefix = path + b"/"
        return self.is_settled(path) and not any(known.startswith(prefix) for known in self._open)

    async def all_settled(self) -> None:
        """Wait until all that was promised until now is answered."""
        for replies in list(self._open.values()):
            for reply in list(replies):
                await self._outcome(reply)

    async def settled_in(self, directory: Inode) -> None:
        """The same for what was promised of the names in one directory."""
        prefix = directory.path() + b"/" if directory.parent is not None else b""
        for path, replies in list(self._open.items()):
            if path.startswith(prefix) and b"/" not in path[len(prefix) :]:
                for reply in list(replies):
                    await self._outcome(reply)

    async def _outcome(self, reply: Reply[Any]) -> None:
        await self._until(lambda: reply.done)

    def raise_broken(self, directory: Inode) -> None:
        """Raise the last error of this directory, once."""
        error = self._broken.pop(directory.number, None)
        if error is not None:
            raise error.with_traceback(None)

    def raise_any_broken(self) -> None:
        """Raise an error that nobody has asked for, and forget them all: they are in the log."""
        broken, self._broken = self._broken, {}
        for error in broken.values():
            raise error.with_traceback(None)

    # --- what the server will say -----------------------------------------------------------------

    def foreseen(self, mode: int, size: int) -> Attributes:
        """What is made now, with this type and mode."""
        marks = self._tree.marks
        now = int(time.time() + marks.clock_ahead)
        return Attributes(mode, size, marks.uid, marks.gid, now, now)

    def made(self, inode: Inode, foreseen: Attributes, looking: Reply[Attributes]) -> None:
        """When the look at what was made comes, it replaces what was foreseen."""
        sent_at = self._tree.mutations
        self._tree.inodes.hold(inode)

        def came(reply: Reply[Attributes]) -> None:
            if reply.error is None:
                self._compare(inode, foreseen, reply.result(), sent_at)
            self._tree.inodes.let_go(inode)

        looking.add_callback(came)

    def _compare(self, inode: Inode, foreseen: Attributes, found: Attributes, sent_at: int) -> None:
        is_untouched = inode.mutated_at <= sent_at
        if stat.S_ISDIR(foreseen.mode or 0):
            foreseen = foreseen._replace(size=found.size)  # which nobody looks at
        differs = (found.uid, found.gid) != (foreseen.uid, foreseen.gid)
        # The permissions are seen to by who made it (`vfs/ahead.py`).
        differs = differs or bool(((found.mode or 0) ^ (foreseen.mode or 0)) & ~0o777)
        if is_untouched:
            differs = differs or (found.size, found.mtime) != (foreseen.size, foreseen.mtime)
        if not differs:
            return
        expected = inode.expected
        self._tree.refused_behind(inode)
        if is_untouched and expected is not None:  # it is open, and goes on as what it is
            truth = found._replace(mode=expected.attributes.mode)
            self._tree.changed_to(inode, Expected(truth, True, self._tree.cache.clock()))
