"""The file-system contract with every optimisation off, with `async_ops`, and on a long link.

What is fetched ahead, remembered, buffered, answered on the spot or promised must be seen by its
speed alone. Short links and the usual options are those of `test_semantics.py`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.mount import contract
from tests.mount.places import Place, ServerUnderTest, SharedMount, sharing
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.sshd import Sshd


class Way(NamedTuple):
    options: tuple[str, ...]
    rtt_ms: float = 0.0


# `debug`: what is traced is not answered on the spot.
_NOTHING: Final = (
    "dir_cache=no", "entry_timeout=0", "attr_timeout=0", "negative_timeout=0", "readahead=0",
    "prefetch_ttl=0", "sshfs_sync", "debug",
)  # fmt: skip
# From 5 ms on more is asked ahead.
_WAYS: Final = {
    "nothing": Way(_NOTHING),
    "promises": Way(("async_ops",)),
    "far": Way((), 6.0),
    "far-promises": Way(("async_ops",), 6.0),
}


@pytest.fixture(scope="module", params=[*_WAYS.values()], ids=[*_WAYS])
def shared_mount(request: pytest.FixtureRequest, openssh: Sshd) -> Iterator[SharedMount]:
    way: Way = request.param
    with contextlib.ExitStack() as stack:
        port = None
        if way.rtt_ms:
            port = stack.enter_context(Proxy(openssh.port, way.rtt_ms)).port
            openssh.trust(port)
        server = ServerUnderTest("openssh", openssh, port)
        yield stack.enter_context(sharing(server, *way.options))


@pytest.mark.parametrize("check", [*contract.CHECKS, *contract.ON_MOUNT])
def test_contract(place: Place, check: Callable[[], None]) -> None:
    place.call(check)


def test_random_work_equals_that_on_a_local_file(place: Place) -> None:
    place.call(contract.random_work, 11, 500)
