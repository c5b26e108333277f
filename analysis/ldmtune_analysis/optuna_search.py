"""Searches a sweep file's ranges with Optuna: it says what to try (ask), ldmtune trains that, it hears the loss (tell).

What a round asks for is trained by one `ldmtune sweep run`, so that packs share the base. The study lies in a file beside
the results; an interrupted search goes on there. Each suggestion is a function of seed, trial number and what was told
before, so a search that was killed and went on suggests the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import signal
import subprocess
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from .runs import load_sweep
from .search_space import SearchSpace, quoted, read_search_space, unquoted

INTERRUPTED = 85  # ldmtune's exit code for "checkpoint written, run me again"
# What may change when a search goes on: where and how it runs, not what its losses are losses of.
_FREE = {"sweep.output", "sweep.pictures", "sweep.tflops_per_s", "sweep.draws", "sweep.draw_seed", "train.device"}
_FREE |= {"output", "train.stop_after", "train.trace", "train.trace_steps", "train.resume_from_checkpoint"}


@dataclass
class Search:
    file: Path
    trials: int
    seed: int = 0
    pack: int = 0  # trials in one forward; 0: one after another
    batch: int = 0  # trials a round; 0: the width of the pack, or 1
    storage: str = ""  # a file, or an address of a database; empty: <sweep.output>/optuna/journal.log
    program: Path | None = None
    launcher: str = ""
    overrides: list = field(default_factory=list)  # (option, text)

    @property
    def round_size(self) -> int:
        return self.batch or self.pack or 1


class Interrupted(Exception):
    """The program was told to stop and wrote checkpoints."""


def search(options: Search) -> int:
    """Runs until the study has so many trials; 0, or 85 where it was interrupted.

    Errors: ImportError without Optuna; ValueError for what cannot be searched; OSError.
    """
    space = read_search_space(options.file, options.overrides)
    _check(options, space)
    output = Path(unquoted(space.fixed["sweep.output"]))
    study = _open_study(options, space, output)
    program = _Program(options, space, output)
    try:
        while True:
            asked = _ask(study, space, options)
            if not asked:
                break
            program.train(asked)
            _tell(study, asked, load_sweep(output))
            program.collect(_suggestions(study), pictures=False)
            _say(study, asked, options.trials)
        if _suggestions(study):
            program.collect(_suggestions(study), pictures=True)
    except Interrupted:
        print("interrupted; the same command goes on")
        return INTERRUPTED
    print(output)
    return 0


def _optuna():
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "optuna is not installed, and this command is nothing without it: pip install 'optuna>=5,<6', or "
            "pip install 'analysis[optuna]' in the repository"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _check(options: Search, space: SearchSpace) -> None:
    if not space.ranges:
        raise ValueError(f"{options.file}: no option varies; give one as log_uniform(a, b), uniform, integer or a | b")
    if not unquoted(space.fixed.get("sweep.output", "")):
        raise ValueError(f"{options.file}: expected sweep.output, the folder of the search, found none")
    for name in ("sweep.zip", "sweep.halving_factor"):
        if unquoted(space.fixed.get(name, "")) not in ("", "0"):
            raise ValueError(f"option {name}: Optuna chooses what is tried and how long; leave it out")
    if options.trials < 1 or options.round_size < 1:
        raise ValueError("expected at least one trial, and at least one a round")


# ---- Optuna ------------------------------------------------------------------------------------------------------


def _open_study(options: Search, space: SearchSpace, output: Path):
    optuna = _optuna()
    if "://" in options.storage:
        storage = optuna.storages.RDBStorage(options.storage)
    else:
        journal = Path(options.storage) if options.storage else output / "optuna" / "journal.log"
        journal.parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(storage=storage, study_name="ldmtune", direction="minimize", load_if_exists=True)
    _check_same_search(study, options, space)
    return study


def _check_same_search(study, options: Search, space: SearchSpace) -> None:
    """A study compares losses only where everything but the ranges' values is the same."""
    settings = {name: text for name, text in space.fixed.items() if name not in _FREE}
    settings.update({name: repr(one) for name, one in space.ranges.items()}, seed=str(options.seed))
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
        return
    for name in sorted(set(known) | set(settings)):
        if known.get(name) != settings.get(name):
            raise ValueError(
                f"the study was begun with {name} = {known.get(name)}, now it is {settings.get(name)}; "
                "choose another sweep.output (and --storage) for another search"
            )


def _suggest(study, trial, name: str, one, seed: int):
    """A sampler of its own for each value: nothing but the study's file needs to survive an interruption."""
    own = int.from_bytes(hashlib.sha256(f"{seed} {trial.number} {name}".encode()).digest()[:4], "little")
    study.sampler = _optuna().samplers.TPESampler(seed=own, constant_liar=True)
    if one.kind == "choice":
        return trial.suggest_categorical(name, one.values)
    if one.kind == "integer":
        return trial.suggest_int(name, int(one.low), int(one.high))
    return trial.suggest_float(name, one.low, one.high, log=one.kind == "log_uniform")


def _ask(study, space: SearchSpace, options: Search) -> list:
    """Trials of the next round: those that were asked for and not told yet, then new ones."""
    optuna = _optuna()
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    asked = [optuna.trial.Trial(study, frozen._trial_id) for frozen in running]
    for trial in asked:  # a kill may have left the last one with a part of its values; those it has stay
        for name, one in space.ranges.items():
            _suggest(study, trial, name, one, options.seed)
    while len(asked) < options.round_size and len(study.get_trials(deepcopy=False)) < options.trials:
        asked.append(study.ask())
        for name, one in space.ranges.items():
            _suggest(study, asked[-1], name, one, options.seed)
    return asked


