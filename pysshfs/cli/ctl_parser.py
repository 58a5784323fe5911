"""The command line of `pysshfsctl`: one table of its commands, and the few rules to read it.

Not argparse: it takes longer to load than `status` may take altogether.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pysshfs.cli.ctl_codes import DESCRIPTIONS
from pysshfs.cli.usage import UsageError, shown


class Command(NamedTuple):
    """`module` has a function `run`, which takes `Arguments` and returns a code. `place` says what
    it takes for an argument; in brackets it may be left out. Each of `options` takes a value when
    its text holds a blank."""

    module: str
    place: str
    purpose: str
    options: tuple[tuple[str, str], ...] = ()
    takes_only: bool = False  # without a mountpoint it takes the only mount there is

    def words(self) -> dict[str, bool]:
        """The options, and whether each takes a value."""
        return {
            word.partition(" ")[0]: " " in word for words, _ in self.options
            for word in words.split(", ")
        }  # fmt: skip


_JSON: Final = ("--json", "JSON instead of text")
_INTERVAL: Final = ("--interval SECONDS", "time between two looks (default 1)")
_COUNT: Final = ("--count N", "end after as many")

COMMANDS: Final[dict[str, Command]] = {
    "status": Command(
        "ctl_status", "[MOUNTPOINT]", "how each mount fares; without a mountpoint: all of yours",
        (_JSON,),
    ),
    "watch": Command(
        "ctl_watch", "[MOUNTPOINT]", "the same, live; Ctrl-C ends it",
        (_INTERVAL, _COUNT, _JSON), takes_only=True,
    ),
    "trace": Command(
        "ctl_trace", "[MOUNTPOINT]", "the operations as they happen; Ctrl-C ends it",
        (
            ("--operation NAME", "only these: lookup,open,read,... (also several times)"),
            ("--pid PID", "only those of this process"),
            ("--path PATH", "only those on this path, or below it (relative to the mount)"),
            ("--min-ms MS", "only those that took as long"),
            ("--errors", "only those that failed"),
            _COUNT,
            _JSON,
        ), takes_only=True,
    ),
    "flush": Command(
        "ctl_flush", "[MOUNTPOINT]", "have the server take everything that is buffered",
        takes_only=True,
    ),
    "reconnect": Command(
        "ctl_commands", "[MOUNTPOINT]", "drop the connection and make it anew, at once",
        takes_only=True,
    ),
    "drop-caches": Command(
        "ctl_commands", "[MOUNTPOINT]", "forget what is cached, here and in the kernel",
        takes_only=True,
    ),
    "umount": Command(
        "ctl_umount", "MOUNTPOINT", "flush, unmount, wait for the daemon's end",
        (
            ("--lazy", "detach it now; what uses it goes on to its end"),
            ("--force", "do not wait for the server: abort, and unmount"),
            ("--kill", "end the processes that use it, once you agree"),
            ("--yes", "agree"),
        ),
    ),
    "abort": Command(
        "ctl_commands", "MOUNTPOINT", "have every call on it fail, now and later; it stays, dead"
    ),
    "doctor": Command(
        "ctl_doctor", "[[USER@]HOST:[DIR]]", "check what a mount needs, here and on the server",
        (
            ("-o OPTION", "an option of ssh_config, as for pysshfs"),
            ("-p PORT", "the port, as for pysshfs"),
            ("-F FILE", "the ssh_config file, as for pysshfs"),
            ("--no-write", "write nothing on the server, so throughput is not measured"),
            _JSON,
        ),
    ),
    "install-helpers": Command(
        "ctl_helpers", "[DIRECTORY]", "have mount(8) find pysshfs (default /sbin)",
        (("--remove", "take them away again"),),
    ),
}  # fmt: skip
ALIASES: Final = {"unmount": "umount"}


class Arguments(NamedTuple):
    """A command line, taken apart."""

    command: str
    place: str | None
    options: dict[str, list[str]]

    def has(self, option: str) -> bool:
        return option in self.options

    def value(self, option: str) -> str | None:
        """The last one given."""
        return self.options[option][-1] if option in self.options else None

    def number(self, option: str, least: float) -> float | None:
        text = self.value(option)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not least <= number < 1e9:
            raise UsageError(f"{option} takes a number of at least {least:g}, not {shown(text)}")
        return number


def parse(words: list[str]) -> Arguments:
    """Raises UsageError."""
    if not words:
        raise UsageError("a command is needed")
    name = ALIASES.get(words[0], words[0])
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"unknown command {shown(words[0])}")
    known = command.words()
    rest = words[1:]
    places: list[str] = []
    options: dict[str, list[str]] = {}
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if word == "--":
            places += rest
            rest = []
        elif not word.startswith("-") or word == "-":
            places.append(word)
        elif option not in known or (equals and not known[option]):
            raise UsageError(f"{name} has no option {shown(word)}")
        elif not known[option]:
            options[option] = []
        elif equals:
            options.setdefault(option, []).append(value)
        elif rest:
            options.setdefault(option, []).append(rest.pop(0))
        else:
            raise UsageError(f"{option} takes a value")
    if len(places) > 1:
        raise UsageError(f"{name} takes one {command.place.strip('[]')}")
    if not places and not command.place.startswith("["):
        raise UsageError(f"{name} takes a {command.place}")
    return Arguments(name, places[0] if places else None, options)


def usage(name: str | None = None) -> str:
    """One line for each command; of one that is named, its options, too."""
    chosen = {name: COMMANDS[name]} if name is not None else COMMANDS
    lines = []
    for each, command in chosen.items():
        options = " [options]" if command.options else ""
        lines.append(f"pysshfsctl {each} {command.place}{options}")
    text = "usage: " + "\n       ".join(lines) + "\n"
    return text + ("" if name is None else _options_text(COMMANDS[name]))


def _options_text(command: Command) -> str:
    lines = [f"\n{command.purpose[:1].upper()}{command.purpose[1:]}.\n"]
    lines += [f"  {words:<20}{meaning}\n" for words, meaning in command.options]
    return "".join(lines)


def help_text() -> str:
    """All of it."""
    parts = [usage(), "\nCommands:\n"]
    for name, command in COMMANDS.items():
        parts.append(f"  {name:<12}{command.purpose}\n")
        parts += [f"    {words:<20}{meaning}\n" for words, meaning in command.options]
    parts.append(
        "\nA mountpoint in brackets may be left out when you have one mount.\n\nExit codes:\n"
    )
    parts += [f"  {code:<4}{text}\n" for code, text in DESCRIPTIONS.items()]
    return "".join(parts)
