"""The terminal: where the user is asked for passwords and about host keys, before the mount."""

from __future__ import annotations

import getpass
import os

import trio

from pysshfs.errors import StartupError


class PromptInterruptedError(StartupError):
    """Ctrl-C at a prompt. As a KeyboardInterrupt it would tear asyncio's loop, in which prompts
    mostly happen, out of the middle of its work."""

    def __init__(self) -> None:
        super().__init__("interrupted")


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

    @trio.lowlevel.disable_ki_protection
    def _ask(self, text: str) -> str:
        try:
            with open("/dev/tty", "r+b", buffering=0) as tty:
                tty.write(text.encode())
                line = bytearray()
                while (byte := tty.read(1)) not in (b"", b"\n", None):
                    line += byte
        except KeyboardInterrupt:
            raise PromptInterruptedError from None
        return line.decode(errors="replace")

    @trio.lowlevel.disable_ki_protection
    def secret(self, text: str) -> str | None:
        try:
            return getpass.getpass(text) or None
        except EOFError:
            return None
        except KeyboardInterrupt:
            raise PromptInterruptedError from None
