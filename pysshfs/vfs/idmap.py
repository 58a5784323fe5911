"""Owners and modes between the server's view and this machine's. Pure functions of the config."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.sanity import FileAttributes


def _mapped(value: int, pair: tuple[int, int] | None) -> int:
    return pair[1] if pair is not None and value == pair[0] else value


def to_local(config: VfsConfig, attributes: FileAttributes) -> FileAttributes:
    """The attributes as programs here see them."""
    uid = _mapped(attributes.uid, config.user_map) if config.uid is None else config.uid
    gid = _mapped(attributes.gid, config.group_map) if config.gid is None else config.gid
    mask = config.directory_mask if stat.S_ISDIR(attributes.mode) else config.file_mask
    if not mask and uid == attributes.uid and gid == attributes.gid:
        return attributes
    return attributes._replace(uid=uid, gid=gid, mode=attributes.mode & ~mask)


def uid_to_remote(config: VfsConfig, uid: int) -> int:
    """The server's number for a local user; what is not mapped stays as it is."""
    pair = config.user_map
    return pair[0] if pair is not None and uid == pair[1] else uid


def gid_to_remote(config: VfsConfig, gid: int) -> int:
    pair = config.group_map
    return pair[0] if pair is not None and gid == pair[1] else gid
