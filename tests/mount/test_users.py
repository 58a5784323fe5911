"""Other users of this machine: who may enter a mount, who decides, and whose the files are.

All of it with the ids of real other users, on real mounts of OpenSSH's server.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from tests.support.commands import (
    ORDINARY,
    Workspace,
    as_ordinary_user,
    fuse_for_everybody,
    refused,
    user_allow_other,
)
from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

#: Neither root, nor whoever mounts.
OTHER = 65533
ALLOWED = ("allow_other", "default_permissions")


def as_user(uid: int, gid: int | None = None) -> list[str]:
    group = uid if gid is None else gid
    return ["setpriv", f"--reuid={uid}", f"--regid={group}", "--clear-groups", "env", "LC_ALL=C"]


class Users:
    """A workspace that everybody may pass through, a server, and a directory on it."""

    def __init__(self, work: Workspace, server: Sshd, remote: Path) -> None:
        self.work, self.server, self.remote = work, server, remote
        work.directory.chmod(0o755)
        # Everybody may pass to the served directory, too, for the tests that look at it directly.
        remote.chmod(0o755)

    def mounted(self, *options: str) -> None:
        self.work.mounted(self.server.source(self.remote), *self.server.options(), *options)

    def run(self, uid: int, *argv: str, gid: int | None = None) -> subprocess.CompletedProcess[str]:
        return self.work.run([*as_user(uid, gid), *argv])

    def there(self, name: str = "") -> str:
        return str(self.work.mountpoint / name)

    def owner(self, name: str) -> tuple[int, int]:
        """As it is shown."""
        shown = self.work.run(["stat", "-c", "%u %g", self.there(name)], check=True).stdout
        uid, gid = map(int, shown.split())
        return uid, gid

    def may(self, uid: int, *argv: str, gid: int | None = None) -> bool:
        """Whether this user may do that; nothing but a permission stands in the way."""
        done = self.run(uid, *argv, gid=gid)
        if done.returncode == 0:
            return True
        assert "Permission denied" in done.stderr or "not permitted" in done.stderr, done
        return False


@pytest.fixture
def users(work: Workspace, server: Sshd, remote: Path) -> Users:
    return Users(work, server, remote)


@pytest.fixture
def owner(users: Users, server: Sshd) -> Iterator[list[str]]:
    """What to put before a command for an ordinary user to mount with it."""
    work = users.work
    key = work.ssh / "id_ed25519"
    shutil.copy(server.client_key, key)
    for path in (work.home, work.ssh, key, work.mountpoint):
        os.chown(path, ORDINARY, ORDINARY)
    key.chmod(0o600)
    server.directory.chmod(0o755)
    sockets = Path(f"/tmp/pysshfs-{ORDINARY}")
    there = sockets.exists()
    with fuse_for_everybody():
        yield as_ordinary_user()
    with contextlib.suppress(OSError):
        if not there:
            shutil.rmtree(sockets)


def by_ordinary_user(users: Users, owner: Sequence[str], *options: str) -> None:
    port, _, known_hosts = users.server.options()
    argv = users.work.argv(users.server.source(users.remote), port, known_hosts, *options)
    with user_allow_other(allowed=True):
        result = users.work.run([*owner, *argv], check=True)
    assert result.stderr == ""
    users.work.daemon()


# --- who may enter ------------------------------------------------------------------------------


def test_by_default_nobody_but_the_owner_may_enter(users: Users, owner: list[str]) -> None:
    """Nor may root, nor can anybody see what the kernel remembers for the owner."""
    by_ordinary_user(users, owner)
    everything = (
        ["ls", users.there()],
        ["cat", users.there("file")],
        ["stat", users.there("file")],
    )
    for argv in everything:
        assert users.may(ORDINARY, *argv)
    for uid in (0, OTHER):
        for argv in everything:
            assert not users.may(uid, *argv), (uid, argv)
    assert not users.may(OTHER, "env", f"--chdir={users.there()}", "true")
    assert not users.may(OTHER, "touch", users.there("new"))
    # The same user in another group is not the owner, either: the kernel compares both.
    assert not users.may(ORDINARY, "ls", users.there(), gid=OTHER)


def test_with_allow_root_root_may_enter_and_no_third(users: Users, owner: list[str]) -> None:
    by_ordinary_user(users, owner, "allow_root")
    for uid in (ORDINARY, 0):
        assert users.may(uid, "cat", users.there("file"))
    for argv in (["ls", users.there()], ["cat", users.there("file")]):
        assert not users.may(OTHER, *argv)
    assert not users.may(OTHER, "touch", users.there("new"))
    assert not users.may(OTHER, "rm", "-f", users.there("file"))
    assert (users.remote / "file").exists()


def test_allow_other_and_allow_root_exclude_each_other(users: Users) -> None:
    argv = users.work.argv(users.server.source(users.remote), "allow_other,allow_root")
    refused(users.work.run(argv), ExitCode.USAGE, "'allow_other' and 'allow_root' exclude")
    assert users.work.entry() is None


@pytest.mark.parametrize("option", ["allow_other", "allow_root"])
def test_a_user_needs_the_systems_leave_to_let_others_in(
    users: Users, owner: list[str], option: str
) -> None:
    port, _, known_hosts = users.server.options()
    argv = users.work.argv(users.server.source("/"), port, known_hosts, option)
    with user_allow_other(allowed=False):
        result = users.work.run([*owner, *argv])
    refused(result, ExitCode.USAGE, "user_allow_other", "/etc/fuse.conf")
    assert users.work.entry() is None


def test_the_control_files_of_a_mount_are_its_owners(users: Users, owner: list[str]) -> None:
    """Not root's either, as far as the modes say; and no other user can see or abort anything."""
    by_ordinary_user(users, owner)
    entry = users.work.entry()
    assert entry is not None
    control = f"/sys/fs/fuse/connections/{entry.minor}"
    assert os.stat(f"{control}/abort").st_uid == ORDINARY
    assert users.may(ORDINARY, "cat", f"{control}/waiting")
    for words in (f"cat {control}/waiting", f"echo 1 >{control}/abort"):
        assert not users.may(OTHER, "sh", "-c", words)
    shown = users.work.ctl("umount", str(users.work.mountpoint), prefix=as_user(OTHER))
    assert shown.returncode != 0
    assert users.may(ORDINARY, "cat", users.there("file"))
    assert users.may(ORDINARY, "sh", "-c", f"echo 1 >{control}/abort")
    assert users.run(ORDINARY, "cat", users.there("file")).returncode != 0


