"""The command line of the benchmark: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from bench import docs, grow, machine, plot, report
from bench.grow import SERIES
from bench.plan import PROGRAMS, PYSSHFS_PROGRAM, SCALES, SSHFS_PROGRAM, Plan, Run
from bench.runner import Lab, drop_caches
from bench.workloads import WORKLOADS
from tests.support.sshd import SSHD


class _Parser(argparse.ArgumentParser):
    """Tells an error in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    usual = _Parser(
        prog="python -m bench",
        description="Time pysshfs and sshfs on the same work, over the same emulated links. Every "
        "run has a fresh mount and cold caches; the clock of one that writes stops when a flush "
        "has returned, and then the server's files are compared. From "
        f"{list(SCALES)[1]:g} ms on, fewer files and bytes are used.",
    )
    add = usual.add_argument
    add("--rtt", type=_numbers, help="round-trip times in ms [0,1,10,50; 0,10 if quick; 0 to grow]")
    add("--only", type=_names, action="extend", metavar="WORKLOAD[,...]", default=[],
        help=f"of {', '.join(WORKLOADS)}; with --grow of {', '.join(SERIES)}")  # fmt: skip
    add("--runs", type=_count, help="rounds of each [3; 1 if quick]")
    amounts = usual.add_mutually_exclusive_group()
    for name, words in (
        ("quick", "one round, lesser amounts, under 4 minutes"),
        ("tiny", "tiny amounts: does it work at all?"),
        ("whole", "the whole amounts at every RTT (hours)"),
    ):
        amounts.add_argument(
            f"--{name}", dest="amounts", action="store_const", const=name, help=words
        )
    usual.set_defaults(amounts="usual")
    add("--program", choices=[*PROGRAMS], help="run one of the two alone")
    add("--no-ssh", action="store_true", help="leave plain ssh out")
    add("--no-async", action="store_true", help="leave the runs with -o async_ops out")
    add("--proxy-at-zero", action="store_true", help="go through the proxy at RTT 0 as well")
    add("--limit", type=float, metavar="S", default=240, help="seconds for a run [%(default)s]")
    add("--server-dir", type=Path, help="where the server's files lie [memory]")
    add("--grow", action="store_true", help="how cost grows with sizes and numbers instead")
    add("--largest", type=_count, metavar="N", default=1 << 40, help="with --grow: no larger size")
    add("--json", type=Path, metavar="FILE", help="write all results there")
    add("--svg", type=Path, metavar="FILE", help="draw them there")
    add(
        "--docs",
        action="store_true",
        help=f"put them into docs/{docs.PAGE.name}, in the place of what is there",
    )
    add("--from", dest="sources", type=Path, nargs="+", default=[], metavar="FILE",
        help="measure nothing; show what --json wrote, a later file before an earlier")  # fmt: skip
    return usual


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        numbers = [-1.0]
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"milliseconds with commas between are wanted: {text}")
    return numbers


def _names(text: str) -> list[str]:
    return text.split(",")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on is wanted: {text}")
    return int(text)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    known = parser()
    args = known.parse_args(argv)
    choice = SERIES if args.grow else WORKLOADS
    args.only = args.only or list(choice)
    if unknown := set(args.only) - set(choice):
        known.error(
            f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(choice)}"
        )
    quick = args.amounts == "quick"
    args.rtt = args.rtt or (
        [0.0] if args.grow else [0.0, 10.0] if quick else [0.0, 1.0, 10.0, 50.0]
    )
    args.runs = args.runs or (1 if quick else 3)
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    programs = [PROGRAMS[args.program]] if args.program else list(PROGRAMS.values())
    if args.grow and not args.program:
        programs = [PYSSHFS_PROGRAM]
    wanted = not (args.no_async or args.grow) and PYSSHFS_PROGRAM in programs
    return Plan(
        # A plan to grow has series in the place of workloads.
        workloads=[] if args.grow else [WORKLOADS[name] for name in args.only],
        rtts_ms=args.rtt,
        programs=programs,
        runs=args.runs,
        amounts=args.amounts,
        limit=args.limit,
        plain_ssh=not args.no_ssh,
        async_ops=wanted and _offers_async_ops(),
        proxy_at_zero=args.proxy_at_zero,
    )


def _offers_async_ops() -> bool:
    offered = machine.knows_async_ops()
    if not offered:
        print("this pysshfs has no -o async_ops: the rows with it are left out", file=sys.stderr)
    return offered


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    plain = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    return {name: value for name, value in plain.items() if name != "sources"}


