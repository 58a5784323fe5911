"""No text that a user gives becomes another program's option, or a word of a shell's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli.exitcodes import ExitCode
from pysshfs.fuse import mountinfo
from tests.support.commands import Workspace, refused, user_options

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support.sshd import Sshd

#: What would make a file named `canary` if a shell, or ssh, came to act on it.
_WORDS = [
    "-oProxyCommand=>canary",
    "-oProxyCommand=touch canary",
    "x;>canary",
    "$(>canary)",
    "`>canary`",
    "x|>canary",
    "x&>canary",
    "x>canary",
    "x\n>canary",
    "x'$(>canary)'",
]
_PROXY = "ProxyCommand=sh -c 'echo \"$0 $1 $2\" >>seen; exit 1' %h %n %r"


_KEYWORDS = ["HostName", "User", "ProxyJump"]
_FORMS = ["{}:", "{}@host:", "[{}]:"]


def try_to_mount(work: Workspace, source: str, *options: str) -> str:
    """In a directory in which the canary would be; the line that the command ends with."""
    result = there(work, work.home, [], source, str(work.mountpoint), *options)
    assert not list(work.directory.rglob("canary*"))
    return refused(result, ExitCode.USAGE)


def there(
    work: Workspace, directory: Path, prefix: list[str], source: str, place: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """The command, run in a directory, with its two arguments behind "--": what begins with a dash
    there is no option of ours."""
    argv = work.argv("", *options)
    argv = [word for word in argv if word not in ("", str(work.mountpoint))]
    return work.run(
        ["sh", "-c", 'cd "$0" && exec "$@"', str(directory), *prefix, *argv, "--", source, place]
    )


@pytest.mark.parametrize(
    ("words", "form"),
    [(words, _FORMS[number % len(_FORMS)]) for number, words in enumerate(_WORDS)],
)
def test_no_source_gets_as_far_as_a_program(work: Workspace, words: str, form: str) -> None:
    try_to_mount(work, form.format(words), _PROXY)
    assert not (work.home / "seen").exists()


@pytest.mark.parametrize(
    ("words", "keyword"),
    [(words, _KEYWORDS[number % len(_KEYWORDS)]) for number, words in enumerate(_WORDS[:5])],
)
@pytest.mark.parametrize("where", ["option", "file"])
def test_no_name_of_the_configuration_does(
    work: Workspace, words: str, keyword: str, where: str
) -> None:
    proxy = [] if keyword == "ProxyJump" else [_PROXY]
    if where == "option":
        try_to_mount(work, "host:", f"{keyword}={words}", *proxy)
    else:
        work.config(f'Host *\n {keyword} "{words}"\n')
        try_to_mount(work, "host:", *proxy)
    assert not (work.home / "seen").exists()


def test_a_harmless_name_does_get_there(work: Workspace) -> None:
    """Or the tests above would show nothing."""
    result = there(work, work.home, [], "me@host:", str(work.mountpoint), _PROXY)
    refused(result, ExitCode.UNREACHABLE)
    assert (work.home / "seen").read_text() == "host host me\n"


# --- options of the mount -------------------------------------------------------------------------


_TEXTS = [
    "a,allow_other,suid,dev",
    "a\\,allow_other",
    "a\\\\,allow_other",
    "a\\",
    ",",
    "-o allow_other",
    "a b\tc",
    "a\x1b[2Jb\x7f",
    "#a",
]


@pytest.mark.parametrize(
    ("text", "who"),
    [*((text, "user") for text in _TEXTS), *((text, "root") for text in _TEXTS[:3])],
)
def test_no_text_becomes_an_option_of_the_mount(
    work: Workspace, server: Sshd, remote: Path, user: list[str], text: str, who: str
) -> None:
    """Through libfuse, and for an ordinary user through fusermount3."""
    options = server.options() if who == "root" else user_options(server)
    value = text.replace("\\", "\\\\").replace(",", "\\,")
    argv = work.argv(server.source(remote), *options, f"fsname={value}", f"subtype={value}")
    work.run([*([] if who == "root" else user), *argv], check=True)
    work.daemon()
    entry = work.entry()
    assert entry is not None
    assert os.fsdecode(entry.source) == text
    given = set(entry.super_options.split(",")) | set(entry.options.split(","))
    assert "allow_other" not in given and {"nosuid", "nodev"} <= given
    shown = work.ctl("status", str(work.mountpoint))
    assert shown.stdout.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("-o", "root"), ("--help", "user"), ("-rf", "user"), ("a,suid", "user"), ("a\nb", "user"),
        ("a\\b", "user"), (" ", "root"), ("a\x1b[2J", "root"),
    ],
)  # fmt: skip
def test_a_mountpoint_is_a_path_whatever_its_name(
    work: Workspace, server: Sshd, remote: Path, user: list[str], name: str, who: str
) -> None:
    place = work.mountpoint / name
    place.mkdir()
    (place / "hidden").touch()  # there is something to say about it
    owner = os.stat(work.mountpoint).st_uid
    os.chown(place, owner, owner)
    prefix, options = ([], server.options()) if who == "root" else (user, user_options(server))
    result = there(work, work.mountpoint, prefix, server.source(remote), name, *options)
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1 and result.stderr[:-1].isprintable(), result.stderr
    entry = work.entry(place)
    assert entry is not None and entry.mountpoint == os.fsencode(place)
    work.daemon(place)
    assert work.run([*prefix, "ls", "--", str(place)], check=True).stdout == "file\n"
    relative = ["sh", "-c", 'cd "$0" && exec "$@"', str(work.mountpoint)]
    gone = work.ctl("umount", f"./{name}", prefix=[*relative, *prefix])
    assert (gone.returncode, gone.stderr) == (0, "")
    assert mountinfo.mount_at(os.fsencode(place)) is None
