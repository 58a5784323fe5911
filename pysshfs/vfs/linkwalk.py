"""Where a link leads on the server, step by step, for texts that cannot be passed on.

Only what comes before the last `..` is asked about, since only there it matters whether a name is
a link; the names after it come back to us one by one. The server may lie in each answer: what
comes out is a list of names below the served directory, or nothing, whatever it says.
(`vfs/symlinks.py` tells why that is enough.)

A name that is missing, or that the server does not tell about, counts as a directory: links are
made before what they lead to. Above the served directory nothing can be asked by a path of
`RemoteFS`. There the walk goes along the server's own path of the directory, which has no links in
it, and where that is left REALPATH is asked, once: it may know another way in (/home that is a
link to /export/home).

Stateless. Suspends at each question; what it finds may be out of date when it returns.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from pysshfs.errors import FilesystemError, RemoteStatusError, UnsafeReplyError
from pysshfs.vfs.sanity import PATH_MAX, checked_link_target
from pysshfs.vfs.symlinks import UP, canonical, components, is_absolute, joined, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysshfs.reply import Reply

#: Links that are followed in one text, as Linux has it (path_resolution(7)).
MOST_LINKS: Final = 40
#: Names that are asked about for one text: a server could go on for ever.
MOST_QUESTIONS: Final = 256


class Asking(Protocol):
    """What is asked of the server (`vfs/server.py`)."""

    def readlink(self, path: bytes) -> Reply[bytes]: ...

    def realpath(self, path: bytes) -> Reply[bytes]: ...


class LinkWalk:
    """One text of a link in `directory`. `served` is the server's own path of the served directory,
    both as lists of names."""

    def __init__(
        self, server: Asking, served: Sequence[bytes], directory: Sequence[bytes], text: bytes
    ) -> None:
        self._server = server
        self._served = list(served)
        # From the server's root: along the served directory's own path, or below it.
        self._position: list[bytes] = [*served, *directory]
        self._left: deque[bytes] = deque()
        self._ups_left = 0
        self._questions = 0
        self._push(text)

    async def place(self) -> list[bytes] | None:
        """The names below the served directory that it leads to; None when that is elsewhere.

        A text that goes around in circles ends at a link that does, so that the kernel finds out.
        Raises ELOOP for one that takes too many questions, and what the server's loss raises.
        """
        links = 0
        while self._left:
            if not self._ups_left and self._is_inside:
                self._position += self._left
                break
            step = self._left.popleft()
            if step == UP:
                self._ups_left -= 1
                del self._position[-1:]
            elif not self._is_inside:
                if self._served[len(self._position)] != step:
                    return await self._by_another_way(step)
                self._position.append(step)
            else:
                target = await self._target(step)
                if target is None:
                    self._position.append(step)
                elif links == MOST_LINKS:
                    self._position += [step, *(name for name in self._left if name != UP)]
                    break
                else:
                    links += 1
                    self._push(target)
        return within(self._position, self._served)

    @property
    def _is_inside(self) -> bool:
        """The position is never elsewhere than on the way to the served directory, or in it."""
        return len(self._position) >= len(self._served)

    def _push(self, text: bytes) -> None:
        """A link's text takes the place of its name."""
        parts = components(text)
        self._left.extendleft(reversed(parts))
        self._ups_left += parts.count(UP)
        if is_absolute(text):
            self._position = []

    async def _target(self, name: bytes) -> bytes | None:
        """The text of the link that has this name; None when it is none."""
        self._questions += 1
        if self._questions > MOST_QUESTIONS:
            raise FilesystemError(errno.ELOOP, "a link that takes too many steps")
        path = b"/".join((*self._position[len(self._served) :], name))
        if len(path) >= PATH_MAX:
            raise FilesystemError(errno.ENAMETOOLONG)
        try:
            return checked_link_target(await self._server.readlink(path))
        except (RemoteStatusError, UnsafeReplyError):
            return None

    async def _by_another_way(self, step: bytes) -> list[bytes] | None:
        path = joined((*self._position, step, *self._left))
        if len(path) >= PATH_MAX:
            return None
        try:
            found = canonical(await self._server.realpath(path))
        except RemoteStatusError:
            return None
        return None if found is None else within(found, self._served)
