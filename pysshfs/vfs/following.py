"""A server whose links are seen as what they lead to, for `-o symlinks=follow`.

`following` puts itself in front of a session; all that changes is what stands under a name. A link
that leads nowhere, or in circles, is seen as the link that it is, so that it can be removed. What
acts on names (REMOVE, RENAME, SYMLINK) acts on links, as on every server; OPEN and SETSTAT follow
them there.

Further sessions (`open_extra`) carry data only and are left as they are. A symlink whose reply was
lost with the connection counts as another's (EEXIST), since what it leads to is looked at.
Stateless.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pysshfs.errors import RemoteStatusError
from pysshfs.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remotefs import Attributes, RemoteFS

T = TypeVar("T")


def following(remote: RemoteFS) -> RemoteFS:
    # It has every method of `remote`; a type checker does not see through __getattr__.
    return cast("RemoteFS", _Following(remote))


class _Following:
    """One session; what is not defined here is the session's own."""

    def __init__(self, remote: RemoteFS) -> None:
        self._remote = remote

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remote, name)

    def unhurried(self, send: Callable[[RemoteFS], Reply[T]]) -> Reply[T]:
        return self._remote.unhurried(lambda _: send(cast("RemoteFS", self)))

    def lstat(self, path: bytes) -> Reply[Attributes]:
        """STAT, and where that fails LSTAT, which finds a link that leads nowhere."""
        asked: Reply[Attributes] = self._remote.stat(path)
        answer: Reply[Attributes] = Reply(lambda: asked.abandon())

        def followed(reply: Reply[Attributes]) -> None:
            nonlocal asked
            failure = reply.error
            if not isinstance(failure, RemoteStatusError):
                _pass_on(reply, answer)
                return
            asked = self._remote.lstat(path)
            asked.add_callback(lambda itself: looked(itself, failure))

        def looked(itself: Reply[Attributes], failure: RemoteStatusError) -> None:
            if itself.error is None and not _is_link(itself.result()):
                answer.set_error(failure)
            else:
                _pass_on(itself, answer)

        asked.add_callback(followed)
        return answer


def _is_link(attributes: Attributes) -> bool:
    return attributes.mode is not None and stat.S_ISLNK(attributes.mode)


def _pass_on(reply: Reply[T], answer: Reply[T]) -> None:
    if reply.error is None:
        answer.set_result(reply.result())
    else:
        answer.set_error(reply.error)
