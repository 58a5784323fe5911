"""`idmap=name`: the server is asked what its users and groups are called.

Whoever asks the server for attributes gets them when the names of their owners are known: a reply
with owners that are new is kept back until one more question has its answer (`completed`). So
nothing is ever shown under a number that means somebody else here, and a walk through a tree costs
one more round trip for each reply with new owners, not for each file.

A name that nobody has here, and a number that has no name there, are nobody. So are all that come
after `MOST` numbers: a server may have owners without end. What was told stays for the mount's
life.

State: the two tables of `Owners`, which are filled here alone, and the questions that are out.
Callbacks of replies only; nothing suspends but `look_for`.
"""

from __future__ import annotations

import logging
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, TypeVar

from pysshfs.errors import ConnectionLostError, FilesystemError
from pysshfs.remotefs import OwnerNames
from pysshfs.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pysshfs.remotefs import AttributeChange, Attributes
    from pysshfs.vfs.config import LocalNames
    from pysshfs.vfs.idmap import IdTable

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST: Final = 65_536  # numbers of each kind
_AT_ONCE: Final = 256  # numbers of each kind in one question: the server looks each one up


class _Kind:
    """Users, or groups."""

    def __init__(self, table: IdTable, local: dict[bytes, int]) -> None:
        self.table = table
        self._local = local
        self.asked: dict[int, Reply[OwnerNames]] = {}  # the questions that are out, by number
        self._is_full = False

    def new(self, numbers: Iterable[int | None]) -> list[int]:
        """Those of these that have to be asked for."""
        table, asked = self.table, self.asked
        found = {n for n in numbers if n is not None and n not in table and n not in asked}
        if len(table) + len(asked) + len(found) <= MOST:
            return list(found)
        if not self._is_full:
            self._is_full = True
            log.warning(
                "the server has more than %d %ss: all others are shown as nobody", MOST, table.what
            )
        return []

    def questions(self, numbers: Iterable[int | None]) -> set[Reply[OwnerNames]]:
        """Those that are out for these."""
        return {self.asked[n] for n in numbers if n is not None and n in self.asked}

    def told(self, numbers: list[int], names: list[bytes]) -> None:
        """Names, as far as there are any, in the order of the numbers."""
        self.forget(numbers)
        for number, name in zip_longest(numbers, names):
            self.table.learn(number, self._local.get(name) if name else None)

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            del self.asked[number]


class NamesAsked:
    """The names of the owners that were seen. `ask` sends a question to the server."""

    def __init__(
        self,
        ask: Callable[[Sequence[int], Sequence[int]], Reply[OwnerNames]],
        users: IdTable,
        groups: IdTable,
        local: LocalNames,
    ) -> None:
        self._ask = ask
        self._users = _Kind(users, local.users)
        self._groups = _Kind(groups, local.groups)
        self._is_refused = False

    def completed(
        self, reply: Reply[T], attributes: Callable[[T], Sequence[Attributes]]
    ) -> Reply[T]:
        """The same answer, once all owners that its `attributes` name are known."""
        whole: Reply[T] = Reply(reply.abandon)

        def came(reply: Reply[T]) -> None:
            if reply.error is not None:
                whole.set_error(reply.error)
            else:
                self._when_known(attributes(reply.result()), reply, whole)

        reply.add_callback(came)
        return whole

    def _when_known(
        self, attributes: Sequence[Attributes], reply: Reply[T], whole: Reply[T]
    ) -> None:
        questions = self._questions(
            {each.uid for each in attributes}, {each.gid for each in attributes}
        )
        left = len(questions)

        def arrived(question: Reply[OwnerNames]) -> None:
            nonlocal left
            left -= 1
            if isinstance(question.error, ConnectionLostError):
                whole.set_error(question.error)
            elif not left:
                whole.set_result(reply.result())

        for question in questions:
            question.add_callback(arrived)
        if not questions:
            whole.set_result(reply.result())

    async def look_for(self, change: AttributeChange) -> None:
        """Owners (of this machine) that were not seen on the server yet may have the same numbers
        there: nothing but numbers can be asked for. Raises `ConnectionLostError`."""
        users, groups = self._users.table, self._groups.table
        uids = [uid for uid in (change.uid,) if uid is not None and not users.can_send(uid)]
        gids = [gid for gid in (change.gid,) if gid is not None and not groups.can_send(gid)]
        for question in self._questions(uids, gids):
            try:
                await question.wait()
            except ConnectionLostError:
                raise
            except FilesystemError:
                pass  # it is in the log

    def _questions(
        self, uids: Iterable[int | None], gids: Iterable[int | None]
    ) -> list[Reply[OwnerNames]]:
        """Ask for those that are new; all the questions that these have to wait for."""
        waiting = self._users.questions(uids) | self._groups.questions(gids)
        users, groups = self._users.new(uids), self._groups.new(gids)
        for at in range(0, max(len(users), len(groups)), _AT_ONCE):
            waiting.add(self._send(users[at : at + _AT_ONCE], groups[at : at + _AT_ONCE]))
        return list(waiting)

    def _send(self, users: list[int], groups: list[int]) -> Reply[OwnerNames]:
        question = self._ask(users, groups)
        self._users.asked.update(dict.fromkeys(users, question))
        self._groups.asked.update(dict.fromkeys(groups, question))
        # First of all: who waits for it finds the tables filled.
        question.add_callback(lambda question: self._answered(users, groups, question))
        return question

    def _answered(self, users: list[int], groups: list[int], question: Reply[OwnerNames]) -> None:
        error = question.error
        if isinstance(error, ConnectionLostError):
            self._users.forget(users)
            self._groups.forget(groups)
            return
        if error is not None and not self._is_refused:
            self._is_refused = True
            log.warning("the server does not tell names: owners are shown as nobody: %s", error)
        names = question.result() if error is None else OwnerNames([], [])
        self._users.told(users, names.users)
        self._groups.told(groups, names.groups)
