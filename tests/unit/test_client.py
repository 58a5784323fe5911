"""`SftpRemote`: what each call sends, whose handles it takes, and what it believes of limits."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, cast

import pytest

from pysshfs.errors import FilesystemError, ProtocolError, StaleHandleError, UnsupportedError
from pysshfs.remote import wire
from pysshfs.remote.client import (
    MOST_LENGTH,
    SAFE_LENGTH,
    Limits,
    SftpRemote,
    capabilities,
)
from pysshfs.remote.session import SftpSession
from pysshfs.remotefs import (
    PATH_MAX,
    AttributeChange,
    OpenMode,
    OwnerNames,
    RemoteHandle,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncssh

    from pysshfs.remotefs import Capabilities
    from pysshfs.reply import Reply

ALL = {
    b"posix-rename@openssh.com": b"1",
    b"hardlink@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"lsetstat@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"users-groups-by-id@openssh.com": b"1",
}
GENERATION = 3
HANDLE = RemoteHandle(b"h1", GENERATION)


class Server:
    """The channel's other end: keeps what is sent and says what it is told to."""

    def __init__(
        self,
        extensions: dict[bytes, bytes] | None = None,
        base: bytes = b"/srv",
        draft_symlinks: bool = False,
    ) -> None:
        self.sent: list[bytes] = []
        session = SftpSession(lambda error: None)
        session.connection_made(cast("asyncssh.SSHClientChannel[bytes]", self))
        self._session = session
        abilities = capabilities(ALL if extensions is None else extensions, None, False)
        self.remote = SftpRemote(
            session, base, abilities, GENERATION, draft_symlinks=draft_symlinks
        )

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        pass

    def say(self, kind: int, body: bytes) -> None:
        request_id = self.sent[-1][5:9]
        packet = struct.pack(">IB", 5 + len(body), kind) + request_id + body
        self._session.data_received(packet, None)

    def last(self) -> tuple[int, bytes]:
        """Type and fields of the last request."""
        return self.sent[-1][4], self.sent[-1][9:]


@pytest.mark.parametrize(
    ("base", "path", "absolute"),
    [
        (b"/srv", b"", b"/srv"),
        (b"/srv", b"a/b", b"/srv/a/b"),
        (b"/", b"", b"/"),
        (b"/", b"a", b"/a"),
        (b"/srv/", b"a", b"/srv/a"),
    ],
)
def test_paths_are_below_the_served_directory(base: bytes, path: bytes, absolute: bytes) -> None:
    server = Server(base=base)
    server.remote.lstat(path)
    assert server.last() == (wire.FXP_LSTAT, wire.string(absolute))


ON_PATHS: list[Callable[[SftpRemote, bytes], Reply[object]]] = [
    lambda remote, path: cast("Reply[object]", remote.lstat(path)),
    lambda remote, path: cast("Reply[object]", remote.stat(path)),
    lambda remote, path: cast("Reply[object]", remote.setstat(path, AttributeChange(size=1))),
    lambda remote, path: cast("Reply[object]", remote.lsetstat(path, AttributeChange(size=1))),
    lambda remote, path: cast("Reply[object]", remote.statvfs(path)),
    lambda remote, path: cast("Reply[object]", remote.open(path, OpenMode.READ)),
    lambda remote, path: cast("Reply[object]", remote.opendir(path)),
    lambda remote, path: cast("Reply[object]", remote.readlink(path)),
    lambda remote, path: cast("Reply[object]", remote.symlink(b"target", path)),
    lambda remote, path: cast("Reply[object]", remote.link(b"a", path)),
    lambda remote, path: cast("Reply[object]", remote.link(path, b"a")),
    lambda remote, path: cast("Reply[object]", remote.mkdir(path, 0o755)),
    lambda remote, path: cast("Reply[object]", remote.rmdir(path)),
    lambda remote, path: cast("Reply[object]", remote.remove(path)),
    lambda remote, path: cast("Reply[object]", remote.rename(path, b"a")),
    lambda remote, path: cast("Reply[object]", remote.rename(b"a", path)),
    lambda remote, path: cast("Reply[object]", remote.posix_rename(path, b"a")),
    lambda remote, path: cast("Reply[object]", remote.posix_rename(b"a", path)),
]


@pytest.mark.parametrize("call", ON_PATHS)
def test_a_path_that_is_too_long_is_not_sent(
    call: Callable[[SftpRemote, bytes], Reply[object]],
) -> None:
    """With the served directory's own, and the NUL that ends it on the server."""
    server = Server(base=b"/srv")
    longest = b"x" * (PATH_MAX - 1 - len(b"/srv/"))
    reply = call(server.remote, longest + b"x")
    assert isinstance(reply.error, FilesystemError)
    assert reply.error.errno == errno.ENAMETOOLONG
    assert server.sent == []
    assert not call(server.remote, longest).done
    assert len(server.sent) == 1


