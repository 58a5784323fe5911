"""A systemd to be tried on, a server that can be reached from it, and mounts configured there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import Proxy
from tests.support.sshd import Sshd
from tests.systemd.machine import Machine, Service
from tests.systemd.pair import Pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="package")
def server() -> Iterator[Sshd]:
    with Sshd() as running:
        yield running


@pytest.fixture(scope="package")
def machine(server: Sshd) -> Iterator[Machine]:
    """Booted once; tests are not to leave anything in it that is in the way of others."""
    with Machine(server) as made:
        yield made


@pytest.fixture
def remote(machine: Machine) -> Iterator[Path]:
    """A directory on the server with one file in it."""
    directory = machine.sandbox.shared / "remote"
    directory.mkdir()
    (directory / "file").write_text("content")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def link(machine: Machine, server: Sshd) -> Iterator[Proxy]:
    """The way to the server: stopped, nothing listens there; frozen, it is silent."""
    with Proxy(server.port, 0) as proxy:
        machine.trust(proxy.port)
        yield proxy


@pytest.fixture
def far(machine: Machine, server: Sshd, remote: Path, link: Proxy) -> Iterator[Service]:
    """The service pysshfs@far, configured and not started."""
    with Service(machine, "far", server.source(remote), link.port) as made:
        yield made


@pytest.fixture
def pair(machine: Machine, server: Sshd, remote: Path, link: Proxy) -> Iterator[Pair]:
    made = Pair(machine.sandbox, server.source(remote), machine.options(link.port))
    try:
        made.install()
        yield made
    except BaseException as error:
        error.add_note(machine.sandbox.journal("-n", "60"))
        raise
    finally:
        made.remove()
