"""A program that connects, reconnects, and says which files and modules it took to do so.

Its argument is what `Plan` holds, as JSON. It says on standard output, one line each, which state
the connection is in; from the first line on standard input on, it notes what is opened, and at the
second it says so, as JSON, and ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import trio

from pysshfs.remote.bridge import Bridge
from pysshfs.remote.connection import Hop, ServerConnection, State, Target
from pysshfs.remote.sshconfig import SshConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.errors import ConnectionLostError
    from pysshfs.remotefs import RemoteFS


class Nobody:
    """No terminal."""

    available = False

    def confirm(self, text: str, fingerprint: str) -> bool:
        raise AssertionError(text)

    def secret(self, text: str) -> str | None:
        raise AssertionError(text)


class User:
    in_doubt = True

    def lost(self, error: ConnectionLostError) -> None:
        pass

    async def resume(self, remote: RemoteFS) -> None:
        await remote.stat(b"")

    def given_up(self, error: ConnectionLostError) -> None:
        pass


class Saying(ServerConnection):
    def _set_state(self, state: State, reason: str, level: int = 0) -> None:
        super()._set_state(state, reason, level)
        print(state.value, flush=True)


class Notes:
    """What is looked at, once `on`."""

    def __init__(self) -> None:
        self.on = False
        self.looked_at: list[str] = []
        sys.addaudithook(self._hear)
        for name in ("stat", "lstat", "access", "readlink"):
            setattr(os, name, self._noting(getattr(os, name)))

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in ("open", "os.listdir", "os.scandir", "import", "glob.glob"):
            self.looked_at.append(f"{event} {args[0]!r}")

    def _noting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def noting(path: Any, *args: Any, **kwargs: Any) -> Any:
            if self.on and not isinstance(path, int):
                self.looked_at.append(f"{original.__name__} {path!r}")
            return original(path, *args, **kwargs)

        return noting


async def main() -> None:
    plan = json.loads(sys.argv[1])
    notes = Notes()
    bridge = Bridge()
    async with trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        connection = Saying(
            bridge,
            Target(Hop(plan["host"], None, None), b"/", "sftp"),
            SshConfiguration([tuple(pair) for pair in plan["options"]], None),
            Nobody(),
            None,
        )
        await connection.connect()
        nursery.start_soon(lambda: connection.keep_up(User(), reconnect=True))
        await trio.lowlevel.wait_readable(0)
        os.read(0, 1)
        modules = set(sys.modules)
        notes.on = True
        await trio.lowlevel.wait_readable(0)
        notes.on = False
        more = sorted(set(sys.modules) - modules)
        print(json.dumps({"looked_at": notes.looked_at, "modules": more}), flush=True)
        await connection.close()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
