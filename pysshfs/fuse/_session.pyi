"""The C extension: see the comment at the top of `_session.c`."""

from collections.abc import Callable

def current() -> tuple[int, str, int, int, int, int]:
    """(serial, operation, inode, detail, thread id, uid) of the request being started."""

def configure(
    callback: Callable[[int], None],
    options: tuple[bytes, ...],
    max_background: int,
    congestion_threshold: int,
) -> None:
    """Before `pyfuse3.init`. `callback(serial)` is called for each INTERRUPT; it must not reply.

    `options` are mount options as libfuse takes them after -o, commas in values escaped.
    """

def answer_quickly(handlers: dict[str, Callable[..., object]]) -> None:
    """Ask these first; what each takes and returns: see `_quick.c`. None: the usual way."""

def negotiated() -> dict[str, int | bool]:
    """What INIT settled with the kernel."""

def device() -> int:
    """The descriptor of the session's /dev/fuse; -1 before `pyfuse3.init`."""

def expire_entry(directory: int, name: bytes, /) -> int:
    """The kernel is to ask for the name again when it is used. An errno, or 0. Takes the lock of
    the directory: only from a thread that does not serve."""
