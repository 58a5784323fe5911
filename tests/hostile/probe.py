"""What a program does on the mount, and what it sees: run there by the tests, as a file.

Its argument is a JSON list of actions; it prints a JSON list of results, each with the seconds that
it took: the value, or the name of the errno. Bytes are passed as latin-1.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import stat
import sys
import threading
import time
from typing import Any


def _path(text: str) -> bytes:
    return text.encode("latin-1")


def read(name: str) -> str:
    with open(_path(name), "rb") as opened:
        return opened.read().decode("latin-1")


def beginning(name: str, most: int) -> int:
    with open(_path(name), "rb") as opened:
        return len(opened.read(most))


def size(name: str) -> int:
    return os.lstat(_path(name)).st_size


def kind(name: str) -> str:
    return f"{stat.S_IFMT(os.lstat(_path(name)).st_mode):o}"


def mode(name: str) -> str:
    return f"{os.lstat(_path(name)).st_mode:o}"


def exists(name: str) -> bool:
    os.lstat(_path(name))
    return True


def listing(name: str) -> list[str]:
    return sorted(each.decode("latin-1") for each in os.listdir(_path(name)))


def count(name: str) -> int:
    return len(os.listdir(_path(name)))


def readlink(name: str) -> str:
    return os.readlink(_path(name)).decode("latin-1")


def write(name: str, text: str) -> int:
    """Written, and delivered."""
    fd = os.open(_path(name), os.O_WRONLY | os.O_CREAT)
    try:
        done = os.write(fd, _path(text))
        os.fsync(fd)
    finally:
        os.close(fd)
    return done


def write_mib(name: str, mib: int) -> int:
    fd = os.open(_path(name), os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(mib):
            os.write(fd, bytes(1 << 20))
        os.fsync(fd)
    finally:
        os.close(fd)
    return mib


def both(one: str, other: str) -> list[str]:
    """Two files, open together."""
    with open(_path(one), "rb") as first, open(_path(other), "rb") as second:
        return [second.read().decode("latin-1"), first.read().decode("latin-1")]


def statvfs(name: str) -> list[int]:
    found = os.statvfs(_path(name))
    return [found.f_bsize, found.f_frsize, found.f_blocks, found.f_bavail, found.f_namemax]


def mkdir(name: str) -> bool:
    os.mkdir(_path(name))
    return True


def remove(name: str) -> bool:
    os.unlink(_path(name))
    return True


def rename(old: str, new: str) -> bool:
    os.rename(_path(old), _path(new))
    return True


def chmod(name: str, bits: int) -> bool:
    os.chmod(_path(name), bits)
    return True


def sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def interrupted(seconds: float, action: str, *words: Any) -> Any:
    """Ctrl-C comes in the middle of it."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        return globals()[action](*words)
    except KeyboardInterrupt:
        return "interrupted"


def main() -> None:
    results: list[tuple[Any, float]] = []
    for action, *words in json.loads(base64.b64decode(sys.argv[1])):
        began = time.monotonic()
        try:
            result = globals()[action](*words)
        except OSError as error:
            result = errno.errorcode[error.errno or 0]
        except ValueError as error:
            result = repr(error)
        results.append((result, time.monotonic() - began))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
