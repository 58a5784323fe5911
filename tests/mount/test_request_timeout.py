"""An administrator's limit on requests costs one call, not the mount.

With fs.fuse.max_request_timeout set the kernel aborts the whole connection over one request that
takes longer (kernel 6.14 and later; older ones have no such limit, and nothing to answer to).
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.places import own_mount, read_a_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd

LIMIT = Path("/proc/sys/fs/fuse/max_request_timeout")
SECONDS = 5
# The kernel looks every 15 s only, so an abort would come this late at the latest.
STRIKES = SECONDS + 15

ASK = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
try:
    os.stat("file")
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


@pytest.fixture
def limit() -> Iterator[bool]:
    """Set the kernel's limit for mounts made during the test; whether there is one."""
    if not LIMIT.exists():
        yield False
        return
    before = LIMIT.read_text()
    LIMIT.write_text(str(SECONDS))
    yield True
    LIMIT.write_text(before)


def test_a_request_is_answered_before_the_kernel_strikes(openssh: Sshd, limit: bool) -> None:
    with own_mount(openssh) as place:
        (place.server / "file").write_text("content")
        if limit:
            asking = place.start([sys.executable, "-I", "-c", ASK])
            assert read_a_line(asking) == b"ready\n"
            with place.silent_server():
                began = time.monotonic()
                assert asking.stdin is not None
                asking.stdin.write(b"\n")
                asking.stdin.flush()
                answer = read_a_line(asking, STRIKES)
                took = time.monotonic() - began
            assert int(answer) == errno.ETIMEDOUT
            assert SECONDS * 0.5 < took < SECONDS
        assert place.sh("cat file") == "content"
