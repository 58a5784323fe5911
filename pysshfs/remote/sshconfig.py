"""What ssh's configuration says for one host: ~/.ssh/config and -o through asyncssh's parser, and
the keywords that asyncssh leaves to us.

`-o` options are written to an anonymous file that is parsed first, since in ssh_config(5) the first
value wins. It stays open for the life of the process: asyncssh reads it again for every hop. All
of this is done for the first connection only; what it gave is kept (`remote/route.py`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncssh.config import ConfigParseError, SSHClientConfig, SSHConfig

from pysshfs.errors import StartupError
from pysshfs.loginnames import wrong_with_host, wrong_with_user

if TYPE_CHECKING:
    from collections.abc import Sequence

# Their values are one path each; anything else is passed as typed, as ssh would read it.
_ONE_PATH: Final = frozenset({"identityfile", "certificatefile", "identityagent"})

# asyncssh takes these in whole seconds only; ssh_config(5), TIME FORMATS.
_DURATIONS: Final = frozenset({"connecttimeout", "serveraliveinterval"})
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_STRICT_VALUES: Final = {
    "yes": "yes", "true": "yes", "ask": "ask", "accept-new": "accept-new",
    "no": "no", "false": "no", "off": "no",
}  # fmt: skip


class _Parser(SSHClientConfig):
    """asyncssh's parser with the keywords added that it does not act on itself."""

    # asyncssh declares the table without ClassVar.
    _handlers = {  # noqa: RUF012
        **SSHClientConfig._handlers,
        "stricthostkeychecking": ("StrictHostKeyChecking", SSHConfig._set_string),
        "hashknownhosts": ("HashKnownHosts", SSHConfig._set_bool),
        "numberofpasswordprompts": ("NumberOfPasswordPrompts", SSHConfig._set_int),
        "batchmode": ("BatchMode", SSHConfig._set_bool),
        "connectionattempts": ("ConnectionAttempts", SSHConfig._set_int),
    }