ON_HANDLES: list[Callable[[SftpRemote, RemoteHandle], Reply[object]]] = [
    lambda remote, handle: cast("Reply[object]", remote.fstat(handle)),
    lambda remote, handle: cast("Reply[object]", remote.fsetstat(handle, AttributeChange(size=1))),
    lambda remote, handle: cast("Reply[object]", remote.close(handle)),
    lambda remote, handle: cast("Reply[object]", remote.read(handle, 0, 10)),
    lambda remote, handle: cast("Reply[object]", remote.write(handle, 0, b"x")),
    lambda remote, handle: cast("Reply[object]", remote.fsync(handle)),
    lambda remote, handle: cast("Reply[object]", remote.readdir(handle)),
]


@pytest.mark.parametrize("call", ON_HANDLES)
def test_a_handle_is_good_on_its_own_connection_only(
    call: Callable[[SftpRemote, RemoteHandle], Reply[object]],
) -> None:
    server = Server()
    reply = call(server.remote, RemoteHandle(b"h1", GENERATION - 1))
    assert isinstance(reply.error, StaleHandleError)
    assert server.sent == []
    assert not call(server.remote, HANDLE).done
    assert wire.string(b"h1") in server.sent[-1]


@pytest.mark.parametrize("length", [11, 100])
def test_a_read_gives_no_more_than_was_asked(length: int) -> None:
    server = Server()
    reply = server.remote.read(HANDLE, 0, 10)
    server.say(wire.FXP_DATA, wire.string(bytes(length)))
    assert isinstance(reply.error, ProtocolError)


@pytest.mark.parametrize("length", [0, 1, 10])
def test_a_read_may_give_less(length: int) -> None:
    """None at all is taken for the end, which `vfs/endings.py` does not believe at once."""
    server = Server()
    reply = server.remote.read(HANDLE, 0, 10)
    server.say(wire.FXP_DATA, wire.string(bytes(length)))
    assert reply.result() == bytes(length)


@pytest.mark.parametrize("length", [0, 257])
def test_a_handle_has_a_length_that_the_protocol_allows(length: int) -> None:
    server = Server()
    reply = server.remote.open(b"f", OpenMode.READ)
    server.say(wire.FXP_HANDLE, wire.string(bytes(length)))
    assert isinstance(reply.error, ProtocolError)


def test_files_are_never_opened_for_appending() -> None:
    server = Server()
    server.remote.open(b"f", OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE, 0o640)
    kind, fields = server.last()
    flags = wire.FXF_WRITE | wire.FXF_CREAT | wire.FXF_EXCL
    mode = wire.u32(wire.ATTR_PERMISSIONS) + wire.u32(0o640)
    assert (kind, fields) == (wire.FXP_OPEN, wire.string(b"/srv/f") + wire.u32(flags) + mode)


@pytest.mark.parametrize("draft", [False, True])
def test_symlinks_have_their_arguments_as_this_server_takes_them(draft: bool) -> None:
    server = Server(draft_symlinks=draft)
    server.remote.symlink(b"target", b"link")
    arguments = [wire.string(b"target"), wire.string(b"/srv/link")]
    if draft:
        arguments.reverse()
    assert server.last() == (wire.FXP_SYMLINK, b"".join(arguments))


def test_names_are_asked_for_by_number() -> None:
    """OpenSSH's PROTOCOL, section 4.12: each list is one string."""
    server = Server()
    reply = server.remote.owner_names([1, 4294967294], [7])
    name = wire.string(b"users-groups-by-id@openssh.com")
    users = wire.string(wire.u32(1) + wire.u32(4294967294))
    assert server.last() == (wire.FXP_EXTENDED, name + users + wire.string(wire.u32(7)))
    told = wire.string(wire.string(b"") + wire.string(b"ann"))
    server.say(wire.FXP_EXTENDED_REPLY, told + wire.string(wire.string(b"staff")))
    assert reply.result() == OwnerNames([b"", b"ann"], [b"staff"])


def test_what_the_server_does_not_offer_is_not_sent() -> None:
    server = Server(extensions={})
    remote = server.remote
    replies: list[Reply[None]] = [
        remote.posix_rename(b"a", b"b"),
        remote.link(b"a", b"b"),
        remote.fsync(HANDLE),
        remote.lsetstat(b"a", AttributeChange(mode=0)),
    ]
    assert all(isinstance(reply.error, UnsupportedError) for reply in replies)
    assert isinstance(remote.statvfs(b"").error, UnsupportedError)
    assert isinstance(remote.owner_names([0], []).error, UnsupportedError)
    assert server.sent == []


def lengths(limits: Limits | None, large: bool = False) -> tuple[int, int]:
    known: Capabilities = capabilities({}, limits, large)
    return known.max_read, known.max_write


def test_lengths_are_bounded_whatever_the_server_says() -> None:
    assert lengths(None) == (SAFE_LENGTH, SAFE_LENGTH)
    assert lengths(None, large=True) == (MOST_LENGTH, MOST_LENGTH)
    assert lengths(Limits(0, 0, 0, 0)) == (SAFE_LENGTH, SAFE_LENGTH)
    assert lengths(Limits(0, 1, 1, 0)) == (512, 512)
    assert lengths(Limits(0, 2**63, 2**64 - 1, 0)) == (MOST_LENGTH, MOST_LENGTH)
    assert lengths(Limits(0, 65536, 40000, 0)) == (65536, 40000)
