"""The pair of units mnt-far.mount and mnt-far.automount in a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.systemd.machine import UNITS

if TYPE_CHECKING:
    from tests.support.sandbox import Sandbox

WHERE = "/mnt/far"

_KINDS = ("mount", "automount")
_REMOVE = """
systemctl stop mnt-far.automount mnt-far.mount; umount -l "$1"
systemctl reset-failed mnt-far.automount mnt-far.mount
rm -f /etc/systemd/system/mnt-far.* /etc/fstab; systemctl daemon-reload
"""


class Pair:
    """mnt-far.mount and mnt-far.automount, as the examples have them but for where they lead."""

    def __init__(self, sandbox: Sandbox, source: str, options: str) -> None:
        self.sandbox = sandbox
        self._source, self._options = source, options

    def install(self, *changes: tuple[str, str]) -> None:
        changes = (
            ("you@host:/srv/data", self._source),
            ("IdentityFile=/etc/pysshfs/id_far,UserKnownHostsFile=/etc/pysshfs/known_hosts",
             self._options),
            *changes,
        )  # fmt: skip
        texts = [(UNITS / "examples" / f"mnt-far.{kind}").read_text() for kind in _KINDS]
        assert all(any(old in text for text in texts) for old, _ in changes)
        for kind, text in zip(_KINDS, texts, strict=True):
            for old, new in changes:
                text = text.replace(old, new)
            self.sandbox.put(f"/etc/systemd/system/mnt-far.{kind}", text)
        self.sandbox.systemctl("daemon-reload")

    def is_mounted(self) -> bool:
        return self.sandbox.mounted(WHERE) == "fuse.pysshfs"

    def remove(self) -> None:
        if self.sandbox.is_running:
            self.sandbox.run(["sh", "-c", _REMOVE, "sh", WHERE], check=False)
