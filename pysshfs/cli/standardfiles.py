"""Standard input, output and error, where whoever started the command has closed some.

The next file to be opened would take the number of one that is closed, and be lost when the daemon
lets go of its terminal.
"""

from __future__ import annotations

import os
import sys


def provide() -> None:
    """Let what is closed be /dev/null. To be called before anything is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(null, True)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            file = open(number, mode, closefd=False)  # noqa: SIM115 - it is for the whole process
            setattr(sys, name, file)
