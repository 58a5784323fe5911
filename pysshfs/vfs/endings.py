"""What it means that a file ends before the size that it was last seen to have.

Another client may have cut it since: then a look shows it shorter, and the short read is right. It
may have been cut and written anew between the two: then it is asked once more. What ends there
twice, while each look says that it goes on, is a server's mistake: EIO, since a program that was
given less would take the rest for not being there, and the kernel may fill it with zeros.

Files of file systems without blocks (sysfs shows each of its files as a page) end where they end.

Stateless. Suspends everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysshfs.errors import FilesystemError
from pysshfs.vfs.sanity import checked_attributes

if TYPE_CHECKING:
    from pysshfs.vfs.call import OpenFileHandle
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree


async def size_now(tree: Tree, inode: Inode, handle: OpenFileHandle) -> int | None:
    """The size that the server says an open file has now (bytes); None where sizes say nothing.

    Raises EIO for what cannot be, ESTALE when it is of another type.
    """
    sent_at = tree.mutations
    looked = await tree.server.fstat(handle)
    if inode.writeback is not None and not inode.writeback.is_clean:
        # Somebody writes meanwhile: its size here counts what the server has yet to get.
        return checked_attributes(looked).size
    found = tree.remember(inode, looked, sent_at)
    if not tree.server.capabilities.statvfs:
        return found.size
    try:
        statistics = await tree.server.statvfs(handle.path())
    except FilesystemError:  # it has no name any more, or the server does not tell
        return found.size
    return found.size if statistics.blocks else None


def shown_path(handle: OpenFileHandle) -> str:
    """For the log."""
    try:
        return repr(handle.path())
    except FilesystemError:
        return repr(handle.opened_path)
