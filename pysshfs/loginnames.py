"""Host and user names: which ones can never be another program's option or a shell's word.

The one place that knows. A name reaches other programs through the tokens of a ProxyCommand (%h,
%n, %r), whose text a shell takes apart, and as a program's argument there. So a name that begins
with a dash, holds blanks or control characters, or what a shell acts on, is refused wherever names
come in: the source and `-o` (`cli/`), ProxyJump and ssh_config (`remote/`).

Pure; used by any layer. ssh refuses much the same names on its command line (OpenSSH 9.6's
release notes; valid_hostname and valid_ruser in ssh.c).
"""

from __future__ import annotations

from typing import Final

# What a shell acts on, wherever it stands in a word. Of these a user may have a backslash inside
# (DOMAIN\user): no shell makes another word of it.
_SHELL: Final = frozenset("'`\"$\\;&<>|(){}")
# Lists of hosts, patterns, comments and history; and what ends a host in a source.
_NOT_IN_HOSTS: Final = _SHELL | frozenset(",*?[]~#!^@/")


def wrong_with_host(host: str) -> str | None:
    """Why this is not taken for a host, completing "the host ..."; None if it is one."""
    return _wrong(host) or _holds(host, _NOT_IN_HOSTS)


def wrong_with_user(user: str) -> str | None:
    """Why this is not taken for a user, completing "the user ..."; None if it is one."""
    if user.endswith("\\"):
        return "may not end with a backslash"
    return _wrong(user) or _holds(user.replace("\\", ""), _SHELL)


def _wrong(name: str) -> str | None:
    if not name:
        return "may not be empty"
    if name.startswith("-"):
        return "may not begin with '-'"
    # Bytes that are not valid text arrive as lone surrogates, which are not printable either.
    if any(character.isspace() or not character.isprintable() for character in name):
        return "may not contain whitespace or control characters"
    return None


def _holds(name: str, forbidden: frozenset[str]) -> str | None:
    found = next((character for character in name if character in forbidden), None)
    return None if found is None else f"may not contain {found!r}"
