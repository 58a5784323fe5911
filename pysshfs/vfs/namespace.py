"""Names: looking them up, making, removing and linking them.

Every call that changes the tree marks what it changes before it sends (`Tree.changed`,
`Tree.names_changed`), so that no reply to an older request is remembered, and sends a look at the
result right behind the call, so that both cost one round trip. What a removal means for the inodes
is done when its reply comes, whether or not its caller still waits. Stateless but for the tree.
"""

from __future__ import annotations

import errno
import logging
import stat
from typing import TYPE_CHECKING

from pysshfs.errors import FilesystemError, RemoteStatusError
from pysshfs.remotefs import AttributeChange, OpenMode
from pysshfs.reply import unless_interrupted
from pysshfs.vfs import diagnose
from pysshfs.vfs.ahead import Ahead
from pysshfs.vfs.directories import DirectoryStream
from pysshfs.vfs.readlink import ReadLink
from pysshfs.vfs.repeat import Removing, is_missing
from pysshfs.vfs.sanity import NAME_MAX, FileAttributes, is_special

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pysshfs.reply import Reply
    from pysshfs.vfs.call import Change, OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.repeat import Making
    from pysshfs.vfs.server import Server
    from pysshfs.vfs.tree import Tree

    Diagnosis = Callable[[Server, bytes, FilesystemError], Awaitable[FilesystemError]]

log = logging.getLogger(__name__)


