"""What whoever started the command may have left out: standard files, and HOME.

Of standard input, output and error some may be closed. The next file to be opened would take the
number, and be lost when the daemon lets go of its terminal.
"""

from __future__ import annotations

import os
import pwd
import sys


def provide_files() -> None:
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


def provide_home() -> None:
    """HOME, which mount(8) and systemd do not set: as the system has it. A user whom it does not
    know, as in a container, is at home in the root directory, and has the number for a name."""
    if os.environ.get("HOME"):
        return
    try:
        os.environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir or "/"
    except KeyError:
        os.environ["HOME"] = "/"
        os.environ.setdefault("LOGNAME", str(os.getuid()))
