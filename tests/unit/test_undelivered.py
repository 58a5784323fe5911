"""What the server did not take is saved: whole, private, bounded, and never by a path again."""

from __future__ import annotations

import errno
import json
import logging
import os
import pwd
import stat
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pysshfs.vfs import undelivered
from pysshfs.vfs.undelivered import Ranges, UndeliveredStore, escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUOTA = 1 << 20
REMOTE = b"/home/me/notes"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "pysshfs" / "undelivered"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[UndeliveredStore]:
    made = opened(tmp_path)
    yield made
    made.close()


def opened(tmp_path: Path, quota: int = QUOTA) -> UndeliveredStore:
    return UndeliveredStore.open(quota, "me@host:dir", {"XDG_STATE_HOME": str(tmp_path / "state")})


def described(name: str) -> dict[str, Any]:
    found = json.loads(Path(f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all("\n" not in record.getMessage() for record in caplog.records)
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# --- where it is --------------------------------------------------------------------------------


class TestPlace:
    def test_below_the_home_directory(self, tmp_path: Path) -> None:
        UndeliveredStore.open(QUOTA, "h:", {"HOME": str(tmp_path)}).close()
        assert (tmp_path / ".local/state/pysshfs/undelivered").is_dir()

    def test_the_state_directory_goes_first(self, tmp_path: Path, directory: Path) -> None:
        state = str(tmp_path / "state")
        home = tmp_path / "home"
        home.mkdir()
        UndeliveredStore.open(QUOTA, "h:", {"HOME": str(home), "XDG_STATE_HOME": state}).close()
        assert directory.is_dir() and not os.listdir(home)

    @pytest.mark.parametrize("wrong", ["", "relative/state"])
    def test_a_relative_state_directory_does_not_count(self, tmp_path: Path, wrong: str) -> None:
        environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": wrong}
        UndeliveredStore.open(QUOTA, "h:", environ).close()
        assert (tmp_path / ".local/state/pysshfs/undelivered").is_dir()

    @pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "here"}], ids=str)
    def test_without_home_it_is_that_of_the_user_database(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
    ) -> None:
        entry = pwd.getpwuid(os.geteuid())
        at_home = pwd.struct_passwd([*entry[:5], str(tmp_path), entry[6]])
        monkeypatch.setattr(pwd, "getpwuid", {os.geteuid(): at_home}.__getitem__)
        UndeliveredStore.open(QUOTA, "h:", environ).close()
        assert (tmp_path / ".local/state/pysshfs/undelivered").is_dir()

    def test_a_quota_of_zero_makes_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = opened(tmp_path, quota=0)
        store.save(REMOTE, 0, b"data", "the disk is full")
        store.save(REMOTE, 4, b"data", "the disk is full")
        assert os.listdir(tmp_path) == [] and store.saved() == []
        (line,) = errors(caplog)
        assert "/home/me/notes" in line and "lost" in line and "undelivered_quota is 0" in line

    def test_what_lies_there_already_is_left_alone(self, tmp_path: Path, directory: Path) -> None:
        first = opened(tmp_path)
        first.save(REMOTE, 0, b"first", "why")
        second = opened(tmp_path)
        second.save(REMOTE, 0, b"second", "why")
        assert second.saved() != first.saved()
        assert [Path(name).read_bytes() for name in (*first.saved(), *second.saved())] == [
            b"first",
            b"second",
        ]
        assert len(os.listdir(directory)) == 4


