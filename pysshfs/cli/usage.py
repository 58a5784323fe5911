"""The one exception for a command line that cannot be carried out, and text made fit to be shown.

Every module of the command line raises it; whoever runs the program prints the message after the
program's name and ends with `ExitCode.USAGE`.
"""


class UsageError(Exception):
    """The command line is wrong; the message says what, and what would be right."""

    def __init__(self, message: str) -> None:
        """Keep the message, a complete phrase without the program's name or a full stop."""
        super().__init__(message)
        self.message = message


def shown(text: str) -> str:
    """Quote what the user typed for a message: control characters and odd bytes are escaped."""
    return repr(text)


def printable(text: str) -> str:
    """Text for a terminal or a line of a log, which names in it must neither steer nor break."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
