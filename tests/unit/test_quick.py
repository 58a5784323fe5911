"""What the extension asks first: how answers are told, and that a failure is none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from pysshfs.errors import FilesystemError
from pysshfs.fuse import operations, quick, requests
from pysshfs.fuse.binding import pyfuse3
from pysshfs.vfs.filesystem import ROOT_NUMBER
from tests.support.fake_mount import Mount, mounted
from tests.support.memory_tree import MemoryTree

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeSession:
    """In place of the extension: keeps what it is to ask."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}

    def answer_quickly(self, handlers: dict[str, Callable[..., Any]]) -> None:
        self.handlers = handlers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    session = FakeSession()
    monkeypatch.setattr(quick, "_session", session)
    return session


def answering(mount: Mount) -> requests.Requests:
    served = requests.Requests(requests.Policy())
    quick.answer(mount.fs.at_hand, operations.Operations(mount.fs, served), served)
    return served


def a_tree() -> MemoryTree:
    tree = MemoryTree()
    for i in range(5):
        tree.write_file(b"f%d" % i, b"content")
    return tree


async def test_what_is_answered_is_counted_and_what_is_not_is_not(asked: FakeSession) -> None:
    async with mounted(a_tree()) as mount:
        served = answering(mount)
        assert asked.handlers["getattr"](ROOT_NUMBER) is None
        entry = await mount.entry(b"f1")
        told = asked.handlers["getattr"](entry.number)
        known = entry.attributes
        assert told[:7] == (
            entry.number, known.mode, known.uid, known.gid, 7, known.atime, known.mtime,
        )  # fmt: skip
        assert (served.served, served.answered_at_once) == (1, 1)


@pytest.mark.parametrize("error", [FilesystemError(5), ValueError("a mistake")])
async def test_a_failure_is_no_answer(
    asked: FakeSession,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise error

    async with mounted(a_tree()) as mount:
        monkeypatch.setattr(mount.fs.at_hand, "getattr", fail)
        served = answering(mount)
        assert asked.handlers["getattr"](ROOT_NUMBER) is None
        assert served.answered_at_once == 0
    mistakes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(mistakes) == isinstance(error, ValueError)


async def test_with_the_trace_nothing_is_answered(
    asked: FakeSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pysshfs.trace")
    async with mounted(a_tree()) as mount:
        answering(mount)
        assert asked.handlers == {}


async def test_nothing_to_set_is_a_question(asked: FakeSession) -> None:
    async with mounted(a_tree()) as mount:
        answering(mount)
        entry = await mount.entry(b"f1")
        nothing = [None] * 6
        assert asked.handlers["setattr"](entry.number, *nothing)[0] == entry.number
        same = [entry.attributes.mode & 0o7777, *[None] * 5]
        assert asked.handlers["setattr"](entry.number, *same)[0] == entry.number
        assert asked.handlers["setattr"](entry.number, 0o600, *[None] * 5) is None
        assert not mount.remote.count("setstat")


async def test_what_is_here_whole_is_stored_before_the_reply(
    asked: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[tuple[int, int, bytes]] = []
    refused = False

    def notify_store(inode: int, offset: int, data: bytes) -> None:
        if refused:
            raise OSError
        stored.append((inode, offset, data))

    monkeypatch.setattr(pyfuse3, "notify_store", notify_store)
    async with mounted(a_tree()) as mount:
        answering(mount)
        names = await mount.names()
        for name in names[:3]:
            await mount.close(await mount.open(name))
        numbers = [await mount.number(name) for name in names]
        fh, direct_io, keep_cache = asked.handlers["open"](numbers[3], 0)
        assert stored == [(numbers[3], 0, b"content")]
        assert (direct_io, keep_cache) == (False, True)
        await mount.close(fh)
        refused = True
        fh, _, keep_cache = asked.handlers["open"](numbers[4], 0)
        assert not keep_cache
        await mount.close(fh)


async def test_no_more_names_are_told_than_fit_and_the_rest_comes_next(
    asked: FakeSession,
) -> None:
    """A name of 2 bytes takes 160: 128 of attributes, 24, itself, and up to the next 8."""
    async with mounted(a_tree()) as mount:
        answering(mount)
        await mount.names()
        fh = asked.handlers["opendir"](ROOT_NUMBER)
        told: list[tuple[bytes, int, tuple[float, ...]]] = []
        while some := asked.handlers["readdir"](fh, told[-1][1] if told else 0, 3 * 160 + 159):
            assert len(some) <= 3
            told += some
        assert [name for name, _, _ in told] == [b".", b"..", *(b"f%d" % i for i in range(5))]
        assert [entry[-1] < 0 for _, _, entry in told] == [True, True, *[False] * 5]
        for _, _, entry in told[2:]:
            mount.lookups[int(entry[0])] += 1
        asked.handlers["releasedir"](fh)
