"""An SSH server that lets people in with a password or with questions and answers.

OpenSSH would need an account with a password for that. Run as a program it serves on a free port
of loopback, prints the port, and writes each attempt to standard output: the method, the hop's
name, and what was answered. `LoginServer` is that program and its host key, for tests.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asyncssh

from tests.support import procs

if TYPE_CHECKING:
    from asyncssh.auth import KbdIntChallenge, KbdIntResponse

HOST = "127.0.0.1"
PASSWORD = "correct horse"  # with a blank, which must survive


class _Login(asyncssh.SSHServer):
    def __init__(self, method: str, question: str) -> None:
        self._method, self._question = method, question

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return self._method == "password"

    def validate_password(self, username: str, password: str) -> bool:
        print(f"password {username} {password}", flush=True)
        return password == PASSWORD

    def kbdint_auth_supported(self) -> bool:
        return self._method == "questions"

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> KbdIntChallenge:
        return "", "", "", [(self._question, False)]

    def validate_kbdint_response(self, username: str, responses: KbdIntResponse) -> KbdIntChallenge:
        print(f"answer {username} {' '.join(responses)}", flush=True)
        return list(responses) == [PASSWORD]


async def _serve(key: str, method: str, question: str) -> None:
    listening = await asyncssh.listen(
        HOST,
        0,
        server_factory=lambda: _Login(method, question),
        server_host_keys=[key],
        sftp_factory=True,
    )
    print(listening.get_port(), flush=True)
    await asyncio.Event().wait()


class LoginServer:
    """``with LoginServer("password") as server: ...``; `question` is for "questions"."""

    def __init__(self, method: str, question: str = "Code: ") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="pysshfs-login-")
        directory = Path(self._directory.name)
        key = directory / "key"
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        procs.run_limited(argv, timeout=20)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(key), method, question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=procs.ROOT,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.attempts: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.known_hosts = directory / "known_hosts"
        public = key.with_suffix(".pub").read_text().split()
        self.known_hosts.write_text(f"[{HOST}]:{self.port} {public[0]} {public[1]}\n")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.attempts.append(line.rstrip("\n"))

    def options(self) -> list[str]:
        return [f"port={self.port}", f"UserKnownHostsFile={self.known_hosts}", "IdentityFile=none"]

    def source(self, directory: str = "/", user: str = "somebody") -> str:
        return f"{user}@{HOST}:{directory}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._directory.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("key", "method", "question"):
        parser.add_argument(name)
    wanted = parser.parse_args()
    asyncio.run(_serve(wanted.key, wanted.method, wanted.question))
