"""What each option did: differences between its levels over runs that are otherwise alike, and how options interact.

Validation chooses, test is reported: where the learning rate (or another option named in `tuned`) varied, each
combination of the others counts at the rate with its lowest mean validation loss; differences are of test losses (of
validation losses where no test images were measured). All claims of one analysis share a Holm correction.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from .statistics import Interval, crossed_interval, holm, pooled_luck

STRUCTURE = "hypernetwork.layer_structure"
LAYER_NORM = "hypernetwork.layer_norm"
NORM_INIT = "hypernetwork.layer_norm_init"
NORM_KIND = "kind of layer norm"  # off, or how its weights start
RATE = "optim.learning_rate"
SUBSET = "data.subset"
CLAIM = 0.05

_INTERACTING = [NORM_KIND, LAYER_NORM, "depth", STRUCTURE, SUBSET]
# Factors that are made of options.
_MADE_OF = {"depth": {STRUCTURE}, "width": {STRUCTURE}, NORM_KIND: {LAYER_NORM, NORM_INIT}}


@dataclass(frozen=True)
class Contrast:
    """`level` minus `reference` of a factor, in mean loss; of an interaction, the difference of two such."""

    factor: str
    level: str
    reference: str
    interval: Interval
    within: str = ""  # at which level of the other factor, or against which pair of them
    p: float = math.nan  # after Holm's correction

    @property
    def claimed(self) -> bool:
        return self.p < CLAIM


@dataclass
class Factor:
    """An option, or a property of the layer structure, with its levels in order and their contrasts."""

    name: str
    levels: list  # (label, mean loss, runs)
    contrasts: list = field(default_factory=list)
    remark: str = ""


@dataclass
class Interaction:
    first: str
    second: str
    simple: list  # the first factor's contrasts at each level of the second: shown, not claimed
    contrasts: list  # how these differ between levels of the second


@dataclass
class Effects:
    factors: list
    interactions: list
    measured_on: str  # "test" or "heldout"
    tuned: list
    replicated: bool  # some configuration was trained more than once

    @property
    def contrasts(self) -> list:
        groups = [*self.factors, *self.interactions]
        return [contrast for group in groups for contrast in group.contrasts]

    @property
    def claims(self) -> list:
        return [contrast for contrast in self.contrasts if contrast.claimed]


def structure_depth(structure: str) -> int:
    """Fully connected layers of "1,2,4,2,1": 4."""
    return structure.count(",")


def structure_width(structure: str) -> float:
    """Largest multiple of the context's width inside "1,2,4,2,1": 4."""
    inner = structure.split(",")[1:-1]
    return max((float(width) for width in inner), default=1.0)


def short_name(factor: str) -> str:
    if factor == SUBSET:
        return "training images"
    return factor.rsplit(".", 1)[-1].replace("_", " ")


def level_label(factor: str, level: str) -> str:
    if factor == SUBSET:
        return "all images" if level == "0" else f"{level} images"
    if level in ("true", "false"):
        return f"{short_name(factor)} {'on' if level == 'true' else 'off'}"
    if factor == NORM_KIND:
        return "no layer norm" if level == "off" else f"layer norm {level}"
    if factor == "depth":
        return f"{level} layers"
    if factor == "width":
        return f"{float(level):g}× wide"
    return level if factor == STRUCTURE else f"{short_name(factor)} {level or 'none'}"


