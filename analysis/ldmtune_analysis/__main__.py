"""python -m ldmtune_analysis report | compare | methods | collect | metrics | tensorboard | check | optuna"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .check import run_checks
from .collection import collect
from .method_files import write_methods
from .metrics import measure_samples
from .optuna_search import Search, search
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
    methods = commands.add_parser("methods", help="tables, verdicts and pictures of a sweep over methods, to keep")
    methods.add_argument("sweep", type=Path, help="the sweep.output folder")
    methods.add_argument("-o", "--output", type=Path, help="folder for them (default: SWEEP/methods)")
    collected = commands.add_parser("collect", help="results of sweeps as one HDF5 file and CSV; adds to what is there")
    collected.add_argument("sweeps", type=Path, nargs="+", help="sweep.output folders")
    collected.add_argument("-o", "--output", type=Path, help="the file (default: FIRST SWEEP/collected.h5)")
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
    _add_optuna(commands)
    return parser


def _add_optuna(commands) -> None:
    optuna = commands.add_parser(
        "optuna",
        allow_abbrev=False,  # --train.seed 1 is no short form of anything here
        help="search a sweep file's ranges with Optuna, a round of packed trials at a time",
        epilog="Any --section.option VALUE after these overrides the sweep file, as for ldmtune sweep.",
    )
    optuna.add_argument("file", type=Path, help="a sweep file: options as log_uniform(a, b), integer(a, b), a | b ...")
    optuna.add_argument("--trials", type=int, required=True, help="of the whole study, with those of earlier calls")
    optuna.add_argument("--pack", type=int, default=0, metavar="K", help="train K trials of a round in one forward")
    optuna.add_argument("--batch", type=int, default=0, metavar="N", help="ask for N trials a round (default: K, or 1)")
    optuna.add_argument("--seed", type=int, default=0, help="of what is suggested (default: 0)")
    storage_help = "the study: a file, or a database as sqlite:///FILE (default: OUTPUT/optuna/journal.log)"
    optuna.add_argument("--storage", default="", help=storage_help)
    optuna.add_argument("--program", type=Path, help="the ldmtune to run (default: build/ldmtune of the repository)")
    optuna.add_argument("--launcher", default="", help='before the program, as "jobs/launch.sh -n 8"')


def _overrides(words: list) -> list:
    """(option, text) of --section.option VALUE and --section.option=VALUE."""
    found, at = [], 0
    while at < len(words):
        name, equals, value = words[at].partition("=")
        if not name.startswith("--") or (not equals and at + 1 == len(words)):
            raise ValueError(f"expected --section.option VALUE, found '{words[at]}'")
        at += 1 if equals else 2
        found.append((name[2:], value if equals else words[at - 1]))
    return found


def _run(options, others: list) -> int:
    if options.command == "optuna":
        wanted = {name: value for name, value in vars(options).items() if name != "command"}
        return search(Search(**wanted, overrides=_overrides(others)))
    if options.command == "report":
        tuned = None if options.tune is None else [name for name in options.tune if name != "none"]
        print(write_report(load_sweep(options.sweep), options.output or options.sweep / "report.html", tuned))
    elif options.command == "compare":
        print(write_report(load_runs(options.runs), options.output))
    elif options.command == "methods":
        print(write_methods(load_sweep(options.sweep), options.output or options.sweep / "methods"))
    elif options.command == "collect":
        sweeps = [load_sweep(folder) for folder in options.sweeps]
        print(collect(sweeps, options.output or options.sweeps[0] / "collected.h5"))
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
        parser = _parser()
        options, others = parser.parse_known_args(arguments)
        if others and options.command != "optuna":
            parser.error("unrecognized arguments: " + " ".join(others))
        return _run(options, others)
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
