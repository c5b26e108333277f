"""python -m ldmtune_analysis report | compare | collect | metrics | tensorboard | check"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .check import run_checks
from .collection import collect
from .metrics import measure_samples
from .report import write_report
from .runs import load_runs, load_sweep
from .tensorboard import follow


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldmtune_analysis", description="Reports, comparisons and checks of ldmtune runs."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="one HTML page about a sweep")
    report.add_argument("sweep", type=Path, help="the sweep.output folder")
    report.add_argument("-o", "--output", type=Path, help="the page (default: SWEEP/report.html)")
    tune_help = (
        "compare each combination of the other options at this option's best level by validation (repeatable; default: "
        "optim.learning_rate; none: nothing)"
    )
    report.add_argument("--tune", action="append", metavar="OPTION", help=tune_help)
    compare = commands.add_parser("compare", help="one HTML page about any runs, showing the options that differ")
    compare.add_argument("runs", type=Path, nargs="+", help="run folders; a sweep's folder stands for its trials")
    compare.add_argument(
        "-o", "--output", type=Path, default=Path("comparison.html"), help="the page (default: comparison.html)"
    )
    collected = commands.add_parser("collect", help="results of sweeps as one HDF5 file and CSV; adds to what is there")
    collected.add_argument("sweeps", type=Path, nargs="+", help="sweep.output folders")
    collected.add_argument("-o", "--output", type=Path, help="the file (default: FIRST SWEEP/results.h5)")
    metrics = commands.add_parser("metrics", help="sample metrics of a sweep's pictures, for the report")
    metrics.add_argument("sweep", type=Path, help="the sweep.output folder")
    metrics.add_argument("--clip", type=Path, metavar="DIR", help="local CLIP model: CLIP-T and CLIP-I")
    metrics.add_argument("--dino", type=Path, metavar="DIR", help="local DINO or DINOv2 model: DINO and KID")
    board = commands.add_parser("tensorboard", help="follow a running sweep or run into TensorBoard event files")
    board.add_argument("folder", type=Path, help="a sweep.output or run folder")
    board.add_argument("--logdir", type=Path, help="where events go (default: FOLDER/tensorboard)")
    board.add_argument("--seconds", type=float, default=5.0, help="between two looks (default: 5)")
    board.add_argument("--once", action="store_true", help="write what there is and end")
    check = commands.add_parser(
        "check", help="exit 1 unless the sweep's best trial beats the base, took on the grey style, and opens"
    )
    check.add_argument("sweep", type=Path, help="the sweep.output folder")
    return parser


def _run(options) -> int:
    if options.command == "report":
        tuned = None if options.tune is None else [name for name in options.tune if name != "none"]
        print(write_report(load_sweep(options.sweep), options.output or options.sweep / "report.html", tuned))
    elif options.command == "compare":
        print(write_report(load_runs(options.runs), options.output))
    elif options.command == "collect":
        sweeps = [load_sweep(folder) for folder in options.sweeps]
        print(collect(sweeps, options.output or options.sweeps[0] / "results.h5"))
    elif options.command == "metrics":
        print(measure_samples(load_sweep(options.sweep), options.clip, options.dino))
    elif options.command == "tensorboard":
        print(follow(options.folder, options.logdir, options.seconds, options.once), "numbers written")
    else:
        checks = run_checks(load_sweep(options.sweep))
        for check in checks:
            print(check)
        return 0 if all(check.passed for check in checks) else 1
    return 0


def main(arguments: list | None = None) -> int:
    try:
        return _run(_parser().parse_args(arguments))
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