# --- who decides --------------------------------------------------------------------------------


def test_without_default_permissions_the_server_decides_for_everybody(users: Users) -> None:
    """The login may, so everybody may: which is said when it is mounted."""
    (users.remote / "file").chmod(0o600)
    result = users.work.mount(
        users.server.source(users.remote), *users.server.options(), "allow_other"
    )
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert "allow_other without default_permissions" in line and str(users.remote) in line
    users.work.daemon()
    assert users.may(OTHER, "cat", users.there("file"))
    assert users.may(OTHER, "sh", "-c", f"echo x >{users.there('new')}")
    assert (users.remote / "new").stat().st_uid == os.getuid()
    assert users.may(OTHER, "chmod", "666", users.there("file"))
    assert stat.S_IMODE((users.remote / "file").stat().st_mode) == 0o666
    assert users.may(OTHER, "rm", "-f", users.there("file"))


def test_with_default_permissions_modes_and_owners_decide(users: Users) -> None:
    remote = users.remote
    for name, mode, uid in (
        ("secret", 0o600, 0),
        ("public", 0o644, 0),
        ("theirs", 0o600, OTHER),
        ("groups", 0o640, 0),
    ):
        (remote / name).write_text(name)
        (remote / name).chmod(mode)
        os.chown(remote / name, uid, OTHER if name == "groups" else uid)
    users.mounted(*ALLOWED)
    assert not users.may(OTHER, "cat", users.there("secret"))
    assert users.may(OTHER, "cat", users.there("public"))
    assert users.may(OTHER, "cat", users.there("theirs"))
    assert users.may(OTHER, "cat", users.there("groups"))
    assert not users.may(ORDINARY, "cat", users.there("groups"))
    assert users.may(ORDINARY, "cat", users.there("groups"), gid=OTHER)
    # Writing, modes, names.
    assert not users.may(OTHER, "sh", "-c", f"echo x >>{users.there('public')}")
    assert users.may(OTHER, "sh", "-c", f"echo x >>{users.there('theirs')}")
    assert not users.may(OTHER, "chmod", "666", users.there("public"))
    assert users.may(OTHER, "chmod", "644", users.there("theirs"))
    assert not users.may(OTHER, "chown", str(OTHER), users.there("public"))
    assert not users.may(OTHER, "touch", users.there("new"))
    assert not users.may(OTHER, "rm", "-f", users.there("theirs"))  # the directory is not theirs
    assert (remote / "theirs").read_text() == "theirsx\n"
    assert sorted(path.name for path in remote.iterdir()) == [
        "file", "groups", "public", "secret", "theirs"
    ]  # fmt: skip


