"""Creating files: open(2) with O_CREAT of a name that is not there, or may not be.

One round trip when the name is new, as it is most of the time, and none with `async_ops`
(`vfs/ahead.py`). What is known of a file that was made here saves questions while it is open
(`vfs/expected.py`). Stateless but for the tree.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING

from pysshfs.errors import FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange
from pysshfs.reply import unless_interrupted
from pysshfs.vfs import diagnose
from pysshfs.vfs.ahead import Ahead
from pysshfs.vfs.expected import Expected
from pysshfs.vfs.openfile import open_mode
from pysshfs.vfs.sanity import is_special

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes
    from pysshfs.reply import Reply
    from pysshfs.vfs.files import Files
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.openfile import OpenFile
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)


class Creating:
    """The operation."""

    def __init__(self, tree: Tree, files: Files) -> None:
        self._tree = tree
        self._files = files
        self._ahead = Ahead(tree)

    async def create(
        self, parent: Inode, name: bytes, mode: int, flags: int
    ) -> tuple[Inode, OpenFile, FileAttributes]:
        """Create and open. The inode has no lookup count yet: the open file keeps it.

        The server is always asked to create exclusively first: only then it is certain that the
        file is ours to give a mode. What exists already is opened in a second round trip, unless
        the caller wants it exclusively, too.
        """
        tree = self._tree
        path = tree.child_path(parent, name)
        if await self._ahead.may_make(parent, name, mode):
            return self._create_ahead(parent, name, mode, flags)
        known = tree.inodes.child(parent, name)
        if known is not None and known.writeback is not None:
            await known.writeback.drain()  # the look at it is to find its size with this data
        how = open_mode(flags)
        doubt = tree.about_to_make(parent, name, stat.S_IFREG, strict=bool(flags & os.O_EXCL))
        sent_at = tree.mutations
        late = tree.name_is_out_of_date(parent, name)
        opening = tree.server.open_exclusively(path, how, mode & 0o7777, doubt, late)
        looking = tree.server.lstat(path)
        try:
            with unless_interrupted(looking):
                handle = await opening
            created = True
        except FilesystemError as error:
            if flags & os.O_EXCL or not await self._is_taken(looking, error):
                raise await diagnose.exists(tree.server, path, error) from None
            known = tree.inodes.child(parent, name)
            before = None if known is None else tree.last_version(known)
            if flags & os.O_TRUNC and known is not None:
                if known.writeback is not None:
                    await known.writeback.before_truncation()
                tree.changed(known)
                known.drop_read_ahead()
            sent_at = tree.mutations
            opening = self._files.ask_to_open(known, path, how, before)
            looking = tree.server.lstat(path)
            with unless_interrupted(looking):
                handle = await opening
            created = False
        try:
            found = await looking
            inode, attributes = tree.adopt(parent, name, found, sent_at)
        except BaseException:
            tree.close(handle)
            raise
        tree.cache.drop_absent(parent.number, name)
        file = self._files.register(inode, handle, flags)
        inode.data_version = None  # what is read from now on can still change unseen
        if created:
            doubt.made(found)
            attributes = self._made(file, found, attributes, mode)
        return inode, file, attributes

    def create_at_hand(
        self, parent: Inode, name: bytes, mode: int, flags: int
    ) -> tuple[Inode, OpenFile, FileAttributes] | None:
        """The same, where it can be promised at once (`async_ops`); else nothing is done."""
        if not self._ahead.may_make_at_hand(parent, name, mode):
            return None
        return self._create_ahead(parent, name, mode, flags)

    def _create_ahead(
        self, parent: Inode, name: bytes, mode: int, flags: int
    ) -> tuple[Inode, OpenFile, FileAttributes]:
        made = self._ahead.create(
            parent, name, mode, open_mode(flags), strict=bool(flags & os.O_EXCL)
        )
        file = self._files.register(made.inode, made.handle, flags)
        made.inode.data_version = None
        return made.inode, file, made.attributes

    def _made(
        self, file: OpenFile, found: Attributes, attributes: FileAttributes, mode: int
    ) -> FileAttributes:
        """The file is new, and what it is, is known from now on.

        The server applied its own umask on top of the caller's; undo that. Bits that the directory
        hands down (setgid) stay. Data need not wait for it: until then fewer may read it. A refusal
        is no failure of the file, so nobody hears of it."""
        tree, inode = self._tree, file.inode
        expected = None
        if inode.seen is attributes:  # else it was changed again meanwhile
            expected = inode.expected = Expected(found, True, tree.cache.clock())
        wanted = mode & 0o777
        if attributes.mode & 0o777 == wanted & ~tree.config.file_mask:
            return attributes
        change = AttributeChange(mode=(attributes.mode & 0o7000) | wanted)
        after = None if expected is None else expected.after(change)
        corrected = tree.changed_to(inode, after) or attributes
        changing = tree.server.fsetstat_behind(file.handle, change)
        tree.writeback_of(inode).follow(changing, is_reported=False)

        def answered(reply: Reply[None]) -> None:
            if reply.error is not None:
                log.info("the mode of %r stays %o: %s", inode, attributes.mode, reply.error)
                tree.refused_behind(inode)

        changing.add_callback(answered)
        return corrected

    async def _is_taken(self, looking: Reply[Attributes], error: FilesystemError) -> bool:
        """Whether an exclusive create failed because there is a file. ESTALE for a symlink: the
        kernel, not the server, is to follow it. So it is to open a FIFO, on which a server that is
        asked to may wait for ever; EEXIST where such are hidden from it."""
        if error.errno != errno.EEXIST and not diagnose.is_failure(error):
            return False
        try:
            found = await looking
        except RemoteStatusError:
            return False
        if found.mode is not None and stat.S_ISLNK(found.mode):
            raise FilesystemError(errno.ESTALE)
        if found.mode is not None and stat.S_ISDIR(found.mode):
            raise FilesystemError(errno.EISDIR)
        if found.mode is not None and is_special(found.mode):
            is_hidden = self._tree.config.hide_special
            raise FilesystemError(errno.EEXIST if is_hidden else errno.ESTALE)
        return True
