"""Reads, writes and lists on a mount and times itself: ``probe.py WHAT ARGUMENT ...``.

Run as a program of its own, in the mount's directory, so that starting Python is not measured.
Prints one JSON object: ``seconds`` from before open to after close, and what else the one who
asked needs to check the outcome; digests are made after the clock has stopped.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = dict[str, Any]

BLOCK = 1 << 20
PAGE = 4096
#: A copy that has come so far (bytes) is under way.
UNDER_WAY = 8 * BLOCK


def read_all(path: str, size: str) -> Answer:
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


def drain(path: str) -> Answer:
    """Read a file of any size front to back in blocks of 1 MiB; the number of bytes."""
    space = memoryview(_touched(BLOCK))
    started = time.perf_counter()
    got = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(space):
            got += count
    return {"seconds": time.perf_counter() - started, "bytes": got}


def read_pages(path: str, size: str, count: str, seed: str) -> Answer:
    """Read `count` pages of 4 KiB at random places."""
    offsets = page_offsets(int(size), int(count), int(seed))
    started = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        pages = [os.pread(file.fileno(), PAGE, offset) for offset in offsets]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "digest": hashlib.sha256(b"".join(pages)).hexdigest()}


def write_all(path: str, source: str, block: str, limit: str) -> Answer:
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
    return {"seconds": time.perf_counter() - started}


def entries(path: str) -> Answer:
    """List a directory as ``ls -U`` does: names only, as they come."""
    started = time.perf_counter()
    count, first = 0, 0.0
    with os.scandir(path) as names:
        for _ in names:
            if not count:
                first = time.perf_counter() - started
            count += 1
    return {"seconds": time.perf_counter() - started, "first": first, "entries": count}


def list_beside(source: str, target: str, *directories: str) -> Answer:
    """The median time of an ``ls`` of each directory while a file is copied.

    A listing counts when the copy still ran at its end.  `seconds` is 0 if none did.
    """
    copy = [sys.executable, "-I", __file__, "copy", source, target]
    times: list[float] = []
    names: list[int] = []
    with subprocess.Popen(copy, stdout=subprocess.PIPE) as copying:
        assert copying.stdout is not None
        under_way = copying.stdout.readline()
        for directory in directories if under_way else ():
            started = time.perf_counter()
            listing = subprocess.run(["ls", directory], stdout=subprocess.PIPE, check=True).stdout
            seconds = time.perf_counter() - started
            names.append(len(listing.split()))
            if copying.poll() is not None:
                break
            times.append(seconds)
        copying.kill()
    return {
        "seconds": statistics.median(times) if times else 0.0,
        "listings": len(times),
        "names": names,
    }


def copy(source: str, target: str) -> None:
    """Copy a file in blocks of 1 MiB, and say so in a line when it is well under way."""
    space = memoryview(_touched(BLOCK))
    got, told = 0, False
    with open(source, "rb", buffering=0) as reading, open(target, "wb", buffering=0) as writing:
        while count := reading.readinto(space):
            _write(writing.fileno(), space[:count])
            got += count
            if got >= UNDER_WAY and not told:
                told = True
                print("under way", flush=True)


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


WHAT: dict[str, Callable[..., Answer]] = {
    "read": read_all,
    "drain": drain,
    "pages": read_pages,
    "write": write_all,
    "entries": entries,
    "beside": list_beside,
}

if __name__ == "__main__":
    if sys.argv[1] == "copy":
        copy(*sys.argv[2:])
    else:
        print(json.dumps(WHAT[sys.argv[1]](*sys.argv[2:])))
