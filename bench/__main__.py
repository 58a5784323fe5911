"""The command line of the benchmark: ``python -m bench --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import report
from bench.runner import LONG_RTT_MS, PROGRAMS, Lab, Plan, Run, drop_caches
from bench.workloads import WORKLOADS


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time pysshfs and sshfs on the same work, over the same emulated links. "
        "Every run has a fresh mount and cold caches; writing counts as done when the server "
        f"has it. From {LONG_RTT_MS:g} ms on, fewer files and bytes are written and read.",
    )
    parser.add_argument("--rtt", default="0,10", help="round-trip times in ms [%(default)s]")
    parser.add_argument(
        "--workloads", default=",".join(WORKLOADS), help="which, in order [%(default)s]"
    )
    parser.add_argument("--runs", type=int, help="runs of each [3; 1 with --quick]")
    parser.add_argument(
        "--quick", action="store_true", help="one run, and the lesser amounts at every RTT"
    )
    parser.add_argument("--small", action="store_true", help="tiny amounts: does it work at all?")
    parser.add_argument("--only", choices=[*PROGRAMS], help="run one program alone")
    parser.add_argument("--no-ssh", action="store_true", help="leave plain ssh out")
    parser.add_argument(
        "--proxy-at-zero", action="store_true", help="go through the proxy at RTT 0 as well"
    )
    parser.add_argument(
        "--limit", type=float, default=240, metavar="S", help="seconds for a run [%(default)s]"
    )
    parser.add_argument("--server-dir", type=Path, help="where the server's files lie [memory]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args(argv)
    args.workloads = args.workloads.split(",")
    if unknown := set(args.workloads) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}")
    try:
        args.rtt = [float(each) for each in args.rtt.split(",")]
    except ValueError:
        parser.error(f"--rtt takes numbers with commas between: {args.rtt}")
    return args


def plan_of(args: argparse.Namespace) -> Plan:
    return Plan(
        workloads=[WORKLOADS[name] for name in args.workloads],
        rtts_ms=args.rtt,
        programs=[args.only] if args.only else list(PROGRAMS),
        runs=args.runs or (1 if args.quick else 3),
        quick=args.quick,
        small=args.small,
        limit=args.limit,
        plain_ssh=not args.no_ssh,
        proxy_at_zero=args.proxy_at_zero,
    )


def show(run: Run) -> None:
    outcome = run.problem if run.seconds is None else f"{run.seconds:.3f} s"
    print(
        f"{run.workload} ({run.amount}), RTT {run.rtt_ms:g} ms, {run.program}, "
        f"run {run.number + 1}: {outcome}",
        file=sys.stderr,
        flush=True,
    )


def main() -> int:
    """0 when every run gave a time, 1 otherwise."""
    args = parse()
    settings: dict[str, object] = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }
    settings["caches dropped"] = drop_caches()
    runs = []
    try:
        with Lab(plan_of(args), args.server_dir) as lab:
            for run in lab.runs():
                show(run)
                runs.append(run)
    except KeyboardInterrupt:
        print("interrupted; what there is:", file=sys.stderr)
    print("\n".join(f"{name}: {value}" for name, value in report.environment().items()))
    print(f"caches dropped before each run: {settings['caches dropped']}\n")
    print(report.table(runs))
    print("\nratio: sshfs / pysshfs, median of the rounds' ratios; mounts are connected before the")
    print("clock starts, while each plain ssh command (ssh s) connects and logs in within its time")
    if args.json:
        report.write_json(args.json, runs, settings)
    return 0 if runs and all(run.seconds is not None for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
