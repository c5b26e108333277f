"""Intervals and tests: is a difference more than the luck of which images, seeds and data draws were met?

A difference is measured as a matrix: rows are replicates (a seed and a draw of the training subset) or pairs of runs,
columns are images. Both were drawn at random, so both are resampled: rows with replacement and, independently, columns
with replacement (Owen 2007, "The pigeonhole bootstrap"). The variance of the mean over infinitely many such resamples
has a closed form, which is what is used here, each part with its small-sample correction n / (n - 1); the interval is
then Student's with Satterthwaite's degrees of freedom, since percentiles of three resampled seeds would be far too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean difference, its confidence interval and two-sided p-value; NaN where too little was measured."""

    mean: float
    low: float
    high: float
    images: int
    seeds: int
    p: float = math.nan

    @property
    def below_zero(self) -> bool:
        return bool(self.high < 0)

    @property
    def above_zero(self) -> bool:
        return bool(self.low > 0)

    @property
    def holds_zero(self) -> bool:
        """Also true where nothing can be told (NaN)."""
        return not (self.below_zero or self.above_zero)


_ANGLES = np.linspace(0.0, np.pi / 2, 4001)


@lru_cache(maxsize=4096)
def _cumulative(degrees: float) -> np.ndarray:
    """Share of Student's distribution between 0 and sqrt(degrees) tan(angle), for the grid of angles, from 0 to 1."""
    # Substituting t = sqrt(degrees) tan(u) makes the density cos(u)^(degrees - 1) on a bounded range.
    density = np.cos(_ANGLES) ** (degrees - 1)
    cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return cumulative / cumulative[-1]


def _known_degrees(degrees: float) -> float:
    """Degrees of freedom on a grid of tenths, so that many intervals share a table; above 1000 nothing changes."""
    return round(min(max(degrees, 1.0), 1000.0), 1)


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t; `probability` is 0.5 or above."""
    degrees = _known_degrees(degrees)
    return float(math.sqrt(degrees) * math.tan(np.interp((probability - 0.5) * 2, _cumulative(degrees), _ANGLES)))


def two_sided_p(t: float, degrees: float) -> float:
    """Probability of a value of Student's t at least this far from 0."""
    degrees = _known_degrees(degrees)
    angle = math.atan(abs(t) / math.sqrt(degrees))
    return float(max(0.0, 1.0 - np.interp(angle, _ANGLES, _cumulative(degrees))))


def _axis_variance(means: np.ndarray) -> tuple:
    """Variance of the mean of these, and its degrees of freedom (0 for a single one)."""
    count = len(means)
    return (float(means.var(ddof=1)) / count, count - 1) if count > 1 else (0.0, 0)


def _from_parts(mean: float, parts: list, images: int, seeds: int, level: float) -> Interval:
    """parts: (variance of the mean, degrees of freedom) of each way in which luck entered."""
    parts = [(variance, degrees) for variance, degrees in parts if degrees > 0]
    if not parts or images < 1:
        return Interval(mean, math.nan, math.nan, images, seeds)
    variance = sum(variance for variance, _ in parts)
    if variance <= 1e-30:
        return Interval(mean, mean, mean, images, seeds, 0.0 if mean else 1.0)
    degrees = variance**2 / sum(one**2 / own for one, own in parts)
    error = math.sqrt(variance)
    reach = error * t_quantile(0.5 + level / 2, degrees)
    return Interval(mean, mean - reach, mean + reach, images, seeds, two_sided_p(mean / error, degrees))


@dataclass(frozen=True)
class RunLuck:
    """How much runs of the same options differ: the variance of a run's mean loss, pooled over all configurations.

    Three seeds tell little about their own spread; all configurations together tell what spread to expect, so no
    difference is trusted more than that allows.
    """

    variance: float
    degrees: int


def pooled_luck(cells, replicates, losses) -> RunLuck | None:
    """Variance of run means (one a run) that neither the cell (configuration) nor the replicate explains; None where no
    configuration was repeated."""
    cell_of, cell = np.unique(np.asarray(cells, dtype=object).astype(str), return_inverse=True)
    replicate_of, replicate = np.unique(np.asarray(replicates, dtype=object).astype(str), return_inverse=True)
    degrees = len(cell) - len(cell_of) - (len(replicate_of) - 1)
    if degrees < 1:
        return None
    residual = np.asarray(losses, dtype=float).copy()
    for _ in range(20):  # exact after one round where every cell has every replicate
        for group in (cell, replicate):
            residual -= (np.bincount(group, residual) / np.bincount(group))[group]
    return RunLuck(float((residual**2).sum() / degrees), degrees)


