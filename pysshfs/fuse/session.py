"""One FUSE session: mounting, serving until it ends, unmounting.

`FuseSession` owns pyfuse3 (of which there is one per process). `serve` is the only task that runs
pyfuse3's loop; it returns why the mount ended and never unmounts: `close` does. Whether the kernel
has ended the connection shows at its descriptor (POLLERR), looked at while something is served.
"""

from __future__ import annotations

import enum
import logging
import os
import select
from typing import TYPE_CHECKING, Final

import trio

from pysshfs.errors import FuseUnavailableError, MountpointError, StartupError
from pysshfs.fuse import mountinfo, quick
from pysshfs.fuse.binding import _session, pyfuse3
from pysshfs.fuse.operations import Operations
from pysshfs.fuse.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.fuse.mountpoint import Place
    from pysshfs.fuse.requests import Policy
    from pysshfs.vfs.filesystem import Filesystem, Forgotten

log = logging.getLogger(__name__)

# Each blocked request holds one of pyfuse3's workers; when all are held nobody reads /dev/fuse and
# no INTERRUPT is ever seen. A worker costs a task and a lazily touched buffer.
_MAX_WORKERS: Final = 16_384


class Ended(enum.Enum):
    """Why serving ended."""

    UNMOUNTED = "unmounted"
    ABORTED = "aborted"  # through the control filesystem, with the mount still in place


def escape_option(text: bytes) -> bytes:
    """libfuse splits options at commas; a backslash before one, or another, keeps it."""
    return text.replace(b"\\", b"\\\\").replace(b",", b"\\,")


def _refusal(message: str) -> StartupError:
    """What libfuse and fusermount3 say, sorted: a place that may not be mounted on and an option
    that is not allowed are the user's matter, the rest is FUSE's."""
    if "user_allow_other" in message:
        return StartupError(message)
    if "mountpoint" in message or "mount point" in message:
        return MountpointError(message)
    return FuseUnavailableError(message)


class FuseSession:
    """The mount of one `Filesystem`."""

    def __init__(self, filesystem: Filesystem, policy: Policy) -> None:
        self.requests = Requests(policy)
        self.requests.tracing.path_of = filesystem.path_of
        if self.requests.tracing.is_logged:
            filesystem.server.on_sent = self.requests.tracing.sent
        self._operations = Operations(filesystem, self.requests)
        self._filesystem = filesystem
        self._place: Place | None = None
        self.connection: int | None = None
        self._device = select.poll()
        self._serving = trio.CancelScope()

    def mount(
        self,
        place: Place,
        options: Sequence[bytes],
        max_background: int,
        congestion_threshold: int,
    ) -> None:
        """Mount there, or take over what is. Raises `StartupError`s with the reason."""
        _session.configure(
            self.requests.interrupted, tuple(options), max_background, congestion_threshold
        )
        quick.answer(self._filesystem.at_hand, self._operations, self.requests)
        # libfuse and fusermount3 write their reasons to stderr; one line of it is the user's.
        with os.fdopen(os.memfd_create("stderr"), "w+b") as caught:
            saved = os.dup(2)
            os.dup2(caught.fileno(), 2)
            try:
                pyfuse3.init(self._operations, place.argument, set())
            except RuntimeError as error:
                caught.seek(0)
                said = caught.read().decode(errors="replace").strip().splitlines()
                reason = said[-1] if said else str(error)
                raise _refusal(f"cannot mount on {place.path}: {reason}") from None
            finally:
                os.dup2(saved, 2)
                os.close(saved)
        self._device.register(_session.device(), 0)
        self._place = place
        entry = place.entry
        if place.device is None:
            entry = mountinfo.mount_at(os.fsencode(place.path))
        self.connection = entry.minor if entry is not None else None

    async def drop_caches(self) -> Forgotten:
        """Forget what is cached, here and in the kernel. Ends when the kernel has."""
        forgotten = self._filesystem.drop_caches()
        await self._operations.forget_all(forgotten.inodes, forgotten.names)
        return forgotten

    @property
    def answering(self) -> trio.Event:
        """Set once the kernel's first request was answered."""
        return self._operations.begun

    @property
    def negotiated(self) -> dict[str, int | bool]:
        """What INIT settled, once the kernel has sent it."""
        return _session.negotiated()

    async def serve(self) -> Ended:
        """Answer requests until the mount is gone. Cancel to stop serving."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._filesystem.run)
            nursery.start_soon(self._operations.run)
            nursery.start_soon(self.requests.watch)
            self.requests.on_look = self._end_if_gone
            with self._serving:
                await pyfuse3.main(min_tasks=2, max_tasks=_MAX_WORKERS)
            nursery.cancel_scope.cancel()
        return Ended.ABORTED if self._is_still_mounted() else Ended.UNMOUNTED

    def _end_if_gone(self) -> None:
        """pyfuse3 waits for all that is being served, for a server that does not answer, say, even
        when the kernel has given it all up."""
        if self._device.poll(0):
            self._serving.cancel()

    def _is_still_mounted(self) -> bool:
        if self._place is None or self.connection is None:
            return False
        if self._place.device is not None:
            return mountinfo.mount_of(self.connection) is not None
        place = os.fsencode(self._place.path)
        return any(e.mountpoint == place and e.minor == self.connection for e in mountinfo.mounts())

    def close(self, unmount: bool) -> bool:
        """Give the session back to libfuse; requests not answered fail with ENOTCONN. Returns
        whether it is mounted no more."""
        is_ours = False
        if self._place is not None and self._place.device is None:
            # libfuse unmounts by name, hence whatever lies on top there.
            top = mountinfo.mount_at(os.fsencode(self._place.path))
            is_ours = top is not None and top.minor == self.connection
        pyfuse3.close(unmount=unmount and is_ours)
        return not self._is_still_mounted()
