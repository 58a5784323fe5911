"""Changing attributes: size, owner, mode, times.

Goes by the open file if there is one, since that may write where the path may not, or when there is
no path any more; by the path otherwise, with a look at the result in the same round trip. An owner
and a mode that are so already, by what the server said a moment ago, are not sent.

A file that was made here and is open (`vfs/expected.py`) costs less. Times and a size are sent
behind what was written, and close or fsync waits for them and reports their failure. An owner and a
mode that are new are waited for here: cp forgives a refused fchown, but not a close, and nothing
may be written under a mode that was not accepted. Stateless but for the tree.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

import trio

from pysshfs.errors import RemoteStatusError, UnsupportedError
from pysshfs.reply import unless_interrupted
from pysshfs.vfs import diagnose
from pysshfs.vfs.ahead import Ahead, takes_nothing
from pysshfs.vfs.call import OpenFileHandle
from pysshfs.vfs.expected import KNOWN_SECONDS, NOTHING, Expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import AttributeChange, Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.openfile import OpenFile
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree


class Told(NamedTuple):
    """What the kernel is told; not `is_certain` where the times may have moved since, which it
    must ask for when it wants to know them."""

    attributes: FileAttributes
    is_certain: bool = True


class SetAttr:
    """The operation."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._ahead = Ahead(tree)

    def at_hand(self, inode: Inode, change: AttributeChange, file: OpenFile | None) -> Told | None:
        """`setattr`, but of a size, where nothing is to be waited for; else None, and nothing is
        done."""
        if not self._is_translated_at_hand(inode, change):
            return None
        change = self._of_servers_owners(change)
        cached = self._seen_lately(inode)
        if cached is not None and self._is_so(cached, change):
            return Told(cached)
        own, expected = self._own_file(inode, file), inode.expected
        if own is None or expected is None:
            return None
        if expected.is_known(self._tree.cache.clock(), self._tree.config.stat_timeout):
            change = expected.without_known(change)
        if change == NOTHING:
            return self._foretold(inode, expected)
        if change.uid is not None or change.gid is not None or _is_half(change):
            return None
        if not self._is_awaited_later(expected, change) or not self._tree.promises.has_room:
            return None
        if not self._tree.writeback_of(inode).go_ahead_at_hand():
            return None
        return self._follow(inode, own, change)

    async def setattr(
        self, inode: Inode, change: AttributeChange, file: OpenFile | None = None
    ) -> Told:
        """Change what is given; of the pairs (owner, times) one half may be missing."""
        change = await self._in_servers_terms(inode, change)
        if change == NOTHING:
            return Told(await self._tree.attributes(inode))
        cached = self._seen_lately(inode)
        if cached is not None and self._is_so(cached, change):
            return Told(cached)
        while True:
            own = self._own_file(inode, file)
            if own is None or inode.expected is None:
                break
            await trio.lowlevel.checkpoint_if_cancelled()
            told = await self._change_own(inode, inode.expected, own, change)
            if told is not None:
                return told
        if await self._ahead.may_set(inode, change):
            return Told(*self._ahead.set(inode, change))
        # Data on its way is delivered first: it would move the times, and the size, again.
        if inode.writeback is not None:
            if change.size is not None:
                await inode.writeback.before_truncation()
            else:
                await inode.writeback.drain()
        change = await self._completed(inode, change)
        if change.size is not None:
            self._discard_read_ahead(inode)
        if file is None and not inode.is_linked and inode.open_files:
            # Only a handle that may write can set the size.
            file = max(inode.open_files, key=lambda file: file.writable)
        target = inode.path() if file is None else file.handle
        return Told(await self._change(inode, target, change))

    # --- between the server's view and this machine's ------------------------------------------

    async def _in_servers_terms(self, inode: Inode, change: AttributeChange) -> AttributeChange:
        """Bits of a mode that a mask hides stay as the server has them: who reads a mode and sets
        it again must not take them away."""
        owners, names = self._tree.owners, self._tree.server.names
        if owners.is_plain:
            return change
        if names is not None and not (change.uid is None and change.gid is None):
            await names.look_for(change)
        change = self._of_servers_owners(change)
        hidden = owners.mask(inode.kind or 0)
        if change.mode is not None and hidden:
            expected = inode.expected
            now = await self._now(inode) if expected is None else expected.attributes
            mode = change.mode & ~hidden | (now.mode or 0) & hidden
            change = change._replace(mode=mode)
        return change

    def _of_servers_owners(self, change: AttributeChange) -> AttributeChange:
        """Raises `UnmappedOwnerError`."""
        if self._tree.owners.is_plain or (change.uid is None and change.gid is None):
            return change
        return self._tree.owners.change_to_remote(change)

    def _is_translated_at_hand(self, inode: Inode, change: AttributeChange) -> bool:
        owners = self._tree.owners
        if owners.is_plain:
            return True
        if change.mode is not None and owners.mask(inode.kind or 0):
            return False
        return owners.can_send(change)

    async def _now(self, inode: Inode) -> Attributes:
        """What the server has."""
        if inode.open_files:
            return await self._tree.server.fstat(inode.open_files[0].handle)
        return await self._tree.server.lstat(inode.path())

    # --- what need not be sent ----------------------------------------------------------------

    def _seen_lately(self, inode: Inode) -> FileAttributes | None:
        """What the server said a moment ago, nothing having been changed here since."""
        cache, config = self._tree.cache, self._tree.config
        cached = cache.peek_attributes(inode.number)
        if cached is None or (inode.writeback is not None and not inode.writeback.is_clean):
            return None
        said_at = cached.expires - config.stat_timeout
        return cached.attributes if cache.clock() - said_at < KNOWN_SECONDS else None

    def _is_so(self, now: FileAttributes, change: AttributeChange) -> bool:
        """Whether this sets nothing but an owner and a mode that are so already. What is shown
        under another name than the server's does not tell."""
        if change == NOTHING or (change.size, change.atime, change.mtime) != (None, None, None):
            return False
        owners = self._tree.owners
        if change.mode is not None and (change.mode != now.mode & 0o7777 or owners.mask(now.mode)):
            return False
        return owners.shows(now, change.uid, change.gid)

    def _discard_read_ahead(self, inode: Inode) -> None:
        for reading in inode.open_files:
            reading.reader.discard()

    # --- files that were made here and are open -------------------------------------------------

    @staticmethod
    def _own_file(inode: Inode, file: OpenFile | None) -> OpenFile | None:
        """An open file by which everything can be changed."""
        if file is not None and file.writable:
            return file
        return next((opened for opened in inode.open_files if opened.writable), None)

    async def _change_own(
        self, inode: Inode, expected: Expected, file: OpenFile, change: AttributeChange
    ) -> Told | None:
        """None when the file, which another program may have open, was closed while we waited:
        then nothing was sent."""
        tree = self._tree
        if expected.is_known(tree.cache.clock(), tree.config.stat_timeout):
            change = expected.without_known(change)
        if change == NOTHING:
            return self._foretold(inode, expected)
        if _is_half(change):
            change = await self._completed(inode, change)
        if change.uid is None and self._is_awaited_later(expected, change):
            await tree.promises.room()
            return await self._send_behind(inode, file, change)
        if inode.parent is not None:
            await tree.promises.settled(inode.path())
        return await self._change_and_wait(inode, file, change)

    def _is_awaited_later(self, expected: Expected, change: AttributeChange) -> bool:
        """Times and sizes are; a mode that takes nothing away is, too, with `async_ops`."""
        if change.mode is None:
            return True
        before = expected.attributes.mode or 0
        return self._tree.promises.enabled and takes_nothing(before, change.mode)

    def _foretold(self, inode: Inode, expected: Expected) -> Told:
        known = self._tree.foretold(inode)
        if known is not None:
            return Told(known)
        return Told(self._tree.in_local_terms(inode, expected), is_certain=False)

    async def _send_behind(
        self, inode: Inode, file: OpenFile, change: AttributeChange
    ) -> Told | None:
        """Times and size."""
        if file.handle.closed:
            return None
        writeback = self._tree.writeback_of(inode)
        if change.size is None:
            await writeback.go_ahead()
            told = self._follow(inode, file, change)
        else:
            async with writeback.appending:  # an append reckons with the size until it is taken
                await writeback.go_ahead()
                told = self._follow(inode, file, change)
        return told or await self._change_and_wait(inode, file, change)

    def _follow(self, inode: Inode, file: OpenFile, change: AttributeChange) -> Told | None:
        """None when it was changed otherwise while we waited, so that it is not known any more, or
        closed."""
        expected = inode.expected
        if expected is None or file.handle.closed:
            return None
        tree, writeback = self._tree, self._tree.writeback_of(inode)
        changing = tree.server.fsetstat_behind(file.handle, change)
        if changing.done:
            changing.result()  # refused without being sent
        if change.size is not None:
            tree.resizing(inode, change.size, changing)
            inode.known_size = change.size
            writeback.appended_to = 0
            self._discard_read_ahead(inode)
        expected = expected.after(change)
        tree.changed_to(inode, expected)
        writeback.follow(changing)
        changing.add_callback(lambda reply: self._answered_behind(inode, reply))
        return self._foretold(inode, expected)

    def _answered_behind(self, inode: Inode, reply: Reply[None]) -> None:
        if reply.error is not None:
            self._tree.refused_behind(inode)

    async def _change_and_wait(
        self, inode: Inode, file: OpenFile, change: AttributeChange
    ) -> Told | None:
        """A look at the result is sent along, unless it is certain."""
        if file.handle.closed:
            return None
        tree, writeback = self._tree, self._tree.writeback_of(inode)
        if change.size is not None:
            await writeback.before_truncation()
            self._discard_read_ahead(inode)
        await writeback.go_ahead()
        if file.handle.closed:
            return None
        expected = inode.expected
        result = None if change.uid is not None or expected is None else expected.after(change)
        # As long as this very one is there, nothing else has happened to the file.
        pending = None if expected is None else expected.written()
        tree.changed_to(inode, pending)
        try:
            found = await self._changed(inode, file.handle, change, result)
        except BaseException as error:
            # A refusal of one thing leaves the file as it was; anything else leaves it uncertain.
            is_as_before = isinstance(error, RemoteStatusError) and _is_one_thing(change)
            if inode.expected is pending:
                tree.changed_to(inode, expected if is_as_before else None)
            raise
        if pending is None or inode.expected is not pending:
            return Told(tree.in_local_terms(inode, found), is_certain=False)
        inode.known_size = found.attributes.size or 0
        known = tree.changed_to(inode, found)
        return self._foretold(inode, found) if known is None else Told(known)

    async def _changed(
        self, inode: Inode, handle: OpenFileHandle, change: AttributeChange, result: Expected | None
    ) -> Expected:
        """What the file is after the change: `result`, if that is certain."""
        server = self._tree.server
        changing = server.fsetstat(handle, change, self._late(inode))
        if change.size is not None:
            self._tree.resizing(inode, change.size, changing)
        if result is not None and result.is_whole:
            await self._accepted(changing, b"")
            return result._replace(attributes=result.attributes._replace(size=inode.known_size))
        looking = server.fstat(handle)
        with unless_interrupted(looking):
            await self._accepted(changing, b"")
        return Expected(await looking, True, self._tree.cache.clock())

    async def _accepted(self, changing: Reply[None], path: bytes) -> None:
        try:
            await changing
        except RemoteStatusError as error:
            raise await diagnose.space(self._tree.server, path, error) from None

    def _late(self, inode: Inode) -> Callable[[], None]:
        return lambda: self._tree.kernel.inode_changed(inode.number)

    # --- all others -----------------------------------------------------------------------------

    async def _completed(self, inode: Inode, change: AttributeChange) -> AttributeChange:
        """SFTP sets owner and group, and the two times, in pairs only: the missing half is what
        the server has now."""
        half_owner = (change.uid is None) != (change.gid is None)
        half_times = (change.atime is None) != (change.mtime is None)
        if not half_owner and not half_times:
            return change
        if half_times and not half_owner and change.atime is None:
            known = self._known_access_time(inode)
            if known is not None:
                return change._replace(atime=known)
        now = await self._now(inode)
        if half_owner:
            uid = change.uid if change.uid is not None else now.uid
            gid = change.gid if change.gid is not None else now.gid
            change = change._replace(uid=uid, gid=gid)
        if half_times:
            atime = change.atime if change.atime is not None else now.atime
            mtime = change.mtime if change.mtime is not None else now.mtime
            change = change._replace(atime=atime, mtime=mtime)
        if _is_half(change):
            raise UnsupportedError("the server does not say what the other half of the pair is")
        return change

    def _known_access_time(self, inode: Inode) -> int | None:
        """Of a directory that was made here or listed a moment ago: tar and rsync set the time of
        its last change alone, after what is in it."""
        if inode.told is None or self._tree.cache.names.all_of(inode.number) is None:
            return None
        return inode.told.atime

    async def _change(
        self, inode: Inode, target: bytes | OpenFileHandle, change: AttributeChange
    ) -> FileAttributes:
        """Change what stands under a path, or is open, and look at the result."""
        tree, server, late = self._tree, self._tree.server, self._late(inode)
        tree.changed(inode)
        sent_at = tree.mutations
        if isinstance(target, OpenFileHandle):
            changing, looking = server.fsetstat(target, change, late), server.fstat(target)
        elif inode.kind == stat.S_IFLNK:
            changing, looking = server.lsetstat(target, change, late), server.lstat(target)
        else:
            changing, looking = server.setstat(target, change, late), server.lstat(target)
        if change.size is not None:
            tree.resizing(inode, change.size, changing)
        with unless_interrupted(looking):
            await self._accepted(changing, target if isinstance(target, bytes) else b"")
        return tree.remember(inode, await looking, sent_at)


def _is_half(change: AttributeChange) -> bool:
    """SFTP sets owner and group, and the two times, in pairs only."""
    owner_is_half = (change.uid is None) != (change.gid is None)
    return owner_is_half or (change.atime is None) != (change.mtime is None)


def _is_one_thing(change: AttributeChange) -> bool:
    """Servers carry out the parts of a change one by one."""
    return (change.mode, change.size, change.uid, change.mtime).count(None) == 3
