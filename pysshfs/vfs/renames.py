"""Moving names, with what SFTP offers: one request where the server can replace, several where not.

What a rename means for the inodes is done when the reply to the request that did it comes, whether
or not its caller still waits: open files are opened again by their current path, so a rename must
not be missed. Stateless but for the tree.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.errors import FilesystemError, RemoteStatusError
from pysshfs.vfs import diagnose
from pysshfs.vfs.ahead import Ahead
from pysshfs.vfs.renamesahead import RenamesAhead
from pysshfs.vfs.repeat import Moving, Removing
from pysshfs.vfs.sanity import NAME_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.reply import Reply
    from pysshfs.vfs.directories import DirectoryStream
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.repeat import Version
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)

# renameat2(2)
RENAME_NOREPLACE: Final = 1


class _Move(NamedTuple):
    """A rename: the two paths, what is known of what lies there, and what follows from it."""

    old: bytes
    new: bytes
    before: dict[bytes, FileAttributes]
    inode: Inode | None
    source: Version | None
    target: Version | None
    target_absent: bool
    done: Callable[[], None]
    late: Callable[[], None]


class Renames:
    """`streams` are the open directories, which must hear of names that go."""

    def __init__(self, tree: Tree, streams: Callable[[], list[DirectoryStream]]) -> None:
        self._tree = tree
        self._streams = streams
        self._ahead = RenamesAhead(tree, Ahead(tree))

    async def rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int
    ) -> None:
        """Replacing, or with RENAME_NOREPLACE not; exchanging is more than SFTP can (EINVAL)."""
        if flags & ~RENAME_NOREPLACE:
            raise FilesystemError(errno.EINVAL)
        if await self._ahead.may_rename(parent, name, new_parent, new_name):
            self._rename_ahead(parent, name, new_parent, new_name, replacing=not flags)
            return
        await self._tree.promises.all_settled()
        move = self._about_to_rename(parent, name, new_parent, new_name)
        with self._tree.moves.moving(move.inode):
            if flags & RENAME_NOREPLACE:
                await self._rename_to_free_name(move)
            else:
                await self._rename_replacing(move)

    def _about_to_rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes
    ) -> _Move:
        tree = self._tree
        moved = tree.inodes.child(parent, name)
        replaced = tree.inodes.child(new_parent, new_name)
        old, new = tree.child_path(parent, name), tree.child_path(new_parent, new_name)
        move = _Move(
            old,
            new,
            tree.as_told((old, moved), (new, replaced)),
            moved,
            self._identity(moved),
            self._identity(replaced),
            tree.cache.was_absent(new_parent.number, new_name),
            lambda: self._renamed(parent, name, new_parent, new_name),
            lambda: self._kernel_is_wrong(moved, parent, name, new_parent, new_name),
        )
        tree.names_changed(parent)
        tree.names_changed(new_parent)
        tree.name_changed(parent, name)
        tree.name_changed(new_parent, new_name)
        return move

    def _identity(self, inode: Inode | None) -> Version | None:
        """What tells this file from others. A directory's size and time change with its names."""
        if inode is None or inode.kind == stat.S_IFDIR:
            return None
        return self._tree.last_version(inode)

    def _kernel_is_wrong(
        self,
        moved: Inode | None,
        parent: Inode,
        name: bytes,
        new_parent: Inode,
        new_name: bytes,
    ) -> None:
        """Links below it must not lead further up than is safe from the place that it had, until it
        is looked up at its new one."""
        if moved is not None and moved.kind == stat.S_IFDIR:
            moved.may_be_believed_at(parent.depth() + 1)
        self._tree.kernel.entry_changed(parent.number, name)
        self._tree.kernel.entry_changed(new_parent.number, new_name)

    def _send_rename(self, move: _Move, *, replacing: bool, ahead: bool = False) -> Reply[None]:
        """The request that does it; its success is seen to even when its caller has left."""
        tree = self._tree
        doubt = Moving(
            move.old,
            move.new,
            move.source,
            move.target,
            target_absent=move.target_absent,
            before=move.before,
        )
        send = tree.server.posix_rename if replacing else tree.server.rename

        def answered(reply: Reply[None]) -> None:
            if reply.error is None and not ahead:
                move.done()

        renaming = send(move.old, move.new, doubt, move.late, answered, ahead=ahead)
        tree.moves.begin(move.inode)
        renaming.add_callback(lambda _: tree.moves.end(move.inode))
        return renaming

    def _rename_ahead(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, *, replacing: bool
    ) -> None:
        """What is under the new name then is what was under the old one."""
        tree = self._tree
        moved = tree.inodes.child(parent, name)
        assert moved is not None
        seen, known = moved.seen, tree.cache.peek_attributes(moved.number)
        move = self._about_to_rename(parent, name, new_parent, new_name)
        renaming = self._send_rename(move, replacing=replacing, ahead=True)
        move.done()
        moved.seen = seen
        if known is not None:
            tree.cache.store_attributes(moved.number, known.attributes, known.expires)
        self._ahead.renamed(moved, parent, name, renaming)

    async def _rename_to_free_name(self, move: _Move) -> None:
        server = self._tree.server
        try:
            await self._send_rename(move, replacing=False)
        except FilesystemError as error:
            known = await diagnose.exists(server, move.new, error)
            if known is error:
                known = await diagnose.renaming(server, move.old, move.new, error)
            raise known from None

    async def _rename_replacing(self, move: _Move) -> None:
        server = self._tree.server
        try:
            if server.capabilities.posix_rename:
                await self._send_rename(move, replacing=True)
            else:
                await self._replace_without_extension(move)
        except FilesystemError as error:
            raise await diagnose.renaming(server, move.old, move.new, error) from None

    async def _replace_without_extension(self, move: _Move) -> None:
        """Plain RENAME refuses a taken name, so the old target is moved aside first: for a moment
        neither is under the name, but no data is ever without one."""
        server = self._tree.server
        try:
            await self._send_rename(move, replacing=False)
            return
        except RemoteStatusError as error:
            if not (diagnose.is_failure(error) or error.errno == errno.EEXIST):
                raise
            # Only a file that is in the way is moved: rename(2) refuses all other pairs.
            for path in (move.old, move.new):
                found = await diagnose.look(server, path)
                if found is None or found.mode is None or stat.S_ISDIR(found.mode):
                    raise error from None
        directory, _, last = move.new.rpartition(b"/")
        aside_name = b".pysshfs-" + os.urandom(6).hex().encode() + b"-" + last[: NAME_MAX - 22]
        aside = directory + b"/" + aside_name if directory else aside_name
        # Sent together, so that there is a file under the name again as soon as can be.
        room = Moving(move.new, aside, move.target, None, target_absent=True, aside=True)
        making_room = server.rename(move.new, aside, room)
        replacing = self._send_rename(
            move._replace(target=None, target_absent=False), replacing=False
        )
        try:
            await making_room
            await replacing
        except BaseException:
            replacing.abandon()
            # Refused when there is a file again.
            back = Moving(aside, move.new, move.target, None, target_absent=False)
            server.rename_back(aside, move.new, back)
            raise
        # The rename is done; that the old file goes, too, is nobody's error but its own.
        server.remove(aside, Removing(aside)).add_callback(_log_removal)

    def _renamed(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes) -> None:
        tree = self._tree
        moved = tree.inodes.child(parent, name)
        tree.cache.drop_absent(new_parent.number, new_name)
        replaced = tree.inodes.child(new_parent, new_name)
        if replaced is not None and replaced is not moved:
            tree.changed(replaced)
        tree.cache.drop_attributes(tree.inodes.number_for(new_parent, new_name))
        tree.inodes.rename(parent, name, new_parent, new_name)
        if moved is not None:
            tree.changed(moved)  # its ctime, and whatever was on its way for the old name
        tree.names_changed(parent)
        tree.names_changed(new_parent)
        tree.cache.store_absent(parent.number, name)
        for stream in self._streams():
            if stream.inode is parent:
                stream.removed.add(name)


def _log_removal(reply: Reply[None]) -> None:
    if isinstance(reply.error, FilesystemError):
        log.warning("a file that was replaced stays under another name: %s", reply.error)
