"""`Reply`: one outcome, for any number of takers, and exact cancellation."""

from __future__ import annotations

import pytest
import trio

from pysshfs.errors import ConnectionLostError
from pysshfs.reply import Reply
from tests.support.fake_mount import settle, start


async def take(reply: Reply[int]) -> int:
    return await reply


async def test_a_value_reaches_everybody_who_waits() -> None:
    reply: Reply[int] = Reply()
    async with trio.open_nursery() as nursery:
        tasks = [start(nursery, take, reply) for _ in range(3)]
        await settle()
        assert not reply.done
        reply.set_result(7)
        await settle()
    assert [task.result() for task in tasks] == [7, 7, 7]
    assert reply.result() == 7
    assert await reply == 7


async def test_an_error_reaches_everybody_who_waits() -> None:
    reply: Reply[int] = Reply()
    error = ConnectionLostError()
    async with trio.open_nursery() as nursery:
        tasks = [start(nursery, take, reply) for _ in range(3)]
        await settle()
        reply.set_error(error)
        await settle()
    assert [task.error for task in tasks] == [error] * 3
    with pytest.raises(ConnectionLostError):
        await reply.wait()


async def test_only_the_first_outcome_counts() -> None:
    reply: Reply[int] = Reply()
    reply.set_result(1)
    reply.set_result(2)
    reply.set_error(ConnectionLostError())
    assert (reply.result(), reply.error) == (1, None)
    failed: Reply[int] = Reply.failed(ConnectionLostError())
    failed.set_result(1)
    assert failed.done
    with pytest.raises(ConnectionLostError):
        failed.result()


async def test_none_is_a_value() -> None:
    reply: Reply[None] = Reply()
    assert not reply.done
    reply.set_result(None)
    assert reply.done
    assert await reply is None


def test_a_reply_that_has_not_arrived_has_no_result() -> None:
    with pytest.raises(RuntimeError):
        Reply[int]().result()


async def test_cancelling_the_owner_abandons_the_request() -> None:
    abandoned: list[int] = []
    reply: Reply[int] = Reply(lambda: abandoned.append(1))
    with trio.move_on_after(1):
        await reply
    assert abandoned == [1]
    reply.abandon()
    assert abandoned == [1]
    reply.set_result(3)  # the answer comes all the same
    assert reply.result() == 3


async def test_cancelling_a_mere_waiter_does_not() -> None:
    abandoned: list[int] = []
    reply: Reply[int] = Reply(lambda: abandoned.append(1))
    async with trio.open_nursery() as nursery:
        task = start(nursery, reply.wait)
        other = start(nursery, reply.wait)
        await settle()
        task.scope.cancel()
        await settle()
        assert task.done
        assert not other.done
        reply.set_result(5)
    assert other.result() == 5
    assert abandoned == []


def test_an_answered_request_cannot_be_abandoned() -> None:
    abandoned: list[int] = []
    reply: Reply[int] = Reply(lambda: abandoned.append(1))
    reply.set_result(1)
    reply.abandon()
    assert abandoned == []


def test_callbacks_run_once_in_order_and_at_once_when_it_is_there() -> None:
    seen: list[str] = []
    reply: Reply[int] = Reply()
    reply.add_callback(lambda reply: seen.append(f"a{reply.result()}"))
    reply.add_callback(lambda reply: seen.append(f"b{reply.result()}"))
    assert seen == []
    reply.set_result(1)
    reply.set_result(2)
    reply.add_callback(lambda reply: seen.append(f"c{reply.result()}"))
    assert seen == ["a1", "b1", "c1"]
    assert Reply.of(4).result() == 4


async def test_an_answer_that_comes_while_its_owner_is_cancelled_is_an_abandoned_one() -> None:
    """A handle in it would be nobody's: the owner does not get it any more."""
    abandoned: list[bool] = []
    reply: Reply[int] = Reply(lambda: abandoned.append(reply.done))
    async with trio.open_nursery() as nursery:
        task = start(nursery, take, reply)
        await settle()
        task.scope.cancel()
        reply.set_result(1)
        await settle()
        assert task.done
    assert abandoned == [False]
