"""Links on real mounts: they lead into the served directory, or nowhere."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from pysshfs.cli.exitcodes import ExitCode
from tests.mount.places import ServerUnderTest
from tests.support import procs
from tests.support.commands import refused, user_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.commands import Workspace
    from tests.support.mounts import Mount
    from tests.support.sshd import Sshd

#: Says of each path what readlink and reading through it give: text or errno.
_LOOK: Final = """
import errno, json, os, sys

def tried(call, path):
    try:
        return call(path)
    except OSError as error:
        return errno.errorcode[error.errno]

def read(path):
    if os.path.isdir(path):
        return sorted(os.listdir(path))
    with open(path) as file:
        return file.read()

print(json.dumps({path: [tried(os.readlink, path), tried(read, path)] for path in sys.argv[1:]}))
"""
INSIDE: Final = "inside"
SECRET: Final = "secret"


def look(mount: Mount, *paths: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads(mount.python(_LOOK, *paths).stdout)
    return found


class Links:
    """A served directory, and a file beside each mountpoint that no link may lead to."""

    def __init__(self, server: ServerUnderTest) -> None:
        self.server = server
        self.root = server.root
        (self.root / "d" / "e").mkdir(parents=True)
        (self.root / "d" / "file").write_text(INSIDE)
        (self.root / "file").write_text(INSIDE)

    def link(self, path: str, target: str) -> None:
        (self.root / path).symlink_to(target)

    def mount(self, *options: str) -> Mount:
        mount = self.server.mount(*options)
        (mount.mountpoint.parent / "file").write_text(SECRET)
        return mount


@pytest.fixture
def links(openssh: Sshd) -> Iterator[Links]:
    server = ServerUnderTest("openssh", openssh)
    try:
        yield Links(server)
    finally:
        server.close()


def test_links_lead_into_the_served_directory_or_nowhere(links: Links) -> None:
    root = links.root
    inside = {
        "d/e/plain": ("../file", "../file"),
        "d/e/up": ("../../file", "../../file"),
        "chain": ("d/e/up", "d/e/up"),
        "d/around": ("e/../file", "file"),
        "by-link": ("dir/../file", "d/file"),  # the parent of d/e
        "d/absolute": (f"{root}/file", "../file"),
        "d/e/absolute": (f"{root}/d/e/../file", "../file"),
        "above": (f"../{root.name}/file", "file"),
        "d/by-dots": (f"../../{root.name}/dir/../file", "file"),
    }
    for path, (target, _) in inside.items():
        links.link(path, target)
    outside = {
        "up": "../file",
        "d/up": "../../file",
        "d/around-up": "e/../../../file",
        "by-chain": "d/up",
        "by-link-up": "dir/../../../file",
        "system": "/etc/passwd",
        "parent": "..",
    }
    links.link("dir", "d/e")
    links.link("top", str(root))
    links.link("d/top", f"{root}/")
    links.link("d/new", f"{root}/d/later")
    with links.mount() as mount:
        links.link("secret", str(mount.mountpoint.parent / "file"))
        links.link("itself", str(mount.mountpoint / "file"))
        for path, target in outside.items():
            links.link(path, target)
        found = look(mount, *inside)
        assert found == {path: [shown, INSIDE] for path, (_, shown) in inside.items()}
        found = look(mount, *outside, "secret", "itself")
        assert found.pop("by-chain") == ["d/up", "EPERM"]
        assert found == {path: ["EPERM", "EPERM"] for path in found}
        tops = look(mount, "top", "d/top")
        assert (tops["top"][0], tops["d/top"][0]) == (".", "../")
        assert "by-link" in tops["d/top"][1]
        # A link that leads nowhere yet is one to write through.
        mount.python("open('d/new', 'w').write('made'); open('d/absolute', 'a').write('+')")
        assert (root / "d" / "later").read_text() == "made"
        assert (root / "file").read_text() == INSIDE + "+"
        assert (mount.mountpoint.parent / "file").read_text() == SECRET
        said = mount.log()
        for name in ("up", "d/up", "secret"):
            assert said.count(f"the link '{name}' to ") == 1
        assert "-o symlinks=all would allow it" in said


def test_a_server_that_exchanges_things_meanwhile_gives_no_file_away(links: Links) -> None:
    """Links and directories turn into one another while the kernel is on its way, with nothing
    remembered anywhere."""
    root = links.root
    links.link("text", "file")
    links.link("through", "d/e/up")
    links.link("behind", "d/e/../file")
    links.link("d/e/up", "../../file")
    (root / "deep").mkdir()
    stop = threading.Event()

    def exchange_texts() -> None:
        for text in ("/", "..", "../..", "d/../../..", f"{root}/../file", "d/e/../../file"):
            fresh = root / "fresh"
            fresh.symlink_to(text)
            fresh.rename(root / "text")

    def exchange() -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            exchange_texts()
            os.rename(root / "d" / "e", root / "deep" / "e")
            # Where `behind` has its directory there is a link to the root of all, for a while.
            os.symlink(("..", "../..", "..", "/")[turn % 4], root / "d" / "e")
            exchange_texts()
            os.unlink(root / "d" / "e")
            os.rename(root / "deep" / "e", root / "d" / "e")

    program = """