class _Table:
    """Finished runs with what varied, and the matrix of their losses (runs, images)."""

    def __init__(self, runs: list, options: list, conditions: dict):
        self.options = options
        self.conditions = {option: set(referents) for option, referents in conditions.items()}
        kinds = {kind: [run.losses(kind) for run in runs] for kind in ("test", "heldout")}
        self.measured_on = "test" if runs and all(len(losses) for losses in kinds["test"]) else "heldout"
        matrix = pd.DataFrame(kinds[self.measured_on]).dropna(axis=1).to_numpy(dtype=float)
        self.losses = matrix if len(runs) else np.zeros((0, 0))
        self.frame = pd.DataFrame(
            {
                "replicate": [run.replicate for run in runs],
                "chosen_by": [run.score("heldout_loss") for run in runs],
                **{option: [_text(run.options.get(option)) for run in runs] for option in options},
            },
            dtype=object,
        )
        cells = ["\n".join(f"{run.options.get(option)}" for option in options) for run in runs]
        self.luck = pooled_luck(cells, self.frame["replicate"], self.losses.mean(1)) if runs else None
        if STRUCTURE in options:
            self.frame["depth"] = [str(structure_depth(text)) for text in self.frame[STRUCTURE]]
            self.frame["width"] = [f"{structure_width(text):g}" for text in self.frame[STRUCTURE]]
        if LAYER_NORM in options and NORM_INIT in options:
            pairs = zip(self.frame[LAYER_NORM], self.frame[NORM_INIT])
            self.frame[NORM_KIND] = [init if norm == "true" else "off" for norm, init in pairs]

    def tuned(self, options: list) -> _Table:
        """Each combination of the other options at the best of these, by mean validation loss over replicates."""
        options = [option for option in options if option in self.options]
        rest = [option for option in self.options if option not in options]
        if not options or self.frame.empty:
            return self
        keys = list(self.frame[rest].itertuples(index=False, name=None)) if rest else [()] * len(self.frame)
        levels = list(self.frame[options].itertuples(index=False, name=None))
        cells: dict = {}
        for key, level, loss in zip(keys, levels, self.frame["chosen_by"]):
            cells.setdefault(key, {}).setdefault(level, []).append(loss)
        # One with fewer finished replicates is never taken for the best by luck.
        best = {
            key: min(tried, key=lambda level: (-len(tried[level]), np.mean(tried[level])))
            for key, tried in cells.items()
        }
        mask = np.array([best[key] == level for key, level in zip(keys, levels)])
        table = copy(self)
        table.options = rest
        table.frame, table.losses = self.frame[mask].reset_index(drop=True), self.losses[mask]
        return table

    def levels(self, factor: str) -> list:
        """In order of appearance, numbers by size; without the runs in which it does not count."""
        found = [level for level in dict.fromkeys(self.frame[factor]) if level is not None]
        try:
            return sorted(found, key=lambda level: math.inf if factor == SUBSET and level == "0" else float(level))
        except ValueError:
            return found

    def _others(self, factors: list) -> list:
        own = set().union(*(_MADE_OF.get(factor, {factor}) for factor in factors))
        dependent = {option for option, referents in self.conditions.items() if referents & own}
        return [option for option in self.options if option not in own | dependent]

    def values(self, factors: list) -> dict:
        """Means by levels of `factors`, then by what else is alike (other options, replicate)."""
        others = self._others(factors)
        found: dict = {}
        columns = self.frame[[*factors, *others, "replicate"]].itertuples(index=False, name=None)
        for row, losses in zip(columns, self.losses):
            levels, alike = row[: len(factors)], row[len(factors) :]
            if None in levels:
                continue
            cell = found.setdefault(levels, {})
            cell[alike] = cell[alike].with_run(losses) if alike in cell else _Mean(losses, 1.0)
        return found

    def interval(self, differences: dict) -> Interval:
        """differences: _Mean by what is alike, whose last part is the replicate."""
        rows = list(differences.values())
        runs = sum(row.share for row in rows) / len(rows) ** 2
        replicates = [alike[-1] for alike in differences]
        return crossed_interval([row.losses for row in rows], luck=self.luck, runs=runs, groups=replicates)


@dataclass
class _Mean:
    """A mean of runs' losses (images,), or a difference of such means; `share`: its variance in units of one run's."""

    losses: np.ndarray
    share: float

    def with_run(self, losses: np.ndarray) -> _Mean:
        count = round(1 / self.share) + 1
        return _Mean(self.losses + (losses - self.losses) / count, 1 / count)

    def __sub__(self, other: _Mean) -> _Mean:
        return _Mean(self.losses - other.losses, self.share + other.share)


def _paired(a: dict, b: dict) -> dict:
    """Differences over what both have alike."""
    return {alike: a[alike] - b[alike] for alike in a if alike in b}


