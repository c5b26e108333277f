"""Run folders and sweep folders as pandas DataFrames."""

from __future__ import annotations

import configparser
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from .statistics import Interval, RunLuck, paired_interval

# Options that make replicates, not configurations.
REPLICATES = ("train.seed", "data.subset_seed")

_COLUMNS = {
    "metrics.csv": ["step", "epoch", "loss", "lr", "grad_norm", "samples_per_s", "seconds"],
    "validation.csv": [
        "step",
        "concept_train",
        "concept_heldout",
        "adjacent",
        "heldout_q1",
        "heldout_q2",
        "heldout_q3",
        "heldout_q4",
        "adjacent_drift",
        "adjacent_trigger",
        "adjacent_trigger_drift",
    ],
    "validation_images.csv": ["step", "kind", "sample_id", "source", "loss", "drift"],
}


@dataclass
class Run:
    """One training run: what its folder holds. Its tables are read when they are first asked for."""

    name: str
    folder: Path
    status: str  # done | stopped (by successive halving) | failed | interrupted | pending
    options: dict  # the options that vary in its sweep; None where an option does not count
    seed: int
    result: dict
    config: dict  # resolved options, "section.option" -> text
    reason: str = ""
    trial: int | None = None
    planned: dict = field(default_factory=dict)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        return _read_csv(self.folder, "metrics.csv")

    @cached_property
    def validation(self) -> pd.DataFrame:
        return _read_csv(self.folder, "validation.csv")

    @cached_property
    def images(self) -> pd.DataFrame:
        return _read_csv(self.folder, "validation_images.csv")

    @cached_property
    def _losses(self) -> dict:
        return self._of_images("loss")

    @cached_property
    def _drifts(self) -> dict:
        return self._of_images("drift")

    def _of_images(self, column: str) -> dict:
        """(kind, "end" or "base") -> that column of each image by sample_id."""
        found = {}
        for kind, rows in self.images.groupby("kind"):
            for at, step in (("base", 0), ("end", rows["step"].max())):
                chosen = rows[rows["step"] == step]
                if at == "base" or step > 0:
                    chosen = chosen.drop_duplicates("sample_id", keep="last")
                    found[kind, at] = chosen.set_index("sample_id")[column].astype(float)
        return found

    @property
    def subset_seed(self) -> int:
        """Which draw of data.subset it trained on."""
        return int(self.planned.get("subset_seed", self.config.get("data.subset_seed", 0)))

    @property
    def replicate(self) -> str:
        """What it shares with its counterparts in other configurations: the seed and the draw of the subset."""
        return f"{self.seed}" + (f"/{self.subset_seed}" if self.subset_seed else "")

    @property
    def tflops(self) -> float:
        """Floating-point operations of training and validation, as `ldmtune sweep plan` counted them, in 10^12; of a
        stopped run in proportion to its updates."""
        value = self.planned.get("tflops")
        if not isinstance(value, (int, float)):
            return math.nan
        if self.status != "stopped":
            return float(value)
        length = str(self.planned.get("length", ""))
        return float(value) * self.score("steps") / int(length) if length.isdigit() and int(length) > 0 else math.nan

    def measure(self, key: str) -> float:
        """A score, or "tflops", or "gap": held-out minus training concepts."""
        if key == "tflops":
            return self.tflops
        if key == "gap":
            return self.score("heldout_loss") - self.score("concept_train_loss")
        return self.score(key)

    def score(self, key: str) -> float:
        """A number of result.json; NaN where it is missing or null."""
        value = self.result.get(key)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan

    def losses(self, kind: str = "heldout", at: str = "end") -> pd.Series:
        """Loss of each image by sample_id at the "end", or of the untouched "base" (step 0)."""
        return self._losses.get((kind, at), pd.Series(dtype=float))

    def drifts(self, kind: str = "adjacent") -> pd.Series:
        """Mean squared difference from the base's prediction of each image at the end, by sample_id."""
        return self._drifts.get((kind, "end"), pd.Series(dtype=float))


