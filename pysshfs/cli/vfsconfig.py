"""What the filesystem is told of the command line's settings (`vfs/config.py`).

Everything of this machine that it goes by is looked at here, before the mount: the files of
`idmap=file`, the names of `idmap=name`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING, TypeVar

import trio

from pysshfs import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from pysshfs.cli.options import Settings
    from pysshfs.fuse.mountpoint import Place
    from pysshfs.remote.connection import ServerConnection
    from pysshfs.remotefs import RemoteFS
    from pysshfs.vfs.config import LocalNames, VfsConfig
    from pysshfs.vfs.idmap import IdTable

    Tables: TypeAlias = tuple[IdTable | None, IdTable | None]  # of users and groups

T = TypeVar("T")
log = logging.getLogger(__name__)


def system_files(options: list[str]) -> Callable[[bytes], bool] | None:
    """For links to this machine's own programs: not where root, or another user, follows them."""
    from pysshfs.fuse.systemfiles import is_system_file

    if os.geteuid() == 0 or {"allow_other", "allow_root"} & set(options):
        return None
    return is_system_file


def tables(settings: Settings) -> Tables:
    """Of `idmap=file`; read while paths still mean what the user meant. Raises `StartupError`."""
    if settings.idmap != "file":
        if settings.uidfile is not None or settings.gidfile is not None:
            log.warning("uidfile and gidfile have no effect without idmap=file")
        return None, None
    from pysshfs.cli import idfiles
    from pysshfs.vfs.idmap import Unmapped

    unmapped = Unmapped.REFUSE if settings.nomap == "error" else Unmapped.KEEP
    return idfiles.tables_from_files(settings.uidfile, settings.gidfile, unmapped)


async def _names(remote: RemoteFS) -> LocalNames:
    """Of this machine, for `idmap=name`."""
    from pysshfs.cli import idfiles

    if not remote.capabilities.owner_names:
        raise errors.StartupError(
            "idmap=name: the server does not tell names (it lacks users-groups-by-id@openssh.com,"
            " which OpenSSH has from 9.1 on)"
        )
    return await _in_own_thread(idfiles.local_names)


async def _in_own_thread(work: Callable[[], T]) -> T:
    """A directory service may keep it waiting: whoever gives up leaves the thread alone. One that
    has done its work is gone before the daemon gives up its privileges, which each thread has for
    itself (trio keeps its own threads for a while)."""
    token, done = trio.lowlevel.current_trio_token(), trio.Event()
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    await done.wait()
    thread.join()
    return future.result()


async def vfs_config(
    settings: Settings,
    place: Place,
    tables: Tables,
    connection: ServerConnection,
    remote: RemoteFS,
) -> VfsConfig:
    from pysshfs.vfs.config import VfsConfig
    from pysshfs.vfs.idmap import IdTable, Unmapped

    cached = settings.dir_cache
    users, groups = tables
    if settings.idmap == "user":
        login = await connection.login_identity()
        if login is None:
            log.warning("idmap=user has no effect: the server does not tell who the login is")
        else:
            users = IdTable("user", Unmapped.KEEP, {login.uid: os.getuid()})
            groups = IdTable("group", Unmapped.KEEP, {login.gid: os.getgid()})
    umask = settings.umask or 0
    file_mask = umask if settings.fmask is None else settings.fmask
    if place.obeys_set_id_bits:
        log.warning(
            "%s was mounted without nosuid: set-user-id and set-group-id bits of files are not"
            " shown", place.path,
        )  # fmt: skip
        file_mask |= stat.S_ISUID | stat.S_ISGID
    return VfsConfig(
        stat_timeout=settings.dcache_stat_timeout if cached else 0.0,
        link_timeout=settings.dcache_link_timeout if cached else 0.0,
        directory_timeout=settings.dcache_dir_timeout if cached else 0.0,
        negative_timeout=settings.negative_timeout if cached else 0.0,
        kernel_entry_timeout=settings.entry_timeout,
        kernel_attribute_timeout=settings.attr_timeout,
        cache_entries=settings.dcache_max_size,
        cache_size=settings.cache_size,
        readahead=settings.readahead,
        prefetch_ttl=settings.prefetch_ttl,
        write_buffer=settings.max_write_buffer,
        synchronous_writes=settings.sshfs_sync,
        direct_io=settings.direct_io,
        kernel_cache=settings.kernel_cache,
        hardlinks=not settings.disable_hardlink,
        symlinks=settings.symlinks,
        transform_symlinks=settings.transform_symlinks,
        fsync_on_close=settings.fsync_on_close,
        async_ops=settings.async_ops,
        strict_ambiguity=settings.strict_ambiguity,
        max_dir_entries=settings.max_dir_entries,
        max_dir_bytes=settings.max_dir_bytes,
        max_dir_time=settings.max_dir_time,
        max_depth=settings.max_depth,
        hide_special=settings.hide_special,
        uid=settings.uid,
        gid=settings.gid,
        file_mask=file_mask,
        directory_mask=umask if settings.dmask is None else settings.dmask,
        users=users,
        groups=groups,
        local_names=await _names(remote) if settings.idmap == "name" else None,
    )
