"""Every exception of pysshfs, and the one table that turns them into errno.

Two families. A `FilesystemError` ends one operation of one program and carries the errno that the
program sees; the daemon goes on. A `StartupError` ends the command before there is a mount; the
command line turns its class into an exit code (`pysshfs.cli.exitcodes`).

Translation happens at the lowest layer that knows: `remote/` turns server replies and asyncssh's
exceptions into these, `fuse/requests.py` turns these into errno through `errno_of`, nobody in
between.
"""

from __future__ import annotations

import errno
from typing import Final

# --- SFTP status codes (draft-ietf-secsh-filexfer-02, section 7; 9 and up: -13, section 9.1) ----
FX_OK: Final = 0
FX_EOF: Final = 1
FX_NO_SUCH_FILE: Final = 2
FX_PERMISSION_DENIED: Final = 3
FX_FAILURE: Final = 4
FX_BAD_MESSAGE: Final = 5
FX_NO_CONNECTION: Final = 6
FX_CONNECTION_LOST: Final = 7
FX_OP_UNSUPPORTED: Final = 8

# Protocol 3 knows codes 0 to 8. The later ones are sent by servers that negotiated 3 all the
# same, so they are honoured. FAILURE stands for everything that has no code of its own (EEXIST,
# ENOTEMPTY, ENOSPC, EXDEV, ...): where a program would act on the difference,
# `vfs/diagnose.py` looks and replaces it; elsewhere it is EIO, which no program takes for a
# harmless condition.
STATUS_ERRNO: Final[dict[int, int]] = {
    FX_EOF: errno.EIO,  # an EOF where no end of data can be is a server's mistake
    FX_NO_SUCH_FILE: errno.ENOENT,
    FX_PERMISSION_DENIED: errno.EACCES,
    FX_FAILURE: errno.EIO,
    FX_BAD_MESSAGE: errno.EINVAL,  # what OpenSSH sends for EINVAL and ENAMETOOLONG
    FX_NO_CONNECTION: errno.EIO,
    FX_CONNECTION_LOST: errno.EIO,
    FX_OP_UNSUPPORTED: errno.EOPNOTSUPP,
    9: errno.EBADF,  # INVALID_HANDLE
    10: errno.ENOENT,  # NO_SUCH_PATH
    11: errno.EEXIST,  # FILE_ALREADY_EXISTS
    12: errno.EROFS,  # WRITE_PROTECT
    13: errno.ENXIO,  # NO_MEDIA
    14: errno.ENOSPC,  # NO_SPACE_ON_FILESYSTEM
    15: errno.EDQUOT,  # QUOTA_EXCEEDED
    16: errno.EINVAL,  # UNKNOWN_PRINCIPAL
    17: errno.EAGAIN,  # LOCK_CONFLICT
    18: errno.ENOTEMPTY,  # DIR_NOT_EMPTY
    19: errno.ENOTDIR,  # NOT_A_DIRECTORY
    20: errno.EINVAL,  # INVALID_FILENAME
    21: errno.ELOOP,  # LINK_LOOP
    22: errno.EPERM,  # CANNOT_DELETE
    23: errno.EINVAL,  # INVALID_PARAMETER
    24: errno.EISDIR,  # FILE_IS_A_DIRECTORY
    25: errno.EAGAIN,  # BYTE_RANGE_LOCK_CONFLICT
    26: errno.EAGAIN,  # BYTE_RANGE_LOCK_REFUSED
    27: errno.EBUSY,  # DELETE_PENDING
    28: errno.EIO,  # FILE_CORRUPT
    29: errno.EINVAL,  # OWNER_INVALID
    30: errno.EINVAL,  # GROUP_INVALID
    31: errno.ENOLCK,  # NO_MATCHING_BYTE_RANGE_LOCK
}


class PysshfsError(Exception):
    """The root of all exceptions that pysshfs raises on purpose."""


class FilesystemError(PysshfsError):
    """One operation failed; `errno` is what the calling program gets."""

    def __init__(self, errno_: int, message: str = "") -> None:
        super().__init__(message or errno.errorcode.get(errno_, str(errno_)))
        self.errno = errno_


class RemoteStatusError(FilesystemError):
    """The server answered a request with a status other than OK (`code`: an FX_ number)."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(STATUS_ERRNO.get(code, errno.EIO), message or f"status {code}")
        self.code = code


class ConnectionLostError(FilesystemError):
    """The connection ended before the reply came: whether the server acted is not known."""

    def __init__(self, message: str = "connection lost") -> None:
        super().__init__(errno.EIO, message)


class StaleHandleError(FilesystemError):
    """A handle of an earlier connection was used."""

    def __init__(self, message: str = "handle of an earlier connection") -> None:
        super().__init__(errno.ESTALE, message)


class ProtocolError(ConnectionLostError):
    """The server broke the SFTP protocol; the connection that did so is given up."""


class UnsupportedError(FilesystemError):
    """The server lacks the extension that this operation needs."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EOPNOTSUPP, message)


class UnsafeReplyError(FilesystemError):
    """The server's reply is well-formed but says what cannot be true (see `vfs/sanity.py`)."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)


class UnmappedOwnerError(FilesystemError):
    """An owner that the table of owners does not have (`vfs/idmap.py`)."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)


class StartupError(PysshfsError):
    """There will be no mount; the message is one line for the user."""


class MountpointError(StartupError):
    """The mountpoint is missing, not a directory, or may not be mounted on."""


class AlreadyMountedError(StartupError):
    """The same source is mounted there, and answers; for whoever asked for it that is success."""


class UnreachableError(StartupError):
    """The host could not be reached: name, route, port or timeout."""


class HostKeyError(StartupError):
    """The server's host key is unknown, changed or revoked."""


class AuthenticationError(StartupError):
    """The server accepted none of the credentials."""


class RemoteDirectoryError(StartupError):
    """The remote directory is missing or is not a directory."""


class SftpRefusedError(StartupError):
    """The server gives no SFTP session, or does not speak it."""


class FuseUnavailableError(StartupError):
    """No /dev/fuse, no fusermount3, or the kernel refused the mount."""


def errno_of(error: BaseException) -> int | None:
    """The errno for `error`, or None when it is not an expected failure of an operation.

    The one place where exceptions become errno. An `OSError` of our own side counts only when it
    carries a number (a full disk for a log, a closed socket).
    """
    if isinstance(error, FilesystemError):
        return error.errno
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return None
