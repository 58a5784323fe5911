"""Servers for the tests of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.sshd import SFTP_SERVER, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """OpenSSH's server; the module's own, as it may be killed."""
    with Sshd(sftp=SFTP_SERVER) as running:
        yield running
