"""The command line taken apart: arguments, short options, `-o` lists, and their values.

What an option is called and takes is the registry's business (`options`); this module only applies
it.  The order of arguments and options does not matter, and of a repeated option the last counts.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

from pysshfs.cli.help import USAGE, allowed_text
from pysshfs.cli.options import SHORT_OPTIONS, Settings, find_option, known_names
from pysshfs.cli.optiontypes import Destination, Group, Kind, Option, ShortOption, Value
from pysshfs.cli.source import Source, parse_source
from pysshfs.cli.usage import UsageError, shown
from pysshfs.loginnames import wrong_with_host, wrong_with_user

# Options that name somebody or something to log in to.
_NAMES = {"User": wrong_with_user, "HostName": wrong_with_host}
_SUFFIXES = {"k": 10, "m": 20, "g": 30}
_DURATION_UNITS = "smhdw"
_CONTAINING = ("contain_symlinks", "no_contain_symlinks")  # sshfs's
_LONGEST_NUMBER = 20  # digits; nothing allowed is longer, and int() of a huge text is slow


class Action(enum.Enum):
    """What the command line asks for."""

    MOUNT = "mount"
    HELP = "help"
    VERSION = "version"


class Invocation(NamedTuple):
    """A checked command line.

    For HELP and VERSION nothing else was looked at: the source and the mount point are empty.
    `kernel_options` are those asked for; what is really passed on comes from kernel_options().
    """

    action: Action
    source: Source
    mountpoint: str
    settings: Settings
    kernel_options: list[str]
    ssh_options: list[tuple[str, str]]
    ssh_config_file: str | None
    foreground: bool

    @property
    def debug(self) -> bool:
        """Whether debugging was asked for, which also sets `foreground`."""
        return self.settings.debug


def parse_argv(argv: Sequence[str]) -> Invocation:
    """Parse a command line, given without the program's name.

    Raises UsageError for anything that is not understood or not allowed.
    """
    collected = _Collected()
    words = list(argv)
    while words and collected.action is Action.MOUNT:
        word = words.pop(0)
        if word == "--":
            collected.arguments += words
            break
        if word.startswith("--"):
            _long_option(word, collected)
        elif word.startswith("-") and word != "-":
            _short_options(word, words, collected)
        else:
            collected.arguments.append(word)
    return collected.invocation()


def kernel_options(invocation: Invocation, uid: int) -> list[str]:
    """Return the mount options to pass on for a caller with this user id.

    Set-user-id bits and device files of a server are not to be trusted, so they are ignored
    unless root asks for them.

    Raises UsageError if anybody else does, or if root asks for what is not for root.
    """
    asked = invocation.kernel_options
    if uid == 0 and invocation.settings.symlinks == "contain+system":
        raise UsageError("option 'symlinks=contain+system' is not for mounts that root makes")
    protective = []
    for name in ("suid", "dev"):
        if name in asked:
            if uid != 0:
                raise UsageError(f"option {shown(name)} is for root only")
        elif f"no{name}" not in asked:
            protective.append(f"no{name}")
    return protective + asked


class _Collected:
    """What has been read of the command line so far."""

    def __init__(self) -> None:
        self.action = Action.MOUNT
        self.arguments: list[str] = []
        self.values: dict[str, Value] = {}
        self.waits: dict[str, Value] = {}  # of timeout, hard and soft those that were given
        self.kernel: dict[str, str] = {}  # by name, as they are passed on, in order
        self.ssh: list[tuple[str, str]] = []
        self.ssh_config_file: str | None = None
        self.foreground = False

    def set_option(self, name: str, text: str | None, label: str) -> None:
        """Note one option; `label` is what the user typed, for the messages."""
        option, value = _checked(name, text, label)
        for opposite in option.cancels:
            self.kernel.pop(opposite, None)
        if option.destination is Destination.OURS:
            if name in _CONTAINING and self.values.get(option.name) == "follow":
                return  # for sshfs these are two questions; links that are followed need no answer
            self.values[option.name] = value
            if option.name == "timeout":
                self.waits[name] = value
        elif option.destination is Destination.KERNEL:
            self.kernel.pop(option.name, None)
            is_flag = option.kind is Kind.FLAG
            self.kernel[option.name] = option.name if is_flag else f"{option.name}={value}"
        elif option.destination is Destination.SSH:
            # In ssh the first of repeated keywords counts; on a command line people expect the
            # last to, so the earlier one goes - except for the keywords that add up.
            if not option.repeats:
                self.ssh = [pair for pair in self.ssh if pair[0] != option.name]
            self.ssh.append((option.name, _config_text(value)))

    def invocation(self) -> Invocation:
        """Check what can only be checked at the end; raises UsageError."""
        source, mountpoint = Source(None, "", b"", ""), ""
        if self.action is Action.MOUNT:
            source, mountpoint = _source_and_mountpoint(self.arguments)
            if "allow_other" in self.kernel and "allow_root" in self.kernel:
                raise UsageError("options 'allow_other' and 'allow_root' exclude each other")
            if self.values.get("idmap") == "file" and not {"uidfile", "gidfile"} & {*self.values}:
                raise UsageError("'idmap=file' needs a file: 'uidfile', 'gidfile' or both")
            if self.waits:
                self.values["timeout"] = _agreed_timeout(self.waits)
            for name in ("allow_other", "allow_root"):
                if name in self.kernel and self.values.get("symlinks") == "contain+system":
                    raise UsageError(
                        f"options 'symlinks=contain+system' and {shown(name)} exclude each other"
                    )
        settings = Settings.from_values(self.values)
        return Invocation(
            action=self.action,
            source=source,
            mountpoint=mountpoint,
            settings=settings,
            kernel_options=list(self.kernel.values()),
            ssh_options=self.ssh,
            ssh_config_file=self.ssh_config_file,
            foreground=self.foreground or settings.debug,
        )


def _agreed_timeout(waits: dict[str, Value]) -> Value:
    """What hard, soft and timeout= come to, in any order: here the last does not win, because
    whoever says both hard and soft would be surprised by either."""
    if "hard" in waits:
        for name, value in waits.items():
            if value != waits["hard"]:
                other = name if name == "soft" else f"{name}={value:g}"
                raise UsageError(f"options 'hard' and {shown(other)} contradict each other")
    elif "soft" in waits and not waits.get("timeout", True):
        raise UsageError("options 'soft' and 'timeout=0' contradict each other")
    return waits.get("timeout", next(iter(waits.values())))


def _source_and_mountpoint(arguments: list[str]) -> tuple[Source, str]:
    """Check the two arguments that are not options."""
    if not arguments:
        raise UsageError(f"the source and the mount point are missing; usage: {USAGE}")
    if len(arguments) == 1:
        raise UsageError(f"the mount point is missing after {shown(arguments[0])}; usage: {USAGE}")
    if len(arguments) > 2:
        raise UsageError(f"one argument too many: {shown(arguments[2])}; usage: {USAGE}")
    source, mountpoint = parse_source(arguments[0]), arguments[1]
    if not mountpoint or "\0" in mountpoint:
        raise UsageError(f"{shown(mountpoint)} cannot be a mount point")
    return source, mountpoint


def _long_option(word: str, collected: _Collected) -> None:
    """Act on a word that begins with two dashes."""
    name, equals, _ = word[2:].partition("=")
    for short in SHORT_OPTIONS:
        if short.long == name:
            if equals:
                raise UsageError(f"option '--{name}' takes no value: {shown(word)}")
            _apply_short(short, None, f"--{name}", collected)
            return
    hint = ""
    if find_option(name):
        hint = f": did you mean '-o {word[2:]}'?"
    elif close := _nearest(name, [short.long for short in SHORT_OPTIONS if short.long]):
        hint = f": did you mean '--{close}'?"
    raise UsageError(f"unknown option {shown(word)}{hint}")


def _short_options(word: str, following: list[str], collected: _Collected) -> None:
    """Act on a word of one-letter options; the value of the last may be the following word."""
    letters = word[1:]
    while letters and collected.action is Action.MOUNT:
        letter, letters = letters[0], letters[1:]
        short = next((short for short in SHORT_OPTIONS if short.letter == letter), None)
        if short is None:
            where = f" in {shown(word)}" if len(word) > 2 else ""
            raise UsageError(f"unknown option {shown('-' + letter)}{where}; see 'pysshfs --help'")
        argument = None
        if short.metavar:
            if not letters and not following:
                raise UsageError(f"option '-{letter}' needs a value: {short.metavar}")
            argument, letters = letters or following.pop(0), ""
        _apply_short(short, argument, f"-{letter}", collected)


def _apply_short(
    short: ShortOption, argument: str | None, label: str, collected: _Collected
) -> None:
    """Act on one option with a dash of its own."""
    if short.sets:
        name, value = short.sets
        collected.set_option(name, value if argument is None else argument, label)
    elif short.letter == "h":
        collected.action = Action.HELP
    elif short.letter == "V":
        collected.action = Action.VERSION
    elif short.letter == "f":
        collected.foreground = True
    elif argument is not None and short.letter == "F":
        _check_text(argument, label, "a path")
        collected.ssh_config_file = argument
    elif argument is not None:
        for item in split_options(argument):
            name, equals, text = item.partition("=")
            collected.set_option(name, text if equals else None, name)


def split_options(text: str) -> list[str]:
    r"""Split the value of -o at its commas; `\,` is a comma and `\\` a backslash in an item.

    Any other backslash stands for itself.  Empty items, as a leftover comma makes them, are
    skipped.
    """
    items = [""]
    position = 0
    while position < len(text):
        character = text[position]
        if text[position : position + 2] in ("\\,", "\\\\"):
            position += 1
            items[-1] += text[position]
        elif character == ",":
            items.append("")
        else:
            items[-1] += character
        position += 1
    return [item for item in items if item]


def join_options(items: Sequence[str]) -> str:
    """The value of -o that `split_options` takes apart into these."""
    return ",".join(item.replace("\\", "\\\\").replace(",", "\\,") for item in items)


def _checked(name: str, text: str | None, label: str) -> tuple[Option, Value]:
    """Find an option and convert its value; raises UsageError."""
    found = find_option(name)
    if found is None:
        raise UsageError(_unknown_message(name))
    option, fixed = found
    if option.destination is Destination.REFUSED:
        raise UsageError(f"option {shown(label)} is not supported: {option.help}")
    if text is not None and (fixed is not None or option.kind is Kind.FLAG):
        raise UsageError(f"option {shown(label)} takes no value, but was given {shown(text)}")
    if option.kind is Kind.FLAG:
        return option, fixed != "no"
    if fixed is not None:
        text = fixed
    if text is None:
        if option.kind is Kind.ANY:
            return option, None
        raise UsageError(f"option {shown(label)} needs a value: {allowed_text(option)}")
    _check_text(text, label, allowed_text(option), may_be_empty=option.kind is Kind.ANY)
    if option.name in _NAMES and (wrong := _NAMES[option.name](text)) is not None:
        raise UsageError(f"option {shown(label)}: {shown(text)}: the name {wrong}")
    value = _converted(option, text)
    if value is None:
        raise UsageError(f"option {shown(label)}: {shown(text)} is not {allowed_text(option)}")
    return option, value


def _check_text(text: str, label: str, allowed: str, *, may_be_empty: bool = False) -> None:
    """Refuse an empty value, and one that could forge a line of a configuration or a log."""
    if not text and not may_be_empty:
        raise UsageError(f"option {shown(label)} needs a value: {allowed}")
    if any(character in text for character in "\n\r\0"):
        raise UsageError(
            f"option {shown(label)}: the value {shown(text)} contains a line break or a NUL byte"
        )


def _unknown_message(name: str) -> str:
    """Say that there is no such option, with the nearest that there is."""
    if not name:
        return "an option without a name before its '='"
    close = _nearest(name, known_names())
    return f"unknown option {shown(name)}" + (f": did you mean {shown(close)}?" if close else "")


def _nearest(name: str, candidates: list[str]) -> str | None:
    """Return the candidate that the name is most likely a misspelling of, if any is close."""
    import difflib  # only a mistaken command line pays for it

    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None


def _converted(option: Option, text: str) -> Value:
    """Convert the text of a value; None if the option does not take it."""
    kind = option.kind
    if kind is Kind.CHOICE:
        if option.group is Group.SSH:
            return {choice.lower(): choice for choice in option.choices}.get(text.lower())
        return text if text in option.choices else None
    if kind is Kind.YESNO:
        if option.group is Group.SSH:  # ssh also takes the words that it shares with other files
            text = {"true": "yes", "false": "no"}.get(text.lower(), text.lower())
        return {"yes": True, "no": False}.get(text)
    if kind is Kind.DURATION:
        return text if _is_duration(text) else None
    if kind in (Kind.STRING, Kind.PATH, Kind.ANY):
        return text
    number = _number(kind, text)
    if number is None or not option.bounds[0] <= number <= option.bounds[1]:
        return None
    return number


def _number(kind: Kind, text: str) -> int | float | None:
    """Read a number in the notation of its kind; None if it is not one."""
    if kind is Kind.SECONDS:
        whole, _, fraction = text.partition(".")
        return float(text) if _is_digits(whole + fraction) else None
    if kind is Kind.OCTAL:
        return int(text, 8) if _is_digits(text) and not set(text) & set("89") else None
    shift = 0
    if kind is Kind.SIZE and text[-1].lower() in _SUFFIXES:
        shift = _SUFFIXES[text[-1].lower()]
        text = text[:-1]
    return int(text) << shift if _is_digits(text) else None


def _is_digits(text: str) -> bool:
    """Whether this is a plain number: int() alone would also take signs, '_' and other scripts."""
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER


def _is_duration(text: str) -> bool:
    """Whether this is a time as in ssh_config(5): numbers with units, the last may lack its."""
    digits = ""
    for character in text:
        if character.isascii() and character.isdigit():
            digits += character
        elif digits and character.lower() in _DURATION_UNITS:
            digits = ""
        else:
            return False
    return len(digits) <= _LONGEST_NUMBER


def _config_text(value: Value) -> str:
    """Write a value the way ssh_config(5) has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
