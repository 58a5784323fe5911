"""What an option is: the types that the registry (`options.py`) is written in."""

import enum
from typing import NamedTuple

Value = bool | int | float | str | None


class Kind(enum.Enum):
    """What an option takes for a value."""

    FLAG = "no value"
    YESNO = "'yes' or 'no'"
    INTEGER = "a whole number"
    SECONDS = "a number of seconds"
    SIZE = "a number of bytes"
    OCTAL = "an octal mode"
    STRING = "a text"
    PATH = "a path"
    CHOICE = "one of"
    DURATION = "a time such as 30, 90s or 1m30s"  # as ssh_config(5) writes times
    ANY = "a value or none"


class Destination(enum.Enum):
    """Who acts on an option."""

    OURS = "pysshfs, through Settings"
    KERNEL = "the kernel, through fusermount3"
    SSH = "the SSH connection, as a keyword of ssh_config(5)"
    DROPPED = "nobody: accepted and ignored"
    REFUSED = "nobody: an error that gives the reason"


class Group(enum.Enum):
    """Where the help text lists an option; names of the SSH group match in any case."""

    GENERAL = "pysshfs"
    CACHING = "caching"
    KERNEL = "kernel"
    SSH = "ssh"
    COMPATIBILITY = "compatibility"


class Option(NamedTuple):
    """One `-o` option."""

    name: str
    kind: Kind
    destination: Destination
    group: Group
    help: str  # one line; for DROPPED and REFUSED the reason
    metavar: str = ""
    default: Value = None
    bounds: tuple[float, float] = (0, 0)  # both included; for numbers only
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    shorthands: tuple[tuple[str, str], ...] = ()  # (valueless name, the value it stands for)
    cancels: tuple[str, ...] = ()  # kernel options that this one takes back
    repeats: bool = False  # every occurrence counts, not only the last
    follows: str = ""  # the option whose value is the default
    default_note: str = ""  # shown as the default in place of the value


class ShortOption(NamedTuple):
    """One option with a dash of its own; `sets` is the -o option that it stands for, if any.

    One of `letter` and `long` may be empty."""

    letter: str
    long: str
    metavar: str
    help: str
    sets: tuple[str, str | None] | None = None  # (name, value; None: its own argument or no value)
