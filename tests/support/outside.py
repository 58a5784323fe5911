"""What a login uses outside of the daemon: an ordinary user's agent, a ProxyCommand."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.commands import ORDINARY, Workspace, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sshd import Sshd

#: Notes its rights in a file, then makes the connection.
_RELAY = """
import os, socket, sys, threading
with open(sys.argv[1], "a") as notes, open("/proc/self/status") as status:
    words = [line.split()[1] for line in status if line.startswith(("Cap", "NoNewPrivs"))]
    print(*words, file=notes)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
def copy(read, write):
    while part := read(65536):
        write(part)
    os._exit(0)
threading.Thread(target=copy, args=(connection.recv, lambda b: os.write(1, b))).start()
copy(lambda n: os.read(0, n), connection.sendall)
"""


def proxy_command(work: Workspace, server: Sshd) -> tuple[str, Path]:
    """The option, and the file in which its program leaves a line each time: its capabilities and
    no_new_privs as /proc has them."""
    notes = work.home / "notes"
    script = work.home / "relay.py"
    script.write_text(_RELAY)
    words = [sys.executable, "-I", str(script), str(notes), str(server.port)]
    return f"ProxyCommand={shlex.join(words)}".replace(",", "\\,"), notes


@contextlib.contextmanager
def agent_of_ordinary_user(work: Workspace, server: Sshd, path: Path) -> Iterator[dict[str, str]]:
    """An agent with the server's key, listening at `path`, in a directory of that user; what the
    environment is to have for it."""
    ordinary = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
    process = subprocess.Popen(
        [*ordinary, "ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL
    )
    env = {"SSH_AUTH_SOCK": str(path)}
    key = path.with_name("key-for-the-agent")
    try:
        wait_until("the agent", lambda: _answers(path))
        shutil.copyfile(server.client_key, key)
        os.chown(key, ORDINARY, ORDINARY)
        key.chmod(0o600)
        work.run([*ordinary, "ssh-add", "-q", str(key)], env=env, check=True)
        key.unlink()
        yield env
    finally:
        process.kill()
        process.wait(10)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0
