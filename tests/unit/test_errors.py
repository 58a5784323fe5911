"""The one table of errnos: complete, and the only way to one."""

from __future__ import annotations

import errno

import pytest

from pysshfs.errors import (
    FX_FAILURE,
    FX_NO_SUCH_FILE,
    FX_OK,
    STATUS_ERRNO,
    AuthenticationError,
    ConnectionLostError,
    FilesystemError,
    ProtocolError,
    PysshfsError,
    RemoteStatusError,
    StaleHandleError,
    StartupError,
    UnsafeReplyError,
    UnsupportedError,
    errno_of,
)


@pytest.mark.parametrize("code", range(FX_OK + 1, 32))
def test_every_status_has_an_errno(code: int) -> None:
    assert code in STATUS_ERRNO
    error = RemoteStatusError(code)
    assert error.errno == STATUS_ERRNO[code]
    assert error.errno in errno.errorcode
    assert error.code == code


def test_ok_is_no_error_and_has_no_entry() -> None:
    assert FX_OK not in STATUS_ERRNO
    assert set(STATUS_ERRNO) == set(range(1, 32))


@pytest.mark.parametrize("code", [FX_OK, 32, 255, 0xFFFFFFFF])
def test_a_status_that_nobody_knows_is_eio(code: int) -> None:
    assert RemoteStatusError(code).errno == errno.EIO


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FX_NO_SUCH_FILE, errno.ENOENT),
        (3, errno.EACCES),
        (FX_FAILURE, errno.EIO),
        (8, errno.EOPNOTSUPP),
        (11, errno.EEXIST),
        (14, errno.ENOSPC),
        (18, errno.ENOTEMPTY),
    ],
)
def test_what_programs_act_on(code: int, expected: int) -> None:
    assert errno_of(RemoteStatusError(code)) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FilesystemError(errno.EXDEV), errno.EXDEV),
        (ConnectionLostError(), errno.EIO),
        (ProtocolError("broken"), errno.EIO),
        (StaleHandleError(), errno.ESTALE),
        (UnsupportedError("no"), errno.EOPNOTSUPP),
        (UnsafeReplyError("no"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (FileNotFoundError(errno.ENOENT, "gone"), errno.ENOENT),
        (MemoryError(), errno.ENOMEM),
        (OSError(), None),
        (ValueError(), None),
        (KeyError("x"), None),
        (PysshfsError("x"), None),
        (AuthenticationError("x"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_errno_of(error: BaseException, expected: int | None) -> None:
    assert errno_of(error) == expected


def test_the_two_families_are_apart() -> None:
    assert not issubclass(FilesystemError, StartupError)
    assert not issubclass(StartupError, FilesystemError)
    assert issubclass(ProtocolError, ConnectionLostError)


def test_an_error_has_a_message() -> None:
    assert str(FilesystemError(errno.EXDEV)) == "EXDEV"
    assert str(FilesystemError(errno.EXDEV, "elsewhere")) == "elsewhere"
    assert str(RemoteStatusError(4)) == "status 4"
