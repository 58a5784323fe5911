"""Reads and writes one file on a mount and times itself: ``probe.py WHAT FILE ...``.

Run as a program of its own, in the mount's directory, so that starting Python is not measured.
Prints one JSON object: ``seconds`` from before open to after close, and ``digest``, made after
the clock has stopped, of the bytes that were read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 1 << 20
PAGE = 4096


def read_all(path: str, size: str) -> dict[str, object]:
    """Read the file front to back in blocks of 1 MiB."""
    space = _touched(int(size))
    view = memoryview(space)
    started = time.perf_counter()
    got = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(view[got : got + BLOCK]):
            got += count
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "digest": hashlib.sha256(view[:got]).hexdigest()}


def read_pages(path: str, size: str, count: str, seed: str) -> dict[str, object]:
    """Read `count` pages of 4 KiB at random places."""
    offsets = page_offsets(int(size), int(count), int(seed))
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        pages = [os.pread(file.fileno(), PAGE, offset) for offset in offsets]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "digest": hashlib.sha256(b"".join(pages)).hexdigest()}


def write_all(path: str, source: str, block: str, limit: str) -> dict[str, object]:
    """Write the first `limit` bytes of `source` in blocks of `block` bytes, fsync, close."""
    with open(source, "rb") as file:
        data = memoryview(file.read(int(limit)))
    size = int(block)
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for each in blocks:
            _write(file.fileno(), each)
        os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - started, "digest": ""}


def page_offsets(size: int, count: int, seed: int) -> list[int]:
    """The places `read_pages` reads, in its order."""
    chance = random.Random(seed)
    return [chance.randrange(size // PAGE) * PAGE for _ in range(count)]


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _touched(size: int) -> mmap.mmap:
    """Memory whose pages are there already, so that the clock does not count their faults."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)


WHAT: dict[str, Callable[..., dict[str, object]]] = {
    "read": read_all,
    "pages": read_pages,
    "write": write_all,
}

if __name__ == "__main__":
    print(json.dumps(WHAT[sys.argv[1]](*sys.argv[2:])))
