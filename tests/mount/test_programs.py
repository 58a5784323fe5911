"""Everyday programs on the mount leave what they leave in a local directory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.mount import contract, database, trees
from tests.mount.places import Place, read_a_line
from tests.support import procs

if TYPE_CHECKING:
    from pathlib import Path

#: Compares trees, symlinks by their targets.
DIFF = "diff -r --no-dereference"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    directory = tmp_path / "local"
    directory.mkdir()
    return directory


def locally(directory: Path, script: str) -> str:
    """Run a shell script in a local directory; gives its output."""
    argv = ["sh", "-ec", f'cd "$1"; {script}', "sh", str(directory)]
    return procs.run_limited(argv, timeout=60).stdout


def both(place: Place, local: Path, script: str) -> str:
    """The script's output on the mount, which is the same as in the local directory."""
    on_mount, here = place.sh(script, timeout=60), locally(local, script)
    assert on_mount == here
    return on_mount


def assert_same_trees(place: Place, local: Path, times: bool = True) -> None:
    """Mount, server and local directory hold the same."""
    wanted = trees.snapshot(str(local), times)
    assert trees.snapshot(str(place.server), times) == wanted
    assert place.call(trees.snapshot, ".", times) == wanted


# --- copying --------------------------------------------------------------------------------------


def test_cp_there_and_back(place: Place, local: Path, tmp_path: Path) -> None:
    trees.make(local / "tree")
    place.sh(f"cp -a {local}/tree .")
    assert_same_trees(place, local)
    place.sh(f"cp -a tree {tmp_path}/back; cp -a tree inside; {DIFF} tree inside")
    assert trees.snapshot(str(tmp_path / "back")) == trees.snapshot(str(local / "tree"))
    assert place.call(trees.snapshot, "inside") == trees.snapshot(str(local / "tree"))


def test_tar_there_and_back(place: Place, local: Path, tmp_path: Path) -> None:
    trees.make(local / "tree")
    locally(local, f"tar cf {tmp_path}/one.tar tree")
    place.sh(f"tar xpf {tmp_path}/one.tar")
    assert_same_trees(place, local)
    place.sh(f"tar czf {tmp_path}/two.tgz tree; tar df {tmp_path}/one.tar")
    (tmp_path / "back").mkdir()
    locally(tmp_path / "back", f"tar xpf {tmp_path}/two.tgz")
    assert trees.snapshot(str(tmp_path / "back")) == trees.snapshot(str(local))


def test_rsync_transfers_everything_once(place: Place, local: Path) -> None:
    trees.make(local / "tree")
    command = f"rsync -a --itemize-changes {local}/tree ."
    assert len(place.sh(command).splitlines()) > 150
    assert_same_trees(place, local)
    assert place.sh(command) == ""
    changed = next(path for path in sorted((local / "tree").iterdir()) if path.is_file())
    changed.write_text("changed")
    assert [line.split(" ", 1)[0][:2] for line in place.sh(command).splitlines()] == [">f"]
    (local / "tree/a/link0").unlink()
    place.sh(f"rsync -a --delete --inplace {local}/tree .")
    assert_same_trees(place, local)


def test_cp_keeps_what_the_server_side_sees(place: Place, local: Path) -> None:
    """A sparse file, dd with all kinds of blocks, and a file copied onto itself by parts."""
    both(
        place,
        local,
        "seq 100000 > numbers; dd if=numbers of=odd bs=777 skip=3 seek=5 status=none;"
        "dd if=numbers of=odd bs=1000 count=2 conv=notrunc oflag=append status=none;"
        "dd if=numbers of=once bs=1M oflag=sync status=none; cp --sparse=always odd sparse;"
        "cat numbers >> odd; head -c 12345 odd > part; truncate -s 1M part; split -b 50000 numbers;"
        "sha256sum *",
    )
    assert_same_trees(place, local, times=False)


# --- editing --------------------------------------------------------------------------------------


def test_editors_ways_of_saving(place: Place, local: Path) -> None:
    both(
        place,
        local,
        "printf 'one\\ntwo\\n' > file; chmod 640 file;"
        # A new file, synced, under the old name.
        "printf 'one\\ntwo\\nthree\\n' > .file.swp; chmod 640 .file.swp; sync .file.swp;"
        "mv .file.swp file; cat file;"
        # The old file as the backup, a new one in its place.
        "mv file file~; printf 'four\\n' > file; chmod --reference=file~ file; cat file file~;"
        # The backup as a copy, the old file rewritten.
        "cp -p file file.bak; printf 'five\\n' > file; cat file file.bak; rm file.bak;"
        "sed -i 's/five/six/' file; sed -i.orig 's/six/seven/' file; cat file file.orig",
    )
    assert_same_trees(place, local, times=False)


