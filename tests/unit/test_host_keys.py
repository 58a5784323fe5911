"""The decision about a host key, without a server."""

from __future__ import annotations

import logging
import os
import subprocess
from typing import TYPE_CHECKING

import asyncssh
import pytest

from pysshfs.remote.hostkeys import HostKeyPolicy, known_hosts_name
from pysshfs.remote.sshconfig import SshConfiguration

if TYPE_CHECKING:
    from pathlib import Path

HOST = "far.example"


def make_key(kind: str = "ssh-ed25519") -> asyncssh.SSHKey:
    return asyncssh.generate_private_key(kind).convert_to_public()


KEY, OTHER, THIRD = make_key(), make_key(), make_key()


def text_of(key: asyncssh.SSHKey) -> str:
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


class Answers:
    """A terminal that gives the same answer each time, or none at all."""

    def __init__(self, answer: bool | None) -> None:
        self._answer = answer
        self.asked: list[str] = []

    @property
    def available(self) -> bool:
        return self._answer is not None

    def confirm(self, text: str, fingerprint: str) -> bool:
        self.asked.append(text)
        assert fingerprint in text
        assert self._answer is not None, "asked without a terminal"
        return self._answer

    def secret(self, text: str) -> str | None:
        raise AssertionError("no password is needed for this")


