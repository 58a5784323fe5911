"""What there is to know about the place before it is mounted on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pysshfs.fuse import mountpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("kind", "runs"), [("none", False), ("link", False), ("file", True)])
def test_libfuse_runs_umount_for_a_file_of_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, runs: bool
) -> None:
    mtab = tmp_path / "mtab"
    monkeypatch.setattr(mountpoint, "_MTAB", str(mtab))
    if kind == "link":
        mtab.symlink_to("/proc/mounts")
    elif kind == "file":
        mtab.touch()
    assert mountpoint.libfuse_runs_umount() is runs
