"""`SftpRemote`: `RemoteFS` on an SFTP session. Paths become absolute here, results become ours.

No state but the session, the served directory and what the server said it can do. Nothing awaits
but `open_extra`.
"""

from __future__ import annotations

import errno
import functools
import itertools
import math
from typing import TYPE_CHECKING, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from pysshfs.errors import FilesystemError, ProtocolError, StaleHandleError, UnsupportedError
from pysshfs.remote import wire
from pysshfs.remotefs import (
    PATH_MAX,
    AttributeChange,
    Attributes,
    Capabilities,
    DirectoryEntry,
    FilesystemStatistics,
    OpenMode,
    OwnerNames,
    RemoteHandle,
)
from pysshfs.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pysshfs.remote.session import SftpSession

P = ParamSpec("P")
T = TypeVar("T")

# What every server must take (draft-ietf-secsh-filexfer-02, section 3: packets of 34,000 bytes).
SAFE_LENGTH: Final = 32 * 1024
# OpenSSH's limit for a message is 256 KiB with its headers; larger READs and WRITEs gain nothing.
MOST_LENGTH: Final = 255 * 1024
_MAX_HANDLE: Final = 256  # bytes (draft, section 3)
_OWNER_NAMES: Final = b"users-groups-by-id@openssh.com"

_extra_generations = itertools.count(-1, -1)

_PFLAGS: Final = (
    (OpenMode.READ, wire.FXF_READ),
    (OpenMode.WRITE, wire.FXF_WRITE),
    (OpenMode.CREATE, wire.FXF_CREAT),
    (OpenMode.EXCLUSIVE, wire.FXF_EXCL),
    (OpenMode.TRUNCATE, wire.FXF_TRUNC),
)


class Limits(NamedTuple):
    """limits@openssh.com: bytes per message and open handles; 0 means the server names none."""

    max_packet: int
    max_read: int
    max_write: int
    max_handles: int


def parse_limits(reader: wire.Reader) -> Limits:
    """OpenSSH's PROTOCOL, section 4.8."""
    return Limits(reader.u64(), reader.u64(), reader.u64(), reader.u64())


def request_limits(session: SftpSession) -> Reply[Limits]:
    return session.request(
        wire.FXP_EXTENDED,
        wire.string(b"limits@openssh.com"),
        expected=wire.FXP_EXTENDED_REPLY,
        parse=parse_limits,
    )


def request_realpath(session: SftpSession, path: bytes) -> Reply[bytes]:
    """The server's absolute form of `path`; b"." is the login directory."""
    return session.request(
        wire.FXP_REALPATH,
        wire.string(path),
        expected=wire.FXP_NAME,
        parse=wire.parse_single_name,
    )


def capabilities(
    extensions: dict[bytes, bytes], limits: Limits | None, large_messages: bool
) -> Capabilities:
    """What the handshake tells. `large_messages`: an OpenSSH too old to state its limits."""
    fallback = MOST_LENGTH if large_messages else SAFE_LENGTH

    def bounded(stated: int | None) -> int:
        return min(max(stated, 512), MOST_LENGTH) if stated else fallback

    return Capabilities(
        max_read=bounded(limits.max_read if limits else None),
        max_write=bounded(limits.max_write if limits else None),
        posix_rename=extensions.get(b"posix-rename@openssh.com") == b"1",
        hardlink=extensions.get(b"hardlink@openssh.com") == b"1",
        fsync=extensions.get(b"fsync@openssh.com") == b"1",
        lsetstat=extensions.get(b"lsetstat@openssh.com") == b"1",
        statvfs=extensions.get(b"statvfs@openssh.com") == b"2",
        max_handles=limits.max_handles if limits else 0,
        copy_data=extensions.get(b"copy-data") == b"1",
        owner_names=extensions.get(_OWNER_NAMES) == b"1",
    )


def _on_current_session(
    method: Callable[Concatenate[SftpRemote, RemoteHandle, P], Reply[T]],
) -> Callable[Concatenate[SftpRemote, RemoteHandle, P], Reply[T]]:
    """A handle of an earlier connection means nothing, or another file, on this one."""

    @functools.wraps(method)
    def checked(
        self: SftpRemote, handle: RemoteHandle, /, *args: P.args, **kwargs: P.kwargs
    ) -> Reply[T]:
        if handle.generation != self._generation:
            return Reply.failed(StaleHandleError())
        return method(self, handle, *args, **kwargs)

    return checked


def _on_paths(
    method: Callable[Concatenate[SftpRemote, P], Reply[T]],
) -> Callable[Concatenate[SftpRemote, P], Reply[T]]:
    """A path that is too long is refused; nothing is sent."""

    @functools.wraps(method)
    def checked(self: SftpRemote, /, *args: P.args, **kwargs: P.kwargs) -> Reply[T]:
        try:
            return method(self, *args, **kwargs)
        except _PathTooLongError as error:
            return Reply.failed(error)

    return checked


class _PathTooLongError(FilesystemError):
    def __init__(self, length: int) -> None:
        super().__init__(errno.ENAMETOOLONG, f"a path of {length} bytes")


