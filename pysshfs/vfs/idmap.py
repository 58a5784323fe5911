"""Owners and modes between the server's view and this machine's.

`Owners` is made from the config and belongs to the `Tree`. Nothing here waits or asks: the tables
of `idmap=name` are filled by `vfs/ownernames.py`, before anybody sees what is to be translated.
What stands in a table stays there as long as the mount lives.
"""

from __future__ import annotations

import enum
import stat
from typing import TYPE_CHECKING

from pysshfs.errors import UnmappedOwnerError
from pysshfs.vfs.sanity import NOBODY

if TYPE_CHECKING:
    from pysshfs.remotefs import AttributeChange
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.sanity import FileAttributes


class Unmapped(enum.Enum):
    """What becomes of a number that is not in the table."""

    KEEP = enum.auto()  # it is shown, and sent, as it is
    NOBODY = enum.auto()  # it is shown as nobody; none is sent
    REFUSE = enum.auto()  # EPERM, both ways


class IdTable:
    """The server's numbers of users, or of groups, to this machine's, and back."""

    __slots__ = ("_ambiguous", "_local", "_remote", "unmapped", "what")

    def __init__(self, what: str, unmapped: Unmapped, local: dict[int, int] | None = None) -> None:
        """`what`: "user" or "group", for messages. `local` has ours by the server's."""
        self.what = what
        self.unmapped = unmapped
        self._local = dict(local or {})
        self._remote = {ours: theirs for theirs, ours in self._local.items()}
        self._ambiguous: set[int] = set()  # of ours those that several of the server's are shown as

    def __len__(self) -> int:
        return len(self._local)

    def __contains__(self, remote: int) -> bool:
        return remote in self._local

    def learn(self, remote: int, local: int | None) -> None:
        """What a number of the server's is here; None: nobody. Of two that are the same here, the
        first is what is sent."""
        self._local[remote] = NOBODY if local is None else local
        if local is not None and self._remote.setdefault(local, remote) != remote:
            self._ambiguous.add(local)

    def local(self, remote: int) -> int:
        """Raises `UnmappedOwnerError`."""
        found = self._local.get(remote)
        if found is not None:
            return found
        if self.unmapped is Unmapped.KEEP:
            return remote
        if self.unmapped is Unmapped.NOBODY:
            return NOBODY
        raise UnmappedOwnerError(f"the server's {self.what} {remote} is not mapped")

    def is_only(self, local: int, remote: int) -> bool:
        """Whether what is shown as `local` is `remote` at the server for certain."""
        if self.unmapped is Unmapped.KEEP and local not in self._local:
            return local == remote and local not in self._remote
        if self.unmapped is Unmapped.NOBODY and local == NOBODY:
            return False
        return self._remote.get(local) == remote and local not in self._ambiguous

    def can_send(self, local: int) -> bool:
        return local in self._remote or self.unmapped is Unmapped.KEEP

    def remote(self, local: int) -> int:
        """Raises `UnmappedOwnerError`."""
        found = self._remote.get(local)
        if found is not None:
            return found
        if self.unmapped is Unmapped.KEEP:
            return local
        raise UnmappedOwnerError(f"the {self.what} {local} is not mapped to one of the server's")


class Owners:
    """Whose things are, and what their modes are, as programs here see it."""

    def __init__(self, config: VfsConfig) -> None:
        self._uid, self._gid = config.uid, config.gid
        self.users, self.groups = config.users, config.groups
        if config.local_names is not None:
            self.users = IdTable("user", Unmapped.NOBODY)
            self.groups = IdTable("group", Unmapped.NOBODY)
        self._file_mask, self._directory_mask = config.file_mask, config.directory_mask
        owners = (self._uid, self._gid, self.users, self.groups)
        #: Whether what is shown is what the server says.
        self.is_plain = owners == (None,) * 4 and not (self._file_mask or self._directory_mask)

    def mask(self, mode: int) -> int:
        """The permission bits that are not shown of such a thing."""
        return self._directory_mask if stat.S_ISDIR(mode) else self._file_mask

    def to_local(self, attributes: FileAttributes) -> FileAttributes:
        """The attributes as programs here see them. Raises `UnmappedOwnerError`."""
        if self.is_plain:
            return attributes
        uid, gid = attributes.uid, attributes.gid
        if self._uid is not None:
            uid = self._uid
        elif self.users is not None:
            uid = self.users.local(uid)
        if self._gid is not None:
            gid = self._gid
        elif self.groups is not None:
            gid = self.groups.local(gid)
        mode = attributes.mode & ~self.mask(attributes.mode)
        return attributes._replace(uid=uid, gid=gid, mode=mode)

    def is_known(self, uid: int | None, gid: int | None) -> bool:
        """Whether things of these owners (the server's) can be shown without asking anybody."""
        is_user = self._uid is not None or _is_known(self.users, uid)
        return is_user and (self._gid is not None or _is_known(self.groups, gid))

    def can_send(self, change: AttributeChange) -> bool:
        """Whether `change_to_remote` would not raise."""
        return _can_send(self._uid, self.users, change.uid) and _can_send(
            self._gid, self.groups, change.gid
        )

    def change_to_remote(self, change: AttributeChange) -> AttributeChange:
        """With the server's owners. An owner that all things are shown as is left out: there is
        nothing to change. Raises `UnmappedOwnerError`."""
        return change._replace(
            uid=_to_remote(self._uid, self.users, change.uid),
            gid=_to_remote(self._gid, self.groups, change.gid),
        )

    def shows(self, known: FileAttributes, uid: int | None, gid: int | None) -> bool:
        """Whether something that is shown like this has these owners (the server's numbers) for
        certain; None: any."""
        return _shows(self._uid, self.users, known.uid, uid) and _shows(
            self._gid, self.groups, known.gid, gid
        )


def _is_known(table: IdTable | None, remote: int | None) -> bool:
    if table is None or table.unmapped is Unmapped.KEEP:
        return True
    return remote is not None and remote in table


def _can_send(shown: int | None, table: IdTable | None, local: int | None) -> bool:
    return local is None or local == shown or table is None or table.can_send(local)


def _to_remote(shown: int | None, table: IdTable | None, local: int | None) -> int | None:
    if local is None or local == shown:
        return None
    return local if table is None else table.remote(local)


def _shows(shown: int | None, table: IdTable | None, local: int, remote: int | None) -> bool:
    if remote is None:
        return True
    if shown is not None:
        return False
    return local == remote if table is None else table.is_only(local, remote)
