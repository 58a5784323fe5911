"""The source argument: what is taken apart, and what is refused."""

import pytest

from pysshfs.cli.source import parse_source
from pysshfs.cli.usage import UsageError


@pytest.mark.parametrize(
    ("text", "user", "host", "path"),
    [
        ("host:", None, "host", b""),
        ("host:/srv", None, "host", b"/srv"),
        ("host:dir/sub", None, "host", b"dir/sub"),
        ("me@host:/srv", "me", "host", b"/srv"),
        ("me@example.org@host:/srv", "me@example.org", "host", b"/srv"),
        ("host:/a@b:c", None, "host", b"/a@b:c"),
        ("me@host:/x@[::1]:/y", "me", "host", b"/x@[::1]:/y"),
        ("host:a b\n", None, "host", b"a b\n"),
        ("host:-x", None, "host", b"-x"),
        ("host:\udcff\u00e9", None, "host", b"\xff\xc3\xa9"),
        ("host:$(x);`y`", None, "host", b"$(x);`y`"),
        ("DOMAIN\\me@host:", "DOMAIN\\me", "host", b""),
        ("me%h@host%p:", "me%h", "host%p", b""),
        ("[::1]:/x", None, "::1", b"/x"),
        ("[::1]:", None, "::1", b""),
        ("user@[fe80::1%eth0]:", "user", "fe80::1%eth0", b""),
        ("a@b@[::1]:d]:e", "a@b", "::1", b"d]:e"),
        ("[192.0.2.1]:/x", None, "192.0.2.1", b"/x"),
        ("[host]:/x", None, "host", b"/x"),
        ("host://twice", None, "host", b"//twice"),
        ("b\u00fccher.example:", None, "b\u00fccher.example", b""),
    ],
)
def test_taken_apart(text: str, user: str | None, host: str, path: bytes) -> None:
    assert parse_source(text) == (user, host, path, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no ':'"),
        ("host", "no ':'"),
        ("/mnt/point", "no ':'"),
        (":/srv", "empty host"),
        ("me@:/srv", "empty host"),
        ("::1:/srv", "in brackets"),
        ("[]:/srv", "empty host"),
        ("@host:", "empty user"),
        ("-oProxyCommand=x:", "host may not begin with '-'"),
        ("[-x]:", "host may not begin with '-'"),
        ("me@-host:", "host may not begin with '-'"),
        ("-l@host:", "user may not begin with '-'"),
        ("ho st:", "host may not contain whitespace"),
        ("ho\nst:", "host may not contain whitespace or control"),
        ("host\u00a0:", "host may not contain whitespace"),
        ("ho\x1bst:", "control characters"),
        ("ho\udcffst:", "control characters"),
        ("ho\u202est:", "control characters"),
        ("m\te@host:", "user may not contain whitespace"),
        ("m\x7fe@host:", "user may not contain whitespace or control"),
        ("[::1", "without its ']'"),
        ("[::1]/x", "no ':' after the ']'"),
        ("[::1]", "no ':' after the ']'"),
        ("[host]", "no ':' after the ']'"),
        ("[a[b]:", "may not contain '['"),
        ("ho]st:", "may not contain ']'"),
        ("[me@host]:", "may not contain"),
        ("./dir/with:colon", "may not contain '/'"),
        ("host:a\0b", "NUL"),
        ("me\\@host:", "user may not end with a backslash"),
        *((f"me{each}x@host:", "user may not contain") for each in "'`\"$;&<>|(){}"),
        *((f"me@ho{each}st:", "host may not contain") for each in "'`\"$\\;&<>|(){},*?#~!^"),
        *((f"[ho{each}st]:", "host may not contain") for each in "$;&|`"),
        ("x;touch${IFS}y@host:", "user may not contain ';'"),
        ("$(touch y)@host:", "user may not contain whitespace"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(text)
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("sftp://user@host:2222/path", "'user@host:/path' with '-p 2222'"),
        ("SFTP://host/path", "'host:/path' instead"),
        ("sftp://host", "'host:' instead"),
        ("sftp://me@[::1]:22/x", "'me@[::1]:/x' with '-p 22'"),
        ("sftp://[::1]/x", "'[::1]:/x' instead"),
        ("sftp://host:x/p", "'host:/p' instead"),
    ],
)
def test_url_is_answered_with_the_right_form(url: str, form: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(url)
    assert form in caught.value.message


def test_password_of_a_url_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source("sftp://me:s3cret@host/x")
    assert "s3cret" not in caught.value.message
    assert "'me@host:/x'" in caught.value.message


def test_messages_hold_no_raw_control_characters() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source("ho\x1b[2Jst:")
    assert caught.value.message.isprintable()
