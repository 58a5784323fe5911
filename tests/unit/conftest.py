"""Tests that are coroutines run in trio on a virtual clock: waiting costs no time.

A test that would hang is jumped to the end of its (virtual) time limit and fails there.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

import pytest
import trio
import trio.testing

_TIME_LIMIT: Final = 3600.0  # virtual seconds; no test waits for as long


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def limited() -> None:
        with trio.fail_after(_TIME_LIMIT):
            await pyfuncitem.obj(**arguments)

    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        trio.run(limited, clock=clock)
    except BaseExceptionGroup as group:
        raise _only(group) from None
    return True


def _only(group: BaseExceptionGroup[Any]) -> BaseException:
    """The exception itself when a nursery wrapped nothing but that one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