class TestNoDirectory:
    """The mount goes on, with a warning; what is lost later is an error each."""

    @staticmethod
    def cannot_save(store: UndeliveredStore, caplog: pytest.LogCaptureFixture) -> str:
        (warning,) = caplog.records
        assert warning.levelno == logging.WARNING
        store.save(REMOTE, 0, b"data", "the disk is full")
        store.save(REMOTE, 9, b"data", "the disk is full")
        store.save(b"/other\n", 0, b"data", "the disk\nis full")
        assert store.saved() == []
        first, second = errors(caplog)
        assert "/home/me/notes" in first and "the disk is full" in first and "lost" in first
        assert "/other" in second
        store.close()
        return warning.getMessage()

    def test_a_file_in_the_way(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "state").write_text("")
        warning = self.cannot_save(opened(tmp_path), caplog)
        assert str(tmp_path / "state") in warning and "Not a directory" in warning

    @pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
    def test_a_home_that_cannot_be_written(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
    ) -> None:
        monkeypatch.setattr(os, "mkdir", failing(number))
        assert os.strerror(number) in self.cannot_save(opened(tmp_path), caplog)

    def test_a_directory_that_cannot_be_written(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        opened(tmp_path).close()
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
        assert "cannot be written" in self.cannot_save(opened(tmp_path), caplog)

    def test_a_user_without_a_home(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
        store = UndeliveredStore.open(QUOTA, "h:", {})
        assert "no home directory" in self.cannot_save(store, caplog)

    @pytest.mark.parametrize("target", ["elsewhere", "absent"])
    def test_a_symlink_in_its_place(
        self, tmp_path: Path, directory: Path, caplog: pytest.LogCaptureFixture, target: str
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        directory.parent.mkdir(parents=True)
        directory.symlink_to(tmp_path / target)
        self.cannot_save(opened(tmp_path), caplog)
        assert os.listdir(tmp_path / "elsewhere") == [] and not (tmp_path / "absent").exists()

    def test_somebody_elses_directory(
        self,
        tmp_path: Path,
        directory: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        opened(tmp_path).close()
        directory.chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
        assert "another user" in self.cannot_save(opened(tmp_path), caplog)
        assert mode(directory) == 0o755


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


# --- what is in it ------------------------------------------------------------------------------


class TestContent:
    def test_bytes_at_their_offset_and_what_they_are(self, store: UndeliveredStore) -> None:
        store.save(REMOTE, 3 << 30, b"far out", "permission denied")
        (name,) = store.saved()
        assert os.stat(name).st_size == (3 << 30) + 7
        assert os.stat(name).st_blocks * 512 < 1 << 20  # sparse
        with open(name, "rb") as file:
            file.seek(3 << 30)
            assert file.read() == b"far out"
        found = described(name)
        assert found.pop("time")[:4].isdigit()
        assert found == {
            "source": "me@host:dir",
            "path": "/home/me/notes",
            "reason": "permission denied",
            "ranges": [[3 << 30, 7]],
        }

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_every_kind_of_buffer(
        self, store: UndeliveredStore, kind: type[bytes | bytearray | memoryview]
    ) -> None:
        store.save(REMOTE, 0, kind(b"data"), "why")
        assert Path(store.saved()[0]).read_bytes() == b"data"

    def test_later_data_wins_and_ranges_merge(self, store: UndeliveredStore) -> None:
        store.save(REMOTE, 0, b"aaaaaaaa", "why")
        store.save(REMOTE, 4, b"bbbb" * 2, "another reason")
        store.save(REMOTE, 2, b"cc", "why")
        store.save(REMOTE, 20, b"d", "why")
        (name,) = store.saved()
        assert Path(name).read_bytes() == b"aaccbbbbbbbb" + bytes(8) + b"d"
        assert described(name)["ranges"] == [[0, 12], [20, 1]]
        assert described(name)["reason"] == "why"

    def test_many_pieces_at_once(self, store: UndeliveredStore) -> None:
        pieces = [(0, b"aaaa"), (10, b"b"), (5, b""), (2, b"cccc")]
        store.save_all(REMOTE, pieces, "why")
        (name,) = store.saved()
        assert Path(name).read_bytes() == b"aacccc" + bytes(4) + b"b"
        assert described(name)["ranges"] == [[0, 6], [10, 1]]

    def test_nothing_is_not_saved(self, store: UndeliveredStore, directory: Path) -> None:
        store.save(REMOTE, 5, b"", "why")
        store.save_all(REMOTE, [], "why")
        assert store.saved() == [] and os.listdir(directory) == []

    def test_several_files(
        self, store: UndeliveredStore, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        remote = [b"/a", b"/b", b"/a.data", b"/a.data.json", b"/a.json", b"/a/b", b"/a%2Fb"]
        for offset in (0, 20):
            for path in remote:
                store.save(path, offset, path, "why")
        assert [described(name)["path"] for name in store.saved()] == [
            escaped(path) for path in remote
        ]
        for path, name in zip(remote, store.saved(), strict=True):
            assert Path(name).read_bytes() == path.ljust(20, b"\0") + path
        assert len(os.listdir(directory)) == 2 * len(remote)
        assert len(errors(caplog)) == len(remote)

    def test_one_line_for_each_file(
        self, store: UndeliveredStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(5):
            store.save(b"/a\nb", number * 10, b"data", "said\nthe server")
        (line,) = errors(caplog)
        assert "/a%0Ab" in line and r"said\nthe server" in line and store.saved()[0] in line

    @pytest.mark.parametrize("how", ["replaced", "changed"])
    def test_what_the_user_touched_is_left_alone(self, store: UndeliveredStore, how: str) -> None:
        store.save(REMOTE, 0, b"one", "why")
        (first,) = store.saved()
        if how == "replaced":
            os.unlink(first)
        Path(first).write_bytes(b"own")
        os.utime(first, (1, 1))
        store.save(REMOTE, 7, b"two", "why")
        kept, second = store.saved()
        assert kept == first and Path(first).read_bytes() == b"own"
        assert Path(second).read_bytes() == bytes(7) + b"two"
        assert described(second)["ranges"] == [[7, 3]]

    def test_after_the_end_nothing_is_saved(
        self, store: UndeliveredStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        store.save(REMOTE, 0, b"before", "why")
        store.close()
        store.save(REMOTE, 0, b"after!", "why")
        store.close()
        assert Path(store.saved()[0]).read_bytes() == b"before"
        assert "lost" in errors(caplog)[-1]


class TestNames:
    @given(path=st.binary(min_size=1, max_size=300))
    @example(path=b"\xff" * 100)
    def test_any_bytes_make_a_name(self, path: bytes) -> None:
        now = datetime.now(UTC)
        for attempt in (0, 7, 999):
            name = undelivered._name(now, path, attempt)
            assert len(name) <= 200 and name.isascii() and name.isprintable()
            assert "/" not in name and " " not in name and name[0].isdigit()
            assert f"-{os.getpid()}-" in name and name.endswith(".data")
            middle = name.split("-", 2)[2].removesuffix(".data")
            if attempt:
                middle = middle.removesuffix(f"-{attempt}")
            assert path.endswith(unquote_to_bytes(middle))
            assert len(name) > 195 or unquote_to_bytes(middle) == path

    @given(path=st.binary(max_size=50))
    def test_the_bytes_of_a_path_can_be_had_back(self, path: bytes) -> None:
        assert unquote_to_bytes(escaped(path)) == path
        assert escaped(path).isascii() and escaped(path).isprintable()

    @pytest.mark.parametrize(
        "path",
        [b"/\xff\xfe\n", b"/" + b"\xff" * 255, b"/" + b"d/" * 2000 + b"f", b"/..", b"/%2F", b"."],
    )
    def test_such_files_are_saved(self, store: UndeliveredStore, path: bytes) -> None:
        store.save(path, 0, b"data", "why")
        (name,) = store.saved()
        assert Path(name).read_bytes() == b"data"
        assert unquote_to_bytes(described(name)["path"]) == path

    def test_long_names_that_end_alike_stay_apart(self, store: UndeliveredStore) -> None:
        tail = b"/x" * 200
        for top in (b"/a", b"/b", b"/c"):
            store.save(top + tail, 0, top, "why")
        assert len(set(store.saved())) == 3
        assert [Path(name).read_bytes() for name in store.saved()] == [b"/a", b"/b", b"/c"]

    def test_a_source_that_is_no_text(self, tmp_path: Path) -> None:
        environ = {"XDG_STATE_HOME": str(tmp_path)}
        store = UndeliveredStore.open(QUOTA, os.fsdecode(b"h:\xff"), environ)
        store.save(REMOTE, 0, b"data", "why")
        assert described(store.saved()[0])["source"] == "h:\udcff"


# --- who may see it -----------------------------------------------------------------------------


class TestPrivacy:
    @pytest.mark.parametrize("mask", [0, 0o777])
    def test_modes_whatever_the_umask(self, tmp_path: Path, directory: Path, mask: int) -> None:
        before = os.umask(mask)
        try:
            store = opened(tmp_path)
            store.save(REMOTE, 0, b"data", "why")
            store.save(REMOTE, 4, b"data", "why")
        finally:
            os.umask(before)
        assert mode(directory) == 0o700
        if not mask:
            assert mode(directory.parent) == mode(tmp_path / "state") == 0o700
        (name,) = store.saved()
        assert mode(name) == 0o600
        assert mode(f"{name}.json") == 0o600 & ~mask
        assert Path(name).read_bytes() == b"datadata"

    def test_a_directory_that_others_may_enter_is_closed_to_them(
        self, tmp_path: Path, directory: Path
    ) -> None:
        directory.mkdir(parents=True)
        directory.chmod(0o777)
        opened(tmp_path).close()
        assert mode(directory) == 0o700

    @pytest.mark.parametrize("what", ["link", "dangling link", "fifo", "directory"])
    def test_what_lies_in_the_way_of_a_file_is_not_followed(
        self, store: UndeliveredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        victim = tmp_path / "victim"
        if what == "link":
            victim.write_bytes(b"precious")
        names = iter(["taken.data", "free.data"])
        monkeypatch.setattr(undelivered, "_name", lambda *_: next(names))
        way = tmp_path / "state/pysshfs/undelivered/taken.data"
        if what == "fifo":
            os.mkfifo(way)
        elif what == "directory":
            way.mkdir()
        else:
            way.symlink_to(victim)
        store.save(REMOTE, 0, b"data", "why")
        assert os.path.basename(store.saved()[0]) == "free.data"
        if what == "link":
            assert victim.read_bytes() == b"precious"
        else:
            assert not victim.exists()

    @pytest.mark.parametrize("what", ["link", "fifo"])
    def test_what_replaced_a_file_is_not_followed(
        self, store: UndeliveredStore, tmp_path: Path, what: str
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        store.save(REMOTE, 0, b"data", "why")
        (name,) = store.saved()
        os.unlink(name)
        for each in (name, f"{name}.json.new", f"{name}.new"):
            if what == "link":
                os.symlink(victim, each)
            else:
                os.mkfifo(each)
        store.save(REMOTE, 0, b"more", "why")
        assert victim.read_bytes() == b"precious"
        assert Path(store.saved()[1]).read_bytes() == b"more"

    def test_a_link_to_where_the_file_went_is_not_followed(
        self, store: UndeliveredStore, tmp_path: Path
    ) -> None:
        store.save(REMOTE, 0, b"data", "why")
        (name,) = store.saved()
        os.rename(name, tmp_path / "kept")
        os.symlink(tmp_path / "kept", name)
        store.save(REMOTE, 0, b"more", "why")
        assert (tmp_path / "kept").read_bytes() == b"data"
        assert Path(store.saved()[1]).read_bytes() == b"more"

    def test_a_replaced_directory_gets_nothing(
        self, store: UndeliveredStore, directory: Path, tmp_path: Path
    ) -> None:
        moved = tmp_path / "moved"
        directory.rename(moved)
        directory.mkdir()
        for data in (b"one ", b"two!"):
            store.save(REMOTE, 4 if data == b"two!" else 0, data, "why")
        assert os.listdir(directory) == []
        (name,) = (path for path in moved.iterdir() if path.suffix == ".data")
        assert name.read_bytes() == b"one two!"

    def test_no_path_is_looked_up_after_open(
        self, store: UndeliveredStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A path may lie under the mountpoint, and whoever serves it would wait for himself."""
        found: list[object] = []
        for name in ("open", "unlink", "stat", "lstat", "rename"):
            real = getattr(os, name)

            def watched(path: Any, *args: Any, real: Any = real, **more: Any) -> Any:
                relative = {key for key in more if key.endswith("dir_fd") and more[key] is not None}
                if not relative or os.path.isabs(path):
                    found.append((real, path))
                return real(path, *args, **more)

            monkeypatch.setattr(os, name, watched)
        store.save(REMOTE, 0, b"data", "why")
        store.save(REMOTE, 4, b"data", "why")
        saved = store.saved()
        store.close()
        monkeypatch.undo()
        assert found == [] and len(saved) == 1
        assert Path(saved[0]).read_bytes() == b"datadata"


# --- how much -----------------------------------------------------------------------------------


class TestQuota:
    def test_past_the_quota_nothing_is_written_and_one_line_says_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = opened(tmp_path, quota=1000)
        store.save(b"/a", 0, bytes(600), "why")
        store.save(b"/b", 0, bytes(400), "why")
        assert len(errors(caplog)) == 2
        for path in (b"/a", b"/b", b"/c"):
            store.save(path, 600, b"x", "why")
        *_, line = errors(caplog)
        assert len(errors(caplog)) == 3 and "1000 bytes" in line and "lost" in line
        assert [os.stat(name).st_size for name in store.saved()] == [600, 400]
        assert [described(name)["ranges"] for name in store.saved()] == [[[0, 600]], [[0, 400]]]

    def test_what_is_written_over_counts_once(self, tmp_path: Path) -> None:
        store = opened(tmp_path, quota=1000)
        for _ in range(10):
            store.save(REMOTE, 0, b"x" * 1000, "why")
        store.save(REMOTE, 500, b"y" * 500, "why")
        (name,) = store.saved()
        assert Path(name).read_bytes() == b"x" * 500 + b"y" * 500

    def test_holes_do_not_count(self, tmp_path: Path) -> None:
        store = opened(tmp_path, quota=1000)
        store.save(REMOTE, 1 << 40, b"x" * 500, "why")
        store.save(REMOTE, 0, b"x" * 500, "why")
        assert described(store.saved()[0])["ranges"] == [[0, 500], [1 << 40, 500]]

    def test_what_others_left_there_counts(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = opened(tmp_path)
        first.save(REMOTE, 0, bytes(100_000), "why")
        first.close()
        caplog.clear()
        second = opened(tmp_path, quota=150_000)
        second.save(b"/b", 0, bytes(60_000), "why")
        assert second.saved() == []
        assert "used up" in errors(caplog)[0]
        third = opened(tmp_path, quota=300_000)
        third.save(b"/b", 0, bytes(60_000), "why")
        assert len(third.saved()) == 1

    def test_links_and_directories_there_do_not_count(
        self, tmp_path: Path, directory: Path
    ) -> None:
        big = tmp_path / "big"
        big.write_bytes(bytes(1 << 20))
        opened(tmp_path).close()
        (directory / "link").symlink_to(big)
        (directory / "below").mkdir()
        store = opened(tmp_path, quota=1000)
        store.save(REMOTE, 0, bytes(1000), "why")
        assert len(store.saved()) == 1

    def test_no_empty_file_is_left_when_it_is_used_up(
        self, tmp_path: Path, directory: Path
    ) -> None:
        store = opened(tmp_path, quota=10)
        for path in (b"/a", b"/b"):
            store.save(path, 0, bytes(11), "why")
        assert os.listdir(directory) == []


# --- when saving fails --------------------------------------------------------------------------


class TestFailures:
    def test_a_full_disk_is_logged_once_and_not_raised(
        self,
        store: UndeliveredStore,
        directory: Path,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(os, "pwrite", failing(errno.ENOSPC))
        store.save(REMOTE, 0, b"data", "the server's disk is full")
        store.save(REMOTE, 4, b"data", "the server's disk is full")
        (line,) = errors(caplog)
        assert "/home/me/notes" in line and "lost" in line and os.strerror(errno.ENOSPC) in line
        assert store.saved() == [] and os.listdir(directory) == []
        monkeypatch.undo()
        store.save(REMOTE, 8, b"data", "why")
        assert described(store.saved()[0])["ranges"] == [[8, 4]]

    def test_what_was_written_before_the_disk_was_full_is_kept(
        self,
        store: UndeliveredStore,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        real, room = os.pwrite, [3, 2]

        def short(fd: int, data: memoryview, offset: int) -> int:
            if not room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data[: room.pop()], offset)

        monkeypatch.setattr(os, "pwrite", short)
        store.save(REMOTE, 10, b"abcdefgh", "why")
        (name,) = store.saved()
        assert Path(name).read_bytes() == bytes(10) + b"abcde"
        assert described(name)["ranges"] == [[10, 5]]
        lost, saved = errors(caplog)
        assert "lost" in lost and "saved in" in saved
        monkeypatch.undo()
        store.save(REMOTE, 15, b"fgh", "why")
        assert store.saved() == [name] and described(name)["ranges"] == [[10, 8]]

    @pytest.mark.parametrize("offset", [-1, (1 << 63) - 1, 1 << 70])
    def test_an_offset_that_no_file_has(
        self, store: UndeliveredStore, caplog: pytest.LogCaptureFixture, offset: int
    ) -> None:
        store.save(REMOTE, offset, b"data", "why")
        (line,) = errors(caplog)
        assert "lost" in line and store.saved() == []

    @pytest.mark.parametrize("call", ["open", "rename"])
    def test_other_failures(
        self,
        store: UndeliveredStore,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
    ) -> None:
        monkeypatch.setattr(os, call, failing(errno.EIO))
        store.save(REMOTE, 0, b"data", "why")
        monkeypatch.undo()
        assert os.strerror(errno.EIO) in errors(caplog)[-1]
        assert len(store.saved()) == (0 if call == "open" else 1)

    def test_the_directory_is_removed(
        self, store: UndeliveredStore, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory.rmdir()
        store.save(REMOTE, 0, b"data", "why")
        (line,) = errors(caplog)
        assert "lost" in line and os.strerror(errno.ENOENT) in line

    def test_what_is_left_of_a_description_does_not_matter(self, store: UndeliveredStore) -> None:
        store.save(REMOTE, 0, b"data", "why")
        (name,) = store.saved()
        Path(f"{name}.new").write_text("half of")
        store.save(REMOTE, 4, b"data", "why")
        assert described(name)["ranges"] == [[0, 8]]

    def test_no_descriptor_is_left_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = len(os.listdir("/proc/self/fd"))
        store = opened(tmp_path)
        store.save(REMOTE, 0, b"data", "why")
        store.save(REMOTE, 1, b"data", "why")
        os.unlink(store.saved()[0])
        store.save(REMOTE, -1, b"data", "why")
        monkeypatch.setattr(os, "rename", failing(errno.EIO))
        store.save(REMOTE, 1, b"data", "why")
        store.close()
        assert len(os.listdir("/proc/self/fd")) == before


# --- ranges -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=30))
def test_ranges_are_a_set_of_bytes(pieces: list[tuple[int, int]]) -> None:
    ranges, expected = Ranges(), set[int]()
    for start, count in pieces:
        new = set(range(start, start + count)) - expected
        assert ranges.missing(start, start + count) == len(new)
        assert ranges.add(start, start + count) == len(new)
        expected |= new
        found = list(ranges)
        assert {byte for first, last in found for byte in range(first, last)} == expected
        assert all(before[1] < after[0] for before, after in pairwise(found))
    assert bool(ranges) == bool(pieces)