import collections, errno, json, os, sys, time
seen, end = collections.Counter(), time.monotonic() + 4
while time.monotonic() < end:
    for path in ('text', 'through', 'behind', 'd/e/up', 'text/file', 'd/e/file'):
        try:
            with open(path) as file:
                seen[file.read()] += 1
        except OSError as error:
            seen[errno.errorcode[error.errno]] += 1
print(json.dumps(seen))
"""
    with links.mount("dir_cache=no", "entry_timeout=0", "attr_timeout=0") as mount:
        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            seen = json.loads(mount.python(program).stdout)
        finally:
            stop.set()
            thread.join()
        assert SECRET not in seen
        assert seen[INSIDE] > 20 and seen["EPERM"] > 20


def test_the_kernel_remembers_no_text(links: Links) -> None:
    """A link that moves up is judged by where it lies then, and so are those in a directory."""
    links.link("d/e/link", "../../file")
    links.link("d/e/absolute", str(links.root / "file"))
    with links.mount() as mount:
        assert look(mount, "d/e/link")["d/e/link"] == ["../../file", INSIDE]
        mount.run(["mv", "d/e/link", "link"])
        assert look(mount, "link")["link"] == ["EPERM", "EPERM"]
        mount.run(["mv", "link", "d/e/link"])
        mount.run(["mv", "d/e", "e"])
        found = look(mount, "e/link", "e/absolute")
        assert found == {"e/link": ["EPERM", "EPERM"], "e/absolute": ["../file", INSIDE]}


def test_new_links_are_stored_as_they_are_given(links: Links) -> None:
    with links.mount() as mount:
        mount.python("import os; os.symlink('/etc/passwd', 'l'); os.symlink('a/../b', 'm')")
        assert os.readlink(links.root / "l") == "/etc/passwd"
        assert os.readlink(links.root / "m") == "a/../b"
        assert look(mount, "l", "m") == {"l": ["EPERM", "EPERM"], "m": ["b", "ENOENT"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("symlinks=all", ["../file", "ROOT/file", "/etc/hostname", "file"]),
        ("no_contain_symlinks,transform_symlinks", ["../file", "../file", "/etc/hostname", "file"]),
        ("contain_symlinks", ["EPERM", "EPERM", "EPERM", "file"]),
        ("symlinks=none", ["EPERM", "EPERM", "EPERM", "EPERM"]),
    ],
)
def test_settings(links: Links, options: str, expected: list[str]) -> None:
    names = ["d/up", "d/absolute", "d/outside", "d/plain"]
    for name, target in zip(
        names, ("../file", f"{links.root}/file", "/etc/hostname", "file"), strict=True
    ):
        links.link(name, target)
    with links.mount(*options.split(",")) as mount:
        found = look(mount, *names)
        assert [found[name][0].replace(str(links.root), "ROOT") for name in names] == expected
        listing = mount.run(["stat", "-c", "%F", *names]).stdout
        assert listing == "symbolic link\n" * 4


def test_links_are_followed_on_the_server(links: Links) -> None:
    for name, target in {
        "to-file": "d/file",
        "to-dir": "d",
        "outside": "/etc/passwd",
        "dangling": "nowhere",
        "loop": "loop",
        "to-empty": "d/e",
    }.items():
        links.link(name, target)
    with links.mount("follow_symlinks") as mount:
        kinds = mount.run(["find", ".", "-maxdepth", "1", "-type", "l"]).stdout
        assert sorted(kinds.split()) == ["./dangling", "./loop"]
        assert mount.run(["cat", "to-file", "to-dir/file"]).stdout == INSIDE * 2
        assert "root:" in mount.run(["cat", "outside"]).stdout  # the server's
        assert look(mount, "dangling", "loop") == {
            "dangling": ["nowhere", "ENOENT"],
            "loop": ["loop", "ELOOP"],
        }
        assert "to-dir:" in mount.run(["ls", "-lR"]).stdout
        mount.python(
            "import os; os.symlink('d/file', 'new'); print(open('new').read());"
            "os.rename('to-file', 'moved'); os.unlink('moved'); os.unlink('dangling');"
            "os.rmdir('to-empty'); os.unlink('loop'); os.symlink('gone', 'later')"
        )
        assert os.readlink(links.root / "new") == "d/file"
        assert (links.root / "d" / "file").read_text() == INSIDE
        assert (links.root / "d" / "e").is_dir()
        names = {path.name for path in links.root.iterdir()}
        assert names == {"d", "file", "to-dir", "outside", "new", "later"}
        assert mount.run(["stat", "-c", "%F %s", "new"]).stdout == "regular file 6\n"


# --- this machine's own programs ------------------------------------------------------------------


def test_a_virtual_environment_works_where_links_to_programs_are_allowed(
    work: Workspace, server: Sshd, user: list[str], tmp_path: Path
) -> None:
    """As an ordinary user; by default its interpreter is out of reach, and the log says what to
    do about it."""
    served = tmp_path / "served"
    served.mkdir()
    venv = str(work.mountpoint / "venv")
    python = [*user, f"{venv}/bin/python"]
    log = work.directory / "home" / "log"
    for options in ([], ["symlinks=contain+system"]):
        argv = work.argv(server.source(served), *user_options(server), *options, f"log_file={log}")
        work.run([*user, *argv], check=True)
        work.daemon()
        making = [*user, "/usr/bin/python3", "-m", "venv", "--without-pip", venv]
        if not options:
            work.run(making)
            failed = work.run([*python, "-c", "pass"])
            assert failed.returncode != 0 and "Operation not permitted" in failed.stderr
            assert "-o symlinks=contain+system would allow it" in log.read_text()
            work.run([*user, "rm", "-r", venv], check=True)
        else:
            work.run(making, check=True)
            asked = work.run([*python, "-c", "import sys; print(sys.prefix)"], check=True)
            assert asked.stdout.strip() == venv
            outside = f"{work.mountpoint}/passwd"
            work.run([*user, "ln", "-s", "/etc/passwd", outside], check=True)
            failed = work.run([*user, "cat", outside])
            assert "Operation not permitted" in failed.stderr
        work.unmount()


def test_links_to_programs_are_not_for_mounts_that_root_makes(
    work: Workspace, server: Sshd
) -> None:
    result = work.mount(server.source("/"), *server.options(), "symlinks=contain+system")
    refused(result, ExitCode.USAGE, "symlinks=contain+system", "root")
    assert work.entry() is None


#: Resolves a path as for a link to a program, whoever owns what lies on the way.
_RESOLVE: Final = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pysshfs.fuse import systemfiles
systemfiles._is_roots = lambda status: True
for path in sys.argv[2:]:
    found = systemfiles._resolved(os.fsencode(path))
    print(None if found is None else os.fsdecode(b"/" + b"/".join(found)))
"""


def test_looking_for_programs_asks_nothing_of_a_mount(links: Links) -> None:
    """Not even of one whose daemon stands still, as the own one does while it looks."""
    with links.mount() as mount:
        mount.run(["ls"])
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            above, there = mount.mountpoint.parent, mount.mountpoint
            paths = [str(path) for path in (above, there, there / "file", there / ".." / "mnt")]
            argv = [sys.executable, "-I", "-c", _RESOLVE, str(procs.ROOT), *paths]
            found = procs.run_limited(argv, timeout=10, unblock=mount.abort).stdout
            assert found.splitlines() == [str(above), "None", "None", "None"]
            assert mount.waiting() == 0
        finally:
            os.kill(mount.pid, signal.SIGCONT)
