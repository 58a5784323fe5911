"""What systemd itself makes of the unit files, and where they are installed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.procs import ROOT, run_limited
from tests.systemd.machine import UNITS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sandbox import Sandbox
    from tests.systemd.machine import Machine, Service

_UNIT_SUFFIXES = (".service", ".mount", ".automount")

#: The exposure that `systemd-analyze security` finds, from 0 to 10 (UNSAFE): 4.8 as it is.
_MOST_EXPOSED = 5.0


@pytest.fixture
def verified(machine: Machine) -> Sandbox:
    """With every unit, the examples included, in the way of systemd-analyze."""
    for each in (UNITS / "examples").glob("mnt-far.*"):
        machine.sandbox.put(f"/run/verified/{each.name}", each.read_text())
    for kind in ("system", "user"):
        for each in (UNITS / kind).iterdir():
            name = each.name.replace("@.", "@far.")
            machine.sandbox.put(f"/run/verified/{kind}/{name}", each.read_text())
    return machine.sandbox


@pytest.mark.parametrize(
    "words",
    [
        ["/run/verified/system/pysshfs@far.service"],
        ["--user", "/run/verified/user/pysshfs@far.service"],
        ["/run/verified/mnt-far.mount"],
        ["/run/verified/mnt-far.automount"],
    ],
    ids=lambda words: words[-1].rpartition("/")[2],
)
def test_systemd_finds_nothing_wrong(verified: Sandbox, words: list[str]) -> None:
    verify(verified, *words)


def verify(sandbox: Sandbox, *words: str) -> None:
    analyze = ["env", "XDG_RUNTIME_DIR=/run", "systemd-analyze", "verify", "--man=no"]
    said = sandbox.run([*analyze, *words])
    assert (said.stdout, said.stderr) == ("", "")


def test_every_line_is_explained() -> None:
    """In `docs/systemd.md`, by the name of its setting."""
    explained = (ROOT / "docs" / "systemd.md").read_text()
    units = [each for each in UNITS.rglob("*") if each.suffix in _UNIT_SUFFIXES]
    settings = {
        name for unit in units for name in re.findall(r"^(\w+)=", unit.read_text(), re.MULTILINE)
    }
    assert len(settings) > 40
    assert {name for name in settings if f"`{name}=" not in explained} == set()


def test_no_unit_file_is_forgotten() -> None:
    files = {str(each.relative_to(UNITS)) for each in UNITS.rglob("*") if each.is_file()}
    assert files == {
        "system/pysshfs@.service",
        "user/pysshfs@.service",
        "examples/mnt-far.mount",
        "examples/mnt-far.automount",
        "examples/fstab",
        "examples/far.conf",
    }


def test_they_are_installed_with_the_commands_of_their_prefix(
    machine: Machine, tmp_path: Path
) -> None:
    where = ["PREFIX=/usr/local", f"DESTDIR={tmp_path}"]
    make = ["make", "-s", "-C", str(ROOT)]
    run_limited([*make, "install-units", *where], timeout=20)
    for kind in ("system", "user"):
        made = tmp_path / f"usr/local/lib/systemd/{kind}/pysshfs@.service"
        text = made.read_text()
        commands = re.findall(r"^Exec.*?[ =](/\S*bin/pysshfs(?:ctl)?) ", text, re.MULTILINE)
        assert commands == [f"/usr/local/bin/{name}" for name in ("pysshfs", *["pysshfsctl"] * 2)]
        machine.sandbox.put(f"/run/installed/{kind}/pysshfs@far.service", text)
        verify(machine.sandbox, f"--{kind}", f"/run/installed/{kind}/pysshfs@far.service")
    run_limited([*make, "uninstall", *where, "SBINDIR=/sbin"], timeout=20)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


def test_the_daemon_is_not_exposed_more_than_it_has_to_be(far: Service) -> None:
    shown = far.sandbox.run(["systemd-analyze", "security", "--no-pager", far.unit]).stdout
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+) ", shown)
    assert float(exposure) <= _MOST_EXPOSED
