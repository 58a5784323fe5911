"""Host keys: is the server the one it was before?

asyncssh matches known_hosts files (plain, hashed, patterns, @cert-authority, @revoked); what to do
with a key that they do not hold is decided here, as `StrictHostKeyChecking` says. The files are
read once, before the mount, and held in memory with what was accepted since: a reconnect opens no
file that could lie under the mount, and accepts no key that the first connection did not know.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol

import asyncssh
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from pysshfs.errors import HostKeyError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pysshfs.remote.sshconfig import HostConfig

log = logging.getLogger(__name__)

_SSH_PORT = 22


class Prompter(Protocol):
    """The terminal, as far as there is one. Only before the mount."""

    @property
    def available(self) -> bool: ...

    def confirm(self, text: str, fingerprint: str) -> bool:
        """Whether the user answers yes, or gives the fingerprint itself."""
        ...

    def secret(self, text: str) -> str | None:
        """A password; None when the user gives none."""
        ...


def known_hosts_name(host: str, port: int) -> str:
    """A host as ssh writes it in known_hosts."""
    host = host.lower()
    return host if port == _SSH_PORT else f"[{host}]:{port}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("cannot read %s: %s", path, error.strerror)
        return ""


class HostKeyPolicy:
    """Decides for one host. After a refusal, `refusal` holds the reason for the user."""

    def __init__(self, config: HostConfig, prompter: Prompter) -> None:
        self._strict = config.strict_host_key_checking
        self._hash_names = config.hash_known_hosts
        self._may_ask = prompter.available and not config.batch_mode
        self._prompter = prompter
        self._has_alias = config.host_key_alias is not None
        self._user_files = config.user_known_hosts
        files = [*self._user_files, *config.global_known_hosts]
        self._known = asyncssh.SSHKnownHosts()
        for path in files:
            self._load(path)
        self._accepted: set[bytes] = set()
        self._settled = False
        self.refusal: str | None = None

    def settle(self) -> None:
        """From here on (a reconnect) no unknown key is accepted, whatever the strictness."""
        self._settled = True

    def _load(self, path: Path) -> None:
        # Line by line: one bad line must not hide the others, nor let a changed key pass as new.
        for number, line in enumerate(_read(path).splitlines(), 1):
            try:
                self._known.load(line + "\n")
            except ValueError as error:
                log.warning("%s line %d is ignored: %s", path, number, error)

    def algorithms(self, host: str, port: int) -> list[str]:
        """The kinds of host key to ask for, the known ones first. As in ssh the others are not
        left out: a server that has none of the known kinds is to be told from one that is lost."""
        known = self.trusted(host, "", port if port != _SSH_PORT else None)
        # A certificate counts only when its authority is known, and would keep the key away.
        kinds = [*get_default_certificate_algs()] if known[1] else []
        for key in known[0]:
            kinds.extend(key.sig_algorithms)
        kinds.extend(get_default_public_key_algs())
        return [kind.decode("ascii") for kind in dict.fromkeys(kinds)]

    def trusted(self, host: str, addr: str, port: int | None) -> Sequence[Any]:
        """What is known of a host, in the order that asyncssh wants it in."""
        # Not by address: an entry for the address says nothing about the name, and who controls
        # the name's resolution may own a known address.
        exact = self._known.match(self._name(host, port or _SSH_PORT), "", None)
        if port is None or self._has_alias:
            return exact
        # As in ssh, an entry without the port is good enough when there is none with it.
        general = self._known.match(host.lower(), "", None)
        revoked = [*exact[2], *general[2]]
        revoked_certificates = [*exact[4], *general[4]]
        chosen = exact if any((exact[0], exact[1], exact[3], exact[5])) else general
        return [*chosen[:2], revoked, chosen[3], revoked_certificates, *chosen[5:]]

    def _name(self, host: str, port: int) -> str:
        return host.lower() if self._has_alias else known_hosts_name(host, port)

    def accept(self, host: str, port: int, key: asyncssh.SSHKey) -> bool:
        """A key that no known_hosts file holds for this host. May ask the user."""
        name = self._name(host, port)
        known = self._known.match(name, "", None)[0]
        fingerprint = key.get_fingerprint()
        if key.public_data in self._accepted:
            return True
        if known:
            expected = ", ".join(sorted({other.get_fingerprint() for other in known}))
            self.refusal = (
                f"the host key of {name} has CHANGED: it is {fingerprint}, known is {expected}; "
                f"somebody may be in between. If the change is right: ssh-keygen -R '{name}'"
            )
            return False
        if not self._is_welcome(name, key, fingerprint):
            return False
        self._accepted.add(key.public_data)
        public = key.export_public_key("openssh").decode("ascii").split()
        entry = f"{public[0]} {public[1]}"
        with contextlib.suppress(ValueError):  # a name that is none
            self._known.load(f"{name} {entry}\n")  # from now on another key is a changed one
        self._remember(name, entry)
        return True

    def _is_welcome(self, name: str, key: asyncssh.SSHKey, fingerprint: str) -> bool:
        if self._settled:
            self.refusal = f"the host key of {name} is not the one from before: it is {fingerprint}"
            return False
        if self._strict in ("accept-new", "no"):
            log.warning("accepting the unknown host key %s of %s", fingerprint, name)
            return True
        if self._strict == "yes":
            self.refusal = f"the host key of {name} is not known: {fingerprint}"
            return False
        if not self._may_ask:
            self.refusal = (
                f"the host key of {name} is not known ({fingerprint}) and there is no terminal to "
                "ask on: connect once with ssh as the same user, or use -o UserKnownHostsFile=FILE,"
                " with the key in it, or StrictHostKeyChecking=accept-new"
            )
            return False
        kind = key.algorithm.decode("ascii", "replace")
        text = (
            f"The host {name} is not known yet. Its {kind} key has the fingerprint\n"
            f"{fingerprint}.\nIs it the right one (yes/no/fingerprint)? "
        )
        if self._prompter.confirm(text, fingerprint):
            return True
        self.refusal = f"the host key of {name} was not accepted"
        return False

    def _remember(self, name: str, entry: str) -> None:
        """Append to the first user file, as ssh does; failing to is no reason to stop."""
        if not self._user_files:
            return
        path = self._user_files[0]
        line = f"{_hashed(name) if self._hash_names else name} {entry}\n"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(fd).st_size
                unfinished = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
                os.write(fd, (b"\n" if unfinished else b"") + line.encode())
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("cannot add the host key to %s: %s", path, error.strerror)


def _hashed(name: str) -> str:
    """sshd(8), SSH_KNOWN_HOSTS FILE FORMAT: |1|salt|HMAC-SHA1 of the name."""
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def refused(policy: HostKeyPolicy, error: Exception) -> HostKeyError:
    return HostKeyError(policy.refusal or str(error))
