"""What a link's text may be, against an oracle that walks as the kernel does; and where texts lead,
against a real directory."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysshfs.errors import (
    FX_FAILURE,
    FX_NO_SUCH_FILE,
    ConnectionLostError,
    FilesystemError,
    RemoteStatusError,
)
from pysshfs.reply import Reply
from pysshfs.vfs import symlinks
from pysshfs.vfs.linkwalk import MOST_LINKS, MOST_QUESTIONS, LinkWalk

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

T = TypeVar("T")
UP: Final = b".."


class Outside(Exception):
    """A walk left the mount."""


def walk(
    start: Sequence[bytes],
    text: bytes,
    text_of: Callable[[list[bytes]], bytes | None],
    absolute: Callable[[], list[bytes]] | None = None,
    climbed: Callable[[list[bytes]], None] = lambda _: None,
) -> list[bytes]:
    """path_resolution(7), written down once more: from the directory `start`, names and links one
    after the other. `text_of` says what link, if any, lies at a place. `Outside` for a step above
    the root, and for an absolute text unless `absolute` says where those begin. `climbed` is told
    where each `..` leads."""
    position, steps, links = list(start), text.split(b"/")[::-1], 0
    if text.startswith(b"/"):
        if absolute is None:
            raise Outside
        position = absolute()
    while steps:
        step = steps.pop()
        if step in (b"", b"."):
            continue
        if step == UP:
            if not position:
                if absolute is None:
                    raise Outside
                continue
            position.pop()
            climbed(position)
            continue
        found = text_of([*position, step])
        if found is None:
            position.append(step)
            continue
        links += 1
        if links > 40:
            raise OSError(errno.ELOOP, "links")
        if found.startswith(b"/"):
            if absolute is None:
                raise Outside
            position = absolute()
        steps += found.split(b"/")[::-1]
    return position


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose answers are all here, without a loop for each."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


# --- by the letters alone -----------------------------------------------------------------------

PARTS = st.sampled_from([b"a", b"b", b"..", b"..", b".", b"", b"...", b"..a", b" "])
TEXTS = st.lists(PARTS, max_size=8).map(b"/".join)
DIRECTORIES = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=4)


@given(DIRECTORIES, TEXTS, st.dictionaries(st.integers(0, 6), TEXTS, max_size=4))
def test_what_is_contained_stays_inside_whatever_the_names_in_it_are(
    directory: list[bytes], text: bytes, other: dict[int, bytes]
) -> None:
    """Names turn into links, each with a text that is contained where it lies, while the kernel is
    on its way."""
    if not symlinks.is_contained(text, len(directory)):
        return
    asked = iter(range(100))

    def text_of(place: list[bytes]) -> bytes | None:
        found = other.get(next(asked, 99))
        safe = found is not None and symlinks.is_contained(found, len(place) - 1)
        return found if safe else None

    with suppress(OSError):
        walk(directory, text, text_of)


@given(DIRECTORIES, TEXTS)
def test_what_is_not_contained_leads_outside_or_climbs_behind_a_name(
    directory: list[bytes], text: bytes
) -> None:
    """No text is refused for nothing."""
    if symlinks.is_contained(text, len(directory)) or not text:
        return
    parts = [part for part in text.split(b"/") if part not in (b"", b".")]
    climbs_late = any(a != UP and b == UP for a, b in itertools.pairwise(parts))
    if not text.startswith(b"/") and not climbs_late:
        with pytest.raises(Outside):
            walk(directory, text, lambda _: None)


@pytest.mark.parametrize(
    ("text", "depth", "contained"),
    [
        (b"a", 0, True), (b".", 0, True), (b"./", 0, True), (b"a/./b//c/", 0, True),
        (b"..", 0, False), (b"..", 1, True), (b"./../a", 1, True), (b".././../a", 2, True),
        (b"../..", 1, False), (b"a/..", 5, False), (b"../a/../b", 5, False),
        (b"/", 5, False), (b"//host/a", 5, False), (b"/a", 5, False), (b"", 5, False),
        (b"a\0b", 5, False), (b"..a/...", 0, True), (b"a/..b", 0, True),
    ],
)  # fmt: skip
def test_contained(text: bytes, depth: int, contained: bool) -> None:
    assert symlinks.is_contained(text, depth) is contained


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        (b"a/b", True), (b"./a", True), (b"..a", True), (b"a/..b/...", True), (b"a//b/", True),
        (b"/a", False), (b"//a", False), (b"..", False), (b"a/..", False), (b"a/../b", False),
        (b"../a", False),
    ],
)  # fmt: skip
def test_the_rule_of_sshfs(text: bytes, strict: bool) -> None:
    assert symlinks.is_strict(text) is strict


@given(DIRECTORIES, DIRECTORIES)
def test_a_relative_text_leads_to_its_place(place: list[bytes], directory: list[bytes]) -> None:
    text = symlinks.relative(place, directory)
    assert symlinks.is_contained(text, len(directory))
    assert walk(directory, text, lambda _: None) == place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"/srv/t/x", b"../x"), (b"/srv/t/d/x", b"x"), (b"/srv/t/d", b"."), (b"/srv/t", b".."),
        (b"/srv/t2/x", b"/srv/t2/x"), (b"/srv", b"/srv"), (b"//srv//t/x", b"../x"),
        (b"../x", b"../x"), (b"/srv/t/a/../x", b"/srv/t/a/../x"),
    ],
)  # fmt: skip
def test_transformed_as_sshfs_does(text: bytes, expected: bytes) -> None:
    assert symlinks.transformed(text, [b"srv", b"t"], [b"d"]) == expected


@pytest.mark.parametrize("path", [b"", b"a", b"/a/../b", b"/a\0b", b"../a"])
def test_what_no_realpath_is(path: bytes) -> None:
    assert symlinks.canonical(path) is None


# --- on a server that lies ------------------------------------------------------------------------


class Liar:
    """Answers anything at all, one answer after the other."""

    def __init__(self, answers: Sequence[bytes | int]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def _answer(self) -> Reply[bytes]:
        self.asked += 1
        answer = self._answers[self.asked % len(self._answers)] if self._answers else FX_FAILURE
        if isinstance(answer, int):
            return Reply.failed(RemoteStatusError(answer))
        return Reply.of(answer)

    def readlink(self, path: bytes) -> Reply[bytes]:
        assert not path.startswith(b"/") and path
        return self._answer()

    def realpath(self, path: bytes) -> Reply[bytes]:
        assert path.startswith(b"/")
        return self._answer()


SERVED = [[], [b"srv"], [b"srv", b"t"]]
WILD = st.one_of(
    st.lists(st.sampled_from([b"srv", b"t", b"a", b"..", b".", b"", b"a\0"]), max_size=7).map(
        b"/".join
    ),
    st.binary(max_size=12),
    st.sampled_from([b"/", b"/srv/t/x", b"/srv/t/../../etc", b"/srv/t/a/../../../etc", b"/etc"]),
)
ANSWERS = st.lists(st.one_of(WILD, st.sampled_from([FX_FAILURE, FX_NO_SUCH_FILE])), max_size=12)


@settings(max_examples=800, deadline=None)
@given(ANSWERS, st.sampled_from(SERVED), DIRECTORIES, WILD)
def test_whatever_the_server_answers_the_text_stays_inside(
    answers: list[bytes | int], served: list[bytes], directory: list[bytes], text: bytes
) -> None:
    """The oracle takes nothing for granted but what the kernel does with a text."""
    server = Liar(answers)
    try:
        place = at_once(LinkWalk(server, served, directory, text).place())
    except FilesystemError as error:
        assert error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
        return
    finally:
        assert server.asked <= MOST_QUESTIONS + 1
    if place is None:
        return
    given_to_kernel = symlinks.relative(place, directory)
    assert walk(directory, given_to_kernel, lambda _: None) == place
    parts = given_to_kernel.split(b"/")
    climbs = parts.count(UP)
    assert climbs <= len(directory) and parts[:climbs] == [UP] * climbs
    assert not given_to_kernel.startswith(b"/")


async def test_a_server_that_has_links_without_end_is_asked_a_bounded_number_of_times() -> None:
    grown = Liar([b"/".join([b"a"] * 1000 + [UP])])
    place = await LinkWalk(grown, [], [], b"x/..").place()
    assert place is not None and grown.asked == MOST_LINKS + 1
    never_a_link = Liar([FX_FAILURE])
    with pytest.raises(FilesystemError) as caught:
        await LinkWalk(never_a_link, [], [], b"/".join([b"a"] * 1000 + [UP])).place()
    assert caught.value.errno == errno.ELOOP
    assert never_a_link.asked == MOST_QUESTIONS


async def test_the_loss_of_the_server_is_no_answer() -> None:
    class Gone(Liar):
        def readlink(self, path: bytes) -> Reply[bytes]:
            return Reply.failed(ConnectionLostError())

    with pytest.raises(ConnectionLostError):
        await LinkWalk(Gone([]), [], [], b"a/..").place()


async def test_names_behind_the_last_climb_are_not_asked_about() -> None:
    server = Liar([FX_FAILURE])
    assert await LinkWalk(server, [b"srv"], [b"d"], b"a/../b/c/d").place() == [
        b"d",
        b"b",
        b"c",
        b"d",
    ]
    assert server.asked == 1
    assert await LinkWalk(server, [b"srv"], [b"d"], b"/srv/x/y").place() == [b"x", b"y"]
    assert server.asked == 1


# --- on a real directory --------------------------------------------------------------------------


class Local:
    """The server's tree is a directory here: `root`, of which `served` is served."""

    def __init__(self, root: Path, served: list[bytes]) -> None:
        self.root = os.fsencode(root)
        self.served = served

    def at(self, names: Sequence[bytes]) -> bytes:
        return b"/".join((self.root, *names))

    def text_of(self, names: Sequence[bytes]) -> bytes | None:
        try:
            return os.readlink(self.at(names))
        except OSError:
            return None

    def readlink(self, path: bytes) -> Reply[bytes]:
        found = self.text_of([*self.served, *path.split(b"/")])
        return Reply.failed(RemoteStatusError(FX_FAILURE)) if found is None else Reply.of(found)

    def realpath(self, path: bytes) -> Reply[bytes]:
        """Absolute texts of the links begin at `root`, as in a chroot."""
        try:
            names = walk([], path, self.text_of, absolute=list)
        except OSError:
            return Reply.failed(RemoteStatusError(FX_FAILURE))
        if not os.path.lexists(self.at(names)):
            return Reply.failed(RemoteStatusError(FX_NO_SUCH_FILE))
        return Reply.of(b"/" + b"/".join(names))


