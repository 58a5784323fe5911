"""The layers: who may import whom. Every import is looked at, wherever in a module it stands."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pysshfs

ROOT = Path(pysshfs.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# From the bottom up. A module may import its own layer and those below it; the layers that share
# a number know nothing of one another.
LAYERS = {
    "errors": 0,
    "loginnames": 0,
    "remotefs": 1,
    "reply": 1,
    "vfs": 2,
    "remote": 2,
    "fuse": 3,
    "cli": 4,
    "demo": 5,  # a program of its own
    "__main__": 5,
    "__init__": 0,
}
# What lies beside its layer by design: the contract of remote/ names replies.
SIDEWAYS = {("remotefs", "reply")}
# A package of the world and the parts of ours that may import it.
OUTSIDE = {
    "pyfuse3": {"fuse"},
    "asyncssh": {"remote", "demo"},
    "asyncio": {"remote", "demo"},
    "cachetools": {"vfs"},
}


def part_of(module: str) -> str:
    return module.split(".")[0]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Absolute names of all imported modules, and whether an import is for type checkers only."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        is_for_types = id(node) in for_types
        if isinstance(node, ast.Import):
            found += [(alias.name, is_for_types) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found += [(f"{node.module}.{alias.name}", is_for_types) for alias in node.names]
    return found


def ours(name: str) -> str | None:
    """The part of pysshfs that an import refers to."""
    parts = name.split(".")
    return parts[1] if parts[0] == "pysshfs" and len(parts) > 1 else None


def test_the_walk_sees_the_modules() -> None:
    assert {"errors", "vfs.tree", "remote.wire", "fuse.session", "cli.parser"} <= set(MODULES)
    assert ("trio", False) in imports(MODULES["reply"])
    assert ("pysshfs.reply.Reply", True) in imports(MODULES["remotefs"])


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_only_the_layer_for_it_imports_a_package(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        allowed = OUTSIDE.get(name.split(".")[0])
        assert allowed is None or part_of(module) in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_no_module_imports_upward_or_sideways(module: str) -> None:
    own = part_of(module)
    assert own in LAYERS, f"{own} belongs to no layer"
    for name, _ in imports(MODULES[module]):
        other = ours(name)
        if other is None or other == own or other not in LAYERS or (own, other) in SIDEWAYS:
            continue
        assert LAYERS[other] < LAYERS[own], f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) == "vfs"])
def test_the_filesystem_knows_neither_kernel_nor_network(module: str) -> None:
    for name, _ in imports(MODULES[module]):
        assert name.split(".")[0] not in ("pyfuse3", "asyncssh", "asyncio", "socket", "subprocess")
        assert ours(name) in (None, "errors", "remotefs", "reply", "vfs"), f"{module}: {name}"