def _text(value):
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _factor(table: _Table, name: str) -> Factor:
    levels = table.levels(name)
    values = table.values([name])
    described = []
    for level in levels:
        rows = [mean.losses for mean in values.get((level,), {}).values()]
        runs = int((table.frame[name] == level).sum())
        described.append((level, float(np.mean(rows)) if rows else math.nan, runs))
    factor = Factor(name, described)
    for level in levels[1:]:
        differences = _paired(values.get((level,), {}), values.get((levels[0],), {}))
        if differences:
            factor.contrasts.append(Contrast(name, level, levels[0], table.interval(differences)))
        else:
            factor.remark = "changes only together with another option: its own effect cannot be told"
    return factor


def _interaction(table: _Table, first: str, second: str) -> Interaction | None:
    values = table.values([first, second])
    first_levels, second_levels = table.levels(first), table.levels(second)
    reference = first_levels[0]
    simple, contrasts = [], []
    for level in first_levels[1:]:
        at: dict = {}
        for other in second_levels:
            differences = _paired(values.get((level, other), {}), values.get((reference, other), {}))
            if differences:
                at[other] = differences
                simple.append(Contrast(first, level, reference, table.interval(differences), within=other))
        base = next(iter(at), None)
        for other in list(at)[1:]:
            differences = _paired(at[other], at[base])
            if differences:
                within = f"{other}|{base}"
                contrasts.append(Contrast(first, level, reference, table.interval(differences), within=within))
    return Interaction(first, second, simple, contrasts) if contrasts else None


def _same_partition(table: _Table, a: str, b: str) -> bool:
    pairs = set(zip(table.frame[a], table.frame[b]))
    return len(pairs) == len({x for x, _ in pairs}) == len({y for _, y in pairs})


def _factor_names(table: _Table) -> list:
    names = [option for option in table.options if len(table.levels(option)) > 1]
    if STRUCTURE in names:
        place = names.index(STRUCTURE) + 1
        derived = [name for name in ("depth", "width") if len(table.levels(name)) > 1]
        names[place:place] = [name for name in derived if not _same_partition(table, name, STRUCTURE)]
    if NORM_KIND in table.frame and {LAYER_NORM, NORM_INIT} <= set(table.options) and len(table.levels(NORM_KIND)) > 2:
        names.insert(names.index(LAYER_NORM) + 1, NORM_KIND)
    return names


def analyse_effects(sweep, tuned: list | None = None) -> Effects:
    """Main effects of every option that varied, and the interactions of layer norm, depth and data subset.

    tuned: options whose best level by validation stands for each combination (default: the learning rate).
    """
    runs = [run for run in sweep.runs if run.status == "done" and math.isfinite(run.score("heldout_loss"))]
    varied = [name for name in sweep.varied if name not in ("train.seed", "data.subset_seed", "folder")]
    whole = _Table(runs, varied, sweep.plan.get("conditions") or {})
    chosen = [option for option in ([RATE] if tuned is None else tuned) if option in varied]
    table = whole.tuned(chosen)
    factors = [_factor(table, name) for name in _factor_names(table)]
    factors += [_factor(whole, name) for name in chosen if len(whole.levels(name)) > 1]
    interactions = []
    names = [factor.name for factor in factors]
    finer = {STRUCTURE: "depth", LAYER_NORM: NORM_KIND}  # one of a pair that says the same is enough
    crossing = [name for name in _INTERACTING if name in names and finer.get(name) not in names]
    for first, second in combinations(crossing, 2):
        found = _interaction(table, first, second)
        interactions += [found] if found else []
    effects = Effects(factors, interactions, whole.measured_on, chosen, whole.luck is not None)
    _correct(effects)
    return effects


def _correct(effects: Effects) -> None:
    """Holm over everything that is claimed."""
    adjusted = iter(holm([contrast.interval.p for contrast in effects.contrasts]))
    for group in [*effects.factors, *effects.interactions]:
        group.contrasts = [Contrast(**{**vars(one), "p": next(adjusted)}) for one in group.contrasts]