def test_with_default_permissions_it_is_the_mapped_owner_who_decides(
    users: Users, owner: list[str]
) -> None:
    """The login's private file is the mounting user's here, and nobody else's."""
    (users.remote / "file").chmod(0o600)
    by_ordinary_user(users, owner, *ALLOWED, "idmap=user")
    assert users.owner("file") == (ORDINARY, ORDINARY)
    assert users.may(ORDINARY, "cat", users.there("file"))
    assert not users.may(OTHER, "cat", users.there("file"))
    # The one whose number the login has on the server is somebody else here.
    users.remote.chmod(0o777)
    assert users.may(ORDINARY, "sh", "-c", f"echo x >{users.there('new')}")
    assert users.owner("new") == (ORDINARY, ORDINARY)
    assert (users.remote / "new").stat().st_uid == os.getuid()
    assert users.may(ORDINARY, "chown", f"{ORDINARY}:{ORDINARY}", users.there("new"))
    assert (users.remote / "new").stat().st_uid == os.getuid()


def test_a_mask_takes_away_from_what_others_may(users: Users) -> None:
    (users.remote / "file").chmod(0o666)
    users.mounted(*ALLOWED, "umask=077,dmask=022")
    assert not users.may(OTHER, "cat", users.there("file"))
    assert users.may(OTHER, "ls", users.there())
    assert users.may(0, "chmod", "600", users.there("file"))
    assert stat.S_IMODE((users.remote / "file").stat().st_mode) == 0o666


# --- set-user-id bits and devices ---------------------------------------------------------------


def test_set_user_id_bits_are_shown_and_inert(users: Users) -> None:
    """Of a program of root's, for users and groups; and who copies a mode keeps them."""
    for name, mode in (("user", 0o4755), ("group", 0o2755), ("both", 0o6755)):
        shutil.copy("/usr/bin/id", users.remote / name)
        (users.remote / name).chmod(mode)
    users.mounted(*ALLOWED)
    for name, mode in (("user", 0o4755), ("group", 0o2755), ("both", 0o6755)):
        shown = users.work.run(["stat", "-c", "%a", users.there(name)], check=True).stdout
        assert int(shown, 8) == mode
        for flag in ("-u", "-g"):
            done = users.run(OTHER, users.there(name), flag)
            assert (done.returncode, done.stdout) == (0, f"{OTHER}\n"), (name, flag)
    # The same program next to the mount does: the test can fail.
    local = users.work.directory / "local"
    shutil.copy("/usr/bin/id", local)
    local.chmod(0o4755)
    assert users.run(OTHER, str(local), "-u").stdout == "0\n"
    users.work.run(["chmod", f"--reference={users.there('user')}", users.there("user")], check=True)
    users.work.run(
        ["chmod", f"--reference={users.there('user')}", users.there("group")], check=True
    )
    assert stat.S_IMODE((users.remote / "user").stat().st_mode) == 0o4755
    assert stat.S_IMODE((users.remote / "group").stat().st_mode) == 0o4755