class Case:
    """One host, a known_hosts file in a temporary directory, and the policy for them."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "known_hosts"
        self.system = directory / "system"
        self.answers = Answers(None)

    def policy(self, *options: str, answer: bool | None = None) -> HostKeyPolicy:
        pairs = [
            ("UserKnownHostsFile", str(self.file)),
            ("GlobalKnownHostsFile", str(self.system)),
            *((name, value) for name, _, value in (each.partition("=") for each in options)),
        ]
        self.answers = Answers(answer)
        config = SshConfiguration(pairs, "none").for_host(HOST, None, None)
        return HostKeyPolicy(config, self.answers)

    def know(self, *lines: str) -> None:
        self.file.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_names_are_written_as_ssh_does() -> None:
    assert known_hosts_name("far.example", 22) == "far.example"
    assert known_hosts_name("far.example", 2222) == "[far.example]:2222"
    assert known_hosts_name("::1", 22) == "::1"
    assert known_hosts_name("::1", 2222) == "[::1]:2222"
    assert known_hosts_name("Far.EXAMPLE", 22) == "far.example"


@pytest.mark.parametrize("strict", ["yes", "ask", "accept-new", "no"])
@pytest.mark.parametrize("answer", [True, False, None])
def test_an_unknown_key(
    case: Case, strict: str, answer: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    policy = case.policy(f"StrictHostKeyChecking={strict}", answer=answer)
    welcome = strict in ("accept-new", "no") or (strict == "ask" and answer is True)
    with caplog.at_level(logging.WARNING):
        assert policy.accept(HOST, 22, KEY) is welcome
    assert bool(case.answers.asked) == (strict == "ask" and answer is not None)
    if welcome:
        assert policy.refusal is None
        assert case.file.read_text() == f"{HOST} {text_of(KEY)}\n"
        assert policy.accept(HOST, 22, KEY), "a key is accepted once for the whole login"
        assert len(case.answers.asked) <= 1
    else:
        assert policy.refusal is not None and HOST in policy.refusal
        assert not case.file.exists()
    assert (KEY.get_fingerprint() in caplog.text) == (welcome and strict != "ask")


def test_batch_mode_never_asks(case: Case) -> None:
    policy = case.policy("BatchMode=yes", answer=True)
    assert not policy.accept(HOST, 22, KEY)
    assert not case.answers.asked


@pytest.mark.parametrize("strict", ["yes", "ask", "accept-new", "no"])
def test_a_changed_key(case: Case, strict: str) -> None:
    case.know(f"{HOST} {text_of(OTHER)}", f"{HOST} {text_of(THIRD)}")
    before = case.file.read_text()
    policy = case.policy(f"StrictHostKeyChecking={strict}", answer=True)
    assert not policy.accept(HOST, 22, KEY)
    assert policy.refusal is not None
    for key in (KEY, OTHER, THIRD):
        assert key.get_fingerprint() in policy.refusal
    assert not case.answers.asked
    assert case.file.read_text() == before


def test_another_kind_of_key_is_a_changed_key(case: Case) -> None:
    case.know(f"{HOST} {text_of(make_key('ecdsa-sha2-nistp256'))}")
    policy = case.policy("StrictHostKeyChecking=accept-new")
    assert not policy.accept(HOST, 22, KEY)
    assert "CHANGED" in (policy.refusal or "")


@pytest.mark.parametrize(
    ("entry", "port", "is_known"),
    [
        (HOST, 22, True),
        (HOST, 2222, True),  # good enough where there is none with the port
        (f"[{HOST}]:2222", 2222, True),
        (f"[{HOST}]:2222", 22, False),
        (f"[{HOST}]:2223", 2222, False),
        ("*.example", 22, True),
        ("*.example,!far.example", 22, False),
        ("near.example", 22, False),
        ("10.0.0.7", 22, False),  # the address of the host
    ],
)
def test_which_entries_are_trusted(case: Case, entry: str, port: int, is_known: bool) -> None:
    case.know(f"{entry} {text_of(KEY)}")
    found = case.policy().trusted(HOST, "10.0.0.7", port if port != 22 else None)
    assert [key.public_data for key in found[0]] == ([KEY.public_data] if is_known else [])


def test_an_entry_with_the_port_goes_before_one_without(case: Case) -> None:
    case.know(f"{HOST} {text_of(OTHER)}", f"[{HOST}]:2222 {text_of(KEY)}")
    found = case.policy().trusted(HOST, "", 2222)
    assert [key.public_data for key in found[0]] == [KEY.public_data]
    policy = case.policy("StrictHostKeyChecking=no")
    assert not policy.accept(HOST, 2222, OTHER)
    assert "CHANGED" in (policy.refusal or "")


def test_an_entry_without_the_port_makes_no_key_a_changed_one(case: Case) -> None:
    case.know(f"{HOST} {text_of(OTHER)}")
    policy = case.policy("StrictHostKeyChecking=accept-new")
    assert policy.accept(HOST, 2222, KEY)
    assert case.file.read_text().splitlines()[-1] == f"[{HOST}]:2222 {text_of(KEY)}"


@pytest.mark.parametrize("entry", [HOST, f"[{HOST}]:2222", "*"])
@pytest.mark.parametrize("others", [[], [f"[{HOST}]:2222"], [HOST]])
def test_revoked_keys_are_never_lost(case: Case, entry: str, others: list[str]) -> None:
    case.know(*(f"{name} {text_of(OTHER)}" for name in others), f"@revoked {entry} {text_of(KEY)}")
    revoked = case.policy().trusted(HOST, "", 2222)[2]
    assert KEY.public_data in [key.public_data for key in revoked]


def test_an_authority_asks_for_certificates(case: Case) -> None:
    plain = case.policy().algorithms(HOST, 22)
    assert not any("-cert-" in each for each in plain)
    case.know(f"@cert-authority * {text_of(KEY)}")
    policy = case.policy()
    assert [key.public_data for key in policy.trusted(HOST, "", None)[1]] == [KEY.public_data]
    assert "-cert-" in policy.algorithms(HOST, 22)[0]


def test_the_known_kinds_of_key_are_asked_for_first(case: Case) -> None:
    case.know(f"[{HOST}]:2222 {text_of(make_key('ecdsa-sha2-nistp256'))}")
    kinds = case.policy().algorithms(HOST, 2222)
    assert kinds[0] == "ecdsa-sha2-nistp256"
    assert "ssh-ed25519" in kinds and len(kinds) == len(set(kinds))
    assert case.policy().algorithms(HOST, 22)[0] != "ecdsa-sha2-nistp256"


def test_a_bad_line_hides_no_other(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.file.write_bytes(
        b"nonsense\n|1|bad|bad| x\n@what * x\n\xff\xfe\n# a comment\n\n"
        + f"{HOST} {text_of(KEY)}".encode()
    )
    with caplog.at_level(logging.WARNING):
        found = case.policy().trusted(HOST, "", None)
    assert len(found[0]) == 1
    assert "line 1" in caplog.text and "line 3" in caplog.text


def test_hashed_names_are_ssh_keygens(case: Case) -> None:
    policy = case.policy("HashKnownHosts=yes", "StrictHostKeyChecking=accept-new")
    assert policy.accept(HOST, 2222, KEY)
    line = case.file.read_text()
    assert line.startswith("|1|") and HOST not in line
    argv = ["ssh-keygen", "-F", f"[{HOST}]:2222", "-f", str(case.file)]
    assert text_of(KEY) in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    again = case.policy().trusted(HOST, "", 2222)
    assert [key.public_data for key in again[0]] == [KEY.public_data]
    assert case.policy().trusted(HOST, "", 2223)[0] == []


def test_a_name_is_salted_anew_each_time(case: Case) -> None:
    options = ("HashKnownHosts=yes", "StrictHostKeyChecking=accept-new")
    case.policy(*options).accept(HOST, 2222, KEY)
    first = case.file.read_text()
    case.file.unlink()
    case.policy(*options).accept(HOST, 2222, KEY)
    assert case.file.read_text() != first


def test_an_unfinished_last_line_is_finished(case: Case) -> None:
    case.file.write_text(f"elsewhere {text_of(OTHER)}")
    case.policy("StrictHostKeyChecking=no").accept(HOST, 22, KEY)
    expected = f"elsewhere {text_of(OTHER)}\n{HOST} {text_of(KEY)}\n"
    assert case.file.read_text() == expected


def test_a_file_that_cannot_be_written_is_no_obstacle(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.file.mkdir()
    with caplog.at_level(logging.WARNING):
        assert case.policy("StrictHostKeyChecking=no").accept(HOST, 22, KEY)
    assert "cannot add" in caplog.text


def test_the_file_is_the_users_alone(case: Case) -> None:
    before = os.umask(0)
    try:
        case.policy("StrictHostKeyChecking=no").accept(HOST, 22, KEY)
    finally:
        os.umask(before)
    assert case.file.stat().st_mode & 0o777 == 0o600


def test_without_a_file_the_key_is_accepted_and_forgotten(tmp_path: Path) -> None:
    pairs = [("UserKnownHostsFile", "none"), ("StrictHostKeyChecking", "no")]
    config = SshConfiguration(pairs, "none").for_host(HOST, None, None)
    assert HostKeyPolicy(config, Answers(None)).accept(HOST, 22, KEY)
    assert list(tmp_path.iterdir()) == []


def test_an_alias_is_the_whole_name(case: Case) -> None:
    policy = case.policy("HostKeyAlias=Cluster", "StrictHostKeyChecking=accept-new")
    assert policy.accept("Cluster", 2222, KEY)
    assert case.file.read_text() == f"cluster {text_of(KEY)}\n"
    assert len(case.policy("HostKeyAlias=Cluster").trusted("Cluster", "", 2222)[0]) == 1


def test_the_systems_file_is_read_and_not_written(case: Case) -> None:
    case.system.write_text(f"{HOST} {text_of(KEY)}\n")
    assert len(case.policy().trusted(HOST, "", None)[0]) == 1
    case.policy("StrictHostKeyChecking=no").accept("near.example", 22, OTHER)
    assert "near.example" not in case.system.read_text()


# --- after the first connection -----------------------------------------------------------------


@pytest.mark.parametrize("strict", ["yes", "ask", "accept-new", "no"])
def test_a_reconnect_accepts_no_unknown_key(case: Case, strict: str) -> None:
    policy = case.policy(f"StrictHostKeyChecking={strict}", answer=True)
    policy.settle()
    assert not policy.accept(HOST, 22, KEY)
    assert policy.refusal is not None and KEY.get_fingerprint() in policy.refusal
    assert not case.file.exists() and not case.answers.asked


def test_a_key_that_was_accepted_is_known_from_then_on(case: Case) -> None:
    policy = case.policy("StrictHostKeyChecking=accept-new", "HashKnownHosts=yes")
    assert policy.accept(HOST, 2222, KEY)
    policy.settle()
    case.file.unlink()  # from memory
    assert policy.trusted(HOST, "", 2222)[0] == [KEY]
    assert policy.algorithms(HOST, 2222)[0] == "ssh-ed25519"
    assert policy.accept(HOST, 2222, KEY)
    assert not policy.accept(HOST, 2222, OTHER)
    assert policy.refusal is not None and "CHANGED" in policy.refusal


def test_a_second_key_is_a_changed_one_although_the_first_was_just_accepted(case: Case) -> None:
    policy = case.policy("StrictHostKeyChecking=accept-new")
    assert policy.accept(HOST, 22, KEY) and not policy.accept(HOST, 22, OTHER)
