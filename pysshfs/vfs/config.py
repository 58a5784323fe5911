"""What the filesystem can be told: made from the command line's settings, fixed for the mount."""

from __future__ import annotations

from typing import Literal, NamedTuple


class VfsConfig(NamedTuple):
    """Times in seconds, sizes in bytes."""

    stat_timeout: float = 20.0
    link_timeout: float = 20.0
    directory_timeout: float = 20.0
    negative_timeout: float = 1.0
    kernel_entry_timeout: float | None = None  # None: as long as our own cache holds the entry
    kernel_attribute_timeout: float | None = None
    cache_entries: int = 10_000
    cache_size: int = 256 * 1024 * 1024  # all that follows, and the caches (`vfs/budget.py`)
    readahead: int = 32 * 1024 * 1024  # the most, per open file
    total_readahead: int = 128 * 1024 * 1024  # over all open files
    prefetch_ttl: float = 1.0  # how long a file that was opened ahead may wait; 0: none is
    write_buffer: int = 16 * 1024 * 1024  # unacknowledged bytes over all files
    write_delay: float = 0.5  # how long a partly filled WRITE may wait for more
    synchronous_writes: bool = False
    direct_io: bool = False
    kernel_cache: bool = False
    hardlinks: bool = True
    symlinks: Literal["contain", "contain+system", "all", "strict", "none", "follow"] = "contain"
    transform_symlinks: bool = False
    fsync_on_close: bool = False
    async_ops: bool = False  # tell programs that it is done before the server says so
    strict_ambiguity: bool = False  # EIO for what cannot be told for certain after a lost reply
    # What a server may make of its tree (`vfs/sanity.py`): of one listing the names, their bytes in
    # all and the seconds that are waited for it (0: no bound), and the components of a path.
    max_dir_entries: int = 1_000_000
    max_dir_bytes: int = 256 * 1024 * 1024
    max_dir_time: float = 600.0
    max_depth: int = 200
    hide_special: bool = False  # device nodes, FIFOs and sockets are not there
    # Owner shown for every file; None shows the server's.
    uid: int | None = None
    gid: int | None = None
    # Permission bits taken away from what is shown: of all files, of directories only.
    file_mask: int = 0
    directory_mask: int = 0
    # idmap=user: (remote uid, local uid) and (remote gid, local gid).
    user_map: tuple[int, int] | None = None
    group_map: tuple[int, int] | None = None

    @property
    def follows(self) -> bool:
        """Whether links are shown as what they lead to."""
        return self.symlinks == "follow"
