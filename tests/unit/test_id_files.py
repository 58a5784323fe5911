"""uidfile and gidfile: sshfs's formats, and one line for each thing that is wrong with them."""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli import idfiles
from pysshfs.errors import StartupError, UnmappedOwnerError
from pysshfs.vfs.idmap import IdTable, Unmapped

if TYPE_CHECKING:
    from pathlib import Path

#: An entry that every Linux has and that is not root.
BIN, BIN_GROUP = pwd.getpwnam("bin").pw_uid, grp.getgrnam("bin").gr_gid


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ids"
    path.touch(mode=0o600)
    return path


def users(path: Path, text: str) -> IdTable:
    path.write_text(text)
    table, none = idfiles.tables_from_files(str(path), None, Unmapped.REFUSE)
    assert table is not None and none is None
    return table


def refusal(path: Path, text: str | None = None) -> str:
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as caught:
        idfiles.tables_from_files(str(path), None, Unmapped.REFUSE)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"uidfile {str(path)!r}")
    return message.removeprefix(f"uidfile {str(path)!r}")


def test_names_here_and_numbers_there(file: Path) -> None:
    table = users(file, "# comment\n\nroot:1000\nbin:4294967294\n")
    assert (table.local(1000), table.local(4294967294)) == (0, BIN)
    assert (table.remote(0), table.remote(BIN)) == (1000, 4294967294)
    with pytest.raises(UnmappedOwnerError):
        table.local(0)


def test_the_last_line_need_not_end(file: Path) -> None:
    assert users(file, "root:1000").local(1000) == 0


def test_the_servers_passwd_will_do(file: Path) -> None:
    """Of its users those that are here, too."""
    text = "root:x:0:0:root:/root:/bin/sh\nnosuchuser:x:5:5::/:\nbin:x:1001:7::/bin:/bin/sh\n"
    table = users(file, text)
    assert (table.local(0), table.local(1001), len(table)) == (0, BIN, 2)


def test_groups_have_a_file_of_their_own(file: Path) -> None:
    file.write_text("bin:x:77:\nroot:78\n")
    none, table = idfiles.tables_from_files(None, str(file), Unmapped.KEEP)
    assert none is None and table is not None
    assert (table.local(77), table.local(78), table.local(79)) == (BIN_GROUP, 0, 79)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("root:0\nbin\n", ", line 2: not name:id, or a line as in /etc/passwd"),
        (":5\n", ", line 1: not name:id"),
        ("root:\n", ", line 1: '' is not a number"),
        ("root:-1\n", ", line 1: '-1' is not a number"),
        ("root:1 \n", ", line 1: '1 ' is not a number"),
        ("root:0x10\n", ", line 1: '0x10' is not a number"),
        ("root:1000\r\n", r", line 1: '1000\r' is not a number"),
        ("root:4294967295\n", ", line 1: 4294967295 is higher than 4294967294"),
        ("root:" + "9" * 5000, " is not a number"),
        ("bin:1\n\nnosuchuser:5\n", ", line 3: there is no user 'nosuchuser' on this machine"),
        ("root:5\nbin:5\n", ", line 2: the server's user 5 is in line 1 already"),
        ("root:5\nroot:6\n", ", line 2: this machine's user 0 is in line 1 already"),
        ("root:5\nroot:5\n", ", line 2: the server's user 5 is in line 1 already"),
        ("root\0x:5\n", ", line 1: "),
        ("\x1b[2J:5\n", r", line 1: there is no user '\x1b[2J' on this machine"),
    ],
)
def test_a_bad_line_is_named(file: Path, text: str, said: str) -> None:
    assert said in refusal(file, text)


def test_odd_bytes_are_no_traceback(file: Path) -> None:
    file.write_bytes(b"\xff\xfe:5\n")
    assert r", line 1: there is no user '\udcff\udcfe'" in refusal(file)


def test_a_file_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == ": No such file or directory"
    assert refusal(tmp_path) == ": Is a directory"
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo") == ": not a regular file"


def test_a_file_that_others_could_have_written(file: Path) -> None:
    for mode in (0o620, 0o602):
        file.chmod(mode)
        assert refusal(file, "root:0\n") == ": others may write to it"
    file.chmod(0o600)
    if os.getuid() == 0:
        os.chown(file, BIN, 0)
        assert refusal(file) == ": it belongs to somebody else"


def test_a_file_without_end(file: Path) -> None:
    with file.open("r+b") as sparse:
        sparse.truncate(idfiles._LONGEST_FILE + 1)
    assert refusal(file) == ": too long"


def test_the_names_of_this_machine_have_whoever_mounts() -> None:
    names = idfiles.local_names()
    own = pwd.getpwuid(os.getuid())
    assert names.users[own.pw_name.encode()] == own.pw_uid
    assert names.groups[grp.getgrgid(os.getgid()).gr_name.encode()] == os.getgid()
    assert names.users[b"bin"] == BIN


def test_whoever_mounts_is_known_where_users_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pwd, "getpwall", list)
    monkeypatch.setattr(grp, "getgrall", list)
    own = pwd.getpwuid(os.getuid())
    names = idfiles.local_names()
    assert names.users == {own.pw_name.encode(): own.pw_uid}
    assert os.getgid() in names.groups.values()