def test_devices_are_shown_and_cannot_be_opened(users: Users) -> None:
    for name, kind in (("zero", stat.S_IFCHR), ("disk", stat.S_IFBLK)):
        os.mknod(users.remote / name, kind | 0o666, os.makedev(1, 5))
        (users.remote / name).chmod(0o666)
    users.mounted(*ALLOWED)
    types = users.work.run(
        ["stat", "-c", "%F", users.there("zero"), users.there("disk")], check=True
    ).stdout
    assert types.splitlines() == ["character special file", "block special file"]
    for uid in (0, OTHER):
        for name in ("zero", "disk"):
            for how in ("<", ">>"):
                done = users.run(uid, "sh", "-c", f": {how}{users.there(name)}")
                assert done.returncode != 0 and "Permission denied" in done.stderr


# --- whose the files are ------------------------------------------------------------------------


def test_files_say_whose_is_what(users: Users) -> None:
    (users.remote / "root's").touch()
    (users.remote / "other's").touch()
    os.chown(users.remote / "other's", OTHER, OTHER)
    uids, gids = users.work.home / "uids", users.work.home / "gids"
    uids.write_text("bin:0\n")
    gids.write_text(f"bin:0\nroot:{OTHER}\n")
    pair = pwd.getpwnam("bin").pw_uid, 2
    users.mounted(f"idmap=file,uidfile={uids},gidfile={gids}")
    assert users.owner("root's") == pair
    names = users.work.run(["ls", users.there()], check=True).stdout.split("\n")
    assert names == ["file", "other's", "root's", ""]
    done = users.run(0, "ls", "-ln", users.there())
    assert done.stderr.count("not permitted") == 1 and "root's" in done.stdout
    assert users.may(0, "chown", "bin:root", users.there("root's"))
    assert (users.remote / "root's").stat().st_gid == OTHER
    done = users.run(0, "chown", "daemon", users.there("root's"))
    assert "Operation not permitted" in done.stderr
    assert (users.remote / "root's").stat().st_uid == 0
    assert users.may(0, "sh", "-c", f"echo x >{users.there('new')}")
    assert users.owner("new") == pair


def test_numbers_that_are_not_in_the_file_may_stay(users: Users) -> None:
    os.chown(users.remote / "file", OTHER, OTHER)
    uids = users.work.home / "uids"
    uids.write_text("bin:0\n")
    users.mounted(f"idmap=file,uidfile={uids},nomap=ignore")
    assert users.owner("file") == (OTHER, OTHER)
    assert users.owner("")[0] == pwd.getpwnam("bin").pw_uid


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["No such file"]),
        ("root:0\nnonsense\n", ["line 2"]),
        ("root:0\nnosuchuser:7\n", ["line 2", "'nosuchuser'"]),
        ("bin:7\nroot:7\n", ["line 2", "line 1 already"]),
        ("bin:4711\n", ["the server's user 0 is not mapped"]),
    ],
)
def test_a_bad_file_is_one_line_and_no_mount(
    users: Users, content: str | None, said: list[str]
) -> None:
    path = users.work.home / "uids"
    if content is not None:
        path.write_text(content)
    option = f"idmap=file,uidfile={path}"
    result = users.work.mount(users.server.source(users.remote), *users.server.options(), option)
    refused(result, ExitCode.USAGE, *said)
    assert users.work.entry() is None


def test_a_file_without_effect_is_said_to_have_none(users: Users) -> None:
    source, options = users.server.source(users.remote), users.server.options()
    result = users.work.mount(source, *options, "uidfile=/nonexistent")
    assert result.returncode == 0
    users.work.daemon()
    (line,) = result.stderr.splitlines()
    assert "no effect without idmap=file" in line