class SftpRemote:
    """The served directory `base` (absolute, as the server gave it) on one session."""

    def __init__(
        self,
        session: SftpSession,
        base: bytes,
        abilities: Capabilities,
        generation: int,
        *,
        draft_symlinks: bool = False,
        open_extra: Callable[[SftpRemote], Awaitable[SftpRemote]] | None = None,
    ) -> None:
        """`open_extra` makes a session beside the one it is given."""
        self._session = session
        self._draft_symlinks = draft_symlinks
        self._open_extra = open_extra
        self._base = base.rstrip(b"/")
        self._generation = generation
        self.capabilities = abilities

    # --- sessions ---------------------------------------------------------------------------

    @property
    def round_trip(self) -> float:
        return self._session.round_trip if self._session.round_trip < math.inf else 0.0

    async def open_extra(self) -> SftpRemote:
        if self._open_extra is None:
            raise UnsupportedError("no further sessions from this one")
        return await self._open_extra(self)

    def beside(self, session: SftpSession) -> SftpRemote:
        """The same directory of the same server on another session."""
        return SftpRemote(
            session,
            self._base,
            self.capabilities,
            next(_extra_generations),
            draft_symlinks=self._draft_symlinks,
        )

    def end(self) -> None:
        self._session.close()

    def unhurried(self, send: Callable[[SftpRemote], Reply[T]]) -> Reply[T]:
        self._session.is_unhurried = True
        try:
            return send(self)
        finally:
            self._session.is_unhurried = False

    def hurry(self) -> None:
        self._session.hurry()

    @property
    def served(self) -> bytes:
        return self._base or b"/"

    # --- paths and handles ------------------------------------------------------------------

    def _path(self, path: bytes) -> bytes:
        absolute = self._absolute(path)
        if len(absolute) >= PATH_MAX:
            raise _PathTooLongError(len(absolute))
        return wire.string(absolute)

    def _absolute(self, path: bytes) -> bytes:
        return self._base + b"/" + path if path else self._base or b"/"

    def _parse_handle(self, reader: wire.Reader) -> RemoteHandle:
        token = wire.parse_string(reader)
        if not 0 < len(token) <= _MAX_HANDLE:
            raise ProtocolError(f"handle of {len(token)} bytes")
        return RemoteHandle(token, self._generation)

    def _extended(self, name: bytes, offered: bool, *fields: bytes) -> Reply[None]:
        if not offered:
            return Reply.failed(UnsupportedError(f"the server lacks {name.decode()}"))
        return self._session.request(wire.FXP_EXTENDED, wire.string(name), *fields)

    # --- attributes -------------------------------------------------------------------------

    def _attributes(self, kind: int, field: bytes) -> Reply[Attributes]:
        return self._session.request(
            kind, field, expected=wire.FXP_ATTRS, parse=wire.parse_attributes
        )

    @_on_paths
    def lstat(self, path: bytes) -> Reply[Attributes]:
        return self._attributes(wire.FXP_LSTAT, self._path(path))

    @_on_paths
    def stat(self, path: bytes) -> Reply[Attributes]:
        return self._attributes(wire.FXP_STAT, self._path(path))

    @_on_current_session
    def fstat(self, handle: RemoteHandle) -> Reply[Attributes]:
        return self._attributes(wire.FXP_FSTAT, wire.string(handle.token))

    @_on_paths
    def setstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        return self._session.request(wire.FXP_SETSTAT, self._path(path), wire.encode_change(change))

    @_on_paths
    def lsetstat(self, path: bytes, change: AttributeChange) -> Reply[None]:
        return self._extended(
            b"lsetstat@openssh.com",
            self.capabilities.lsetstat,
            self._path(path),
            wire.encode_change(change),
        )

    @_on_current_session
    def fsetstat(self, handle: RemoteHandle, change: AttributeChange) -> Reply[None]:
        token = wire.string(handle.token)
        return self._session.request(wire.FXP_FSETSTAT, token, wire.encode_change(change))

    def owner_names(self, users: Sequence[int], groups: Sequence[int]) -> Reply[OwnerNames]:
        if not self.capabilities.owner_names:
            return Reply.failed(UnsupportedError(f"the server lacks {_OWNER_NAMES.decode()}"))
        return self._session.request(
            wire.FXP_EXTENDED,
            wire.string(_OWNER_NAMES),
            wire.string(b"".join(map(wire.u32, users))),
            wire.string(b"".join(map(wire.u32, groups))),
            expected=wire.FXP_EXTENDED_REPLY,
            parse=lambda reader: wire.parse_owner_names(reader, len(users), len(groups)),
        )

    @_on_paths
    def statvfs(self, path: bytes) -> Reply[FilesystemStatistics]:
        if not self.capabilities.statvfs:
            return Reply.failed(UnsupportedError("the server lacks statvfs@openssh.com"))
        return self._session.request(
            wire.FXP_EXTENDED,
            wire.string(b"statvfs@openssh.com"),
            self._path(path),
            expected=wire.FXP_EXTENDED_REPLY,
            parse=wire.parse_statvfs,
        )

    # --- files ------------------------------------------------------------------------------

    @_on_paths
    def open(self, path: bytes, mode: OpenMode, permissions: int = 0o666) -> Reply[RemoteHandle]:
        flags = sum(bit for flag, bit in _PFLAGS if flag in mode)
        change = AttributeChange(mode=permissions if OpenMode.CREATE in mode else None)
        return self._session.request(
            wire.FXP_OPEN,
            self._path(path),
            wire.u32(flags),
            wire.encode_change(change),
            expected=wire.FXP_HANDLE,
            parse=self._parse_handle,
            closes_late=True,
        )

    @_on_current_session
    def close(self, handle: RemoteHandle, *, lazily: bool = False) -> Reply[None]:
        return self._session.request(wire.FXP_CLOSE, wire.string(handle.token), lazily=lazily)

    @_on_current_session
    def read(self, handle: RemoteHandle, offset: int, length: int) -> Reply[bytes]:
        def parse(reader: wire.Reader) -> bytes:
            data = wire.parse_string(reader)
            if len(data) > length:  # none at all is what some send at the end
                raise ProtocolError(f"{len(data)} bytes for a READ of {length}")
            return data

        return self._session.request(
            wire.FXP_READ,
            wire.string(handle.token),
            wire.u64(offset),
            wire.u32(length),
            expected=wire.FXP_DATA,
            parse=parse,
            at_eof=b"",
        )

    @_on_current_session
    def write(
        self, handle: RemoteHandle, offset: int, data: bytes | bytearray | memoryview
    ) -> Reply[None]:
        return self._session.write(handle.token, offset, data)

    @_on_current_session
    def fsync(self, handle: RemoteHandle) -> Reply[None]:
        return self._extended(
            b"fsync@openssh.com", self.capabilities.fsync, wire.string(handle.token)
        )

    # --- copying ----------------------------------------------------------------------------

    @_on_current_session
    def copy_data(
        self,
        source: RemoteHandle,
        offset: int,
        length: int,
        target: RemoteHandle,
        target_offset: int,
    ) -> Reply[None]:
        # OpenSSH's PROTOCOL, section 4.10. A length of 0 means all there is, without any bound.
        if not 0 < length < 1 << 63:
            return Reply.failed(UnsupportedError(f"a copy of {length} bytes"))
        return self._extended(
            b"copy-data",
            self.capabilities.copy_data,
            wire.string(source.token),
            wire.u64(offset),
            wire.u64(length),
            wire.string(target.token),
            wire.u64(target_offset),
        )

    # --- directories and names --------------------------------------------------------------

    @_on_paths
    def opendir(self, path: bytes) -> Reply[RemoteHandle]:
        return self._session.request(
            wire.FXP_OPENDIR,
            self._path(path),
            expected=wire.FXP_HANDLE,
            parse=self._parse_handle,
            closes_late=True,
        )

    @_on_current_session
    def readdir(self, handle: RemoteHandle) -> Reply[list[DirectoryEntry] | None]:
        return self._session.request(
            wire.FXP_READDIR,
            wire.string(handle.token),
            expected=wire.FXP_NAME,
            parse=wire.parse_entries,
            at_eof=None,
        )

    @_on_paths
    def readlink(self, path: bytes) -> Reply[bytes]:
        return self._session.request(
            wire.FXP_READLINK,
            self._path(path),
            expected=wire.FXP_NAME,
            parse=wire.parse_single_name,
        )

    def realpath(self, path: bytes) -> Reply[bytes]:
        return request_realpath(self._session, path)

    @_on_paths
    def symlink(self, target: bytes, path: bytes) -> Reply[None]:
        # OpenSSH has the two arguments the other way round than the draft, and so has everybody
        # who wants to work with it (OpenSSH's PROTOCOL, section 4.1).
        fields = wire.string(target), self._path(path)
        return self._session.request(
            wire.FXP_SYMLINK, *(reversed(fields) if self._draft_symlinks else fields)
        )

    @_on_paths
    def link(self, existing: bytes, path: bytes) -> Reply[None]:
        return self._extended(
            b"hardlink@openssh.com",
            self.capabilities.hardlink,
            self._path(existing),
            self._path(path),
        )

    @_on_paths
    def mkdir(self, path: bytes, permissions: int) -> Reply[None]:
        attributes = wire.encode_change(AttributeChange(mode=permissions))
        return self._session.request(wire.FXP_MKDIR, self._path(path), attributes)

    @_on_paths
    def rmdir(self, path: bytes) -> Reply[None]:
        return self._session.request(wire.FXP_RMDIR, self._path(path))

    @_on_paths
    def remove(self, path: bytes) -> Reply[None]:
        return self._session.request(wire.FXP_REMOVE, self._path(path))

    @_on_paths
    def rename(self, old: bytes, new: bytes) -> Reply[None]:
        return self._session.request(wire.FXP_RENAME, self._path(old), self._path(new))

    @_on_paths
    def posix_rename(self, old: bytes, new: bytes) -> Reply[None]:
        return self._extended(
            b"posix-rename@openssh.com",
            self.capabilities.posix_rename,
            self._path(old),
            self._path(new),
        )
