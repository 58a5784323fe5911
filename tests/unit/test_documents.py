"""The documents are contracts: every test that they name exists."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.procs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_test_exists(document: Path) -> None:
    for file, function in NAMED.findall(document.read_text()):
        path = ROOT / file
        assert path.is_file(), f"{document.name} names {file}"
        if function:
            assert function in functions(path), f"{document.name} names {file}::{function}"


def test_the_parts_of_the_contract_that_are_named_exist() -> None:
    """Of `docs/semantics.md`: words in brackets that stand alone are parts of the contract."""
    text = (ROOT / "docs" / "semantics.md").read_text()
    in_brackets = "".join(re.findall(r"\(((?:`[^`]+`[,\s]*)+)\)", text))
    named = set(re.findall(r"`([a-z_]+)`", in_brackets))
    assert len(named) > 15
    assert named <= functions(ROOT / "tests" / "mount" / "contract.py")


def test_semantics_names_a_test_for_nearly_every_statement() -> None:
    text = (ROOT / "docs" / "semantics.md").read_text()
    assert len(NAMED.findall(text)) >= 12


def test_every_promise_about_data_names_its_test() -> None:
    """Of `docs/data-safety.md`: each row of a table ends with a test."""
    lines = (ROOT / "docs" / "data-safety.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.endswith("| test |")]
    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row.rsplit(" | ", 1)[1])] == []
