"""The demo's commands, and the SFTP server in it, which tests start too.

`python -m pysshfs.demo serve` is asyncssh's SFTP server on loopback with keys made for the
occasion.  It owns the directory of those keys and its connections, and writes nowhere else by
itself.  `python -m pysshfs.demo run` shows the program at work: see `pysshfs/cli/tour.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh

from pysshfs.cli.tour import HOST, USER, Served, run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Folder(asyncssh.SFTPServer):
    """One folder, which clients see as `/`.

    It keeps paths inside, but it is no prison: the server follows a symlink wherever it leads.
    """

    def readlink(self, path: bytes) -> bytes:
        """Return the target as it was written.

        The inherited method makes it absolute, which it can do only for absolute targets.
        """
        return os.readlink(self.map_path(path))

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        """Write the target as it was sent."""
        os.symlink(oldpath, self.map_path(newpath))


class _Door(asyncssh.SSHServer):
    """Lets in `USER` with the one key, and keeps the list of open connections."""

    def __init__(
        self, key: asyncssh.SSHKey, connections: set[asyncssh.SSHServerConnection]
    ) -> None:
        self._key, self._connections = key, connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connections.discard(self._connection)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key.public_data == self._key.public_data


async def serve(root: Path, state: Path, port: int) -> None:
    """Serve `root` until SIGTERM, SIGINT, or the end of standard input where that is a pipe.

    `state` gets the keys, or has them from an earlier time.  Port 0 stands for any free one.
    Raises OSError, and asyncssh.KeyImportError for a damaged key.
    """
    asked_to_end = asyncio.Event()
    for which in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(which, asked_to_end.set)
    _end_with_stdin(asked_to_end)
    _make_private(state)
    host_key, client_key = (_key(state / name) for name in ("host_ed25519", "user_ed25519"))
    connections: set[asyncssh.SSHServerConnection] = set()
    acceptor = await asyncssh.listen(
        HOST,
        port,
        config=None,
        server_factory=lambda: _Door(client_key, connections),
        server_host_keys=[host_key],
        sftp_factory=lambda channel: _Folder(channel, os.fsencode(root)),
        gss_host=None,
        agent_forwarding=False,
    )
    served = _tell(state, acceptor.get_port(), host_key)
    print(json.dumps(served._asdict()), flush=True)
    await asked_to_end.wait()
    acceptor.close()
    for connection in list(connections):
        connection.abort()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(acceptor.wait_closed(), 5)


def _end_with_stdin(asked_to_end: asyncio.Event) -> None:
    """Watch standard input if it is a pipe or socket: it ends when whoever started us does."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:  # closed
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop = asyncio.get_running_loop()

        def readable() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                asked_to_end.set()

        loop.add_reader(0, readable)


def _make_private(state: Path) -> None:
    """Make the directory of the keys, or check that nobody else can look into it."""
    state.mkdir(mode=0o700, exist_ok=True)
    found = state.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{state}: must be yours, with mode 0700, to keep keys in")


def _key(path: Path) -> asyncssh.SSHKey:
    """Return the key in `path`, which is made if it is not there."""
    with contextlib.suppress(FileNotFoundError):
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="pysshfs demo")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.export_private_key())
    return key


def _tell(state: Path, port: int, host_key: asyncssh.SSHKey) -> Served:
    """Write known_hosts for this port, and return what clients are to know."""
    known_hosts = state / "known_hosts"
    public = host_key.export_public_key().decode().split()[:2]
    known_hosts.write_text(f"[{HOST}]:{port} {' '.join(public)}\n")
    known_hosts.chmod(0o600)
    host, client = state.absolute() / "host_ed25519", state.absolute() / "user_ed25519"
    return Served(port, str(host), str(client), str(known_hosts.absolute()), USER)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pysshfs.demo", description="pysshfs at work, on this machine alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    runs = commands.add_parser("run", help="mount a folder from a local server and use it")
    runs.add_argument("--keep", action="store_true", help="leave it mounted until Ctrl-C")
    runs.set_defaults(run=lambda args: run(args.keep))

    about = "Serve a folder over SFTP, on loopback, to one throw-away key."
    serves = commands.add_parser("serve", help="only the local SFTP server", description=about)
    serves.add_argument("--root", type=Path, required=True, metavar="DIR", help="what is served")
    serves.add_argument("--state", type=Path, required=True, metavar="DIR", help="for its keys")
    serves.add_argument("--port", type=int, default=0, help="default: any free one")
    serves.set_defaults(run=_serve_command)

    args = parser.parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.run
    return command(args)


def _serve_command(args: argparse.Namespace) -> int:
    try:
        if not args.root.is_dir():
            raise NotADirectoryError(f"{args.root}: not a directory")
        asyncio.run(serve(args.root, args.state, args.port))
    except (OSError, asyncssh.KeyImportError) as error:
        print(f"pysshfs demo server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
