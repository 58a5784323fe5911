"""The file-system contract on the mount, before OpenSSH's server and before asyncssh's."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mount import contract
from tests.mount.places import Place, own_mount, read_a_line, run_call, status, wait_until
from tests.support import procs
from tests.support.mounts import Mount
from tests.support.sshd import Sshd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

on_both_servers = pytest.mark.parametrize("shared_mount", ["openssh", "asyncssh"], indirect=True)


@on_both_servers
@pytest.mark.parametrize("check", [*contract.CHECKS, *contract.ON_MOUNT])
def test_contract(place: Place, check: Callable[[], None]) -> None:
    place.call(check)


@pytest.mark.parametrize("check", contract.CHECKS)
def test_the_contract_is_that_of_a_local_directory(
    tmp_path: Path, check: Callable[[], None]
) -> None:
    there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    run_call(lambda argv: procs.run_limited([*there, *argv], timeout=60), check)


@on_both_servers
def test_random_work_equals_that_on_a_local_file(place: Place) -> None:
    for seed in range(3):
        place.call(contract.random_work, seed, 1500)
        (place.server / "file").unlink()


def test_random_work_without_buffers_equals_that_on_a_local_file(openssh: Sshd) -> None:
    """With direct_io, without read-ahead, and with writes that wait for the server."""
    with own_mount(openssh, "direct_io", "sshfs_sync", "no_readahead") as place:
        place.call(contract.random_work, 7, 1000)


@on_both_servers
def test_modes_under_every_umask_are_those_of_a_local_directory(
    place: Place, tmp_path: Path
) -> None:
    there = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    local = run_call(
        lambda argv: procs.run_limited([*there, *argv], timeout=60),
        contract.modes_under_every_umask,
    )
    assert place.call(contract.modes_under_every_umask) == local


# --- huge directories -----------------------------------------------------------------------------


def test_a_huge_directory_lists_every_name_once(place: Place) -> None:
    huge = place.server / "huge"
    huge.mkdir()
    for number in range(110_000):
        os.mknod(huge / f"name-{number:06d}")
    assert place.call(contract.names_in_huge, "huge") == [110_000, 110_000]
    # Names that nobody asked for by themselves are not kept in memory, but have their numbers.
    assert status(place.mount)["inodes"] < 105_000
    # A second one, from whatever is remembered, is as whole.
    assert place.call(contract.names_in_huge, "huge") == [110_000, 110_000]
    place.call(contract.numbers_in_huge, "huge", 99_000, 103_000)


def test_a_tree_is_removed_whole(place: Place) -> None:
    for number in range(600):
        (place.server / f"tree/{number % 5}/{number % 7}").mkdir(parents=True, exist_ok=True)
        (place.server / f"tree/{number % 5}/{number % 7}/{number}").touch()
    place.sh("rm -r tree")
    assert not (place.server / "tree").exists()


# --- the server's side ----------------------------------------------------------------------------


def test_buffered_data_reaches_the_server_within_a_second(place: Place) -> None:
    code = "import sys; f = open('file', 'wb', 0); f.write(b'data'); print(flush=True); input()"
    writer = place.start([sys.executable, "-I", "-c", code])
    read_a_line(writer)
    wait_until("the data is there", lambda: size_of(place.server / "file") == 4, 1.0)
    assert (place.server / "file").read_bytes() == b"data"
    writer.communicate(b"\n", timeout=10)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


@pytest.mark.parametrize("how", ["flush", "fsync"])
def test_data_is_on_the_server_when_the_call_returns(place: Place, how: str) -> None:
    data = "x" * 3_000_000
    conv = "conv=fsync" if how == "fsync" else ""
    place.run(["dd", "of=file", "bs=10000", "status=none", *conv.split()], input=data)
    assert (place.server / "file").read_text() == data


def test_the_next_open_sees_what_the_server_changed(place: Place) -> None:
    """Content, size and end, also when size and time are those of the old content."""
    on_server = place.server / "file"
    on_server.write_bytes(b"old content")
    code = (
        "import os\n"
        "while name := input():\n"
        "    with open(name, 'rb') as file:\n"
        "        size = os.fstat(file.fileno()).st_size\n"
        "        data = file.read()\n"
        "    print(size, data, flush=True)\n"
    )
    reader = place.start([sys.executable, "-I", "-c", code])
    assert reader.stdin is not None

    def seen() -> bytes:
        assert reader.stdin is not None
        reader.stdin.write(b"file\n")
        reader.stdin.flush()
        return read_a_line(reader).rstrip()

    assert seen() == b"11 b'old content'"
    for number in range(10):
        content = b"content %03d" % number
        on_server.write_bytes(content)
        assert seen() == b"11 " + repr(content).encode()
    with on_server.open("ab") as file:
        file.write(b" and more")
    assert seen() == b"20 b'content 009 and more'"
    on_server.write_bytes(b"short")
    assert seen() == b"5 b'short'"
    (place.server / "new").write_bytes(b"another file")
    os.rename(place.server / "new", on_server)
    assert seen() == b"12 b'another file'"
    on_server.unlink()
    on_server.symlink_to("target")
    (place.server / "target").write_bytes(b"beyond the link")
    place.run(["sh", "-c", "ls >/dev/null"])
    reader.stdin.write(b"\n")
    reader.communicate(timeout=10)


def test_the_next_open_sees_the_servers_size_without_a_read(place: Place) -> None:
    """Reading makes the kernel ask again by itself; who only opens the file is told as well."""
    code = (
        "import os\n"
        "while name := input():\n"
        "    fd = os.open(name, os.O_RDONLY)\n"
        "    print(os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_END), flush=True)\n"
        "    os.close(fd)\n"
    )
    looker = place.start([sys.executable, "-I", "-c", code])
    assert looker.stdin is not None
    for size in (10, 20, 5, 70_000):
        (place.server / "file").write_bytes(bytes(size))
        looker.stdin.write(b"file\n")
        looker.stdin.flush()
        assert read_a_line(looker).split() == [b"%d" % size] * 2
    looker.communicate(b"\n", timeout=10)


def test_what_was_replaced_on_the_server_is_found_by_its_name(place: Place) -> None:
    """A file that became a directory there, or went away, is noticed by whoever uses it."""
    (place.server / "name").write_text("a file")
    assert place.sh("cat name") == "a file"
    (place.server / "name").unlink()
    with pytest.raises(procs.CommandFailed, match="No such file"):
        place.sh("cat name")
    (place.server / "name").mkdir()
    (place.server / "name/inside").write_text("below")
    wait_until("it is seen", lambda: place.sh("cat name/inside || true") == "below", 5)


def test_appending_lands_behind_what_the_server_appended(place: Place) -> None:
    on_server = place.server / "log"
    on_server.write_bytes(b"first\n")
    code = (
        "import os\n"
        "fd = os.open('log', os.O_WRONLY | os.O_APPEND)\n"
        "while line := input():\n"
        "    os.write(fd, line.encode() + b'\\n')\n"
        "    os.fsync(fd)\n"
        "    print(flush=True)\n"
    )
    writer = place.start([sys.executable, "-I", "-c", code])
    assert writer.stdin is not None
    wanted = b"first\n"
    for number in range(20):
        writer.stdin.write(b"mount %d\n" % number)
        writer.stdin.flush()
        read_a_line(writer)
        with on_server.open("ab") as file:
            file.write(b"server %d\n" % number)
        wanted += b"mount %d\nserver %d\n" % (number, number)
    writer.communicate(b"\n", timeout=10)
    assert on_server.read_bytes() == wanted
    assert place.sh("cat log").encode() == wanted


@on_both_servers
def test_holes_stay_holes_on_the_server(place: Place) -> None:
    place.sh("truncate -s 5G file; printf x | dd of=file bs=1 seek=3G conv=notrunc status=none")
    found = (place.server / "file").stat()
    assert found.st_size == 5 << 30 and found.st_blocks < 1000


def test_times_out_of_range_harm_nothing(place: Place) -> None:
    """SFTP's times are 32 bits: what does not fit is refused, or the nearest that fits is set."""
    (place.server / "file").write_text("content")
    for when in ("1969-12-31T23:59:00Z", "1901-01-01Z", "2200-01-01Z"):
        place.run(["touch", "-d", when, "file"], check=False)
    assert place.sh("cat file") == "content"
    assert 0 <= (place.server / "file").stat().st_mtime < 1 << 32
    assert place.sh("touch -d @1234567890 file; stat -c %Y file") == "1234567890\n"


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "fsync"])
def test_a_full_disk_is_reported_and_survived(openssh: Sshd, how: str) -> None:
    """At write, fsync or close; afterwards there is room again and the daemon goes on."""
    with own_mount(openssh) as place:
        place.mount.allow_log_errors = True
        small = place.server / "small"
        small.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(small)]
        procs.run_limited(argv, timeout=10)
        try:
            found = place.call(contract.write_until_it_fails, "small/file", 8, how)
            assert found and found[0] in ("write", how), found
            assert found[1] == "ENOSPC"
            assert place.run(["mkdir", "small/directory"], check=False).returncode in (0, 1)
            place.sh("rm small/file; echo fits > small/file; cat small/file")
            assert (small / "file").read_text() == "fits\n"
            assert place.call(contract.write_until_it_fails, "small/other", 1, how) == []
        finally:
            procs.run_limited(["umount", "-l", str(small)], timeout=10)