def test_the_file_may_lie_under_the_mount(users: Users) -> None:
    """It is read before, and never again."""
    uids = users.work.mountpoint / "uids"
    uids.write_text("bin:0\n")
    result = users.work.mount(
        users.server.source(users.remote), *users.server.options(), f"idmap=file,uidfile={uids}"
    )
    assert result.returncode == 0
    users.work.daemon()
    assert users.owner("file")[0] == pwd.getpwnam("bin").pw_uid


def test_names_say_whose_is_what(users: Users) -> None:
    """The server is this machine, so a name there is the same name here; what has none is not the
    one who has its number."""
    for name, uid, gid in (("bin", 2, 2), ("nameless", 4711, 4712)):
        (users.remote / name).touch()
        os.chown(users.remote / name, uid, gid)
    users.mounted("idmap=name")
    assert users.owner("bin") == (2, 2)
    assert users.owner("nameless") == (ORDINARY, ORDINARY)
    assert users.owner("file") == (0, 0)
    assert users.may(0, "chown", "daemon:bin", users.there("file"))
    found = (users.remote / "file").stat()
    assert (found.st_uid, found.st_gid) == (pwd.getpwnam("daemon").pw_uid, 2)
    done = users.run(0, "chown", "4711", users.there("file"))
    assert "Operation not permitted" in done.stderr


def test_names_cost_one_question_in_a_walk(users: Users) -> None:
    for number in range(20):
        directory = users.remote / f"d{number}"
        directory.mkdir()
        for name in "abc":
            (directory / name).touch()
            os.chown(directory / name, 2, 2)
    asked = []
    for option in ("idmap=none", "idmap=name"):
        users.mounted(option)
        before = users.work.status()["sftp_requests"]
        shown = users.work.run(["ls", "-lnR", users.there()], check=True).stdout
        assert shown.count(" 2 2 ") == 60
        asked.append(users.work.status()["sftp_requests"] - before)
        users.work.unmount()
    # One for each directory would be 20 more, one for each file 60.
    assert asked[0] < asked[1] <= asked[0] + 8, asked


def test_a_mount_over_the_user_database_does_not_wait_for_itself(users: Users) -> None:
    """With idmap=name nobody is looked up after the mount: in the daemon's own namespace of mounts,
    the mount lies over /etc, and over the sockets of directory services."""
    command = users.work.argv(
        users.server.source(users.remote), *users.server.options(), "idmap=name", flags=["-f"]
    )
    command[command.index(str(users.work.mountpoint))] = "/etc"
    (users.remote / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    os.chown(users.remote / "passwd", 2, 4711)
    script = (
        '"$@" & daemon=$!; tries=0; '
        'until grep -q "/etc .*fuse.pysshfs" /proc/self/mountinfo; do '
        "sleep 0.05; tries=$((tries + 1)); test $tries -lt 300 || break; done; "
        "timeout -k 1 10 stat -c '%u %g' /etc/passwd; "
        "umount -l /etc; kill $daemon; wait $daemon"
    )
    done = users.work.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *command]
    )
    assert done.stdout == f"2 {ORDINARY}\n", done


def test_a_server_that_tells_no_names_is_refused(work: Workspace, remote: Path) -> None:
    with Sshd(sftp=f"{SFTP_SERVER} -P users-groups-by-id") as server:
        result = work.mount(server.source(remote), *server.options(), "idmap=name")
        refused(result, ExitCode.USAGE, "idmap=name", "users-groups-by-id@openssh.com")
        assert work.entry() is None


def test_who_mounts_is_the_login_although_the_directory_is_not_the_logins(
    work: Workspace, remote: Path
) -> None:
    """`idmap=user` asks the server's process, not whose the login directory is."""
    with Sshd(sftp=f"{SFTP_SERVER} -d {remote}") as server:
        os.chown(remote, OTHER, OTHER)
        os.chown(remote / "file", OTHER, OTHER)
        work.mounted(server.source(remote), *server.options(), "idmap=user")
        shown = work.run(["stat", "-c", "%u", str(work.mountpoint / "file")], check=True).stdout
        assert shown == f"{OTHER}\n"
