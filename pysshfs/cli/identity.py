"""Another user to be (`setuid=` of the helper of mount(8)): ids, groups, and environment."""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

import pysshfs
from pysshfs.cli.usage import UsageError, shown

# What does not belong to whoever mounts: everything else would lead to the other's files.
_KEPT = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "TERM")


class Identity(NamedTuple):
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str

    def become(self) -> None:
        """For the rest of this process. Raises UsageError."""
        try:
            if os.getuid() != self.uid or os.geteuid() != self.uid:
                os.initgroups(self.name, self.gid)
                os.setresgid(self.gid, self.gid, self.gid)
                os.setresuid(self.uid, self.uid, self.uid)
        except PermissionError:
            message = f"option 'setuid': only root can mount as {shown(self.name)}"
            raise UsageError(message) from None
        for file in (os.__file__, pysshfs.__file__):
            if not os.access(file, os.R_OK):
                raise UsageError(
                    f"option 'setuid': {shown(self.name)} cannot read {file}: pysshfs is to be"
                    " installed for all users"
                )
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        os.environ.clear()
        os.environ.update(kept, HOME=self.home, USER=self.name, LOGNAME=self.name, SHELL=self.shell)


def of(name: str) -> Identity:
    """A user by name or number. Raises UsageError."""
    try:
        is_number = name.isascii() and name.isdigit()
        found = pwd.getpwuid(int(name)) if is_number else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(f"option 'setuid': there is no user {shown(name)}") from None
    return Identity(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, found.pw_shell)
