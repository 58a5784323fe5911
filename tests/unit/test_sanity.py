"""The server's word: what is repaired, what is refused, and that nothing else gets through."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysshfs.errors import UnsafeReplyError
from pysshfs.remotefs import Attributes
from pysshfs.vfs.sanity import (
    MAX_SIZE,
    PATH_MAX,
    checked_attributes,
    checked_link_target,
    is_safe_name,
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


@pytest.mark.parametrize("name", [b"a", b"...", b".x", b"\xff", b"n" * 255, b" ", b"\n", b"\\"])
def test_names_that_can_be(name: bytes) -> None:
    assert is_safe_name(name)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/", b"a/b", b"\0", b"a\0", b"n" * 256])
def test_names_that_cannot_be(name: bytes) -> None:
    assert not is_safe_name(name)


@pytest.mark.parametrize("target", [b"x", b"/", b"../..", b"\xff", b"t" * (PATH_MAX - 1)])
def test_link_targets_that_can_be(target: bytes) -> None:
    assert checked_link_target(target) == target


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * PATH_MAX])
def test_link_targets_that_cannot_be(target: bytes) -> None:
    with pytest.raises(UnsafeReplyError):
        checked_link_target(target)
