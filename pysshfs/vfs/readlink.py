"""readlink: what the kernel is given of a link's text, by `-o symlinks`.

The server's texts are in `MetadataCache`, unchanged; what a text that could not be passed on was
resolved to is there beside it, and is believed for as long, while the link has the same path.
Whether a text may be passed on is decided each time, by where the link lies at that moment: a
directory that is renamed moves all links below it.

With `contain` (and `follow`, where only links that lead nowhere are shown as links):

- a text that is safe by itself is passed on as it is (`vfs/symlinks.py`); it costs nothing more;
- another one is resolved on the server (`vfs/linkwalk.py`), and what leads into the served
  directory is given as a relative text;
- what leads elsewhere is refused with EPERM and logged once. `contain+system` asks before that
  whether an absolute target is a file of this machine's own system (`is_system_file`).

Not prevented: a program of this machine that renames a directory upwards while another one is in
the middle of following a link below it, as on any file system; and mounts of a subdirectory
elsewhere (a bind mount), which have another root than the one that is counted from here.

No state but what was logged and what this machine's files were found to be. Suspends where the
server is asked.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from typing import TYPE_CHECKING, Final

from cachetools import LRUCache, TTLCache

from pysshfs.errors import FilesystemError
from pysshfs.vfs import symlinks
from pysshfs.vfs.cache import ResolvedLink
from pysshfs.vfs.linkwalk import LinkWalk
from pysshfs.vfs.sanity import PATH_MAX, checked_link_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.tree import Tree

log = logging.getLogger(__name__)

# The link was renamed while the server was asked: so often it is asked anew.
_TRIES: Final = 5
# Links of which it is remembered that they were logged, and lines in a minute: a server can invent
# links without end.
_MOST_LOGGED: Final = 10_000
_MOST_LINES: Final = 100
_MINUTE: Final = 60.0  # seconds
_SHOWN: Final = 300  # bytes of a text
# Targets of which it is remembered whether they are the system's.
_MOST_SYSTEMS: Final = 1000
# For a served directory whose path is none: no text has an empty name in it.
_NOWHERE: Final = [b""]


class ReadLink:
    """The operation. `is_system_file` answers for absolute targets whether they lead, on this
    machine, to a file of the system's that nobody but root can exchange; None where such links may
    not be passed on whatever is asked for (a mount that other users, or root, use)."""

    def __init__(self, tree: Tree, is_system_file: Callable[[bytes], bool] | None) -> None:
        self._tree = tree
        self._is_system_file = is_system_file
        self._logged: LRUCache[int, bytes] = LRUCache(_MOST_LOGGED)
        self._serials = itertools.count()
        self._lines: TTLCache[int, bool] = TTLCache(_MOST_LINES, _MINUTE, tree.cache.clock)
        self._systems: TTLCache[bytes, bool] = TTLCache(
            _MOST_SYSTEMS, tree.config.link_timeout, tree.cache.clock
        )

    async def readlink(self, inode: Inode) -> bytes:
        """Raises EPERM for what is not to be followed, EIO for what cannot be a target."""
        config = self._tree.config
        if config.symlinks == "none":
            raise FilesystemError(errno.EPERM)
        text = await self._text(inode)
        if config.symlinks in ("all", "strict"):
            if config.transform_symlinks:
                directory = _directory_of(inode.path())
                text = _checked(symlinks.transformed(text, self._served, directory))
            if config.symlinks == "strict" and not symlinks.is_strict(text):
                raise self._refused(inode, text)
            return text
        if symlinks.is_contained(text, _depth_of(inode)):
            return text
        return await self._contained(inode, text)

    async def _text(self, inode: Inode) -> bytes:
        tree = self._tree
        text = tree.cache.link(inode.number)
        if text is None:
            sent_at = tree.mutations
            text = checked_link_target(await tree.server.readlink(inode.path()))
            if inode.mutated_at <= sent_at:
                tree.cache.store_link(inode.number, text)
        return text

    @property
    def _served(self) -> list[bytes]:
        served = symlinks.canonical(self._tree.server.served)
        return _NOWHERE if served is None else served

    # --- contain ------------------------------------------------------------------------------

    async def _contained(self, inode: Inode, text: bytes) -> bytes:
        if self._leads_to_the_system(text):
            return text
        for _ in range(_TRIES):
            path = inode.path()
            place = await self._place(inode, path, text)
            if inode.path() == path:
                break
        else:
            raise FilesystemError(errno.EPERM, f"{inode!r} is renamed all the time")
        if place is None:
            raise self._refused(inode, text)
        found = symlinks.relative(symlinks.components(place), _directory_of(path))
        if symlinks.wants_directory(text):
            found += b"/"
        if not symlinks.is_contained(found, _depth_of(inode)):
            # The kernel may believe the link where it was before a rename.
            raise FilesystemError(errno.EPERM, f"{inode!r} is being renamed")
        return _checked(found)

    async def _place(self, inode: Inode, path: bytes, text: bytes) -> bytes | None:
        """Where in the served directory the text leads, which is remembered."""
        tree = self._tree
        known = tree.cache.resolved_link(inode.number)
        if known is not None and known.is_of(path, text):
            return known.place
        sent_at = tree.mutations
        walk = LinkWalk(tree.server, self._served, _directory_of(path), text)
        found = await walk.place()
        place = None if found is None else b"/".join(found)
        if inode.mutated_at <= sent_at:
            tree.cache.store_resolved_link(inode.number, ResolvedLink(path, text, place))
        return place

    def _leads_to_the_system(self, text: bytes) -> bool:
        """Only of what does not lie in the served directory by its letters."""
        return (
            self._tree.config.symlinks == "contain+system"
            and symlinks.is_absolute(text)
            and symlinks.within(symlinks.components(text), self._served) is None
            and self._is_systems(text)
        )

    def _is_systems(self, text: bytes) -> bool:
        if self._is_system_file is None or not symlinks.is_absolute(text):
            return False
        known = self._systems.get(text)
        if known is None:
            known = self._systems[text] = self._is_system_file(text)
        return known

    # --- refusals -----------------------------------------------------------------------------

    def _remedy(self, text: bytes) -> str:
        """The narrowest setting that would pass this on, as far as that is known."""
        if self._tree.config.symlinks == "strict" and not symlinks.is_absolute(text):
            return "contain"
        return "contain+system" if self._is_systems(text) else "all"

    def _refused(self, inode: Inode, text: bytes) -> FilesystemError:
        """EPERM, and one line in the log for each link."""
        if self._logged.get(inode.number) != text and len(self._lines) < _MOST_LINES:
            self._logged[inode.number] = text
            self._log(inode.path(), text)
        return FilesystemError(errno.EPERM, "the link is not to be followed")

    def _log(self, path: bytes, text: bytes) -> None:
        self._lines[next(self._serials)] = True
        shown = os.fsdecode(path), os.fsdecode(text[:_SHOWN])
        log.warning(
            "the link %r to %r is not followed: -o symlinks=%s would allow it",
            *shown, self._remedy(text),
        )  # fmt: skip
        if len(self._lines) == _MOST_LINES:
            log.warning("further links that are not followed are not logged for a minute")


def _depth_of(link: Inode) -> int:
    """How deep the directory is in which the link lies."""
    return 0 if link.parent is None else link.parent.depth()


def _directory_of(path: bytes) -> list[bytes]:
    """The names above the last."""
    return path.split(b"/")[:-1]


def _checked(text: bytes) -> bytes:
    """No longer than the kernel takes it."""
    if len(text) >= PATH_MAX:
        raise FilesystemError(errno.ENAMETOOLONG)
    return text