@dataclass
class Configuration:
    """Finished runs that differ in their seed and draw of the training subset alone."""

    label: str
    options: dict
    runs: list
    planned: int = 0  # replicates, those that are not done too
    _matrices: dict = field(default_factory=dict, repr=False)

    def mean(self, key: str) -> float:
        values = [run.measure(key) for run in self.runs]
        known = [value for value in values if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def spread(self, key: str) -> float:
        """Standard deviation over seeds; NaN for a single one."""
        return pd.Series([run.score(key) for run in self.runs]).std(ddof=1)

    def change(self, key: str, base_key: str) -> float:
        return self.mean(key) - self.mean(base_key)

    def losses(self, kind: str = "heldout", at: str = "end") -> pd.DataFrame:
        """(images, replicates); the base is the same for all replicates, so it has one column."""
        if (kind, at) not in self._matrices:
            runs = self.runs[:1] if at == "base" else self.runs
            self._matrices[kind, at] = pd.DataFrame({run.replicate: run.losses(kind, at) for run in runs}).dropna()
        return self._matrices[kind, at]

    @property
    def reported_on(self) -> str:
        """ "test" where test images were measured, else "heldout"."""
        return "heldout" if self.losses("test").empty else "test"

    def against_base(self, kind: str = "heldout") -> Interval:
        return paired_interval(self.losses(kind), self.losses(kind, at="base"))

    def against(self, other: Configuration, kind: str = "heldout", luck: RunLuck | None = None) -> Interval:
        return paired_interval(self.losses(kind), other.losses(kind), luck=luck)

    @property
    def exported(self) -> Run:
        """The run that stands for it: the seed with the lowest held-out loss."""
        return min(self.runs, key=lambda run: (run.score("heldout_loss"), run.seed))


@dataclass
class Sweep:
    title: str
    folder: Path | None
    varied: list
    runs: list
    best: dict | None = None
    pictures: dict | None = None
    plan: dict = field(default_factory=dict)

    @cached_property
    def configurations(self) -> list:
        """Configurations with a finished run, lowest mean held-out loss first."""
        groups: dict = {}
        for run in self.runs:
            key = json.dumps({name: value for name, value in run.options.items() if name not in REPLICATES})
            groups.setdefault(key, []).append(run)
        found = []
        for key, runs in groups.items():
            done = [run for run in runs if run.status == "done" and math.isfinite(run.score("heldout_loss"))]
            if done:
                options = json.loads(key)
                found.append(Configuration(option_label(options) or done[0].name, options, done, len(runs)))
        return sorted(found, key=lambda configuration: configuration.mean("heldout_loss"))

    @property
    def unfinished(self) -> list:
        return [run for run in self.runs if run.status not in ("done", "stopped")]

    @property
    def stopped(self) -> list:
        """Those that successive halving ended at a rung: what they reached is no result of a whole training."""
        return [run for run in self.runs if run.status == "stopped"]

    @property
    def table(self) -> pd.DataFrame:
        """One row a run: options, status and scores."""
        rows = []
        for run in self.runs:
            row = {
                "trial": run.trial,
                "name": run.name,
                "status": run.status,
                **run.options,
                "seed": run.seed,
                "subset_seed": run.subset_seed,
            }
            scores = {key: value for key, value in run.result.items() if key != "status"}
            rows.append({**row, **scores, "tflops": run.tflops, "reason": run.reason})
        return pd.DataFrame(rows)


def option_label(options: dict) -> str:
    """How a configuration is called: "1,2,4,2,1 · layer norm" for layer_structure = 1,2,4,2,1 and layer_norm = true."""
    parts = []
    for name, value in options.items():
        if value is None:  # it does not count here
            continue
        short = name.rsplit(".", 1)[-1].replace("_", " ")
        if value == "true":
            parts.append(short)
        elif value == "false":
            parts.append("no " + short)
        elif short == "layer structure":
            parts.append(value)
        elif short == "folder":
            parts.append(value)
        else:
            parts.append(f"{short} {value or 'none'}")
    return " · ".join(parts)


def read_json(file: Path) -> dict:
    with open(file, encoding="utf-8") as stream:
        value = json.load(stream)
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object")
    return value


def _read_csv(folder: Path, name: str) -> pd.DataFrame:
    """The file with at least the columns that the contract names; empty where the run has not written it yet."""
    file = folder / name
    if not file.is_file() or file.stat().st_size == 0:
        return pd.DataFrame(columns=_COLUMNS[name])
    frame = pd.read_csv(file, dtype={"sample_id": "Int64"} if name == "validation_images.csv" else None)
    for column in _COLUMNS[name]:
        if column not in frame:
            frame[column] = math.nan
    return frame


def _read_config(file: Path) -> dict:
    if not file.is_file():
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string("[ ]\n" + file.read_text(encoding="utf-8"))
    options = {}
    for section in parser.sections():
        for name, value in parser[section].items():
            options[name if section == " " else f"{section}.{name}"] = value
    return options


def _status(folder: Path, result: dict, failure: Path) -> str:
    if result.get("status") in ("done", "stopped"):
        return result["status"]
    if failure.is_file():
        return "failed"
    return "interrupted" if any(folder.glob("checkpoints/step-*")) else "pending"


def load_run(folder, options: dict | None = None, trial: int | None = None, planned: dict | None = None) -> Run:
    """Reads one run folder; files that are not there yet give empty tables."""
    folder = Path(folder)
    planned = planned or {}
    result = read_json(folder / "result.json") if (folder / "result.json").is_file() else {}
    failure = folder.with_name(folder.name + ".failed.json")
    status = _status(folder, result, failure)
    config = _read_config(folder / "config.cfg")
    return Run(
        name=folder.name,
        folder=folder,
        status=status,
        options=dict(options or {}),
        seed=int(planned.get("seed", config.get("train.seed", 0))),
        result=result if status in ("done", "stopped") else {},
        config=config,
        reason=read_json(failure).get("reason", "") if status == "failed" else result.get("reason", ""),
        trial=trial,
        planned=planned,
    )


def load_sweep(folder) -> Sweep:
    """Reads a sweep folder (sweep.json, trials/, and where they are there pictures/index.json and best.json).

    Errors: FileNotFoundError if the folder holds no sweep.json.
    """
    folder = Path(folder)
    plan_file = folder / "sweep.json"
    if not plan_file.is_file():
        raise FileNotFoundError(
            f"{folder}: no sweep.json there; expected the sweep.output folder of `ldmtune sweep ... run`"
        )
    plan = read_json(plan_file)
    runs = []
    for entry in plan["trials"]:
        options = {name: entry["options"][name] for name in plan["varied"]}  # in the order of the config file
        runs.append(load_run(folder / entry["folder"], options, entry["trial"], entry))
    index = folder / "pictures" / "index.json"
    return Sweep(
        title=folder.resolve().name,
        folder=folder,
        varied=list(plan["varied"]),
        runs=runs,
        best=read_json(folder / "best.json") if (folder / "best.json").is_file() else None,
        pictures=read_json(index) if index.is_file() else None,
        plan=plan,
    )


def load_runs(folders) -> Sweep:
    """Any run folders beside each other, each a configuration of its own, called by the options that differ.

    A folder of a sweep stands for all its trials.
    """
    paths = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such run folder")
        paths += sorted((folder / "trials").glob("*/")) if (folder / "sweep.json").is_file() else [folder]
    names = [path.name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    runs = [load_run(path) for path in paths]
    different = differing_options([run.config for run in runs])
    for run, label in zip(runs, labels):
        run.options = {"folder": label, **{name: run.config.get(name) for name in different}}
    shown = labels if len(labels) <= 3 else [*labels[:2], f"{len(labels) - 2} more"]
    return Sweep(title=" | ".join(shown), folder=None, varied=["folder", *different], runs=runs)


def differing_options(configs: list) -> list:
    """Options whose values differ, in the order of the first config, without those that only say where things lie."""
    hidden = {
        "output",
        "train.resume_from_checkpoint",
        "train.stop_after",
        "train.trace",
        "train.trace_steps",
        *REPLICATES,
    }
    names = dict.fromkeys(name for config in configs for name in config)
    return [name for name in names if name not in hidden and len({config.get(name) for config in configs}) > 1]
