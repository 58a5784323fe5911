"""What a server says of directories and files that cannot be, on a real mount: no program is led
on without end, or given what is not there, and the next call is served."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount.places import AsyncsshServer, read_a_line, status
from tests.support.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.sshd import Sshd


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[AsyncsshServer, Path]]:
    """The odd server, and what it serves beside its oddities."""
    with tempfile.TemporaryDirectory(prefix="pysshfs-odd-") as directory:
        server = AsyncsshServer(Path(directory), "tests.support.odd_server")
        try:
            yield server, Path(directory)
        finally:
            server.close()


def odd_mount(odd: tuple[AsyncsshServer, Path], *options: str) -> Mount:
    return Mount(odd[0].source, *odd[0].options(), *options)


def lines_with(mount: Mount, words: str) -> list[str]:
    return [line for line in mount.log().splitlines() if words in line]


# --- directories ----------------------------------------------------------------------------------


def test_a_listing_without_end_fails_and_nobody_else_suffers(
    odd: tuple[AsyncsshServer, Path],
) -> None:
    with odd_mount(odd, "max_dir_entries=5000") as mount:
        for _ in range(2):
            listing = mount.run(["ls", "-U", "endless"], check=False)
            assert listing.returncode == 2
            assert "Value too large for defined data type" in listing.stderr
        code = "import os; os.listdir('endless')"
        assert "OSError: [Errno 75]" in mount.python(code, check=False).stderr
        found = mount.run(["find", "endless"], check=False)
        assert found.returncode == 1
        mount.run(["stat", "."])
        line = lines_with(mount, "max_dir_entries")
        assert len(line) == 1
        assert "endless" in line[0]
        assert "max_dir_entries=5000" in line[0]


def test_names_that_cannot_be_are_left_out(odd: tuple[AsyncsshServer, Path]) -> None:
    with odd_mount(odd) as mount:
        for _ in range(2):
            assert mount.run(["ls", "-a", "strange"]).stdout.split() == [".", "..", "good"]
        assert len(lines_with(mount, "strange")) == 1


def test_the_first_names_are_there_before_the_last_are_made(
    odd: tuple[AsyncsshServer, Path],
) -> None:
    code = """
