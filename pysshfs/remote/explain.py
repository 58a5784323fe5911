"""What went wrong while logging in, as the user is told: asyncssh's exceptions become ours."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import asyncssh

from pysshfs.errors import AuthenticationError, HostKeyError, StartupError, UnreachableError
from pysshfs.remote.hostkeys import refused
from pysshfs.remote.session import words_of

if TYPE_CHECKING:
    from pysshfs.remote.route import Waypoint


def explained(waypoint: Waypoint, error: Exception) -> StartupError:
    """What went wrong at one hop, as the user is told."""
    host = waypoint.hop.host
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return refused(waypoint.policy, error)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        # With a host key known, only its kind is asked for: a server without is another one.
        kind = HostKeyError if "host key" in error.reason else UnreachableError
        return kind(f"{host}: {words_of(error)}")
    if isinstance(error, asyncssh.Error) and _is_refusal(error):
        reasons = [words_of(error), *waypoint.keys.passed_over]
        if waypoint.lacks_terminal:
            reasons.append(
                "there is no terminal to ask for a password on: use -o IdentityFile=KEY, without a"
                " passphrase, or IdentityAgent=SOCKET"
            )
        return AuthenticationError("; ".join(reasons))
    if isinstance(error, (asyncssh.KeyEncryptionError, asyncssh.KeyImportError)):
        return AuthenticationError(f"{host}: a key cannot be used: {error}")
    if isinstance(error, socket.gaierror):
        return UnreachableError(f"{host}: {error.strerror}")
    if isinstance(error, (asyncssh.Error, TimeoutError)):
        return UnreachableError(f"{host}: {words_of(error) or 'timed out'}")
    if isinstance(error, OSError):
        reason = os.strerror(error.errno) if error.errno else str(error)
        return UnreachableError(f"{host}: {reason}")
    return StartupError(f"ssh options: {error}")  # a ValueError: an option it cannot use


def _is_refusal(error: asyncssh.Error) -> bool:
    """Whether the server let nobody in. OpenSSH has no code of its own for too many keys."""
    if isinstance(error, (asyncssh.PermissionDenied, asyncssh.IllegalUserName)):
        return True
    return "authentication failures" in error.reason
