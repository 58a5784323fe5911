"""The benchmark's own arithmetic and inputs: same trees each time, differences seen, ratios."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from bench import probe, tree
from bench.report import median_ratio, table
from bench.runner import Run, scale_for
from bench.workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path


def test_the_full_tree_is_as_documented(tmp_path: Path) -> None:
    tree.make_tree(tmp_path / "one", 1024)
    paths = list((tmp_path / "one").rglob("*"))
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    assert len(sizes) == 1024
    assert len(paths) - len(sizes) == 95
    assert 13_500_000 < sum(sizes) < 14_500_000


def test_trees_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        tree.make_tree(tmp_path / name, 40)
    assert tree.difference(tmp_path / "one", tmp_path / "other") is None


@pytest.mark.parametrize("change", ["content", "size", "missing", "extra", "directory"])
def test_a_difference_is_seen_from_either_side(tmp_path: Path, change: str) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        (path / "sub").mkdir(parents=True)
        (path / "sub/file").write_text("abc")
    match change:
        case "content":
            (other / "sub/file").write_text("abd")
        case "size":
            (other / "sub/file").write_text("ab")
        case "missing":
            (other / "sub/file").unlink()
        case "extra":
            (other / "sub/zz").touch()
        case "directory":
            (other / "zz").mkdir()
    assert tree.difference(one, other) is not None
    assert tree.difference(other, one) is not None


def test_the_probe_writes_and_reads_what_it_is_told(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    tree.make_data(source, 3 * probe.PAGE)
    probe.write_all(str(target), str(source), "512", str(2 * probe.PAGE))
    assert target.read_bytes() == source.read_bytes()[: 2 * probe.PAGE]
    size = str(os.path.getsize(source))
    whole = probe.read_all(str(source), size)["digest"]
    assert whole == probe.read_all(str(source), size)["digest"]
    assert whole != probe.read_all(str(target), size)["digest"]


def test_the_ratio_is_taken_within_each_round() -> None:
    times: dict[str, list[float | None]] = {
        "pysshfs": [1.0, 2.0, 10.0, None],
        "sshfs": [3.0, 8.0, 20.0, 1.0],
    }
    runs = [
        Run("ls", 10, program, number, "8 files", seconds, "" if seconds else "stuck: it")
        for program, own in times.items()
        for number, seconds in enumerate(own)
    ]
    assert median_ratio(runs) == 3.0
    assert median_ratio(runs[:4]) is None
    text = table(runs)
    assert "2.000 stuck 1/4" in text and "3.00" in text and WORKLOADS["ls"].title in text


def test_less_is_done_over_long_links() -> None:
    near, far = (scale_for(rtt, quick=False, small=False) for rtt in (1, 10))
    assert (near.files, near.changed_files, near.data >> 20) == (1024, 1024, 256)
    assert (far.files, far.changed_files, far.data >> 20) == (1024, 128, 64)
    assert scale_for(0, quick=True, small=False) == far