def check_before(args: argparse.Namespace) -> None:
    """Say now, not after half an hour, what will not work; SystemExit with one line."""
    needed = [] if args.sources else [SSHD, "ssh", "git"]
    if needed and not args.grow and args.program != PYSSHFS_PROGRAM.name:
        needed.append(SSHFS_PROGRAM.argv[0])
    if absent := [name for name in needed if shutil.which(name) is None]:
        raise SystemExit(f"bench: not installed: {', '.join(absent)}")
    for path in (args.json, args.svg):
        if path is not None and not path.absolute().parent.is_dir():
            raise SystemExit(f"bench: {path}: there is no such directory")
    if args.server_dir is not None and not args.server_dir.is_dir():
        raise SystemExit(f"bench: {args.server_dir}: there is no such directory")


# -- comparing -----------------------------------------------------------------------------------


def compare(args: argparse.Namespace) -> bool:
    """Whether every run gave a time."""
    results = report.Results.load(args.sources) if args.sources else _compared(args)
    _print_environment(results.environment)
    print("\n".join(str(link) for link in results.links), end="\n\n")
    print(report.table(results.runs))
    print(f"\n{report.conclusion(results.runs)}")
    print("ratio: sshfs / pysshfs, median of the rounds' ratios; mounts are connected before the")
    print("clock starts, while each plain ssh command (ssh s) connects and logs in within its time")
    if args.json:
        results.write_json(args.json)
    figure = plot.ratios(report.summary(results.runs))
    if args.svg:
        args.svg.write_text(figure)
    if args.docs:
        docs.publish("ratios", report.markdown(results), figure)
    return bool(results.runs) and all(run.seconds is not None for run in results.runs)


def _compared(args: argparse.Namespace) -> report.Results:
    settings = settings_of(args) | {"caches dropped": drop_caches(), "load": machine.load()}
    started = time.monotonic()
    runs, links = [], []
    try:
        with Lab(plan_of(args), args.server_dir) as lab:
            for link in lab.links():
                print(link, file=sys.stderr, flush=True)
                links.append(link)
            for run in lab.runs():
                _show(run)
                runs.append(run)
    except KeyboardInterrupt:
        print("interrupted; what there is:", file=sys.stderr)
    settings["minutes"] = round((time.monotonic() - started) / 60, 1)
    return report.Results(machine.environment() | _conditions(settings), settings, links, runs)


def _show(run: Run) -> None:
    outcome = run.problem if run.seconds is None else f"{run.seconds:.3f} s"
    print(
        f"{run.workload} ({run.amount}), RTT {run.rtt_ms:g} ms, {run.program}, "
        f"run {run.number + 1}: {outcome}",
        file=sys.stderr,
        flush=True,
    )


def _conditions(settings: dict[str, Any]) -> dict[str, str]:
    return {
        "caches dropped before each run:": "yes"
        if settings["caches dropped"]
        else "fresh mounts only",
        "load before:": f"{settings['load']:.1f}",
        "minutes:": f"{settings['minutes']}",
    }


def _print_environment(environment: Any) -> None:
    print(", ".join(f"{name} {value}" for name, value in environment.items()), end="\n\n")


# -- growing -------------------------------------------------------------------------------------


def grown(args: argparse.Namespace) -> bool:
    """Whether every point gave a time."""
    if args.sources:
        environment, points = grow.load(args.sources)
    else:
        environment, points = machine.environment(), _grown(args)
    _print_environment(environment)
    if args.sources:
        print("\n".join(grow.line(point) for point in points))
    if args.json:
        grow.write_json(args.json, points, environment, settings_of(args))
    figure = plot.panels(grow.panels(points))
    if args.svg:
        args.svg.write_text(figure)
    if args.docs:
        docs.publish("growth", grow.markdown(environment, points), figure)
    return bool(points) and not any(point.problem for point in points)


def _grown(args: argparse.Namespace) -> list[grow.Point]:
    points: list[grow.Point] = []
    plan = plan_of(args)
    try:
        with Lab(plan, args.server_dir) as lab:
            for rtt_ms in args.rtt:
                for point in grow.measure(
                    lab, args.only, plan.programs[0], rtt_ms, args.limit, args.largest
                ):
                    print(grow.line(point), flush=True)
                    points.append(point)
    except KeyboardInterrupt:
        print("interrupted; what there is:", file=sys.stderr)
    return points


def main() -> int:
    """0 when every run gave a time, 1 otherwise, 2 for a wrong command line."""
    args = parse()
    check_before(args)
    try:
        return 0 if (grown if args.grow else compare)(args) else 1
    except (OSError, ValueError, RuntimeError) as problem:
        print(f"bench: {problem}".partition("\n")[0], file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
