"""python -m ldmtune_analysis report | compare | check"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .check import run_checks
from .report import write_report
from .runs import load_runs, load_sweep


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldmtune_analysis", description="Reports, comparisons and checks of ldmtune runs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="one HTML page about a sweep")
    report.add_argument("sweep", type=Path, help="the sweep.output folder")
    report.add_argument("-o", "--output", type=Path, help="the page (default: SWEEP/report.html)")
    compare = commands.add_parser("compare", help="one HTML page about single runs")
    compare.add_argument("runs", type=Path, nargs="+", help="run folders")
    compare.add_argument(
        "-o", "--output", type=Path, default=Path("comparison.html"), help="the page (default: comparison.html)"
    )
    check = commands.add_parser(
        "check", help="exit 1 unless the sweep's best trial beats the base, took on the grey style, and opens"
    )
    check.add_argument("sweep", type=Path, help="the sweep.output folder")
    return parser


def main(arguments: list | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.command == "report":
            print(write_report(load_sweep(options.sweep), options.output or options.sweep / "report.html"))
            return 0
        if options.command == "compare":
            print(write_report(load_runs(options.runs), options.output))
            return 0
        checks = run_checks(load_sweep(options.sweep))
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for check in checks:
        print(check)
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
