"""What is mounted: the `[user@]host:[dir]` argument, taken apart and checked.

A host or user that could be read as an option by another program, as a shell's word, or that could
forge a line of a configuration or log file, is refused here (by `loginnames.py`).
"""

import os
from typing import NamedTuple

from pysshfs.cli.usage import UsageError, shown
from pysshfs.loginnames import wrong_with_host, wrong_with_user

_FORM = "[user@]host:[dir]"
_URL_SCHEME = "sftp://"


class Source(NamedTuple):
    """The remote side of a mount.

    `host` is without brackets; `path` is the exact bytes of the directory, empty for the login
    directory; `text` is the argument as it was typed, for messages and the list of mounts.
    """

    user: str | None
    host: str
    path: bytes
    text: str


def parse_source(text: str) -> Source:
    """Take `[user@]host:[dir]` apart.

    The host ends at the first colon (or at the closing bracket, for an IPv6 address), so the
    directory may contain anything.  The user ends at the last `@` before the host.

    Raises UsageError for anything else.
    """
    if text[: len(_URL_SCHEME)].lower() == _URL_SCHEME:
        raise UsageError(_url_message(text))
    if "\0" in text:
        raise UsageError(f"source {shown(text)} contains a NUL byte")
    # Only what is before the first colon can hold the user and the start of the host: an '@' or
    # a '[' after it belongs to the directory or to the inside of the brackets.
    head, colon, path = text.partition(":")
    user: str | None
    user, at_sign, host = head.rpartition("@")
    if host.startswith("["):
        host, path = _bracketed(text, len(head) - len(host))
    elif not colon:
        raise UsageError(f"source {shown(text)} has no ':' after the host; use {_FORM}")
    if not at_sign:
        user = None
    else:
        _check_name("user", user, wrong_with_user(user), text)
    _check_name("host", host, wrong_with_host(host), text)
    return Source(user, host, os.fsencode(path), text)


def _bracketed(text: str, start: int) -> tuple[str, str]:
    """Return the host in the brackets that open at `start`, and the directory behind them."""
    host, bracket, rest = text[start + 1 :].partition("]")
    if not bracket:
        raise UsageError(f"source {shown(text)} has a '[' without its ']'; use [address]:[dir]")
    if not rest.startswith(":"):
        raise UsageError(f"source {shown(text)} has no ':' after the ']'; use [address]:[dir]")
    return host, rest[1:]


def _check_name(what: str, name: str, wrong: str | None, text: str) -> None:
    """Refuse a user or host that is empty or that another program could misread."""
    if not name:
        hint = " (an IPv6 address goes in brackets: [::1]:)" if what == "host" else ""
        raise UsageError(f"source {shown(text)} has an empty {what}{hint}; use {_FORM}")
    if wrong is not None:
        raise UsageError(f"source {shown(text)}: the {what} {wrong}; use {_FORM}")


def _url_message(text: str) -> str:
    """Explain how to write what an sftp URL says; a password in it is not repeated."""
    authority, slash, path = text[len(_URL_SCHEME) :].partition("/")
    login, at_sign, address = authority.rpartition("@")
    user = login.partition(":")[0] + at_sign
    closing = address.rfind("]")
    # A colon before the closing bracket is part of the IPv6 address, not the start of a port.
    colon = address.find(":", closing + 1)
    host, port = (address[:colon], address[colon + 1 :]) if colon >= 0 else (address, "")
    form = shown(f"{user}{host or 'host'}:{slash}{path}")
    port_hint = f" with '-p {port}'" if port.isascii() and port.isdigit() else ""
    return f"an sftp:// address is not understood; write {form}{port_hint} instead"
