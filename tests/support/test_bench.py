"""The benchmark's own arithmetic and inputs: same trees each time, differences seen, ratios."""

from __future__ import annotations

import math
import os
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from bench import checks, docs, grow, plot, probe, report, tree
from bench.__main__ import parse
from bench.goals import ASYNC, GOALS, goal, is_met
from bench.link import Link
from bench.plan import Run, scale_for
from bench.workloads import WORKLOADS
from tests.support import procs
from tests.support.procs import run_limited

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


CHANGES = ["content", "size", "missing", "extra", "directory", "mode", "time"]


@pytest.mark.parametrize("change", CHANGES)
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
        case "mode":
            (other / "sub/file").chmod(0o700)
        case "time":
            os.utime(other / "sub", (1, 1))
    attributes = change in ("mode", "time")
    assert tree.difference(one, other, attributes=attributes) is not None
    assert tree.difference(other, one, attributes=attributes) is not None


def test_the_probe_writes_and_reads_what_it_is_told(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    tree.make_data(source, 3 * probe.PAGE)
    probe.write_all(str(target), str(source), "512", str(2 * probe.PAGE))
    assert target.read_bytes() == source.read_bytes()[: 2 * probe.PAGE]
    size = str(os.path.getsize(source))
    whole = probe.read_all(str(source), size)["digest"]
    assert whole == probe.read_all(str(source), size)["digest"]
    assert whole != probe.read_all(str(target), size)["digest"]


TIMES: dict[str, list[float | None]] = {
    "pysshfs": [1.0, 2.0, 10.0, None],
    "pysshfs-async": [0.5, 0.5, 0.5, 0.5],
    "sshfs": [3.0, 8.0, 20.0, 1.0],
}


def runs_of(workload: str, *programs: str, rtt_ms: float = 10) -> list[Run]:
    return [
        Run(workload, rtt_ms, program, number, "8 files", seconds, "" if seconds else "stuck: it")
        for program in programs
        for number, seconds in enumerate(TIMES[program])
    ]


def test_the_ratio_is_taken_within_each_round() -> None:
    runs = runs_of("ls", "pysshfs", "sshfs")
    (row,) = report.summary(runs)
    assert (row.ratios, row.ratio, row.goal, row.met) == ([3.0, 4.0, 2.0], 3.0, 8, False)
    assert report.summary(runs[:4])[0].ratio is None
    text = report.table(runs)
    assert "pysshfs: stuck 1/4" in text and "3.00" in text and WORKLOADS["ls"].title in text


def test_runs_with_async_ops_are_a_row_of_their_own_with_the_same_rounds_of_sshfs() -> None:
    plain, asynchronous = report.summary(runs_of("untar", *TIMES))
    assert (plain.workload, plain.ratio, plain.goal) == ("untar", 3.0, 3.5)
    assert (asynchronous.workload, asynchronous.ratio) == ("untar-async", 11.0)
    assert asynchronous.goal == GOALS["untar-async"][2]


def test_every_goal_is_for_a_workload_there_is() -> None:
    known = {*WORKLOADS, *(name + ASYNC for name, each in WORKLOADS.items() if each.also_async)}
    assert set(GOALS) <= known
    assert goal("ls", 1) == 2.5 and goal("ls", 3) is None and goal("rm", 1) is None
    assert is_met(1.296, 1.3) and not is_met(1.294, 1.3)


def test_results_are_the_same_after_json_and_later_ones_replace_earlier(tmp_path: Path) -> None:
    links = [Link(10, True, 1000.0, 900.0, 0.1)]
    runs = runs_of("tar", "pysshfs", "sshfs") + runs_of("ls", "pysshfs", "sshfs")
    earlier = report.Results({"kernel": "1"}, {}, links, runs)
    again = [replace(run, amount="9 files") for run in runs_of("ls", "pysshfs", "sshfs")]
    later = report.Results({"kernel": "2"}, {}, [], again)
    for name, results in (("earlier", earlier), ("later", later)):
        results.write_json(tmp_path / name)
    both = report.Results.load([tmp_path / "earlier", tmp_path / "later"])
    assert both == report.Results({"kernel": "2"}, {}, links, again + runs[:8])
    assert "**3.00** / 8" in report.markdown(both)
    (tmp_path / "other").write_text("{}")
    with pytest.raises(ValueError, match="holds no results"):
        report.Results.load([tmp_path / "other"])


def test_figures_are_well_formed_and_show_each_value() -> None:
    rows = report.summary(runs_of("untar", *TIMES) + runs_of("ls", "pysshfs", rtt_ms=0))
    words = ElementTree.fromstring(plot.ratios(rows)).itertext()
    assert {"11.00", "RTT 0 ms", "tar x -o async_ops"} <= set(words)
    points = [
        grow.Point("directory", "pysshfs", 0, n, n, n / 1e5, 0.01, 30_000, 40_000 + n)
        for n in (10, 1_000_000)
    ]
    words = ElementTree.fromstring(plot.panels(grow.panels(points))).itertext()
    assert {"1M", "time, us for each entry"} <= set(words)
    assert grow.line(points[0]) in (
        "listing a directory (ls -U), 10 entries, RTT 0 ms, pysshfs: 0.000 s, the first after "
        "10.0 ms; 10.0 us for each entry; memory 39 MiB, fresh 29"
    )


def test_points_of_a_later_file_take_the_place_of_the_same(tmp_path: Path) -> None:
    def point(size: int, seconds: float) -> grow.Point:
        return grow.Point("ls", "pysshfs", 0, size, size, seconds, None, 1, 2)

    files = tmp_path / "first", tmp_path / "later"
    grow.write_json(files[0], [point(1, 1.0), point(10, 2.0)], {"when": "first"}, {})
    grow.write_json(files[1], [point(10, 3.0)], {"when": "later"}, {})
    assert grow.load(files) == ({"when": "later"}, [point(1, 1.0), point(10, 3.0)])


def test_every_check_is_taken_out_of_the_copy(tmp_path: Path) -> None:
    program = checks.without_checks(tmp_path)
    for patch in checks.PATCHES:
        assert (tmp_path / patch.file).read_text() != (procs.ROOT / patch.file).read_text()
    said = run_limited([*program.argv[:-1], "--version"], timeout=30).stdout
    assert "pysshfs" in said


def test_intervals_are_students() -> None:
    """Nine degrees of freedom: 2.262 standard errors (tables)."""
    ratios = [math.exp(number / 100) for number in range(10)]
    error = statistics.stdev(range(10)) / 100 / math.sqrt(10)
    found = checks.interval(ratios)
    assert found.mean == pytest.approx(math.exp(0.045))
    assert math.log(found.high / found.mean) == pytest.approx(2.262 * error, rel=2e-3)
    assert math.log(found.mean / found.low) == pytest.approx(2.262 * error, rel=2e-3)


def test_listings_count_only_while_the_copy_runs(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/name").touch()
    directories = [str(tmp_path / "directory")] * 3
    answer = probe.list_beside("/dev/zero", os.devnull, *directories)
    assert (answer["listings"], answer["names"]) == (3, [1, 1, 1]) and answer["seconds"] > 0
    assert probe.list_beside(os.devnull, os.devnull, *directories)["seconds"] == 0


def test_the_page_is_replaced_between_its_comments_only() -> None:
    text = "a\n<!-- bench ratios: begin -->\nold\n<!-- bench ratios: end -->\nz\n"
    assert docs.replace_between(text, "ratios", "new\n") == text.replace("old", "new")
    with pytest.raises(ValueError, match="bench growth"):
        docs.replace_between(text, "growth", "new")
    for name in ("ratios", "growth"):
        docs.replace_between(docs.PAGE.read_text(), name, "new")


def test_less_is_done_over_long_links() -> None:
    near, far, farther = (scale_for(rtt, "usual") for rtt in (1, 10, 50))
    assert (near.files, near.changed_files, near.data >> 20) == (1024, 1024, 256)
    assert near.changed_files > far.changed_files > farther.changed_files
    assert near.files == farther.files  # what only reads has the whole tree everywhere
    assert scale_for(50, "whole") == near


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--only", "nothing"], "no such workload: nothing"),
        (["--grow", "--only", "tar"], "no such workload: tar"),
        (["--rtt", "ten"], "argument --rtt: milliseconds"),
        (["--quick", "--whole"], "not allowed with"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
