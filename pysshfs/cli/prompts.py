"""The terminal: where the user is asked for passwords and about host keys, before the mount."""

from __future__ import annotations

import getpass
import os


class Terminal:
    """/dev/tty, when this process has one. Implements `remote.hostkeys.Prompter`."""

    def __init__(self) -> None:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            self._available = False
        else:
            self._available = True

    @property
    def available(self) -> bool:
        return self._available

    def confirm(self, text: str, fingerprint: str) -> bool:
        """Ask until the answer is yes, no or the fingerprint itself."""
        while True:
            answer = self._ask(text).strip()
            if answer.lower() == "yes" or answer == fingerprint:
                return True
            if answer.lower() == "no" or not answer:
                return False
            text = "Please answer yes, no or the fingerprint: "

    def _ask(self, text: str) -> str:
        with open("/dev/tty", "r+b", buffering=0) as tty:
            tty.write(text.encode())
            line = bytearray()
            while (byte := tty.read(1)) not in (b"", b"\n", None):
                line += byte
        return line.decode(errors="replace")

    def secret(self, text: str) -> str | None:
        try:
            return getpass.getpass(text) or None
        except EOFError:
            return None