NAMES = [b"a", b"b", b"srv", b"t", b"l0", b"l1", b"l2", b"l3"]
STEPS = st.sampled_from([*NAMES, UP, UP, b"."])
LINK_TEXTS = st.tuples(
    st.sampled_from([b"", b"", b"/", b"/srv/t/"]), st.lists(STEPS, min_size=1, max_size=5)
).map(lambda drawn: drawn[0] + b"/".join(drawn[1]))
PLACES = st.sampled_from(
    [[b"srv", b"t"], [b"srv", b"t", b"a"], [b"srv", b"t", b"a", b"b"], [b"srv"], [], [b"b"]]
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(PLACES, LINK_TEXTS), min_size=1, max_size=4))
def test_links_lead_where_they_lead_on_the_server(links: list[tuple[list[bytes], bytes]]) -> None:
    served = [b"srv", b"t"]
    directory = Path(tempfile.mkdtemp(prefix="pysshfs-links-"))
    try:
        local = Local(directory, served)
        os.makedirs(local.at([b"srv", b"t", b"a", b"b"]))
        os.makedirs(local.at([b"b", b"a"]))
        made = []
        for number, (place, text) in enumerate(links):
            made.append([*place, b"l%d" % number])
            os.symlink(text, local.at(made[-1]))
        for link in made:
            if link[: len(served)] == served:
                _check_link(local, link[len(served) :])
    finally:
        shutil.rmtree(directory)