def _row_part(differences: np.ndarray, luck: RunLuck | None, runs: float, groups) -> tuple:
    """Variance of the mean due to rows, and its degrees of freedom.

    The largest of three estimates: rows as they vary, their means by replicate (what one replicate does to several
    rows), and what the pooled luck of runs makes expect. `runs`: variance of the mean of all rows in units of a run's.
    """
    means = differences.mean(1)
    own = _axis_variance(means)
    if groups is not None:
        _, group = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        by_group = _axis_variance(np.bincount(group, means) / np.bincount(group))
        own = max(own, by_group, key=lambda part: part[0])
    if luck is None:
        return own
    return max(own[0], luck.variance * runs), luck.degrees


def crossed_interval(
    differences, level: float = 0.95, luck: RunLuck | None = None, runs: float = 0, groups=None
) -> Interval:
    """Interval of the mean of a matrix of differences (rows: replicates or pairs of runs; columns: images).

    luck, runs, groups: see _row_part; without them the rows speak for themselves.
    """
    differences = np.atleast_2d(np.asarray(differences, dtype=float))
    rows, images = differences.shape
    if images == 0:
        return Interval(math.nan, math.nan, math.nan, 0, rows)
    parts = [_row_part(differences, luck, runs, groups), _axis_variance(differences.mean(0))]
    return _from_parts(float(differences.mean()), parts, images, rows, level)


def paired_interval(a, b=None, level: float = 0.95, luck: RunLuck | None = None) -> Interval:
    """Interval of mean(a) - mean(b) over images and replicates.

    a, b: losses (images,) or (images, replicates), or pandas objects with the images as index (then only images of both
    count). b is None for an interval of mean(a) itself. Images are paired: the same image with the same noise;
    replicates are paired where both have the same ones, else each varies on its own. luck: of runs like a's and b's.
    """
    shared = _same_replicates(a, b)
    a, b = _aligned(a, b)
    images, replicates = len(a), max(a.shape[1], b.shape[1])
    if images < 2:
        mean = float(a.mean() - b.mean()) if images else math.nan
        return Interval(mean, math.nan, math.nan, images, replicates)
    if shared:
        return crossed_interval((a - b).T, level, luck, 2 / replicates)
    parts = [_axis_variance(a.mean(1) - b.mean(1))]
    for side in (a, b):
        parts.append(_row_part(side.T, luck, 1 / side.shape[1], None))
    return _from_parts(float(a.mean() - b.mean()), parts, images, replicates, level)


def gap_interval(heldout, train, level: float = 0.95, luck: RunLuck | None = None, runs: float = 0) -> Interval:
    """Interval of mean(heldout) - mean(train), losses or differences of losses (images, replicates) of two sets of
    different images: both sets were drawn at random, and what one replicate does to both is one draw."""
    heldout, train = _as_matrix(heldout), _as_matrix(train)
    if len(heldout) < 2 or len(train) < 2 or heldout.shape[1] != train.shape[1]:
        return Interval(math.nan, math.nan, math.nan, len(heldout), heldout.shape[1])
    by_replicate = (heldout.mean(0) - train.mean(0))[:, None]
    parts = [_row_part(by_replicate, luck, runs, None), _axis_variance(heldout.mean(1)), _axis_variance(train.mean(1))]
    return _from_parts(float(by_replicate.mean()), parts, len(heldout), len(by_replicate), level)


def holm(p_values, family: int | None = None) -> list:
    """Holm's adjusted p-values: below 0.05 they are claims of which, in 95% of studies, not one is false.

    `family` is the number of hypotheses where more were open than these (the best of k is compared with k - 1 others,
    but which one is best was not known before: k (k - 1) / 2). NaN stays NaN.
    """
    values = np.asarray(list(p_values), dtype=float)
    known = np.flatnonzero(np.isfinite(values))
    size = max(family or 0, len(known))
    adjusted = np.full(len(values), math.nan)
    highest = 0.0
    for rank, index in enumerate(known[np.argsort(values[known], kind="stable")]):
        highest = max(highest, min(1.0, (size - rank) * values[index]))
        adjusted[index] = highest
    return adjusted.tolist()


def _same_replicates(a, b) -> bool:
    if b is None:
        return False
    if hasattr(a, "columns") and hasattr(b, "columns"):
        return list(a.columns) == list(b.columns)
    return np.ndim(a) == 2 and np.shape(a) == np.shape(b) and not hasattr(a, "columns")


def _as_matrix(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[:, None] if values.ndim == 1 else values


def _aligned(a, b):
    if b is None:
        a = _as_matrix(a)
        return a, np.zeros((len(a), 1))
    if hasattr(a, "iloc") and hasattr(b, "iloc"):
        common = a.index.intersection(b.index)
        a, b = a.loc[common], b.loc[common]
    a, b = _as_matrix(a), _as_matrix(b)
    if len(a) != len(b):
        raise ValueError(f"paired losses must be of the same images: found {len(a)} and {len(b)}")
    known = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return a[known], b[known]
