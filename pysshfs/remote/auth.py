"""asyncssh's callbacks while logging in: host keys, passwords, challenges.

Prompts happen on the terminal, before the mount and while the loop stands still: nothing else is
running yet. A password lives as long as the login.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.remote.hostkeys import HostKeyPolicy, Prompter

log = logging.getLogger(__name__)


class Credentials:
    """Where passwords come from: given beforehand (`password_stdin`), or the terminal."""

    def __init__(self, prompter: Prompter, password: str | None) -> None:
        self._prompter = prompter
        self._given = password

    def password(self, text: str, may_ask: bool) -> str | None:
        """The next password to try, None when there is no other."""
        given, self._given = self._given, None
        if given is not None:
            return given
        if not may_ask or not self._prompter.available:
            return None
        return self._prompter.secret(text)


class LoginClient(asyncssh.SSHClient):
    """One login to one host."""

    def __init__(
        self,
        policy: HostKeyPolicy,
        credentials: Credentials,
        account: str,
        may_ask: bool,
        prompts: int,
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        self._account = account
        self._may_ask = may_ask
        self._passwords_left = prompts
        self._challenges_left = prompts

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        return self._policy.accept(host, port, key)

    def auth_banner_received(self, msg: str, lang: str) -> None:
        for line in msg.splitlines()[:20]:
            log.info("the server says: %s", line[:200])

    def password_auth_requested(self) -> str | None:
        if self._passwords_left <= 0:
            return None
        self._passwords_left -= 1
        return self._credentials.password(f"{self._account}'s password: ", self._may_ask)

    def kbdint_auth_requested(self) -> str | None:
        if self._challenges_left <= 0:
            return None
        self._challenges_left -= 1
        return ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        answers = []
        for text, _echo in prompts:
            answer = self._credentials.password(f"{self._account}: {text}", self._may_ask)
            if answer is None:
                return None
            answers.append(answer)
        return answers
