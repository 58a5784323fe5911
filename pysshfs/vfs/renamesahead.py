"""Renames that are promised (`-o async_ops`): when they can be, and what becomes of the books.

A rename is a promise of both its names: nothing else is done about either before it is answered.
The rules are those of `vfs/promises.py`; as in `vfs/ahead.py` the question comes first, which may
wait, and then the operation, which does not suspend. Stateless but for the tree.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pysshfs.reply import Reply
    from pysshfs.vfs.ahead import Ahead
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree


class RenamesAhead:
    """Moving names, by promises."""

    def __init__(self, tree: Tree, ahead: Ahead) -> None:
        self._tree = tree
        self._ahead = ahead

    async def may_rename(
        self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes
    ) -> bool:
        """What is promised of the names, or below them, is to be answered first, and what is open
        must be found by its path after a lost connection: such a rename is waited for, which takes
        no longer than waiting for what it depends on."""
        tree, promises = self._tree, self._tree.promises
        if not promises.enabled or not tree.server.capabilities.posix_rename:
            return False
        await promises.know_names(new_parent)
        if not self._can_rename(parent, name, new_parent, new_name):
            return False
        await promises.room()
        return self._can_rename(parent, name, new_parent, new_name)

    def _can_rename(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes) -> bool:
        tree = self._tree
        moved = tree.inodes.child(parent, name)
        names = tree.cache.names.all_of(new_parent.number)
        if moved is None or moved.kind is None or names is None:
            return False
        old, new = tree.child_path(parent, name), tree.child_path(new_parent, new_name)
        if not (tree.promises.is_settled_below(old) and tree.promises.is_settled(new)):
            return False
        if not tree.promises.may_remove(parent, name) or tree.server.is_open_below(moved):
            return False
        return new_name not in names or self._can_replace(
            tree.inodes.child(new_parent, new_name), moved
        )

    def _can_replace(self, replaced: Inode | None, moved: Inode) -> bool:
        """Whether rename(2) is certain to be allowed to: what is there is a file, as this is."""
        if replaced is None or replaced is moved or replaced.kind is None:
            return False
        if stat.S_IFDIR in (replaced.kind, moved.kind):
            return False
        return not self._tree.server.is_open_below(replaced)

    def renamed(
        self, moved: Inode, old_parent: Inode, old_name: bytes, renaming: Reply[None]
    ) -> None:
        """It was sent, and `moved` has its new name."""
        tree = self._tree
        parent, name = moved.parent, moved.name
        assert parent is not None
        held = (moved, old_parent)
        for inode in held:
            tree.inodes.hold(inode)

        def let_go(_reply: Reply[None]) -> None:
            for inode in held:
                tree.inodes.let_go(inode)

        def not_moved() -> None:
            if moved.kind == stat.S_IFDIR:
                moved.may_be_believed_at(parent.depth() + 1)
            if moved.parent is parent and moved.name == name:
                if tree.inodes.child(old_parent, old_name) is None:
                    tree.inodes.rename(parent, name, old_parent, old_name)
                else:  # it was looked up meanwhile
                    tree.vanish(parent, name)
            tree.refused_behind(moved)
            self._ahead.uncertain(old_parent, old_name)
            self._ahead.uncertain(parent, name)

        path = tree.child_path(old_parent, old_name)
        tree.promises.keep(moved.path(), parent, renaming, not_moved)
        tree.promises.wait_for(path, renaming)
        renaming.add_callback(let_go)
