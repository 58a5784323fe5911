"""asyncssh's callbacks while logging in: host keys, passwords, challenges.

Prompts happen on the terminal, before the mount and while the loop stands still: nothing else is
running yet. A password lives as long as the login, unless it took one: then what was answered is
kept, for that host alone, since a reconnect cannot ask. Without reconnects nothing is kept.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import asyncssh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysshfs.remote.hostkeys import HostKeyPolicy, Prompter

log = logging.getLogger(__name__)


_DEFAULT_KEYS: Final = (
    "id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk", "id_dsa",
)  # fmt: skip


class _Pairs(list[asyncssh.SSHKeyPair]):
    """For asyncssh a list that is false stands for the default keys; an empty one here does not."""

    def __bool__(self) -> bool:
        return True


class Keys(NamedTuple):
    """The private keys to offer."""

    pairs: _Pairs
    identities: list[bytes]  # the public halves: what IdentitiesOnly lets the agent offer
    passed_over: list[str]  # why others are not offered, for the user when the login fails


def load_keys(names: Sequence[str] | None, ask: Callable[[str], str | None] | None) -> Keys:
    """The configured keys, or the usual ones (None). As in ssh, one that cannot be used is passed
    over. An encrypted key's passphrase is asked for when the server wants that key."""
    keys = Keys(_Pairs(), [], [])
    usual = [os.path.expanduser(f"~/.ssh/{name}") for name in _DEFAULT_KEYS]
    for path in usual if names is None else map(os.path.expanduser, names):
        try:
            pairs = _load_pairs(path, ask, keys.passed_over)
        except FileNotFoundError:
            if names is not None:
                keys.passed_over.append(f"the key {path} does not exist")
        except OSError as error:
            keys.passed_over.append(f"the key {path}: {error.strerror}")
        except ValueError as error:
            public = _public_half(path)  # it may choose one of the agent's
            if public is None:
                keys.passed_over.append(f"the key {path} cannot be used: {error}")
            else:
                keys.identities.append(public)
        else:
            keys.pairs.extend(pairs)
            keys.identities.extend(pair.public_data for pair in pairs)
            if not pairs:
                keys.passed_over.append(f"the key {path} is encrypted and nobody can be asked")
                public = _public_half(path)
                keys.identities.extend([] if public is None else [public])
    return keys


def load_certificates(
    names: Sequence[str] | None, passed_over: list[str]
) -> list[asyncssh.SSHCertificate]:
    """CertificateFile. As in ssh, one that cannot be used is passed over."""
    certificates: list[asyncssh.SSHCertificate] = []
    for path in map(os.path.expanduser, names or ()):
        try:
            certificates.extend(asyncssh.load_certificates(path))
        except OSError as error:
            passed_over.append(f"the certificate {path}: {error.strerror}")
        except ValueError as error:
            passed_over.append(f"the certificate {path} cannot be used: {error}")
    return certificates


def _load_pairs(
    path: str, ask: Callable[[str], str | None] | None, passed_over: list[str]
) -> Sequence[asyncssh.SSHKeyPair]:
    pairs = asyncssh.load_keypairs([path], ignore_encrypted=True)
    if pairs or ask is None:
        return pairs
    if _public_half(path) is None:  # nothing to offer before it is decrypted
        return asyncssh.load_keypairs([path], ask(path))
    # A callable is documented, but not in the annotation.
    pairs = asyncssh.load_keypairs([path], cast("str", ask))
    for pair in pairs:
        if not pair.algorithm.startswith(b"sk-"):
            pair.use_executor = False  # asyncssh would have a thread ask for the passphrase
        _note_failure(pair, path, passed_over)
    return pairs


def _note_failure(pair: asyncssh.SSHKeyPair, path: str, passed_over: list[str]) -> None:
    """Keep the reason why a key could not be decrypted: asyncssh just tries the next one."""
    sign = pair.sign

    def noting(data: bytes) -> bytes:
        try:
            return sign(data)
        except ValueError as error:
            reason = f"the key {path} cannot be used: {error}"
            if reason not in passed_over:
                passed_over.append(reason)
            raise

    pair.sign = noting  # type: ignore[method-assign]  # asyncssh makes the object, of its class


def _public_half(path: str) -> bytes | None:
    for name in (f"{path}.pub", path):
        try:
            return asyncssh.read_public_key(Path(name)).public_data
        except (OSError, ValueError):
            continue
    return None


def _printable(text: str) -> str:
    """A server's words for the terminal, which must not be steered by them."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Credentials:
    """Where one host's passwords come from: given beforehand (`password_stdin`), or the terminal;
    after the first login, only what that one took."""

    def __init__(self, prompter: Prompter, password: str | None) -> None:
        self._prompter = prompter
        self._given = password
        self._answered: dict[str, list[str]] = {}  # in this login, by method
        self._kept: dict[str, list[str]] | None = None
        self._left: dict[str, list[str]] = {}  # of `_kept`, not yet tried in this login

    def begin(self) -> None:
        """A login begins."""
        self._answered = {}
        self._left = {method: [*answers] for method, answers in (self._kept or {}).items()}

    def begin_method(self, method: str) -> None:
        """What was answered before was refused: it is of no use another time."""
        self._answered[method] = []

    def password(self, method: str, text: str, may_ask: bool) -> str | None:
        """The next password to try, None when there is no other."""
        answer = self._next(method, text, may_ask)
        if answer is not None:
            self._answered.setdefault(method, []).append(answer)
        return answer

    def _next(self, method: str, text: str, may_ask: bool) -> str | None:
        if self._kept is not None:
            left = self._left.get(method)
            return left.pop(0) if left else None
        given, self._given = self._given, None
        if given is not None:
            return given
        if not may_ask or not self._prompter.available:
            return None
        return self._prompter.secret(text)

    @property
    def has_answered(self) -> bool:
        """Whether the login took answers to the server's questions."""
        return bool(self._kept is not None and self._kept.get("questions"))

    def settle(self) -> None:
        """The login is done. What it did not need is forgotten."""
        if self._kept is None:
            self._kept = {method: answers for method, answers in self._answered.items() if answers}
        self._given = None
        self._answered, self._left = {}, {}

    def forget(self) -> None:
        """There will be no other login."""
        self._kept = {}


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
        credentials.begin()

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        return self._policy.accept(host, port, key)

    def auth_banner_received(self, msg: str, lang: str) -> None:
        for line in msg.splitlines()[:20]:
            log.info("the server says: %s", _printable(line[:200]))

    def password_auth_requested(self) -> str | None:
        if self._passwords_left <= 0:
            return None
        self._passwords_left -= 1
        self._credentials.begin_method("password")
        text = f"{self._account}'s password: "
        return self._credentials.password("password", text, self._may_ask)

    def kbdint_auth_requested(self) -> str | None:
        if self._challenges_left <= 0:
            return None
        self._challenges_left -= 1
        self._credentials.begin_method("questions")
        return ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> list[str] | None:
        answers = []
        for text, _echo in prompts:
            question = f"{self._account}: {_printable(text[:200])}"
            answer = self._credentials.password("questions", question, self._may_ask)
            if answer is None:
                return None
            answers.append(answer)
        return answers