import itertools, os
names = os.scandir("stalled")
first = [entry.name for entry in itertools.islice(names, 100)]
print(len(first), flush=True)
print(len(list(names)), flush=True)
"""
    with odd_mount(odd) as mount:
        reader = mount.start([sys.executable, "-I", "-c", code])
        assert read_a_line(reader) == b"100\n"
        os.kill(odd[0].pids()[0], signal.SIGUSR1)
        assert read_a_line(reader) == b"1900\n"
        reader.communicate(timeout=10)


def test_a_walk_in_a_bottomless_tree_ends(odd: tuple[AsyncsshServer, Path]) -> None:
    with odd_mount(odd) as mount:
        found = mount.run(["find", "bottomless"], check=False)
        assert found.returncode == 1
        assert found.stdout.splitlines()[-1] == "bottomless" + 199 * "/d"
        assert len(found.stdout.splitlines()) == 200
        assert found.stderr.count("File name too long") == 1
        removed = mount.run(["rm", "-r", "bottomless"], check=False)
        assert removed.returncode == 1
        listed = mount.run(["ls", "-R", "bottomless"], check=False)
        assert listed.stdout.count(":\n") <= 201
        assert len(lines_with(mount, "max_depth=200")) == 1


def test_the_depth_can_be_chosen(odd: tuple[AsyncsshServer, Path]) -> None:
    with odd_mount(odd, "max_depth=3") as mount:
        assert mount.run(["ls", "bottomless/d"]).stdout == "d\n"
        assert mount.run(["stat", "bottomless/d/d"])
        for path in ("bottomless/d/d/d", "bottomless/d/d/new"):
            refusal = mount.run(["stat", path], check=False)
            assert "File name too long" in refusal.stderr
        made = mount.run(["mkdir", "bottomless/d/d/new"], check=False)
        assert "File name too long" in made.stderr


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5, 4096, 300_000])
@pytest.mark.parametrize("program", ["cat", "dd bs=1000000 if="])
def test_a_file_that_ends_before_its_size_is_an_error_and_no_zeros(
    odd: tuple[AsyncsshServer, Path], size: int, program: str
) -> None:
    data = b"x" * size
    name = f"short-{size}"
    (odd[1] / name).write_bytes(data)
    with odd_mount(odd) as mount:
        command = f"{program}{name}" if "if=" in program else f"{program} {name}"
        read = mount.run(["sh", "-c", f"{command} > {odd[1]}/out"], check=False)
        assert read.returncode == 1
        assert "Input/output error" in read.stderr
        got = (odd[1] / "out").read_bytes()
        assert data.startswith(got)
        assert len(lines_with(mount, name)) >= 1
        (odd[1] / "whole").write_bytes(data + b"!")
        assert mount.run(["cmp", "whole", f"{odd[1]}/whole"])


# --- what is no file ------------------------------------------------------------------------------


def make_special(root: Path) -> None:
    (root / "file").touch()
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o020666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))


def test_special_files_are_shown_as_they_are(openssh: Sshd, tmp_path: Path) -> None:
    make_special(tmp_path)
    with Mount(openssh.source(tmp_path), *openssh.options()) as mount:
        told = mount.run(["stat", "-c", "%F", "fifo", "device", "socket"]).stdout
        assert told.splitlines() == ["fifo", "character special file", "socket"]


def test_special_files_can_be_hidden(openssh: Sshd, tmp_path: Path) -> None:
    make_special(tmp_path)
    with Mount(openssh.source(tmp_path), *openssh.options(), "hide_special") as mount:
        assert mount.run(["ls", "-A"]).stdout == "file\n"
        for name in ("fifo", "device", "socket"):
            assert "No such file" in mount.run(["stat", name], check=False).stderr


def test_a_fifo_is_a_pipe_between_programs_here(openssh: Sshd, tmp_path: Path) -> None:
    """Its open never reaches us, nor does what goes through it reach the server's."""
    os.mkfifo(tmp_path / "fifo")
    on_the_server = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Mount(openssh.source(tmp_path), *openssh.options()) as mount:
            reader = mount.start(["cat", "fifo"])
            mount.run(["sh", "-c", "echo through > fifo"])
            assert read_a_line(reader) == b"through\n"
            assert os.read(on_the_server, 100) == b""
            reader.communicate(timeout=10)
    finally:
        os.close(on_the_server)


# --- a huge directory -----------------------------------------------------------------------------

_MANY = 160_000
#: What a million names may take (MiB), and of that what the program itself takes and the first
#: 100,000 names, which the kernel is told with their attributes. The others share the rest.
_MOST_MIB = 500
_FRESH_MIB = 60
_FIRST_MIB = 100


def test_memory_for_a_huge_listing_is_bounded(openssh: Sshd) -> None:
    """In proportion to what a million may take, which `python -m bench --grow` lists."""
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # they are made faster
    with tempfile.TemporaryDirectory(prefix="pysshfs-huge-", dir=in_memory) as root:
        huge = Path(root, "huge")
        huge.mkdir()
        for number in range(_MANY):
            os.mknod(huge / f"name-{number:06d}")
        with Mount(openssh.source(root), *openssh.options()) as mount:
            counted = mount.run(["sh", "-c", "ls -U huge | wc -l"], timeout=60).stdout
            assert int(counted) == _MANY
            assert status(mount)["inodes"] < 105_000
            found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{mount.pid}/status").read_text())
            assert found is not None
            rest = (_MOST_MIB - _FRESH_MIB - _FIRST_MIB) * (_MANY - 100_000) / 900_000
            assert int(found[1]) / 1024 < _FRESH_MIB + _FIRST_MIB + rest
