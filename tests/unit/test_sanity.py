"""The server's word: what is repaired, what is refused, and that nothing else gets through."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.errors import UnsafeReplyError
from pysshfs.remotefs import Attributes, FilesystemStatistics
from pysshfs.vfs.config import VfsConfig
from pysshfs.vfs.sanity import (
    MAX_SIZE,
    MAX_TIME,
    PATH_MAX,
    ListingCheck,
    checked_attributes,
    checked_link_target,
    checked_statistics,
    is_special,
)

KINDS = [
    stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO,
    stat.S_IFSOCK,
]  # fmt: skip
GOOD = Attributes(stat.S_IFREG | 0o644, 10, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_there_is_passes(kind: int) -> None:
    checked = checked_attributes(GOOD._replace(mode=kind | 0o7777))
    assert checked.mode == kind | 0o7777
    assert checked[1:] == GOOD[1:]


@pytest.mark.parametrize(
    "bad",
    [
        GOOD._replace(mode=None),
        GOOD._replace(mode=0o644),
        GOOD._replace(mode=0o170644),
        GOOD._replace(mode=0o030000),
        GOOD._replace(size=None),
        GOOD._replace(size=MAX_SIZE + 1),
        GOOD._replace(size=-1),
        GOOD._replace(size=(1 << 64) - 1),
    ],
)
def test_what_cannot_be_is_refused(bad: Attributes) -> None:
    with pytest.raises(UnsafeReplyError):
        checked_attributes(bad)


def test_what_is_missing_is_filled_in() -> None:
    bare = Attributes(stat.S_IFDIR | 0o755, None, None, None, None, None)
    assert checked_attributes(bare) == (stat.S_IFDIR | 0o755, 0, 65534, 65534, 0, 0)


U32 = st.none() | st.integers(0, (1 << 32) - 1)


@given(st.builds(Attributes, U32, st.none() | st.integers(0, (1 << 64) - 1), U32, U32, U32, U32))
def test_whatever_passes_is_fit_for_the_kernel(attributes: Attributes) -> None:
    try:
        checked = checked_attributes(attributes)
    except UnsafeReplyError:
        return
    assert stat.S_IFMT(checked.mode) in KINDS
    assert checked.mode < 1 << 16
    assert 0 <= checked.size <= MAX_SIZE
    assert 0 <= checked.atime <= MAX_TIME
    assert 0 <= checked.mtime <= MAX_TIME


@pytest.mark.parametrize(
    ("said", "told"), [(-1, 0), (MAX_TIME, MAX_TIME), (MAX_TIME + 1, MAX_TIME), (1 << 70, MAX_TIME)]
)
def test_times_out_of_range_are_the_nearest_within(said: int, told: int) -> None:
    checked = checked_attributes(GOOD._replace(atime=said, mtime=said))
    assert (checked.atime, checked.mtime) == (told, told)


@pytest.mark.parametrize("name", [b"a", b"...", b".x", b"\xff", b"n" * 255, b" ", b"\n", b"\\"])
def test_names_that_can_be(name: bytes) -> None:
    assert ListingCheck(VfsConfig()).admits(name)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/", b"a/b", b"\0", b"a\0", b"n" * 256])
def test_names_that_cannot_be(name: bytes) -> None:
    assert not ListingCheck(VfsConfig()).admits(name)


@pytest.mark.parametrize("target", [b"x", b"/", b"../..", b"\xff", b"t" * (PATH_MAX - 1)])
def test_link_targets_that_can_be(target: bytes) -> None:
    assert checked_link_target(target) == target


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * PATH_MAX])
def test_link_targets_that_cannot_be(target: bytes) -> None:
    with pytest.raises(UnsafeReplyError):
        checked_link_target(target)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_special(kind: int) -> None:
    is_ordinary = kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    assert is_special(kind | 0o644) is not is_ordinary


@given(st.lists(st.binary(max_size=3) | st.sampled_from([b".", b"..", b"x" * 256, b"a/b"])))
def test_the_kernel_gets_each_name_that_can_be_once(names: list[bytes]) -> None:
    check = ListingCheck(VfsConfig())
    told = [name for name in names if check.admits(name)]
    bad = {b"", b".", b"..", b"x" * 256}
    possible = [n for n in names if n not in bad and b"/" not in n and b"\0" not in n]
    assert told == list(dict.fromkeys(possible))
    assert check.names == len(told)
    assert check.name_bytes == sum(map(len, told))
    dots = sum(name in names for name in (b".", b".."))
    counted = sum(int(part.split()[0]) for part in check.oddities().split(", ") if part)
    assert counted == len(names) - len(told) - dots


HUGE = (1 << 64) - 1


@given(numbers=st.lists(st.one_of(st.integers(0, HUGE), st.just(0)), min_size=9, max_size=9))
def test_numbers_of_a_file_system_can_be_divided_by_and_multiplied(numbers: list[int]) -> None:
    found = checked_statistics(FilesystemStatistics(*numbers))
    assert 0 < found.block_size < 1 << 32 and 0 < found.fragment_size < 1 << 32
    assert found.fragment_size * found.blocks < 1 << 63
    assert found.blocks_available <= found.blocks_free <= found.blocks
    assert 0 < found.name_max <= 255


def test_usual_numbers_of_a_file_system_are_passed_on() -> None:
    usual = FilesystemStatistics(4096, 512, 1_000_000, 500_000, 400_000, 9, 8, 7, 255)
    assert checked_statistics(usual) == usual