class Namespace:
    """The operations on names. `streams` are the open directories, which must hear of removals."""

    def __init__(
        self,
        tree: Tree,
        streams: Callable[[], list[DirectoryStream]],
        is_system_file: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._tree = tree
        self._streams = streams
        self._links = ReadLink(tree, is_system_file)
        self._ahead = Ahead(tree)

    # --- looking ----------------------------------------------------------------------------

    def lookup_at_hand(self, parent: Inode, name: bytes) -> tuple[Inode, FileAttributes] | None:
        """The same, of a name that is known to exist; None when somebody has to be asked."""
        known = self._tree.inodes.child(parent, name)
        if known is None:
            return self._known_without_inode(parent, name)
        attributes = self._tree.attributes_at_hand(known)
        # Asking may have found that another file has the name now.
        is_there = attributes is not None and known.parent is parent
        return (known, attributes) if attributes is not None and is_there else None

    def is_absent_at_hand(self, parent: Inode, name: bytes) -> bool:
        """Whether there is no such name, of one that `lookup_at_hand` does not know."""
        is_unknown = self._tree.inodes.child(parent, name) is None
        return is_unknown and self._tree.is_not_listed(parent, name)

    def is_undecided(self) -> bool:
        """Whether interrupted calls go on, so that who asks matters (`_as_before`)."""
        return bool(self._tree.server.orphans)

    def _known_without_inode(
        self, parent: Inode, name: bytes
    ) -> tuple[Inode, FileAttributes] | None:
        """Its attributes are remembered, or stand in a listing that is still current."""
        tree = self._tree
        cached = tree.cache.attributes(tree.inodes.number_for(parent, name))
        if cached is not None:
            inode = tree.inodes.intern(parent, name)
            inode.kind = stat.S_IFMT(cached.attributes.mode)
            inode.known_size = cached.attributes.size
            return inode, cached.attributes
        listed = tree.listed(parent, name)
        return None if listed is None else (tree.inodes.intern(parent, name), listed)

    async def lookup(self, parent: Inode, name: bytes) -> tuple[Inode, FileAttributes] | None:
        """The inode of a name (without counting a lookup), None when there is no such name."""
        tree = self._tree
        if len(name) > NAME_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        if tree.server.orphans:
            undecided = tree.server.undecided(tree.child_path(parent, name))
            if undecided is not None:
                return self._as_before(undecided, parent, name)
        if tree.cache.is_absent(parent.number, name):
            tree.search.asked_for(parent.number, name)
            return None
        known = tree.inodes.child(parent, name)
        if known is not None:
            sent_at = tree.mutations
            try:
                attributes = await tree.attributes(known)
            except FilesystemError as error:
                if is_missing(error):
                    self._note_absent(parent, name, sent_at)
                    return None
                if error.errno != errno.ESTALE:
                    raise
            else:
                # Renamed or removed while we waited: what stands there now is asked for below.
                if tree.inodes.child(parent, name) is known:
                    return known, attributes
        found = self._known_without_inode(parent, name)
        if found is not None:
            return found
        if tree.is_not_listed(parent, name):
            return None
        tree.walk.missed(parent, name)
        return await self._look_up_on_server(parent, name)

    def _as_before(
        self, call: Change, parent: Inode, name: bytes
    ) -> tuple[Inode, FileAttributes] | None:
        """What a thread finds that was interrupted in changing this name, and is about to try it
        again: with the outcome open, the state from before. The kernel would otherwise refuse the
        repeated call before it can be joined with the first."""
        path = self._tree.child_path(parent, name)
        attributes = call.doubt.before.get(path) if call.doubt is not None else None
        if attributes is None:
            return None
        # The kernel may have forgotten it: it drops what an interrupted call was about.
        inode = self._tree.inodes.intern(parent, name)
        inode.kind = stat.S_IFMT(attributes.mode)
        return inode, attributes

    async def _look_up_on_server(
        self, parent: Inode, name: bytes
    ) -> tuple[Inode, FileAttributes] | None:
        tree = self._tree
        while True:
            sent_at, directory = tree.mutations, parent.path()
            try:
                looking = tree.server.lstat(tree.child_path(parent, name))
                tree.directories_ahead.looked_up(parent, name)
                tree.search.looked_up(parent, name)
                attributes = await looking
                if tree.config.hide_special and is_special(attributes.mode or 0):
                    self._note_absent(parent, name, sent_at)
                    return None
            except RemoteStatusError as error:
                if not is_missing(error):
                    raise
                if await tree.moves.has_moved(parent, directory):
                    continue
                if tree.inodes.child(parent, name) is None:
                    tree.inodes.forget_name(parent, name)
                tree.search.absent(parent, name)
                self._note_absent(parent, name, sent_at)
                return None
            break
        # Between the request and here another request may have made, or removed, this very name:
        # what is no longer certain is left out of the cache.
        inode, checked = tree.adopt(parent, name, attributes, sent_at)
        if parent.mutated_at > sent_at:
            tree.cache.drop_attributes(inode.number)
        return inode, checked

    def _note_absent(self, parent: Inode, name: bytes, sent_at: int) -> None:
        if parent.mutated_at <= sent_at:
            self._tree.cache.store_absent(parent.number, name)

    async def readlink(self, inode: Inode) -> bytes:
        return await self._links.readlink(inode)

    # --- making -----------------------------------------------------------------------------

    async def mkdir(self, parent: Inode, name: bytes, mode: int) -> tuple[Inode, FileAttributes]:
        if await self._ahead.may_make(parent, name, mode):
            return self._ahead.mkdir(parent, name, mode)
        path, doubt, late = self._about_to_make(parent, name, stat.S_IFDIR)
        making = self._tree.server.mkdir(path, mode & 0o7777, doubt, late)
        inode, attributes = await self._made(parent, name, doubt, making)
        self._tree.made_directory(inode)
        return inode, self._correct_mode(inode, attributes, mode, self._tree.config.directory_mask)

    def _correct_mode(
        self, inode: Inode, attributes: FileAttributes, mode: int, mask: int
    ) -> FileAttributes:
        """The server's umask came on top of the caller's; undo that. An inherited setgid bit
        stays. What is made is made, also where the mode cannot be changed: so nobody waits for
        that, and whatever is done under the name later is carried out after it."""
        wanted = mode & 0o777
        if attributes.mode & 0o777 == wanted & ~mask:
            return attributes
        tree = self._tree
        change = AttributeChange(mode=(attributes.mode & 0o7000) | wanted)
        tree.inodes.hold(inode)

        def answered(reply: Reply[None]) -> None:
            if reply.error is not None:
                log.info("the mode of %r stays: %s", inode, reply.error)
                tree.refused_behind(inode)
            tree.inodes.let_go(inode)

        is_current = inode.seen is attributes  # else it was changed again meanwhile
        tree.changed(inode)
        corrected = attributes._replace(mode=attributes.mode & ~0o777 | wanted & ~mask)
        if is_current:
            tree.cache.store_attributes(inode.number, corrected)
        tree.server.setstat_behind(inode, change).add_callback(answered)
        return corrected

    async def symlink(
        self, parent: Inode, name: bytes, target: bytes
    ) -> tuple[Inode, FileAttributes]:
        """The text is stored as it is given, wherever it leads."""
        follows = self._tree.config.follows
        # What it will be seen as, if links are followed, is not foreseen.
        if await self._ahead.may_make(parent, name) and not follows:
            return self._ahead.symlink(parent, name, target)
        path, doubt, late = self._about_to_make(parent, name, stat.S_IFLNK)
        making = self._tree.server.symlink(target, path, doubt, late)
        inode, attributes = await self._made(parent, name, doubt, making)
        if follows and not stat.S_ISLNK(attributes.mode):
            # The kernel insists on a link here (EIO otherwise); the next lookup finds the rest.
            link = attributes._replace(mode=stat.S_IFLNK | 0o777, size=len(target))
            self._tree.cache.drop_attributes(inode.number)
            return inode, link
        return inode, attributes

    async def link(self, inode: Inode, parent: Inode, name: bytes) -> tuple[Inode, FileAttributes]:
        """A hard link. SFTP cannot tell that two names are one file: the new name is an inode of
        its own here. EPERM where the server cannot make one, as link(2) has it."""
        tree = self._tree
        if not (tree.config.hardlinks and tree.server.capabilities.hardlink):
            raise FilesystemError(errno.EPERM)
        if inode.writeback is not None:
            await inode.writeback.drain()
        if await self._ahead.may_link(inode, parent, name):
            return self._ahead.link(inode, parent, name)
        await tree.promises.all_settled()
        path, doubt, late = self._about_to_make(parent, name, inode.kind or stat.S_IFREG)
        making = tree.server.link(inode.path(), path, doubt, late)
        return await self._made(parent, name, doubt, making, diagnose.linking)

    async def mknod(self, parent: Inode, name: bytes, mode: int) -> tuple[Inode, FileAttributes]:
        """A regular file; SFTP has no way to make anything else (EPERM, as mknod(2) has it)."""
        if not stat.S_ISREG(mode):
            raise FilesystemError(errno.EPERM)
        await self._tree.promises.settled(self._tree.child_path(parent, name))
        path, doubt, late = self._about_to_make(parent, name, stat.S_IFREG)
        opening = self._tree.server.open_exclusively(
            path, OpenMode.WRITE, mode & 0o7777, doubt, late
        )
        inode, attributes = await self._made(parent, name, doubt, opening)
        return inode, self._correct_mode(inode, attributes, mode, self._tree.config.file_mask)

    def _about_to_make(
        self, parent: Inode, name: bytes, kind: int
    ) -> tuple[bytes, Making, Callable[[], None]]:
        """The path, how to tell afterwards whether it was made, and what to do when it is made
        after its caller has left."""
        doubt = self._tree.about_to_make(parent, name, kind)
        return doubt.path, doubt, self._tree.name_is_out_of_date(parent, name)

    async def _made(
        self,
        parent: Inode,
        name: bytes,
        doubt: Making,
        making: Reply[OpenFileHandle] | Reply[None],
        diagnosis: Diagnosis = diagnose.exists,
    ) -> tuple[Inode, FileAttributes]:
        tree = self._tree
        sent_at = tree.mutations
        looking = tree.server.lstat(doubt.path)
        try:
            with unless_interrupted(looking):
                handle = await making
            if handle is not None:
                tree.close(handle)
        except FilesystemError as error:
            raise await diagnosis(tree.server, doubt.path, error) from None
        found = await looking
        inode, attributes = tree.adopt(parent, name, found, sent_at)
        if diagnosis is not diagnose.linking:  # a link is as old as its file
            doubt.made(found)
        tree.cache.drop_absent(parent.number, name)
        tree.cache.drop_link(inode.number)
        return inode, attributes

    # --- removing ------------------------------------------------------------------

    async def unlink(self, parent: Inode, name: bytes) -> None:
        if await self._ahead.may_remove(parent, name):
            self._unlink_ahead(parent, name)
            return
        path, doubt, late = self._about_to_remove(parent, name)
        await self._tree.server.remove(
            path, doubt, late, lambda reply: self._removal_answered(parent, name, reply)
        )

    def unlink_at_hand(self, parent: Inode, name: bytes) -> bool:
        """The same, where it can be promised at once. Whether it was."""
        if not self._ahead.may_remove_at_hand(parent, name):
            return False
        self._unlink_ahead(parent, name)
        return True

    def _unlink_ahead(self, parent: Inode, name: bytes) -> None:
        path, doubt, _ = self._about_to_remove(parent, name)
        removing = self._tree.server.remove(path, doubt, ahead=True)
        self._removed(parent, name)
        self._ahead.removed(parent, name, path, removing)

    async def rmdir(self, parent: Inode, name: bytes) -> None:
        server = self._tree.server
        if await self._ahead.may_remove_directory(parent, name):
            path, doubt, late = self._about_to_remove(parent, name)
            removing = server.rmdir(path, doubt, late, ahead=True)
            self._removed(parent, name)
            self._ahead.removed(parent, name, path, removing)
            return
        is_link = self._tree.config.follows and await self._is_link_to_empty(parent, name)
        path, doubt, late = self._about_to_remove(parent, name)
        remove = server.remove if is_link else server.rmdir
        try:
            await remove(
                path, doubt, late, lambda reply: self._removal_answered(parent, name, reply)
            )
        except FilesystemError as error:
            raise await diagnose.removal(server, path, error) from None

    async def _is_link_to_empty(self, parent: Inode, name: bytes) -> bool:
        """Whether what is seen as a directory is a link to one. ENOTEMPTY when that has names in
        it."""
        tree = self._tree
        try:
            await tree.server.readlink(tree.child_path(parent, name))
        except RemoteStatusError:
            return False
        directory = tree.inodes.intern(parent, name)
        tree.inodes.hold(directory)
        tree.cache.drop_listing(directory.number)
        stream = DirectoryStream(tree, directory)
        try:
            if await stream.read_ahead(0) != 0:
                raise FilesystemError(errno.ENOTEMPTY)
        finally:
            stream.close()
            tree.inodes.let_go(directory)
        return True

    def _about_to_remove(
        self, parent: Inode, name: bytes
    ) -> tuple[bytes, Removing, Callable[[], None]]:
        tree = self._tree
        path = tree.child_path(parent, name)
        doubt = Removing(path, tree.as_told((path, tree.inodes.child(parent, name))))
        tree.names_changed(parent)
        # Whether it happens is not known to a caller who is interrupted, so ask from now on.
        tree.name_changed(parent, name)
        return path, doubt, tree.name_is_out_of_date(parent, name)

    def _removal_answered(self, parent: Inode, name: bytes, reply: Reply[None]) -> None:
        if reply.error is None:
            self._removed(parent, name)
        elif is_missing(reply.error):
            self._tree.vanish(parent, name)

    def _removed(self, parent: Inode, name: bytes) -> None:
        tree = self._tree
        tree.names_changed(parent)
        tree.vanish(parent, name)
        tree.cache.store_absent(parent.number, name)
        for stream in self._streams():
            if stream.inode is parent:
                stream.removed.add(name)