def test_vim_saves(place: Place, local: Path) -> None:
    """The editor itself, with its swap file and both of its ways to write a backup."""
    editing = "vim -u NONE -N -n -es -c 'set {}' -c '%s/one/two/' -c wq file </dev/null"
    for setting in ("backup backupcopy=yes", "backup backupcopy=no", "nowritebackup"):
        both(place, local, "echo one > file; chmod 604 file;" + editing.format(setting))
        assert (place.server / "file").read_text() == "two\n"
    assert_same_trees(place, local, times=False)


def test_mv_across_file_systems(place: Place, local: Path) -> None:
    trees.make(local / "tree")
    before = trees.snapshot(str(local))
    place.sh(f"mv {local}/tree moved")
    assert not (local / "tree").exists()
    place.sh(f"mv moved {local}/tree")
    assert trees.snapshot(str(local)) == before
    assert list(place.server.iterdir()) == []


def test_find_and_other_readers(place: Place, local: Path) -> None:
    trees.make(local / "tree")
    place.sh(f"cp -a {local}/tree .")
    both(
        place,
        local,
        "cd tree; for test in '-type f' '-type d' '-type l' '-size +8'"
        " '-size 0' '-newermt @536870912' '-perm -u+x' '-name *1*' '-empty -type f' '-links 1 -type"
        ' f\'; do echo "$test:"; set -f; find . $test | sort; done;'
        "grep -rc . a | sort; find . -type f -print0 | sort -z | xargs -0 md5sum; du -a --apparent-"
        "size a/b/c | sort; ls -1R; stat -c '%n %f %s %Y %N' a/* | sort",
    )


def test_reading_a_file_that_grows_on_the_server(place: Place) -> None:
    grown = place.server / "log"
    grown.write_text("".join(f"line {n}\n" for n in range(1000)))
    assert place.sh("head -n 1 log; tail -n 1 log; wc -l < log") == "line 0\nline 999\n1000\n"
    tail = place.start(["tail", "-n", "1", "-f", "-s", "0.1", "log"])
    assert read_a_line(tail) == b"line 999\n"
    for number in range(3):
        with grown.open("a") as file:
            file.write(f"more {number}\n")
        # tail learns of it by fstat; the kernel may believe what it knows for 20 seconds, unless
        # somebody opens the file.
        place.sh("head -c 1 log > /dev/null")
        assert read_a_line(tail, 5) == b"more %d\n" % number
    tail.kill()
    tail.communicate(timeout=10)


def test_mapped_files(place: Place, local: Path) -> None:
    """Programs that map what they read and write: git and sort do, and Python's mmap."""
    for check in (contract.reading_and_writing_by_mapping, contract.copying_inside):
        place.call(check)
    numbers = "seq 200000 | awk '{print ($1 * 7919) % 200003}' > n"
    both(place, local, f"rm -f *; {numbers}; sort -n n -o n; sha256sum n; comm -12 n n | wc -l")


# --- development ----------------------------------------------------------------------------------

_GIT = (
    "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_NAME=a"
    " GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b"
    " GIT_AUTHOR_DATE='@1700000000 +0000' GIT_COMMITTER_DATE='@1700000000 +0000';"
)


