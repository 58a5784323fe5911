"""The operations of `-o async_ops`: sent, and answered before the server does.

`vfs/promises.py` has the rules and keeps the books; here is what each operation sends, what a
program is told at once, and what is set right when the server refuses. Each comes in two parts: the
question whether it may be promised, which waits for room and for what was promised of the same name
before, and the operation, which does not suspend, so that nothing changes in between. Stateless but
for the tree.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from pysshfs.remotefs import AttributeChange
from pysshfs.vfs.expected import Expected
from pysshfs.vfs.repeat import is_missing

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes, OpenMode
    from pysshfs.reply import Reply
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.repeat import Making
    from pysshfs.vfs.sanity import FileAttributes
    from pysshfs.vfs.tree import Tree

_DIRECTORY_SIZE = 4096  # bytes, until the server tells


def _nobody_left() -> None:
    """Nobody waits for what is promised, so nobody can leave while it is under way."""


class Created(NamedTuple):
    """A file that is open for its creator."""

    inode: Inode
    handle: OpenFileHandle
    opening: Reply[OpenFileHandle]
    attributes: FileAttributes


class Ahead:
    """Making names, removing them, and setting attributes, by promises."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    # --- making -----------------------------------------------------------------------------

    async def may_make(self, parent: Inode, name: bytes, mode: int = 0) -> bool:
        """What the server makes of a special bit of the mode is not foreseen."""
        promises = self._tree.promises
        if not promises.enabled:
            return False
        if mode & 0o7000:
            await promises.settled(self._tree.child_path(parent, name))
            return False
        await promises.know_names(parent)
        await promises.settled(self._tree.child_path(parent, name))
        if not promises.may_make(parent, name):
            return False
        await promises.room()
        return promises.may_make(parent, name)

    def may_make_at_hand(self, parent: Inode, name: bytes, mode: int) -> bool:
        """The same, where there is nothing to wait for."""
        promises = self._tree.promises
        return (
            not mode & 0o7000
            and promises.has_room
            and promises.may_make(parent, name)
            and self._tree.cache.names.all_of(parent.number) is not None
            and promises.is_settled(self._tree.child_path(parent, name))
        )

    def mkdir(self, parent: Inode, name: bytes, mode: int) -> tuple[Inode, FileAttributes]:
        tree = self._tree
        doubt = tree.about_to_make(parent, name, stat.S_IFDIR)
        making = tree.server.mkdir(doubt.path, mode & 0o7777, doubt, _nobody_left, ahead=True)
        wanted = stat.S_IFDIR | mode & 0o777
        inode, attributes, looking = self._new(parent, name, doubt, wanted, _DIRECTORY_SIZE)
        self._promise(parent, name, inode, doubt, making, looking)
        tree.made_directory(inode)
        looking.add_callback(lambda look: self._correct_mode(inode, wanted, wanted, making, look))
        return inode, attributes

    def symlink(self, parent: Inode, name: bytes, target: bytes) -> tuple[Inode, FileAttributes]:
        tree = self._tree
        doubt = tree.about_to_make(parent, name, stat.S_IFLNK)
        making = tree.server.symlink(target, doubt.path, doubt, _nobody_left, ahead=True)
        inode, attributes, looking = self._new(
            parent, name, doubt, stat.S_IFLNK | 0o777, len(target)
        )
        self._promise(parent, name, inode, doubt, making, looking)
        tree.cache.store_link(inode.number, target)
        return inode, attributes

    def create(
        self, parent: Inode, name: bytes, mode: int, how: OpenMode, *, strict: bool
    ) -> Created:
        """The caller registers the open file, which keeps the inode."""
        tree = self._tree
        doubt = tree.about_to_make(parent, name, stat.S_IFREG, strict=strict)
        handle, opening = tree.server.open_ahead(doubt.path, how, mode & 0o7777, doubt)
        wanted = stat.S_IFREG | mode & 0o777
        inode, attributes, looking = self._new(parent, name, doubt, wanted, 0)
        handle.inode = inode
        foreseen = tree.promises.foreseen(wanted, 0)
        inode.expected = Expected(foreseen, True, tree.cache.clock())
        tree.writeback_of(inode).follow(opening)
        self._promise(parent, name, inode, doubt, opening, looking)
        given = wanted
        if wanted & tree.marks.umask:
            # By the handle, so it cannot hit another's file; before whatever is asked for later.
            given = wanted & ~tree.marks.umask
            changing = tree.server.fsetstat_behind(handle, AttributeChange(mode=mode & 0o777))
            tree.writeback_of(inode).follow(changing, is_reported=False)
        looking.add_callback(lambda look: self._correct_mode(inode, wanted, given, opening, look))
        return Created(inode, handle, opening, attributes)

    def _new(
        self, parent: Inode, name: bytes, doubt: Making, mode: int, size: int
    ) -> tuple[Inode, FileAttributes, Reply[Attributes]]:
        """What is told of the new thing; the look at it is sent."""
        tree = self._tree
        looking = tree.server.lstat(doubt.path, is_unhurried=True)
        foreseen = tree.promises.foreseen(mode, size)
        inode, attributes = tree.adopt(parent, name, foreseen, tree.mutations)
        tree.cache.drop_link(inode.number)
        tree.promises.made(inode, foreseen, looking)
        return inode, attributes, looking

    def _promise(
        self,
        parent: Inode,
        name: bytes,
        inode: Inode,
        doubt: Making,
        making: Reply[OpenFileHandle] | Reply[None],
        looking: Reply[Attributes],
    ) -> None:
        tree = self._tree

        def looked(reply: Reply[Attributes]) -> None:
            if making.done and making.error is None and reply.error is None:
                doubt.made(reply.result())

        tree.promises.keep(doubt.path, parent, making, lambda: self._not_made(parent, name, inode))
        tree.promises.wait_for(doubt.path, looking)
        looking.add_callback(looked)

    def _not_made(self, parent: Inode, name: bytes, inode: Inode) -> None:
        """The inode stays for who has it open; a lookup will find that it is not there."""
        self._tree.refused_behind(inode)
        self.uncertain(parent, name)

    def uncertain(self, parent: Inode, name: bytes) -> None:
        """What is under this name has to be looked up."""
        tree = self._tree
        tree.names_changed(parent)
        tree.cache.drop_absent(parent.number, name)
        tree.kernel.entry_changed(parent.number, name)

    def _correct_mode(
        self,
        inode: Inode,
        wanted: int,
        given: int,
        making: Reply[OpenFileHandle] | Reply[None],
        look: Reply[Attributes],
    ) -> None:
        """Undo the server's umask where it took away more than was foreseen (`given`). Of what was
        made here only: when making it failed, the look shows another's."""
        if not making.done or making.error is not None or look.error is not None:
            return
        found = look.result().mode
        if found is None or inode.told is None or inode.parent is None:
            return
        if stat.S_IFMT(found) != stat.S_IFMT(wanted):
            return
        if found & 0o777 in (wanted & 0o777, given & 0o777):
            return
        # To what a program was told since, if it has changed the mode itself.
        mode = found & 0o7000 | inode.told.mode & 0o777
        path = inode.path()
        changing = self._tree.server.setstat_behind(inode, AttributeChange(mode=mode))
        self._tree.promises.keep(
            path, inode.parent, changing, lambda: self._tree.refused_behind(inode)
        )

    # --- removing ---------------------------------------------------------------------------

    async def may_remove(self, parent: Inode, name: bytes) -> bool:
        promises = self._tree.promises
        if not promises.enabled:
            return False
        await promises.settled(self._tree.child_path(parent, name))
        if not promises.may_remove(parent, name):
            return False
        await promises.room()
        return promises.may_remove(parent, name)

    def may_remove_at_hand(self, parent: Inode, name: bytes) -> bool:
        """The same, where there is nothing to wait for."""
        promises = self._tree.promises
        return (
            promises.may_remove(parent, name)
            and promises.has_room
            and promises.is_settled(self._tree.child_path(parent, name))
        )

    async def may_remove_directory(self, parent: Inode, name: bytes) -> bool:
        """It must be known to be empty, too, and no link that is shown as a directory."""
        if not await self.may_remove(parent, name) or self._tree.config.follows:
            return False
        inode = self._tree.inodes.child(parent, name)
        if inode is None or inode.kind != stat.S_IFDIR:
            return False
        return self._tree.cache.names.all_of(inode.number) == set()

    def removed(self, parent: Inode, name: bytes, path: bytes, removing: Reply[None]) -> None:
        """It was sent. That the name was gone already is no refusal."""
        tree = self._tree

        tree.promises.keep(
            path, parent, removing, lambda: self.uncertain(parent, name), is_fine=is_missing
        )

    # --- linking ----------------------------------------------------------------------------

    async def may_link(self, inode: Inode, parent: Inode, name: bytes) -> bool:
        promises = self._tree.promises
        if not promises.enabled or inode.parent is None:
            return False
        await promises.settled_but_for_attributes(inode.path())
        return await self.may_make(parent, name) and self._can_link(inode)

    def _can_link(self, inode: Inode) -> bool:
        if inode.parent is None or inode.kind is None or inode.told is None:
            return False
        if inode.writeback is not None and not inode.writeback.is_clean:
            return False
        return self._tree.promises.may_remove(inode.parent, inode.name)

    def link(self, inode: Inode, parent: Inode, name: bytes) -> tuple[Inode, FileAttributes]:
        """What the new name shows is what the old one shows, as far as that is known."""
        tree, kind, told = self._tree, inode.kind, inode.told
        assert kind is not None and told is not None
        existing, cached = inode.path(), tree.cache.attributes(inode.number)
        doubt = tree.about_to_make(parent, name, kind)
        making = tree.server.link(existing, doubt.path, doubt, _nobody_left, ahead=True)
        made = tree.inodes.intern(parent, name)
        made.kind = kind
        tree.cache.drop_link(made.number)
        if cached is None:
            attributes = told._replace(size=inode.known_size)
            made.known_size = inode.known_size
        else:
            attributes = cached.attributes
            made.found(attributes)
            tree.cache.store_attributes(made.number, attributes, cached.expires)
        tree.inodes.hold(made)
        making.add_callback(lambda _: tree.inodes.let_go(made))
        tree.promises.keep(doubt.path, parent, making, lambda: self._not_made(parent, name, made))
        # As long as it is in doubt it is told by the first name, which must stay.
        tree.promises.wait_for(existing, making, sets_attributes=True)
        return made, attributes

    # --- attributes -------------------------------------------------------------------------

    async def may_set(self, inode: Inode, change: AttributeChange) -> bool:
        """Times, and a mode that takes nothing away: who makes a secret of a file must know that it
        is one before writing to it. An owner neither: programs forgive a refusal of that only if
        they hear of it at once."""
        promises = self._tree.promises
        if not promises.enabled or inode.parent is None:
            return False
        await promises.settled_but_for_attributes(inode.path())
        if not self._can_set(inode, change):
            return False
        await promises.room()
        return self._can_set(inode, change)

    def _can_set(self, inode: Inode, change: AttributeChange) -> bool:
        tree, told = self._tree, inode.told
        if told is None or inode.parent is None or inode.open_files:
            return False
        if change.size is not None or change.uid is not None or change.gid is not None:
            return False
        if inode.kind == stat.S_IFLNK and not tree.server.capabilities.lsetstat:
            return False
        if change.atime is not None and change.mtime is None:
            return False
        if not takes_nothing(told.mode, change.mode):
            return False
        return tree.promises.may_remove(inode.parent, inode.name)

    def set(self, inode: Inode, change: AttributeChange) -> tuple[FileAttributes, bool]:
        """What the attributes are then, and whether that is certain."""
        tree, told = self._tree, inode.told
        assert told is not None and inode.parent is not None
        if change.mtime is not None and change.atime is None:
            change = change._replace(atime=told.atime)
        cached = tree.cache.peek_attributes(inode.number)
        attributes = told if cached is None else cached.attributes
        if change.mode is not None:
            attributes = attributes._replace(mode=stat.S_IFMT(told.mode) | change.mode)
        if change.atime is not None and change.mtime is not None:
            attributes = attributes._replace(atime=change.atime, mtime=change.mtime)
        is_certain = change.mtime is not None or cached is not None
        changing = tree.server.setstat_behind(inode, change)
        tree.promises.keep(
            inode.path(),
            inode.parent,
            changing,
            lambda: tree.refused_behind(inode),
            sets_attributes=True,
        )
        tree.changed(inode)
        if is_certain:
            tree.cache.store_attributes(inode.number, attributes)
        return attributes, is_certain


def takes_nothing(before: int, after: int | None) -> bool:
    """Whether this mode leaves everybody what they may do, and adds no special bit."""
    return after is None or not (before & 0o777 & ~after or (before ^ after) & 0o7000)
