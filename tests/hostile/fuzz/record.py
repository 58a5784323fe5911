"""Record the conversations anew: `python -m tests.hostile.fuzz.record`, with OpenSSH's server.

Each program of `programs.py` runs once, on a mount of the served directory that is the real one but
for the kernel; ssh(1) carries the bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import trio
import trio.abc

from pysshfs.vfs.config import VfsConfig
from tests.hostile import sftp
from tests.hostile.fuzz.packets import parsed, split
from tests.hostile.fuzz.programs import PROGRAMS, Kernel, Told, make_tree
from tests.hostile.fuzz.recording import BASE, FILE, understood
from tests.hostile.fuzz.wires import World
from tests.support.fake_mount import AskedAtHand
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from pysshfs.remote.session import SftpSession
    from tests.hostile.fuzz.wires import End


class Listener:
    """A channel of a real server; what is said on it goes into `exchanges`."""

    def __init__(self, sshd: Sshd, nursery: trio.Nursery, exchanges: list[list[str]]) -> None:
        argv = sshd.ssh()
        self._argv = [*argv[:1], "-s", *argv[1:], "sftp"]
        self._nursery = nursery
        self._exchanges = exchanges
        self._to_server, self._source = trio.open_memory_channel[bytes](1000)
        self._asked = bytearray()
        self._said = bytearray()
        self._keys: dict[int, tuple[str, bytes]] = {}
        self._handles: dict[bytes, bytes] = {}
        self._scope = trio.CancelScope()

    def opened(self, session: SftpSession) -> None:
        self._nursery.start_soon(self._run, session)

    def sent(self, data: bytes) -> None:
        self._to_server.send_nowait(data)
        self._asked += data
        for packet in split(self._asked):
            request = understood(packet, self._handles)
            self._keys[request.number if request.kind != sftp.INIT else -1] = (
                request.key,
                request.path,
            )

    def closed(self) -> None:
        self._scope.cancel()

    async def _run(self, session: SftpSession) -> None:
        with self._scope:
            process = await trio.lowlevel.open_process(
                self._argv, stdin=-1, stdout=-1, stderr=None, env=dict(os.environ)
            )
            try:
                async with trio.open_nursery() as nursery:
                    assert process.stdout is not None and process.stdin is not None
                    nursery.start_soon(self._feed, process.stdin)
                    async for received in process.stdout:
                        data = bytes(received)
                        self._note(data)
                        session.data_received(data, None)
            finally:
                process.kill()

    async def _feed(self, stdin: trio.abc.SendStream) -> None:
        async for data in self._source:
            await stdin.send_all(data)

    def _note(self, data: bytes) -> None:
        self._said += data
        for packet in split(self._said):
            parsed(packet)  # it is in order
            kind, number = packet[4], int.from_bytes(packet[5:9], "big")
            key, path = self._keys.pop(-1 if kind == sftp.VERSION else number)
            body = packet[5:] if kind == sftp.VERSION else packet[9:]
            if kind == sftp.HANDLE:
                self._handles[body[4:]] = path
            self._exchanges.append([key, (bytes((kind,)) + body).hex()])


async def _record(sshd: Sshd, program: str) -> list[list[str]]:
    exchanges: list[list[str]] = []
    async with trio.open_nursery() as nursery:

        def end(_world: World) -> End:
            return Listener(sshd, nursery, exchanges)

        world = World(BASE, end)
        nursery.start_soon(world.carrier.run)
        remote = await world.connection.connect()
        fs = AskedAtHand(remote, VfsConfig(), clock=trio.current_time)
        nursery.start_soon(fs.run)
        kernel = Kernel(fs, Told())
        await PROGRAMS[program](kernel)
        await kernel.read_all(b"good", 1 << 17)
        await kernel.end_all()
        await trio.sleep(0.2)
        print(
            f"{program}: {len(exchanges)} replies, {kernel.failed} of {kernel.steps} steps failed"
        )
        nursery.cancel_scope.cancel()
    return exchanges


def main() -> None:
    conversations = {}
    with Sshd() as sshd:
        for program in PROGRAMS:
            directory = os.fsdecode(BASE)
            os.mkdir(directory)
            try:
                make_tree(directory)
                conversations[program] = trio.run(_record, sshd, program)
            finally:
                shutil.rmtree(directory)
    lines = [
        f'"{program}": [\n' + ",\n".join(map(json.dumps, exchanges)) + "\n]"
        for program, exchanges in conversations.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
