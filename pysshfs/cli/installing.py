"""`pysshfsctl install-helpers`: the links in /sbin by which mount(8) finds its helper.

mount(8) looks nowhere else, whatever the prefix of the installation. What is linked is run by root
at boot, so it may be nobody's but root's to change. `make install` makes the same links.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pysshfs

DIRECTORY: Final = Path("/sbin")
_SCRIPT: Final = "mount.pysshfs"
_SECOND: Final = "mount.fuse.pysshfs"


class InstallationError(Exception):
    """It is not done; the message says why."""


def install(directory: Path = DIRECTORY) -> list[Path]:
    """Make the links, or make them anew; what there is now. Raises `InstallationError`."""
    script = _script()
    for path in (script, Path(sys.executable), Path(pysshfs.__file__)):
        _check_trust(path)
    made = []
    for name, target in ((_SCRIPT, str(script)), (_SECOND, _SCRIPT)):
        link = directory / name
        _check_ours(link)
        fresh = directory / f".{name}.new"
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            fresh.replace(link)
        except OSError as error:
            raise InstallationError(f"{link}: {error.strerror}") from None
        made.append(link)
    return made


def remove(directory: Path = DIRECTORY) -> list[Path]:
    """Remove the links, if they are ours; what was there. Raises `InstallationError`."""
    gone = []
    for name in (_SECOND, _SCRIPT):
        link = directory / name
        if os.path.lexists(link):
            _check_ours(link)
            try:
                link.unlink()
            except OSError as error:
                raise InstallationError(f"{link}: {error.strerror}") from None
            gone.append(link)
    return gone


def _script() -> Path:
    """The console script of this very installation."""
    places = (Path(sys.argv[0]).resolve().parent, Path(sys.executable).parent,
              Path(sysconfig.get_path("scripts")))  # fmt: skip
    for place in places:
        if os.access(place / _SCRIPT, os.X_OK):
            return place / _SCRIPT
    raise InstallationError(f"{_SCRIPT} is not in {places[1]}: is pysshfs installed?")


def _check_ours(link: Path) -> None:
    """Another package's file is not to be overwritten, nor removed."""
    if os.path.lexists(link) and not (
        link.is_symlink() and os.path.basename(os.readlink(link)) == _SCRIPT
    ):
        raise InstallationError(f"{link} is there, and is something else")


def _check_trust(path: Path) -> None:
    resolved = path.resolve()
    for each in (resolved, *resolved.parents):
        found = each.stat()
        # In a sticky directory nobody can replace what is another's.
        by_others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if found.st_uid != 0 or by_others:
            raise InstallationError(
                f"{each} can be changed by others than root, who is to run what is there:"
                " install for all users, with 'make install'"
            )