class HostConfig:
    """The settings for one host, after Host and Match blocks were applied."""

    def __init__(self, parsed: SSHConfig) -> None:
        self._parsed = parsed

    def _text(self, keyword: str) -> str | None:
        value = self._parsed.get(keyword)
        return None if value is None else str(value)

    def _number(self, keyword: str, default: int) -> int:
        value = self._parsed.get(keyword)
        return value if isinstance(value, int) else default

    def _flag(self, keyword: str) -> bool:
        return self._parsed.get(keyword) is True

    def _list(self, keyword: str) -> list[str] | None:
        value = self._parsed.get(keyword)
        return [str(item) for item in value] if isinstance(value, list) else None

    @property
    def strict_host_key_checking(self) -> str:
        """yes, ask, accept-new or no; anything else is an error, not a default."""
        value = self._text("StrictHostKeyChecking") or "ask"
        strict = _STRICT_VALUES.get(value.lower())
        if strict is None:
            raise StartupError(f"StrictHostKeyChecking={value}: use yes, ask, accept-new or no")
        return strict

    @property
    def hash_known_hosts(self) -> bool:
        return self._flag("HashKnownHosts")

    @property
    def batch_mode(self) -> bool:
        return self._flag("BatchMode")

    @property
    def password_prompts(self) -> int:
        return self._number("NumberOfPasswordPrompts", 3)

    @property
    def connection_attempts(self) -> int:
        return max(self._number("ConnectionAttempts", 1), 1)

    @property
    def has_ciphers(self) -> bool:
        return self._parsed.get("Ciphers") is not None

    @property
    def has_keepalive(self) -> bool:
        return self._parsed.get("ServerAliveInterval") is not None

    @property
    def keepalive(self) -> tuple[int, int]:
        """ServerAliveInterval and ServerAliveCountMax."""
        return self._number("ServerAliveInterval", 0), self._number("ServerAliveCountMax", 3)

    @property
    def has_connect_timeout(self) -> bool:
        return self._parsed.get("ConnectTimeout") is not None

    @property
    def connect_timeout(self) -> int:
        """Seconds; 0 when it is not set."""
        return self._number("ConnectTimeout", 0)

    @property
    def wants_compression(self) -> bool:
        return self._flag("Compression")

    @property
    def proxy_jump(self) -> str | None:
        return self._text("ProxyJump")

    @property
    def proxy_command(self) -> str | None:
        return self._text("ProxyCommand")

    @property
    def user(self) -> str | None:
        return self._text("User")

    def address(self, host: str, port: int | None) -> tuple[str, int]:
        """Where a host really is: its HostName and port."""
        return self._text("Hostname") or host, port or self._number("Port", 22)

    @property
    def has_host_key_algorithms(self) -> bool:
        return self._parsed.get("HostKeyAlgorithms") is not None

    @property
    def host_key_alias(self) -> str | None:
        return self._text("HostKeyAlias")

    @property
    def identities_only(self) -> bool:
        return self._flag("IdentitiesOnly")

    @property
    def identity_files(self) -> list[str] | None:
        return self._list("IdentityFile")

    @property
    def certificate_files(self) -> list[str] | None:
        return self._list("CertificateFile")

    @property
    def user_known_hosts(self) -> list[Path]:
        """Where accepted keys are written (the first) and keys are looked up. `none` means no
        file, which leaves every host unknown; it does not switch checking off."""
        named = self._list("UserKnownHostsFile")
        if named is None:
            named = ["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]
        return [Path(name).expanduser() for name in named]

    @property
    def global_known_hosts(self) -> list[Path]:
        named = self._list("GlobalKnownHostsFile")
        if named is None:
            named = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
        return [Path(name) for name in named]


class SshConfiguration:
    """The files to read, and what they say for a host."""

    def __init__(self, options: Sequence[tuple[str, str]], config_file: str | None) -> None:
        self._override_fd = _options_file(options)
        self.paths = [f"/proc/self/fd/{self._override_fd}", *_config_files(config_file)]

    def for_host(self, host: str, user: str | None, port: int | None) -> HostConfig:
        """Raises `StartupError` for a file that cannot be parsed."""
        try:
            parsed = _Parser.load(
                None, self.paths, False, False, False, _local_user(),
                () if user is None else user, host, () if port is None else port,
            )  # fmt: skip
        except (ConfigParseError, OSError, UnicodeDecodeError) as error:
            raise StartupError(
                f"ssh configuration: {error} (-F FILE names another configuration)"
            ) from None
        config = HostConfig(parsed)
        if config.proxy_command is not None:
            _check_names(config, host)
        return config


def _check_names(config: HostConfig, host: str) -> None:
    """A shell gets to see what the tokens of a ProxyCommand stand for: the name of the host as it
    was given, as HostName makes it, and the user's, wherever they come from. What ssh_config(5)
    gives for them is as much a word of somebody else as the command line."""
    names = {
        "host": (host, wrong_with_host(host)),
        "HostName": (config.address(host, None)[0], wrong_with_host(config.address(host, None)[0])),
        "User": (config.user, wrong_with_user(config.user) if config.user else None),
    }
    for what, (name, wrong) in names.items():
        if wrong is not None:
            raise StartupError(f"ProxyCommand: {what} {name!r} {wrong}: a shell would act on it")


def _options_file(options: Sequence[tuple[str, str]]) -> int:
    lines = []
    for keyword, value in options:
        name = keyword.lower()
        if name in _DURATIONS:
            value = str(_seconds(value))
        elif name == "pubkeyauthentication" and value in ("unbound", "host-bound"):
            value = "yes"  # asyncssh knows no other
        elif name != "proxycommand":
            value = value.replace("\\", "\\\\")  # asyncssh's parser would eat single ones
        if name in _ONE_PATH and " " in value and '"' not in value:
            value = f'"{value}"'
        lines.append(f"{keyword} {value}\n")
    fd = os.memfd_create("ssh-options", os.MFD_CLOEXEC)
    os.write(fd, "".join(lines).encode("utf-8", "surrogateescape"))
    return fd


def _seconds(text: str) -> int:
    """A time such as 30, 90s or 1m30s, as checked by the command line."""
    total, digits = 0, ""
    for character in f"{text}s" if text[-1:].isdigit() else text:
        if character.isdigit():
            digits += character
        else:
            total += int(digits) * _UNIT_SECONDS[character.lower()]
            digits = ""
    return total


def _config_files(config_file: str | None) -> list[str]:
    """As ssh: with -F that file alone (`none` for no file at all), else the user's and the
    system's."""
    if config_file is not None:
        if config_file.lower() == "none":
            return []
        if not os.access(config_file, os.R_OK):
            raise StartupError(f"cannot read the ssh configuration {config_file}")
        return [config_file]
    usual = [Path("~/.ssh/config").expanduser(), Path("/etc/ssh/ssh_config")]
    return [str(path) for path in usual if os.access(path, os.R_OK)]


def _local_user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
