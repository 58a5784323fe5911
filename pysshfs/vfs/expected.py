"""What a file that was made here is on the server, by what was said and sent: no question needed.

Whoever unpacks or copies makes a file, writes it, sets its times, owner and mode, and closes it.
The server told what the file was when it was made; each step after that is ours. So a change that
changes nothing need not be sent, and what the kernel asks in between is known. That holds while the
file stays open, and for a moment only (`KNOWN_SECONDS`) where a change is left out for it: another
client may have changed the mode meanwhile. `Inode.expected` holds it; `Tree.changed` forgets it,
and who knows better what the change did puts it back (`Tree.changed_to`). Pure values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pysshfs.remotefs import AttributeChange

if TYPE_CHECKING:
    from pysshfs.remotefs import Attributes

# How long what the server said is enough to leave out a change that would change nothing.
KNOWN_SECONDS: Final = 2.0
_LATEST_TIME: Final = (1 << 32) - 1  # protocol 3 has no later one; the rest is bent to it
# Setting an owner, or a mode that the server finds too bold, takes these away.
_FRAGILE_BITS: Final = 0o6000


class Expected(NamedTuple):
    """`attributes` are in the server's terms. Not `is_whole`: data was written since, which moves
    the times. `since` is when the server was asked, on the cache's clock."""

    attributes: Attributes
    is_whole: bool
    since: float

    def is_known(self, now: float, stat_timeout: float) -> bool:
        """Whether the server said it lately enough to leave out what would change nothing."""
        return now - self.since < min(KNOWN_SECONDS, stat_timeout)

    def written(self) -> Expected:
        return self._replace(is_whole=False)

    def without_known(self, change: AttributeChange) -> AttributeChange:
        """What of an owner and a mode is not so already; the other half of a pair is filled in,
        where nothing can have changed it."""
        have = self.attributes
        uid = have.uid if change.uid is None else change.uid
        gid = have.gid if change.gid is None else change.gid
        if (uid, gid) == (have.uid, have.gid):
            uid = gid = None
        mode = change.mode
        atime, mtime = change.atime, change.mtime
        if atime is None and mtime is not None:
            atime = have.atime  # tar sets the other one alone
        if have.mode is not None and mode == have.mode & 0o7777:
            mode = None
        return change._replace(uid=uid, gid=gid, mode=mode, atime=atime)

    def after(self, change: AttributeChange) -> Expected:
        """What it will be when this is carried out behind everything before. Not for an owner."""
        attributes, is_whole = self.attributes, self.is_whole
        if change.mode is not None and attributes.mode is not None:
            attributes = attributes._replace(mode=attributes.mode & ~0o7777 | change.mode)
            is_whole = is_whole and not change.mode & _FRAGILE_BITS
        if change.size is not None:
            attributes = attributes._replace(size=change.size)
            is_whole = False
        if change.atime is not None and change.mtime is not None:
            attributes = attributes._replace(atime=change.atime, mtime=change.mtime)
            is_whole = min(change.atime, change.mtime) >= 0
            is_whole = is_whole and max(change.atime, change.mtime) <= _LATEST_TIME
        return Expected(attributes, is_whole, self.since)


NOTHING: Final = AttributeChange()
