"""Data that the server did not take, on its way to where it is saved (`vfs/undelivered.py`).

Losses come in bursts, from callbacks: they are gathered here by file and saved together, by the
task `run`, or by `finish` when the mount ends. The only state is what is gathered. Saving writes to
a local disk without suspending.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from pysshfs.errors import FilesystemError

if TYPE_CHECKING:
    from pysshfs.vfs.inodes import Inode
    from pysshfs.vfs.undelivered import UndeliveredStore
    from pysshfs.vfs.writebackpool import WriteRecord

log = logging.getLogger(__name__)


class Salvage:
    """What has been lost and not been saved yet. Without a store it is only logged."""

    def __init__(self, store: UndeliveredStore | None) -> None:
        self._store = store
        self._gathered: dict[tuple[bytes, str], list[WriteRecord]] = {}
        self._has_losses = trio.Event()

    def add(self, inode: Inode, record: WriteRecord, error: FilesystemError) -> None:
        """The server did not take this, because of `error`."""
        try:
            path = inode.path()
        except FilesystemError:  # nobody could find it: it has no name any more
            log.error("%d bytes written to a removed file are lost: %s", len(record.data), error)
            return
        self._gathered.setdefault((path, str(error)), []).append(record)
        self._has_losses.set()

    async def run(self) -> None:
        """Save what is lost. Ends by cancellation."""
        while True:
            await self._has_losses.wait()
            self.finish()
            self._has_losses = trio.Event()

    def finish(self) -> None:
        """Save what is gathered, now."""
        gathered, self._gathered = self._gathered, {}
        for (path, reason), records in gathered.items():
            if self._store is not None:
                self._store.save_all(path, [(r.offset, r.data) for r in records], reason)
            else:
                count = sum(len(record.data) for record in records)
                log.error("%d bytes written to %r are lost: %s", count, path, reason)
