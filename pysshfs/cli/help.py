"""The registry in words: `--help`, `--version`, and the phrases that messages share with them.

The texts are made from the registry alone, so an option that is added there shows up here.
"""

from pysshfs.cli.exitcodes import DESCRIPTIONS
from pysshfs.cli.options import OPTIONS, SHORT_OPTIONS
from pysshfs.cli.optiontypes import Destination, Group, Kind, Option, ShortOption

WIDTH = 80
_HELP_COLUMN = 29

USAGE = "pysshfs [user@]host:[dir] mountpoint [-o opt[,opt...]]..."

_PURPOSE = "Mount a directory of an SFTP server."

# The heading of each group that is listed one option per line.
_LISTED = (
    (Group.GENERAL, "pysshfs options (after -o):"),
    (Group.CACHING, "Caching options (after -o):"),
    (Group.KERNEL, "Kernel options (after -o):"),
)


def size_text(size: float) -> str:
    """Write a number of bytes with the largest suffix that keeps it whole."""
    number = int(size)
    for suffix, shift in (("G", 30), ("M", 20), ("k", 10)):
        if number and number % (1 << shift) == 0:
            return f"{number >> shift}{suffix}"
    return str(number)


def allowed_text(option: Option) -> str:
    """Say which values an option takes."""
    low, high = option.bounds
    takes: str = option.kind.value
    if option.kind is Kind.CHOICE:
        return f"{takes} {', '.join(option.choices)}"
    if option.kind in (Kind.INTEGER, Kind.SECONDS):
        return f"{takes} from {low} to {high}"
    if option.kind is Kind.OCTAL:
        return f"{takes} from {int(low):o} to {int(high):o}"
    if option.kind is Kind.SIZE:
        return f"{takes} from {size_text(low)} to {size_text(high)}, as N[k|M|G]"
    return takes


def default_text(option: Option) -> str:
    """Write the default of an option as the user would; empty if there is none to speak of."""
    default = option.default
    if option.default_note or option.follows:
        return option.default_note or option.follows
    if default is None or option.kind is Kind.FLAG:
        return ""
    if option.kind is Kind.YESNO:
        return "yes" if default else "no"
    if option.kind is Kind.SIZE and isinstance(default, int):
        return size_text(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def help_text() -> str:
    """Return what `--help` prints, ending with a newline; no line is wider than WIDTH."""
    lines = _wrapped(f"usage: {USAGE}", 7, 0)
    lines += ["", *_wrapped(_PURPOSE), "", "Options:"]
    for short in SHORT_OPTIONS:
        lines += _entry(_short_label(short), short.help)
    for group, heading in _LISTED:
        lines += ["", heading]
        for option in OPTIONS:
            if option.group is group:
                lines += _entry(_label(option), _described(option))
    lines += ["", "SSH options (after -o, as KEYWORD=VALUE; see ssh_config(5)):"]
    lines += _wrapped(", ".join(_names(Destination.SSH)), 2)
    lines += ["", "Accepted for compatibility and ignored (after -o):"]
    lines += _wrapped(", ".join(_names(Destination.DROPPED)), 2)
    lines += ["", "Exit codes:"]
    for code, description in DESCRIPTIONS.items():
        lines += _entry(str(int(code)), description)
    return "\n".join(lines) + "\n"


def version_text(version: str) -> str:
    """Return what `--version` prints for this version number, ending with a newline."""
    return f"pysshfs {version}\n"


def _names(destination: Destination) -> list[str]:
    """List the names of all options with a destination, in the order of the registry."""
    return [option.name for option in OPTIONS if option.destination is destination]


def _short_label(short: ShortOption) -> str:
    """Write an option with a dash the way it is typed, with its long form."""
    names = [f"-{short.letter}"] if short.letter else []
    if short.long:
        names.append(f"--{short.long}")
    return f"{', '.join(names)} {short.metavar}".rstrip()


def _label(option: Option) -> str:
    """Write a -o option the way it is typed; an unnamed value is shown as its choices."""
    return f"{option.name}={option.metavar}" if option.metavar else option.name


def _described(option: Option) -> str:
    """Return the help line of an option with its shorthands, choices and default."""
    text = option.help
    for name, value in option.shorthands:
        text += f"; {name}: {'off' if option.kind is Kind.FLAG else f'same as {value}'}"
    notes = []
    if option.kind is Kind.CHOICE:
        notes.append(", ".join(option.choices))
    if default := default_text(option):
        notes.append(f"default: {default}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _entry(label: str, text: str) -> list[str]:
    """Lay out one option: the label on the left, the text in the column beside or below it."""
    first, *more = _wrapped(text, _HELP_COLUMN)
    head = f"  {label}"
    # Two spaces at least between the label and its text, or the eye takes them for one.
    if len(head) + 2 > _HELP_COLUMN:
        return [head, first, *more]
    return [head.ljust(_HELP_COLUMN) + first.lstrip(), *more]


def _wrapped(text: str, indent: int = 0, first_indent: int | None = None) -> list[str]:
    """Break a text at spaces into indented lines of WIDTH; the first may have its own indent.

    (textwrap would do this too, but importing it costs more time than printing the whole help.)
    """
    if first_indent is None:
        first_indent = indent
    lines = []
    line = " " * first_indent
    for word in text.split(" "):
        if line.strip() and len(line) + 1 + len(word) > WIDTH:
            lines.append(line)
            line = " " * indent
        line += f" {word}" if line.strip() else word
    return [*lines, line]