# --- a user who may not do everything -------------------------------------------------------------


@pytest.fixture(scope="module")
def nobody() -> Iterator[tuple[Sshd, Path]]:
    """A server that lets in the user nobody, with a directory that is that user's."""
    if os.geteuid() != 0:
        pytest.fail("only root can start a server for another user")
    served = Path(tempfile.mkdtemp(prefix="pysshfs-nobody-"))
    served.chmod(0o755)
    keys = served / "authorized_keys"
    extra = ["Match User nobody", f"AuthorizedKeysFile {keys}"]
    try:
        with Sshd(extra_config=extra) as server:
            shutil.copy(server.client_key.with_suffix(".pub"), keys)
            keys.chmod(0o644)
            (served / "own").mkdir()
            shutil.chown(served / "own", "nobody")
            server.user = "nobody"
            yield server, served
    finally:
        shutil.rmtree(served)


def test_what_the_server_forbids_is_eacces(nobody: tuple[Sshd, Path]) -> None:
    server, served = nobody
    (served / "closed").mkdir(mode=0o700)
    (served / "closed/file").write_text("secret")
    (served / "readable").write_text("for all")
    (served / "secret").write_text("for root")
    (served / "secret").chmod(0o600)
    with Mount(server.source(served), *server.options()) as mount:
        run_call(lambda argv: mount.run(argv), contract.what_is_forbidden)
    assert (served / "readable").read_text() == "for all"
    assert (served / "closed/file").exists() and (served / "secret").stat().st_size == 8
    assert (served / "own/made").stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_closing_what_was_only_read_asks_nothing(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with Mount(server.source(tmp_path), *server.options(), "debug") as mount:
        mount.run(["cat", "file", "file"])
        assert " flush inode=" not in mount.log()
        mount.run(["sh", "-c", "echo more >>file"])
        assert " flush inode=" in mount.log()
    assert (tmp_path / "file").read_text() == "contentmore\n"
