"""What is printed and logged neither steers a terminal nor forges a line."""

from __future__ import annotations

import io
import linecache
import logging
from typing import TYPE_CHECKING

import pytest

from pysshfs.cli import ctl, daemon, logs
from pysshfs.cli.usage import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BAD = "a\nERROR forged\x1b[2J\r\x9b\u202e\udcff"
_SHOWN = r"a\nERROR forged\x1b[2J\r\x9b\u202e\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("plain b\u00fccher", "plain b\u00fccher"), (_BAD, _SHOWN), ("a'b\\n", "a'b\\n")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:], root.level = handlers, level


def close(handler: logging.Handler) -> None:
    assert isinstance(handler, logging.StreamHandler)
    handler.stream.close()


def test_a_log_line_is_one_line(root_logger: logging.Logger, tmp_path: Path) -> None:
    handler = logs.open_log_file(str(tmp_path / "log"))
    logs.switch_to(handler, logging.INFO)
    logging.getLogger("pysshfs").warning("%s: %s", _BAD, _BAD)
    close(handler)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(f"WARNING {_SHOWN}: {_SHOWN}")


def test_a_traceback_has_its_lines(root_logger: logging.Logger, tmp_path: Path) -> None:
    handler = logs.open_log_file(str(tmp_path / "log"))
    logs.switch_to(handler, logging.INFO)
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("pysshfs").exception("a\nb")
    close(handler)
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first.endswith(r"a\nb") and rest[0].startswith("Traceback")


def test_a_traceback_opens_no_file(
    root_logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sources may lie under the mount by now."""
    handler = logs.open_log_file(str(tmp_path / "log"))
    logs.switch_to(handler, logging.INFO)
    asked: list[str] = []

    def update(name: str, *_: object) -> list[str]:
        asked.append(name)
        return []

    monkeypatch.setattr(linecache, "updatecache", update)
    linecache.clearcache()
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise ExceptionGroup("several", [KeyError("second"), error]) from error
    except ExceptionGroup:
        logging.getLogger("pysshfs").exception("failed")
    close(handler)
    text = (tmp_path / "log").read_text()
    assert asked == []
    assert "ValueError: first" in text and "KeyError: 'second'" in text
    assert "test_printable.py" in text and "test_a_traceback_opens_no_file" in text


def test_every_handler_has_that_form(root_logger: logging.Logger, tmp_path: Path) -> None:
    logs.to_stderr(logging.DEBUG)
    (stderr,) = root_logger.handlers
    stream = io.StringIO()
    assert isinstance(stderr, logging.StreamHandler)
    stderr.setStream(stream)
    logging.getLogger("pysshfs").error(_BAD)
    assert stream.getvalue().count("\n") == 1 and _SHOWN in stream.getvalue()


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    daemon.complain(_BAD)
    assert ctl.main(["umount", f"/nonexistent/{_BAD}"]) != 0
    ours, ctls = capsys.readouterr().err.splitlines()
    assert ours == f"pysshfs: {_SHOWN}"
    assert ctls == f"pysshfsctl: /nonexistent/{_SHOWN}: no pysshfs mount"