def _shown_text(local: Local, link: list[bytes]) -> bytes | None:
    """What the kernel would be given for a link in the served directory; None for EPERM."""
    text = local.text_of([*local.served, *link])
    assert text is not None
    if symlinks.is_contained(text, len(link) - 1):
        return text
    place = at_once(LinkWalk(local, local.served, link[:-1], text).place())
    return None if place is None else symlinks.relative(place, link[:-1])


class Refused(Exception):
    """The kernel would get EPERM."""


def _check_link(local: Local, link: list[bytes]) -> None:
    """Follow it as the kernel does on the mount, and as the server does, and compare."""
    served, has_left = local.served, False

    def is_inside(names: list[bytes]) -> bool:
        return names[: len(served)] == served

    def climbed(names: list[bytes]) -> None:
        nonlocal has_left
        has_left |= not is_inside(names)

    def on_server(names: list[bytes]) -> bytes | None:
        nonlocal has_left
        has_left |= not is_inside(names) and served[: len(names)] != names
        return local.text_of(names)

    def on_mount(names: list[bytes]) -> bytes | None:
        if local.text_of([*local.served, *names]) is None:
            return None
        text = _shown_text(local, names)
        if text is None:
            raise Refused
        return text

    try:
        expected: list[bytes] | None = walk(
            [*served, *link[:-1]], link[-1], on_server, list, climbed
        )
        has_left |= expected is None or not is_inside(expected)
    except OSError:
        expected = None
    try:
        found = walk(link[:-1], link[-1], on_mount)
    except Refused:
        # Only for what steps outside, or is not there.
        is_there = expected is not None and os.path.exists(local.at(expected))
        assert has_left or not is_there
        return
    except OSError as error:
        assert error.errno == errno.ELOOP and expected is None
        return
    if expected is not None and _can_be_reached(local, link):
        assert [*local.served, *found] == expected


def _can_be_reached(local: Local, link: list[bytes]) -> bool:
    """Whether each step on the way is there: what is missing counts as a directory for us."""
    try:
        walk(
            [*local.served, *link[:-1]],
            link[-1],
            lambda names: local.text_of(_present(local, names)),
            list,
        )
    except OSError:
        return False
    return True


def _present(local: Local, names: list[bytes]) -> list[bytes]:
    mode = os.lstat(local.at(names)).st_mode
    assert stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
    return names
