"""Which passwords are kept for a reconnect, and for how long."""

from __future__ import annotations

import re

from pysshfs.remote.auth import Credentials, load_certificates


class Terminal:
    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked = 0

    @property
    def available(self) -> bool:
        return bool(self._answers)

    def confirm(self, text: str, fingerprint: str) -> bool:
        raise AssertionError("no host key is in question")

    def secret(self, text: str) -> str | None:
        self.asked += 1
        return self._answers.pop(0)


def login(credentials: Credentials, *rounds: str) -> list[str | None]:
    """What is answered when the server asks by these methods, each once."""
    credentials.begin()
    answers = []
    for method in rounds:
        credentials.begin_method(method)
        answers.append(credentials.password(method, "?", True))
    return answers


def test_what_was_needed_is_answered_again() -> None:
    credentials = Credentials(Terminal("typed"), "given")
    assert login(credentials, "password") == ["given"]
    credentials.settle()
    for _ in range(3):
        assert login(credentials, "password") == ["given"]
        credentials.settle()


def test_what_was_refused_is_not_kept() -> None:
    terminal = Terminal("wrong", "right", "unused")
    credentials = Credentials(terminal, None)
    assert login(credentials, "password", "password") == ["wrong", "right"]
    credentials.settle()
    # It is tried once: a second question means that it is refused now. Nobody is asked.
    assert login(credentials, "password", "password") == ["right", None]
    assert terminal.asked == 2


def test_what_was_not_needed_is_forgotten() -> None:
    credentials = Credentials(Terminal("typed"), "given")
    assert login(credentials) == []
    credentials.settle()
    assert login(credentials, "password") == [None]
    assert "given" not in map(str, vars(credentials).values())


def test_without_another_login_nothing_is_kept() -> None:
    credentials = Credentials(Terminal("code"), "given")
    login(credentials, "password", "questions")
    credentials.settle()
    credentials.forget()
    assert not {"given", "code"} & set(re.findall(r"\w+", str(vars(credentials))))
    assert login(credentials, "password", "questions") == [None, None]


def test_two_methods_in_one_login() -> None:
    credentials = Credentials(Terminal("code"), "given")
    assert login(credentials, "password", "questions") == ["given", "code"]
    credentials.settle()
    assert login(credentials, "password", "questions") == ["given", "code"]


def test_several_questions_in_one_round() -> None:
    credentials = Credentials(Terminal("code"), "given")
    for _ in range(2):
        credentials.begin()
        credentials.begin_method("questions")
        answers = [credentials.password("questions", "?", True) for _ in range(2)]
        assert answers == ["given", "code"]
        credentials.settle()


def test_a_certificate_that_cannot_be_used_is_passed_over() -> None:
    passed_over: list[str] = []
    assert load_certificates(["/nonexistent", "/dev/null"], passed_over) == []
    assert len(passed_over) >= 1 and "/nonexistent" in passed_over[0]
    assert load_certificates(None, passed_over) == []


def test_an_answer_that_was_needed_may_be_a_one_time_code() -> None:
    credentials = Credentials(Terminal("code"), "given")
    login(credentials, "password", "questions")
    assert not credentials.has_answered  # not before the login is known to have taken it
    credentials.settle()
    assert credentials.has_answered
    by_password = Credentials(Terminal(), "given")
    login(by_password, "password")
    by_password.settle()
    assert not by_password.has_answered