def test_git(place: Place, local: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    trees.make(origin)
    script = f"{_GIT} git init -q -b main; git add -A; git commit -qm one; git tag v1;"
    locally(origin, script)
    log = both(
        place,
        local,
        f"{_GIT} git clone -q {origin} clone; cd clone; git status --porcelain;"
        "echo more >> a/new; git rm -qr 'sp ace'; git mv a/link1 moved; chmod +x a/new; git add -A;"
        "git status --porcelain; git commit -qm two; git status --porcelain; git checkout -q v1;"
        "git checkout -q -b side; echo side > side; git add -A; git commit -qm side;"
        "git checkout -q main; git merge -q -m merge side; git gc -q; git fsck --strict 2>&1;"
        "git stash list; git log --format='%H %s'; git status --porcelain; git diff v1 --stat",
    )
    assert "merge" in log and "two" in log
    wanted = {k: v for k, v in trees.snapshot(str(local), False).items() if "/.git/" not in k}
    found = {k: v for k, v in trees.snapshot(str(place.server), False).items() if "/.git/" not in k}
    assert found == wanted
    locally(place.server / "clone", f"{_GIT} git -c safe.directory='*' fsck --strict")


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_with_two_processes(place: Place, journal: str) -> None:
    argv = [sys.executable, "-I", database.__file__, "base", journal]
    others = [place.start([*argv, tag, "40"]) for tag in ("one", "two")]
    assert place.call(database.work, "base", journal, "three", 40) == [journal]
    for other in others:
        assert other.communicate(timeout=40) == (b"", b"") and other.returncode == 0
    good, rows = place.call(database.examine, "base")
    assert good == "ok"
    assert isinstance(rows, list)
    kept = [n for n in range(40) if n % 7 != 6]
    assert [row[:2] for row in rows] == [[t, n] for t in ("one", "three", "two") for n in kept]
    assert database.examine(str(place.server / "base")) == [good, rows]


def test_sqlite_in_one_process_equals_a_local_one(place: Place, local: Path) -> None:
    script = (
        "sqlite3 base 'create table t (a integer primary key, b text)';"
        'for i in 1 2 3 4 5; do sqlite3 base "begin; insert into t (b) select hex(randomblob(9)) '
        "from generate_series(1,500); update t set b = a where a % $i = 0; delete from t where "
        'a % 11 = $i; commit"; done; sqlite3 base "update t set b = a; vacuum; '
        'pragma integrity_check; select count(*), sum(a), sum(b) from t"'
    )
    assert both(place, local, script).startswith("ok\n")


def test_python_environment(place: Place) -> None:
    python = getattr(sys, "_base_executable", sys.executable)
    place.sh(f"{python} -m venv --copies --without-pip env", timeout=60)
    place.sh("mkdir package; echo 'value = 6 * 7' > package/__init__.py; echo > package/part.py")
    code = "import sys, package, package.part; print(package.value, sys.prefix)"
    for _ in range(2):  # the second time from the compiled files
        command = f"env -u PYTHONDONTWRITEBYTECODE PYTHONPATH=. env/bin/python -c '{code}'"
        answer = place.sh(command).split()
        assert answer == ["42", str(place.mount.mountpoint / place.name / "env")]
    assert any((place.server / "package/__pycache__").iterdir())
    place.sh("printf '#!%s\\nprint(1)\\n' \"$PWD/env/bin/python\" > run; chmod +x run; ./run")


_MAKEFILE = """
CFLAGS = -O1
program: main.o one.o two.o
\tgcc -o $@ $^
%.o: %.c all.h
\tgcc $(CFLAGS) -c -o $@ $<
"""


def test_make_builds_what_has_changed(place: Place) -> None:
    files = {
        "Makefile": _MAKEFILE,
        "all.h": "int one(void); int two(void);\n",
        "one.c": '#include "all.h"\nint one(void) { return 1; }\n',
        "two.c": '#include "all.h"\nint two(void) { return 2; }\n',
        "main.c": '#include "all.h"\n#include <stdio.h>\n'
        'int main(void) { printf("%d\\n", one() + two()); return 0; }\n',
    }
    for name, content in files.items():
        place.run(["tee", name], input=content)
        place.run(["touch", "-d", "-1 minute", name])
    assert place.sh("make", timeout=60).count("gcc") == 4
    assert place.sh("./program") == "3\n"
    assert "up to date" in place.sh("make")
    # With times in whole seconds what is built within one second counts as of the same age.
    place.sh("touch -d '-40 seconds' *.o; touch -d '-30 seconds' program; touch one.c")
    assert place.sh("make").count("gcc") == 2
    place.sh("sed -i 's/return 2/return 5/' two.c; make -B -j2")
    assert place.sh("./program; cp program copy; ./copy; strip copy; ./copy") == "6\n6\n6\n"


def test_diff_finds_the_difference(place: Place, local: Path) -> None:
    trees.make(local / "tree")
    place.sh(f"cp -a {local}/tree one; cp -a one two; {DIFF} one two; {DIFF} one {local}/tree")
    (local / "tree/a/extra").write_text("extra")
    assert place.sh(f"{DIFF} one {local}/tree || :").splitlines() == [
        f"Only in {local}/tree/a: extra"
    ]
    place.sh("echo extra > two/a/extra; echo other > two/a/b/other; rm two/a/link0")
    found = place.sh(f"{DIFF} one two || :").splitlines()
    assert found == ["Only in two/a/b: other", "Only in two/a: extra", "Only in one/a: link0"]
