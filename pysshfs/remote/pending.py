"""What an SFTP session remembers of a request until its reply has come. Owned by the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysshfs.remote.wire import Reader
    from pysshfs.reply import Reply


class Pending:
    """A request whose reply is still to come."""

    __slots__ = (
        "abandoned",
        "at_eof",
        "closes_late",
        "expected",
        "kind",
        "parse",
        "reply",
        "sent_at",
    )

    def __init__(
        self,
        kind: int,
        reply: Reply[Any],
        expected: int,
        parse: Callable[[Reader], Any] | None,
        at_eof: object,
        closes_late: bool,
        sent_at: float,
    ) -> None:
        self.kind = kind
        self.reply = reply
        self.expected = expected
        self.parse = parse
        self.at_eof = at_eof
        self.closes_late = closes_late
        self.abandoned = False
        self.sent_at = sent_at


class NoEof:
    """Marks requests for which an EOF status is an error like any other."""


NO_EOF = NoEof()
