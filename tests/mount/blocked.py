"""Programs that wait for a silent server, each in another call.

`STEPS` has every operation that can wait. A `Step` is Python code: what a program does while the
server answers, what it does once the server is silent, and the request of the kernel's that it then
waits for.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.mount.places import Place, read_a_line

if TYPE_CHECKING:
    import subprocess

#: Seconds that an interrupted change waits for its outcome, on the mounts of these tests.
GRACE: Final = 0.5
# Nothing is listed or opened ahead of the calls that are to wait.
OPTIONS: Final = (f"interrupt_grace={GRACE}", "dcache_dir_timeout=0")

#: Seconds after which a program has to be gone that waits for nothing else.
PROMPTLY: Final = 0.5

MANY: Final = 3000  # names; more than the daemon asks for when a directory is opened


class Step(NamedTuple):
    """See above. `changes`: the server may have carried it out, or has data to take first."""

    before: str
    after: str
    operation: str
    changes: bool = False

    @property
    def limit(self) -> float:
        """Seconds within which an interrupt that the program handles ends the call."""
        return PROMPTLY + (GRACE if self.changes else 0)


_NEW = "fd = os.open('new', os.O_CREAT | os.O_WRONLY)"
_NEW_DIRECT = "fd = os.open('new', os.O_CREAT | os.O_WRONLY | os.O_DIRECT)"
_MIB = "page = mmap.mmap(-1, 1 << 20)"

STEPS: Final = {
    "lookup": Step("", "os.stat('file')", "lookup"),
    "getattr": Step("fd = os.open('file', os.O_RDWR)", "os.write(fd, b'x'); os.fstat(fd)",
                    "getattr", True),
    "open": Step("os.stat('file')", "os.open('file', os.O_RDONLY)", "open"),
    "create": Step("os.path.exists('made')", "os.open('made', os.O_CREAT | os.O_WRONLY)",
                   "create", True),
    "read": Step("fd = os.open('large', os.O_RDONLY)", "os.pread(fd, 4096, 9 << 20)", "read"),
    "read-much": Step("fd = os.open('large', os.O_RDONLY)", "os.read(fd, 10 << 20)", "read"),
    "read-direct": Step(
        f"fd = os.open('large', os.O_RDONLY | os.O_DIRECT); {_MIB}",
        "os.preadv(fd, [page], 9 << 20)", "read",
    ),
    "write": Step(_NEW, "while True: os.write(fd, bytes(1 << 20))", "write", True),
    "write-direct": Step(f"{_NEW_DIRECT}; {_MIB}", "while True: os.write(fd, page)", "write",
                         True),
    "flush": Step(_NEW, "os.write(fd, b'x'); os.close(fd)", "flush", True),
    "copy_file_range": Step(
        f"source = os.open('large', os.O_RDONLY); {_NEW}",
        "os.copy_file_range(source, fd, 10 << 20)", "copy_file_range",
    ),
    "fsync": Step(_NEW, "os.write(fd, b'x'); os.fsync(fd)", "fsync", True),
    "opendir": Step("os.stat('directory')", "os.listdir('directory')", "opendir"),
    "readdir": Step("fd = os.open('many', os.O_RDONLY)", "os.listdir(fd)", "readdirplus"),
    "readlink": Step("os.lstat('symlink')", "os.readlink('symlink')", "readlink"),
    "mkdir": Step("os.path.exists('made')", "os.mkdir('made')", "mkdir", True),
    "mknod": Step("os.path.exists('made')", "os.mknod('made', 0o100644)", "mknod", True),
    "symlink": Step("os.path.exists('made')", "os.symlink('target', 'made')", "symlink", True),
    "link": Step("os.stat('file'); os.path.exists('made')", "os.link('file', 'made')", "link",
                 True),
    "unlink": Step("os.stat('file')", "os.unlink('file')", "unlink", True),
    "rmdir": Step("os.stat('directory')", "os.rmdir('directory')", "rmdir", True),
    "rename": Step("os.stat('file'); os.stat('other')", "os.rename('file', 'other')", "rename",
                   True),
    "chmod": Step("os.stat('file')", "os.chmod('file', 0o600)", "setattr", True),
    "truncate": Step("os.stat('file')", "os.truncate('file', 3)", "setattr", True),
    "utime": Step("os.stat('file')", "os.utime('file', (1, 1))", "setattr", True),
    "statfs": Step("", "os.statvfs('.')", "statfs"),
    "access": Step(_NEW, "os.write(fd, b'x'); os.access('new', os.R_OK)", "access", True),
}  # fmt: skip

DIE: Final = """
signal.signal(signal.SIGINT, signal.SIG_DFL)
after()
"""

REPORT: Final = """
try:
    after()
    print('went through', flush=True)
except KeyboardInterrupt:
    print('KeyboardInterrupt', flush=True)
sys.stdin.readline()
print(open('untouched').read(), flush=True)
"""


def fill(place: Place) -> None:
    (place.server / "directory").mkdir()
    (place.server / "file").write_text("content")
    (place.server / "other").write_text("other")
    (place.server / "untouched").write_text("untouched")
    (place.server / "symlink").symlink_to("target")
    (place.server / "large").write_bytes(bytes(10 << 20))


def fill_with_many(place: Place) -> None:
    (place.server / "many").mkdir()
    for number in range(MANY):
        (place.server / "many" / f"name-{number}").touch()


def start(place: Place, step: Step, way: str = DIE) -> subprocess.Popen[bytes]:
    """A program that has done what comes before and waits for a line to do the rest."""
    code = (
        f"import mmap, os, signal, sys\n{step.before}\n"
        f"def after():\n    {step.after}\n"
        f"print('ready', flush=True); sys.stdin.readline()\n{way}"
    )
    program = place.start([sys.executable, "-I", "-c", code])
    assert read_a_line(program) == b"ready\n"
    return program


def let_go(program: subprocess.Popen[bytes]) -> None:
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()


def assert_it_serves(place: Place) -> None:
    """After all that: names, content, and everything given back."""
    place.sh("cat large > copy; cmp large copy; ls -l directory > /dev/null || test -d .")
    place.close()
