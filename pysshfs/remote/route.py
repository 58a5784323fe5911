"""The way to the server: which hosts lie on it, and all that is known of each.

A `Waypoint` owns what a login needs that came out of a file or from the user: the configuration,
the host keys, the private keys (one whose passphrase was typed stays decrypted) and the password,
if it took one. It is filled for the first connection, before the mount, and serves all later ones:
a reconnect reads no file that could lie under the mountpoint, and asks nobody. What it uses beyond
memory is named here: the agent's socket, a ProxyCommand, and the system's name resolution.

Touched by: the task that connects (`remote/link.py`); `settle` once, by `remote/connection.py`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pysshfs.errors import StartupError
from pysshfs.loginnames import wrong_with_host, wrong_with_user
from pysshfs.remote.auth import Credentials, LoginClient, load_certificates, load_keys
from pysshfs.remote.hostkeys import HostKeyPolicy

if TYPE_CHECKING:
    import asyncssh

    from pysshfs.remote.hostkeys import Prompter
    from pysshfs.remote.sshconfig import HostConfig, SshConfiguration

_CONNECT_SECONDS: Final = 30
_KEEPALIVE_SECONDS: Final = 15
_KEEPALIVE_MISSED: Final = 3
_MOST_HOPS: Final = 8


class Hop(NamedTuple):
    host: str
    user: str | None
    port: int | None


class Target(NamedTuple):
    """What to mount: the last hop and the directory there (b"" is the login directory)."""

    hop: Hop
    path: bytes
    sftp_server: str  # the subsystem's name, or a command when it holds a slash


def parse_jumps(text: str | None) -> list[Hop]:
    """ProxyJump's [user@]host[:port], separated by commas (ssh_config(5))."""
    hops = []
    for item in (text or "").split(","):
        item = item.strip().removeprefix("ssh://")
        if not item or item.lower() == "none":
            continue
        user, _, place = item.rpartition("@")
        if place.startswith("["):
            host, _, port = place[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = place.partition(":")
        wrong = wrong_with_host(host) or (wrong_with_user(user) if user else None)
        if wrong or (port and not port.isdigit()):
            raise StartupError(f"ProxyJump: {item!r} is not [user@]host[:port]")
        hops.append(Hop(host, user or None, int(port) if port else None))
    return hops


def processor_has_aes() -> bool:
    """AES-GCM is about twice as fast as asyncssh's first choice where the processor helps."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(" aes" in line for line in file if line.startswith(("flags", "Features")))
    except OSError:
        return False


class Outside(NamedTuple):
    """What another login uses beyond what is in memory; and the system's name resolution."""

    agents: tuple[str, ...]  # paths of sockets
    starts_programs: bool  # a ProxyCommand


class _AtFirst:
    """The terminal, for as long as the first connection is being made; nobody afterwards."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter: Prompter | None = prompter

    @property
    def available(self) -> bool:
        return self._prompter is not None and self._prompter.available

    def confirm(self, text: str, fingerprint: str) -> bool:
        return self._prompter is not None and self._prompter.confirm(text, fingerprint)

    def secret(self, text: str) -> str | None:
        return None if self._prompter is None else self._prompter.secret(text)

    def leave(self) -> None:
        self._prompter = None


class Waypoint:
    """One host on the way."""

    def __init__(
        self,
        hop: Hop,
        config: HostConfig,
        config_paths: list[str],
        prompter: Prompter,
        password: str | None,
    ) -> None:
        self.hop = hop
        self.config = config
        self._may_ask = prompter.available and not config.batch_mode
        self.lacks_terminal = not prompter.available  # where somebody might have been asked
        self.policy = HostKeyPolicy(config, prompter)
        self.credentials = Credentials(prompter, password)
        ask = functools.partial(_ask_passphrase, prompter) if self._may_ask else None
        self.keys = load_keys(config.identity_files, ask)
        self._certificates = load_certificates(config.certificate_files, self.keys.passed_over)
        self._config_paths = config_paths
        self._first: asyncssh.SSHClientConnectionOptions | None = None

    @property
    def keepalive(self) -> tuple[int, int]:
        """Seconds between the questions, and how many may go unanswered."""
        if self.config.has_keepalive:
            return self.config.keepalive
        return _KEEPALIVE_SECONDS, _KEEPALIVE_MISSED

    @property
    def agent(self) -> str | None:
        """The path of the agent's socket, once logged in; None without an agent."""
        return None if self._first is None else self._first.agent_path

    def can_repeat(self) -> bool:
        """Whether another login would ask nobody anything, as far as that can be told: answers to
        questions may have been one-time codes, a key may want its button pressed."""
        has_buttons = any(pair.algorithm.startswith(b"sk-") for pair in self.keys.pairs)
        return not has_buttons and not self.credentials.has_answered

    def options(self) -> dict[str, Any]:
        """What `asyncssh.connect` is to be told, besides the hop before."""
        self.policy.refusal = None
        # After the first login these are its own, with the configuration parsed and everything
        # loaded, and asyncssh is given no file to read.
        options = self._first_options() if self._first is None else self._later_options(self._first)
        options["client_factory"] = functools.partial(
            LoginClient,
            self.policy,
            self.credentials,
            self._account,
            self._may_ask,
            self.config.password_prompts,
        )
        return options

    @property
    def _account(self) -> str:
        return f"{self.hop.user}@{self.hop.host}" if self.hop.user else self.hop.host

    def _first_options(self) -> dict[str, Any]:
        hop, config, keys = self.hop, self.config, self.keys
        options: dict[str, Any] = {
            "host": hop.host,
            "port": () if hop.port is None else hop.port,
            "config": self._config_paths,
            "known_hosts": self.policy.trusted,
            "client_keys": keys.pairs,
            "client_certs": self._certificates,
            # ssh knows no X.509, and asyncssh would look for files of it each time.
            "x509_trusted_certs": None,
            "x509_trusted_cert_paths": [],
        }
        if config.identities_only and keys.identities:
            options["agent_identities"] = keys.identities
        elif config.identities_only:
            options["agent_path"] = None
        if not config.has_host_key_algorithms:
            place = config.address(hop.host, hop.port)
            options["server_host_key_algs"] = self.policy.algorithms(*place)
        if hop.user is not None:
            options["username"] = hop.user
        if not config.has_ciphers and processor_has_aes():
            options["encryption_algs"] = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
        if not config.wants_compression:
            # asyncssh takes it if the server insists, and a packet can unpack to 1,000 times.
            options["compression_algs"] = None
        if not config.has_keepalive:
            options["keepalive_interval"], options["keepalive_count_max"] = self.keepalive
        if not config.has_connect_timeout:
            options["connect_timeout"] = _CONNECT_SECONDS
        return options

    @staticmethod
    def _later_options(first: asyncssh.SSHClientConnectionOptions) -> dict[str, Any]:
        return {
            "host": first.orig_host,  # canonical by now, where that was wanted
            "port": first.port,
            "options": first,
            "config": None,
            # Left over from applying Match final; they would drop what was parsed.
            "reload": False,
            "canonical": False,
            "final": False,
            "canonicalize_hostname": False,
        }

    def logged_in(self, link: asyncssh.SSHClientConnection) -> None:
        """Remember what this login took."""
        self.credentials.settle()
        if self._first is None:
            # Not public, but the one place where asyncssh has the result of canonical names and
            # of Match final; without it the files would have to be read again.
            self._first = link._options
            self._first.kwargs["tunnel"] = self._first.tunnel = None  # it dies with its session


class Route:
    """The hosts from here to the served directory, in order."""

    def __init__(
        self,
        target: Target,
        configuration: SshConfiguration,
        prompter: Prompter,
        password: str | None,
    ) -> None:
        self.target = target
        self.settled = False  # whether everything is in memory
        self._configuration = configuration
        self._prompter = _AtFirst(prompter)
        self._password = password
        self._hops: list[tuple[Hop, HostConfig | None]] = []
        self._waypoints: list[Waypoint] = []

    def __len__(self) -> int:
        if not self._hops:
            last = self.target.hop
            config = self._configuration.for_host(*last)
            jumps = parse_jumps(config.proxy_jump)
            if len(jumps) >= _MOST_HOPS:
                raise StartupError(f"ProxyJump: more than {_MOST_HOPS - 1} hops")
            self._hops = [*((jump, None) for jump in jumps), (last, config)]
        return len(self._hops)

    def waypoint(self, index: int) -> Waypoint:
        """Made when it is reached for the first time: it may ask for a passphrase."""
        if index == len(self._waypoints):
            hop, config = self._hops[index]
            # The given password is the last hop's: no other server gets to see it.
            password = self._password if index == len(self) - 1 else None
            self._waypoints.append(
                Waypoint(
                    hop,
                    config or self._configuration.for_host(*hop),
                    self._configuration.paths,
                    self._prompter,
                    password,
                )
            )
        return self._waypoints[index]

    @property
    def target_timeout(self) -> int:
        """ConnectTimeout of the last hop (seconds); 0 when it is not set."""
        return self.waypoint(len(self) - 1).config.connect_timeout

    @property
    def outside(self) -> Outside:
        """Once it is settled."""
        agents = dict.fromkeys(waypoint.agent for waypoint in self._waypoints)
        first = self._waypoints[0].config  # those behind it are reached through a tunnel
        return Outside(tuple(filter(None, agents)), first.proxy_command is not None)

    def settle(self) -> None:
        """The first connection is made: from here on no file is read and nobody is asked."""
        self.settled = True
        self._password = None
        self._prompter.leave()
        for waypoint in self._waypoints:
            waypoint.policy.settle()
            waypoint.lacks_terminal = False

    def forget_passwords(self) -> None:
        """There will be no other login."""
        for waypoint in self._waypoints:
            waypoint.credentials.forget()


def _ask_passphrase(prompter: Prompter, filename: str) -> str | None:
    return prompter.secret(f"Passphrase for the key {filename}: ")
