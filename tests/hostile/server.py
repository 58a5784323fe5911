"""The hostile server: asyncssh carries the bytes, a case's rules say which ones are wrong.

One server for all cases, in a thread of its own. Who logs in names the case as the user; as
`EVERYBODY` the case is the one whose directory a request is about. Nobody needs a password. The
process that serves never touches a mount (`tests/support/mounts.py`).

State, owned by the loop's thread: the tree, how often each rule applied, the sessions. Tests read
it, and change it through `play` and `resume_reading`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import asyncssh

from tests.hostile import sftp
from tests.hostile.case import Act, Asked, Case, Disconnect, Pause, Rule, Stderr
from tests.hostile.tree import EXTENSIONS, Node, ProperServer, Tree, directory, file, link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.hostile.case import Step

T = TypeVar("T")

HOST: Final = "127.0.0.1"
EVERYBODY: Final = "everybody"
CONTENT: Final = b"as it should be\n" * 4096
#: Where every case finds something in order.
USUAL: Final[dict[bytes, Node]] = {
    b"file": file(CONTENT),
    b"good": file(b"good\n"),
    b"dir": directory(),
    b"dir/a": file(b"a"),
    b"dir/b": file(b"b"),
    b"dir/c": file(b"c"),
    b"link": link(b"good"),
}


class _Session(asyncssh.SSHServerSession[bytes]):
    """One SFTP session: requests are answered one after the other, by `_serve`."""

    def __init__(self, server: HostileServer, user: str) -> None:
        self._server, self.user = server, user
        self._proper = ProperServer(server.tree)
        self._buffer = bytearray()
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self.channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    # -- asyncssh's callbacks ----------------------------------------------------------------

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self.channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return True

    def session_started(self) -> None:
        self._server.sessions.append(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                break
            self._requests.put_nowait(bytes(self._buffer[4:end]))
            del self._buffer[:end]

    # -- answers -----------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            for step in self._steps(await self._requests.get()):
                await self._do(step)

    async def _do(self, step: Step) -> None:
        channel = self.channel
        assert channel is not None
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Stderr):
            channel.write_stderr(step.data)
        elif isinstance(step, bytes):
            channel.write(step)
        elif isinstance(step, Disconnect):
            channel.get_connection().disconnect(11, step.reason)
        elif step is Act.CLOSE:
            channel.close()
        elif step is Act.END:
            channel.write_eof()
        elif step is Act.STOP_READING:
            channel.pause_reading()
        elif step is Act.ABORT:
            channel.get_connection().abort()
        await self._writable.wait()

    def _steps(self, request: bytes) -> Sequence[Step]:
        kind, number, body = request[0], int.from_bytes(request[1:5], "big"), request[5:]
        if kind == sftp.INIT:
            path, proper = b"", sftp.version(3, *EXTENSIONS)
        else:
            path = self._proper.path_of(kind, body)
            proper = self._proper.answer(kind, number, body)
        case, relative = self._server.case_of(self.user, path)
        rule = self._server.rule_for(case, kind, relative) if case is not None else None
        if rule is None or case is None:
            return [proper]
        nth = self._server.applied(case, rule)
        token = b"h%d" % self._proper._made
        done = rule.do(Asked(kind, number, body, relative, nth, token), proper)
        return [done] if isinstance(done, bytes) else done


class _Door(asyncssh.SSHServer):
    def __init__(self, server: HostileServer) -> None:
        self._server = server
        self._user = ""
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connections.append(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._connection is not None
        self._server.connections.remove(self._connection)

    def begin_auth(self, username: str) -> bool:
        self._user = username
        case = self._server.cases.get(username)
        if case is not None and case.ssh.banner and self._connection is not None:
            self._connection.send_auth_banner(case.ssh.banner)
        return False

    def session_requested(self) -> Any:
        session = _Session(self._server, self._user)
        case = self._server.cases.get(self._user)
        if case is None or self._connection is None:
            return session
        if case.ssh.refusal:
            raise asyncssh.ChannelOpenError(1, case.ssh.refusal)
        channel = self._connection.create_server_channel(
            encoding=None, window=case.ssh.window, max_pktsize=case.ssh.packet
        )
        channel._recv_pktsize = case.ssh.packet  # 0 stands for the default there
        return channel, session


class HostileServer:
    """``with HostileServer() as server: server.play(case) ...``."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.tree.plant(b"/usual", USUAL)
        self.cases: dict[str, Case] = {}
        self.sessions: list[_Session] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.port = self.raw_port = self.compressing_port = 0
        self._raw = b""
        self._counts: collections.Counter[tuple[str, int]] = collections.Counter()
        self._directory = tempfile.TemporaryDirectory(prefix="pysshfs-hostile-")
        self.state = self._directory.name  # for data that is not delivered
        self._known_hosts = Path(self._directory.name) / "known_hosts"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_over = asyncio.Event()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    # -- for tests ---------------------------------------------------------------------------

    def play(self, *cases: Case) -> None:
        """From now on these cases, too, from their beginning and in trees as they were at first."""

        def begin() -> None:
            self._raw = next((case.ssh.raw for case in cases), b"")
            for case in cases:
                self.cases[case.name] = case
                for place in range(len(case.rules)):
                    del self._counts[case.name, place]
                root = b"/" + case.name.encode()
                for path in [p for p in self.tree.nodes if p.startswith(root + b"/")]:
                    del self.tree.nodes[path]
                self.tree.plant(root, {**USUAL, **case.nodes})

        self._in_loop(begin)

    def resume_reading(self) -> None:
        def resume() -> None:
            for session in self.sessions:
                if session.channel is not None:
                    session.channel.resume_reading()

        self._in_loop(resume)

    def node(self, case: Case, path: bytes) -> Node | None:
        return self._in_loop(lambda: self.tree.nodes.get(b"/%s/%s" % (case.name.encode(), path)))

    def sessions_of(self, case: Case | None) -> int:
        """How many sessions the case's mount has had, or the mount of all."""
        user = EVERYBODY if case is None else case.name
        return sum(session.user == user for session in self.sessions)

    def has_misbehaved(self, case: Case) -> bool:
        """Whether every rule of the case applied."""
        return all(self._counts[case.name, n] > rule.skip for n, rule in enumerate(case.rules))

    def options(self, case: Case | None = None) -> list[str]:
        port = self.port
        if case is not None and case.ssh.raw:
            port = self.raw_port
        elif case is not None and case.ssh.compression != "none":
            port = self.compressing_port
        return [f"port={port}", f"UserKnownHostsFile={self._known_hosts}", "IdentityFile=none",
                "IdentityAgent=none"]  # fmt: skip

    def source(self, case: Case | None) -> str:
        """What to mount: the case's directory, or all of them."""
        return f"{EVERYBODY}@{HOST}:/" if case is None else f"{case.name}@{HOST}:/{case.name}"

    # -- for sessions ------------------------------------------------------------------------

    def case_of(self, user: str, path: bytes) -> tuple[Case | None, bytes]:
        """The case that a request falls under, and the path within its directory."""
        name, _, rest = path.removeprefix(b"/").partition(b"/")
        if user == EVERYBODY:
            return self.cases.get(name.decode("utf-8", "replace")), rest
        return self.cases.get(user), rest if name == user.encode() else path

    def rule_for(self, case: Case, kind: int, path: bytes) -> Rule | None:
        """The rule that applies. Counts the requests for which it was too early, too."""
        for place, rule in enumerate(case.rules):
            if rule.on == kind and rule.path in (None, path):
                self._counts[case.name, place] += 1
                past = self._counts[case.name, place] - rule.skip
                if past > 0 and (rule.times is None or past <= rule.times):
                    return rule
        return None

    def applied(self, case: Case, rule: Rule) -> int:
        place = next(place for place, each in enumerate(case.rules) if each is rule)
        return self._counts[case.name, place] - rule.skip - 1

    # -- its life ----------------------------------------------------------------------------

    def _in_loop(self, do: Callable[[], T]) -> T:
        async def run() -> T:
            return do()

        assert self._loop is not None, "it does not run"
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        acceptors = await self._listen()
        self._is_ready.set()
        await self._is_over.wait()
        for acceptor in acceptors:
            acceptor.close()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0.05)  # their sockets are closed in the loop's next turns

    async def _listen(self) -> list[asyncssh.SSHAcceptor | asyncio.Server]:
        key = asyncssh.generate_private_key("ssh-ed25519")

        async def listen(**options: Any) -> asyncssh.SSHAcceptor:
            return await asyncssh.listen(
                HOST,
                0,
                config=None,
                server_factory=lambda: _Door(self),
                server_host_keys=[key],
                encoding=None,
                gss_host=None,
                agent_forwarding=False,
                **options,
            )

        usual = await listen()
        compressing = await listen(compression_algs=["zlib@openssh.com"])
        self.port, self.compressing_port = usual.get_port(), compressing.get_port()
        raw = await asyncio.start_server(self._be_raw, HOST, 0)
        self.raw_port = raw.sockets[0].getsockname()[1]
        public = key.export_public_key().decode().split()[:2]
        self._known_hosts.write_text("".join(
            f"[{HOST}]:{port} {' '.join(public)}\n"
            for port in (self.port, self.compressing_port, self.raw_port)
        ))  # fmt: skip
        return [usual, compressing, raw]

    async def _be_raw(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self._raw)
            await writer.drain()
            while await reader.read(1 << 16):
                pass
        writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._is_over.set)
        self._thread.join(10)
        self._directory.cleanup()
