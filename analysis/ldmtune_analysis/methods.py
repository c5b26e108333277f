"""Methods against each other: who fits best, who forgets least, at equal operations and on equally many samples.

Validation chooses each method's learning rate (and what else only it has); test and adjacent images are reported. All
claims of one sweep, over questions, budgets and pairs of methods, share one Holm correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from .effects import RATE
from .runs import REPLICATES, Configuration, Sweep
from .statistics import Interval, gap_interval, holm, paired_interval, pooled_luck

METHOD = "method"
BASE = "untouched base"
CLAIM = 0.05
# Of the loss: a prompt encoded in a batch differs in its last bits from one encoded alone. No difference.
_ROUNDING = 1e-5
_BUDGETS = ("train.max_tflops", "train.max_train_steps", "train.num_train_epochs")


@dataclass(frozen=True)
class Question:
    """What methods are compared in: a mean over images, lower is better."""

    key: str
    title: str  # "Fit"
    kind: str  # of images
    measure: str  # "loss", "drift" or "gap"
    meaning: str


QUESTIONS = [
    Question("fit", "Fit", "test", "loss", "loss on test images"),
    Question("forgetting", "Forgetting without the word", "adjacent", "loss", "loss on adjacent images"),
    Question(
        "forgetting_trigger",
        "Forgetting with the word",
        "adjacent_trigger",
        "loss",
        "loss on adjacent images with the trigger in their captions",
    ),
    Question("drift", "Drift without the word", "adjacent", "drift", "distance from the base's own prediction"),
    Question(
        "drift_trigger",
        "Drift with the word",
        "adjacent_trigger",
        "drift",
        "distance from the base's prediction with the trigger",
    ),
    Question("gap", "Overfitting", "heldout", "gap", "held-out minus training loss"),
]


@dataclass
class Entry:
    """A method at its best in one arm."""

    method: str
    configuration: Configuration
    _drifts: dict = field(default_factory=dict, repr=False)

    def matrix(self, question: Question) -> pd.DataFrame:
        """(images, replicates)."""
        if question.measure == "drift":
            if question.kind not in self._drifts:
                drifts = {run.replicate: run.drifts(question.kind) for run in self.configuration.runs}
                self._drifts[question.kind] = pd.DataFrame(drifts).dropna()
            return self._drifts[question.kind]
        return self.configuration.losses(question.kind)

    def train_matrix(self) -> pd.DataFrame:
        return self.configuration.losses("train")

    def base(self, question: Question) -> pd.DataFrame:
        return self.configuration.losses(question.kind, at="base")

    def value(self, question: Question) -> float:
        matrix = self.matrix(question)
        if matrix.empty:
            return math.nan
        value = float(matrix.to_numpy().mean())
        return value - float(self.train_matrix().to_numpy().mean()) if question.measure == "gap" else value

    def change(self, question: Question) -> Interval:
        """Against the untouched base."""
        return paired_interval(self.matrix(question), self.base(question))

    @property
    def samples(self) -> float:
        batch = float(self.configuration.runs[0].config.get("train.global_batch_size", "nan"))
        return self.configuration.mean("steps") * batch


@dataclass(frozen=True)
class Duel:
    """first - second in one question: below 0 the first is better."""

    first: str
    second: str
    interval: Interval
    p: float = math.nan  # after Holm's correction

    @property
    def claimed(self) -> bool:
        return self.p < CLAIM


@dataclass
class Verdict:
    question: Question
    values: dict  # by method (and the base, where it can be asked), lowest first
    duels: list = field(default_factory=list)

    def duel(self, first: str, second: str) -> Duel | None:
        """With its sign as asked for."""
        for one in self.duels:
            if (one.first, one.second) == (first, second):
                return one
            if (one.first, one.second) == (second, first):
                turned = one.interval
                flipped = Interval(-turned.mean, -turned.high, -turned.low, turned.images, turned.seeds, turned.p)
                return Duel(first, second, flipped, one.p)
        return None

    @property
    def first(self) -> str:
        return next(iter(self.values))

    @property
    def tied(self) -> list:
        """Those of which no difference from the first is claimed, without it."""
        others = list(self.values)[1:]
        return [name for name in others if (duel := self.duel(name, self.first)) is None or not duel.claimed]


@dataclass
class Arm:
    """Trials of one budget."""

    options: dict
    entries: list  # one a method, best fit first
    verdicts: list = field(default_factory=list)

    @property
    def label(self) -> str:
        budget = self.options.get("train.max_tflops")
        if budget not in (None, "0"):
            name = f"Equal operations: {budget} TFLOP of training each"
        elif "train.max_tflops" in self.options or not self.options:
            counts = {round(entry.samples) for entry in self.entries}
            same = len(counts) == 1 and not math.isnan(next(iter(counts), math.nan))
            name = f"Equal samples: {counts.pop()} each" if same else "Equal settings"
        else:
            name = ""
        rest = {key: value for key, value in self.options.items() if key not in _BUDGETS and value is not None}
        return " · ".join([part for part in [name, *(f"{key} = {value}" for key, value in rest.items())] if part])


def compare_methods(sweep: Sweep) -> list:
    """The arms of a sweep in which `method` varied, with verdicts; empty for other sweeps."""
    if METHOD not in sweep.varied:
        return []
    arms = _arms(sweep)
    for arm in arms:
        arm.verdicts = [verdict for verdict in (_verdict(arm, arms, question) for question in QUESTIONS) if verdict]
    _correct(arms)
    return arms


def _arms(sweep: Sweep) -> list:
    """What neither the method nor its own options decide makes an arm."""
    referents = sweep.plan.get("conditions") or {}
    own = {METHOD, RATE, *REPLICATES, *(name for name, of in referents.items() if METHOD in of)}
    shared = [name for name in sweep.varied if name not in own]
    groups: dict = {}
    for configuration in sweep.configurations:  # lowest mean held-out loss first
        key = tuple(configuration.options.get(name) for name in shared)
        method = configuration.options[METHOD]
        best = groups.setdefault(key, {}).get(method)
        # One with fewer finished replicates is never taken for the best by luck.
        if best is None or len(configuration.runs) > len(best.runs):
            groups[key][method] = configuration
    arms = []
    for key, best in groups.items():
        entries = [Entry(method, configuration) for method, configuration in best.items()]
        entries.sort(key=lambda entry: entry.configuration.mean("heldout_loss"))
        arms.append(Arm(dict(zip(shared, key)), entries))
    # Equal operations first.
    return sorted(arms, key=lambda arm: (arm.options.get("train.max_tflops") in (None, "0"), str(arm.options)))


def _luck(arms: list, question: Question):
    cells, replicates, means = [], [], []
    for number, arm in enumerate(arms):
        for entry in arm.entries:
            matrix = entry.matrix(question)
            for replicate in matrix.columns:
                mean = matrix[replicate].mean()
                if question.measure == "gap":
                    mean -= entry.train_matrix()[replicate].mean()
                cells.append(f"{number} {entry.method}")
                replicates.append(replicate)
                means.append(mean)
    return pooled_luck(cells, replicates, means) if means else None


def _against(first: Entry, second: Entry, question: Question, luck) -> Interval:
    a, b = first.matrix(question), second.matrix(question)
    if question.measure != "gap":
        return paired_interval(a, b, luck=luck)
    replicates = [name for name in a.columns if name in b.columns]
    heldout = a[replicates] - b[replicates]
    train = first.train_matrix()[replicates] - second.train_matrix()[replicates]
    return gap_interval(heldout.dropna(), train.dropna(), luck=luck, runs=2 / max(1, len(replicates)))


def _verdict(arm: Arm, arms: list, question: Question) -> Verdict | None:
    known = [entry for entry in arm.entries if not entry.matrix(question).empty]
    if question.measure == "gap":
        known = [entry for entry in known if not entry.train_matrix().empty]
    if not known:
        return None
    luck = _luck(arms, question)
    values = {entry.method: entry.value(question) for entry in known}
    duels = [Duel(a.method, b.method, _against(a, b, question, luck)) for a, b in combinations(known, 2)]
    if question.measure == "loss" and not known[0].base(question).empty:
        values[BASE] = float(known[0].base(question).to_numpy().mean())
        duels += [Duel(entry.method, BASE, entry.change(question)) for entry in known]
    ordered = dict(sorted(values.items(), key=lambda item: item[1]))
    return Verdict(question, ordered, duels)


def _raw_p(verdict: Verdict, duel: Duel) -> float:
    is_rounding = abs(duel.interval.mean) <= _ROUNDING * max(abs(value) for value in verdict.values.values())
    return 1.0 if is_rounding else duel.interval.p


def _correct(arms: list) -> None:
    """Holm over everything that may be claimed."""
    verdicts = [verdict for arm in arms for verdict in arm.verdicts]
    adjusted = iter(holm([_raw_p(verdict, duel) for verdict in verdicts for duel in verdict.duels]))
    for verdict in verdicts:
        verdict.duels = [Duel(duel.first, duel.second, duel.interval, next(adjusted)) for duel in verdict.duels]


def read_strengths(entry: Entry) -> pd.DataFrame:
    """Means by strength and kind of the trial that `ldmtune sweep` measured at several strengths: columns strength,
    kind, loss, drift, images; empty where it measured none."""
    for run in sorted(entry.configuration.runs, key=lambda run: (run.score("heldout_loss"), run.seed)):
        file = run.folder / "strengths.csv"
        if file.is_file():
            frame = pd.read_csv(file)
            groups = frame.groupby(["strength", "kind"], sort=True)
            means = groups[["loss", "drift"]].mean().assign(images=groups.size())
            return means.reset_index()
    return pd.DataFrame(columns=["strength", "kind", "loss", "drift", "images"])


def tables(arms: list) -> dict:
    """DataFrames to keep: "methods" (a row an arm and method), "duels" (a row a pair and question), "strengths"."""
    rows, duels, curves = [], [], []
    for arm in arms:
        for entry in arm.entries:
            one = entry.configuration
            row = {"arm": arm.label, "method": entry.method, "learning_rate": one.options.get(RATE)}
            row.update(replicates=len(one.runs), samples=entry.samples, updates=one.mean("steps"))
            keys = ("heldout_loss", "base_heldout_loss", "test_loss", "base_test_loss", "concept_train_loss", "gap")
            keys += ("adjacent_loss", "base_adjacent_loss", "adjacent_trigger_loss", "base_adjacent_trigger_loss")
            keys += ("adjacent_drift", "adjacent_trigger_drift", "trainable_parameters", "export_bytes")
            row.update({key: one.mean(key) for key in (*keys, "training_tflops", "seconds")})
            rows.append(row)
            curves.append(read_strengths(entry).assign(arm=arm.label, method=entry.method))
        for verdict in arm.verdicts:
            for duel in verdict.duels:
                interval = duel.interval
                record = {"arm": arm.label, "question": verdict.question.key, "first": duel.first}
                record.update(second=duel.second, difference=interval.mean, low=interval.low, high=interval.high)
                record.update(p=interval.p, p_holm=duel.p, images=interval.images, replicates=interval.seeds)
                duels.append(record)
    curves = [frame for frame in curves if len(frame)]
    return {
        "methods": pd.DataFrame(rows),
        "duels": pd.DataFrame(duels),
        "strengths": pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
    }


def spread(entry: Entry, key: str) -> float:
    """Standard deviation over replicates."""
    values = [run.measure(key) for run in entry.configuration.runs]
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
