"""Each misbehaviour of the catalogue, by the real daemon on real mounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hostile import harness
from tests.hostile.case import Case, Outcome
from tests.hostile.catalogue import CASES, is_shared
from tests.hostile.proofs import LAYERED, PROOFS, Proof
from tests.hostile.server import HostileServer
from tests.support import procs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.mounts import Mount

SHARED = [case for case in CASES if is_shared(case)]
ALONE = [case for case in CASES if case.outcome is Outcome.SURVIVES and not is_shared(case)]
RECONNECTS = [case for case in CASES if case.outcome is Outcome.RECONNECTS]
REFUSED = [case for case in CASES if case.outcome is Outcome.REFUSED]


def named(case: Case) -> str:
    return case.name


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


class Shared:
    """One mount for all cases that leave its session alone; another one after a failure."""

    def __init__(self, server: HostileServer) -> None:
        self._server = server
        self._mount: Mount | None = None

    def mount(self) -> Mount:
        if self._mount is None or self._mount.status is not None:
            self.close()
            self._server.play(*SHARED)
            self._mount = harness.mounts(self._server, None).__enter__()
        return self._mount

    def close(self) -> None:
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.__exit__(None, None, None)

    def break_down(self, error: BaseException) -> None:
        mount, self._mount = self._mount, None
        if mount is not None:
            mount.__exit__(type(error), error, None)


@pytest.fixture(scope="module")
def shared(server: HostileServer) -> Iterator[Shared]:
    made = Shared(server)
    yield made
    made.close()


@pytest.mark.parametrize("case", SHARED, ids=named)
def test_the_session_goes_on(server: HostileServer, shared: Shared, case: Case) -> None:
    mount = shared.mount()
    sessions = server.sessions_of(None)
    try:
        harness.run_case(server, case, mount, case.name, len(mount.log()))
        assert server.sessions_of(None) == sessions
    except BaseException as error:
        shared.break_down(error)
        raise


@pytest.mark.parametrize("case", [*ALONE, *RECONNECTS], ids=named)
def test_a_mount_of_its_own(server: HostileServer, case: Case) -> None:
    server.play(case)
    with harness.mounts(server, case) as mount:
        harness.run_case(server, case, mount, "")
        usual = 2 if case.outcome is Outcome.RECONNECTS else 1
        assert server.sessions_of(case) == (case.sessions or usual)


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_no_mount(server: HostileServer, case: Case) -> None:
    server.play(case)
    harness.refused(server, case)


def test_the_catalogue_is_large_and_its_names_are_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 60


def test_each_case_rests_on_a_check_or_has_a_reason_why_not() -> None:
    names = {case.name for case in CASES}
    proven = {name for proof in PROOFS for name in proof.breaks}
    assert proven | set(LAYERED) == names
    assert not proven & set(LAYERED)


def test_the_document_has_all_cases() -> None:
    text = (procs.ROOT / "docs" / "hostile-catalogue.md").read_text()
    assert [case.name for case in CASES if f"| `{case.name}` | {case.does} |" not in text] == []


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.check)
def test_what_a_proof_takes_out_is_there(proof: Proof) -> None:
    assert (procs.ROOT / proof.file).read_text().count(proof.old) == 1