def _suggestions(study) -> list:
    """Values of all told trials, by option, in the order of the study."""
    told = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    return _unique([trial.params for trial in told])


def _tell(study, asked: list, sweep) -> None:
    """The mean held-out loss over the replicates; failed where one of them failed."""
    state = _optuna().trial.TrialState
    for trial in asked:
        runs = [run for run in sweep.runs if _is_of(run.options, trial.params)]
        if not runs:
            values = ", ".join(f"{name} = {value}" for name, value in trial.params.items())
            raise ValueError(f"{sweep.folder}: no trial has {values}; write values as `ldmtune sweep plan` prints them")
        losses = [run.score("heldout_loss") if run.status == "done" else math.nan for run in runs]
        mean = sum(losses) / len(losses)
        trial.set_user_attr("trials", [run.planned.get("id", run.name) for run in runs])
        if math.isfinite(mean):
            study.tell(trial, mean)
        else:
            reasons = [run.reason or run.status for run in runs if run.status != "done"]
            trial.set_user_attr("reason", "; ".join(reasons) or "no held-out loss")
            study.tell(trial, state=state.FAIL)


def _is_of(options: dict, values: dict) -> bool:
    """Whether a run has these values; an option that does not count there (None), or did not vary, decides nothing."""
    return all(options[name] is None or _same(options[name], value) for name, value in values.items() if name in options)


def _same(text: str, value) -> bool:
    if text == value:
        return True
    try:
        return float(text) == float(value)
    except ValueError:
        return False


def _say(study, asked: list, total: int) -> None:
    told = len([trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()])
    failed = len([trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "FAIL"])
    said = f"trials {asked[0].number} to {asked[-1].number} of {total} told" if len(asked) > 1 else f"trial {told} of {total}"
    try:
        values = ", ".join(f"{name} = {value}" for name, value in study.best_params.items())
        said += f"; best held-out loss {study.best_value:.5f} (trial {study.best_trial.number}: {values})"
    except ValueError:
        said += "; none succeeded yet"
    print(said + (f"; {failed} failed" if failed else ""), flush=True)


# ---- ldmtune -----------------------------------------------------------------------------------------------------


def _unique(suggestions: list) -> list:
    return list({json.dumps(values, sort_keys=True): values for values in suggestions}.values())


class _Program:
    """`ldmtune sweep` on files of suggestions in <sweep.output>/optuna/."""

    def __init__(self, options: Search, space: SearchSpace, output: Path):
        program = options.program or Path(__file__).resolve().parents[2] / "build" / "ldmtune"
        if not program.is_file():
            raise FileNotFoundError(f"{program}: no such program; build it (jobs/build.sh) or name it by --program")
        self._command = [*shlex.split(options.launcher), str(program), "sweep"]
        self._pack = ["--pack", str(options.pack)] if options.pack else []
        self._options, self._space, self._folder = options, space, output / "optuna"
        self._folder.mkdir(parents=True, exist_ok=True)

    def train(self, asked: list) -> None:
        file = self._write("round.cfg", _unique([trial.params for trial in asked]))
        code = self._run("--config", file, "run", *self._pack, "--sweep.pictures", "0")
        if code not in (0, 1):  # 1: some failed, and their files say why
            raise OSError(f"ldmtune sweep ended with exit code {code} (see above); nothing was told to Optuna")

    def collect(self, suggestions: list, pictures: bool) -> None:
        """Results of all suggestions so far, as one sweep."""
        file = self._write("sweep.cfg", suggestions)
        code = self._run("--config", file, "collect", *([] if pictures else ["--sweep.pictures", "0"]), quiet=not pictures)
        if code != 0:
            raise OSError(f"ldmtune sweep collect ended with exit code {code} (see above)")

    def _write(self, name: str, suggestions: list) -> Path:
        """The sweep file with these suggestions instead of its ranges: the values of a suggestion change together."""
        settings = {**self._space.fixed, "sweep.draws": "0"}
        for option in self._space.ranges:
            settings[option] = " | ".join(quoted(_text(values[option])) for values in suggestions)
        if len(suggestions) > 1:
            settings["sweep.zip"] = ", ".join(self._space.ranges)
        sections: dict = {"": []}
        for option, value in settings.items():
            section, _, short = option.rpartition(".")
            sections.setdefault(section, []).append(f"{short} = {value}")
        lines = ["# Written by ldmtune_analysis optuna."]
        for section, entries in sections.items():
            lines += ([f"[{section}]"] if section else []) + entries
        partial = self._folder / (name + ".partial")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return partial.replace(self._folder / name)

    def _run(self, *arguments, quiet: bool = False) -> int:
        """The exit code. Ctrl-C and SIGTERM are handed on, so that the trainings write checkpoints.

        Errors: Interrupted.
        """
        asked_to_stop = []
        with subprocess.Popen([*self._command, *map(str, arguments)], stdout=subprocess.DEVNULL if quiet else None) as process:

            def stop(*_) -> None:
                asked_to_stop.append(True)
                process.send_signal(signal.SIGTERM)

            before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
            try:
                code = process.wait()
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)
        if code == INTERRUPTED or asked_to_stop:
            raise Interrupted
        return code


def _text(value) -> str:
    return value if isinstance(value, str) else repr(value)
