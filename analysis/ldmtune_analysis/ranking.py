"""The ranked table of the report: validation chooses the order, test images say what may be claimed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from . import html, plots
from .statistics import Interval, RunLuck, holm, pooled_luck

CLAIM = 0.05
_SHOWN = 20  # rows before the rest is folded away
_FOLDED = 1000
_BAR_WIDTH = 96


@dataclass(frozen=True)
class Standing:
    """A configuration against the first: the paired difference, and its p-value after Holm's correction."""

    configuration: object
    against_first: Interval | None  # None for the first itself
    p: float

    @property
    def tied(self) -> bool:
        return not self.worse and not self.better and self.against_first is not None

    @property
    def worse(self) -> bool:
        return self.against_first is not None and self.against_first.mean > 0 and self.p < CLAIM

    @property
    def better(self) -> bool:
        """On the test images, though validation put it behind."""
        return self.against_first is not None and self.against_first.mean < 0 and self.p < CLAIM


def standings(configurations: list) -> list:
    """One a configuration, in order. Which would come first was not known before, so all pairs count as tried."""
    if not configurations:
        return []
    first = configurations[0]
    kind = reported_kind(configurations)
    luck = _luck(configurations, kind)
    intervals = [other.against(first, kind, luck) for other in configurations[1:]]
    pairs = len(configurations) * (len(configurations) - 1) // 2
    adjusted = holm([interval.p for interval in intervals], pairs)
    others = [Standing(*entry) for entry in zip(configurations[1:], intervals, adjusted)]
    return [Standing(first, None, math.nan), *others]


def _luck(configurations: list, kind: str) -> RunLuck | None:
    runs = [(index, run) for index, one in enumerate(configurations) for run in one.runs]
    key = "test_loss" if kind == "test" else "heldout_loss"
    known = [(index, run) for index, run in runs if math.isfinite(run.score(key))]
    return pooled_luck(
        [index for index, _ in known], [run.replicate for _, run in known], [run.score(key) for _, run in known]
    )


def reported_kind(configurations: list) -> str:
    """ "test" where every configuration has test images, else "heldout"."""
    return "test" if all(one.reported_on == "test" for one in configurations) else "heldout"


def _note(configurations: list, pairs: int) -> str:
    on = (
        "test images" if reported_kind(configurations) == "test" else "validation images (no test images were measured)"
    )
    note = (
        "In order of held-out loss: mean squared error on validation images at fixed noise and timesteps, the same for "
        "every trial; ± is the standard deviation over replicates. "
        f"Differences are on {on}, paired by image, with 95% intervals over images and replicates together. "
        f"<b>Tied</b>: the difference is not claimed (p ≥ 0.05"
        + (
            f" after Holm's correction over all {pairs} pairs, as any of them could have come first)."
            if pairs > 1
            else ")."
        )
    )
    if len(configurations) > 1 and all(len(one.runs) == 1 for one in configurations):
        note += (
            " With one seed a configuration, the intervals cover the luck of which images were held out, not that of "
            "the seed: <code>sweep.seeds</code> measures it."
        )
    return note


def ranking_section(ranked: list) -> str:
    """A row a configuration, best first, and the untouched base; the adjacent columns only where that was measured."""
    configurations = [standing.configuration for standing in ranked]
    known = [one.against_first for one in ranked[1:_SHOWN] if math.isfinite(one.against_first.low)]
    scale = min([0.0] + [i.low for i in known]), max([0.0] + [i.high for i in known])
    adjacent = any(math.isfinite(configuration.mean("adjacent_loss")) for configuration in configurations)
    heads = ["", "<<configuration", "held-out loss", "<<difference<br>to the first", "", "held-out −<br>train"]
    heads += ["adjacent<br>change", "adjacent<br>drift"] if adjacent else []
    heads += ["test loss", "parameters", "time"]
    rows = []
    for index, standing in enumerate(ranked[: _SHOWN + _FOLDED]):
        one = standing.configuration
        cells = [str(index + 1), _name(index, one), _loss(one), *_verdict(standing, scale, index < _SHOWN)]
        rows.append(("" if index else "winner", cells + _measures(one, adjacent)))
    base = ("base", _base_cells(configurations[0], adjacent))
    body = html.table(heads, [*rows[:_SHOWN], base], "ranking")
    if len(rows) > _SHOWN:
        summary = f"<summary>{len(ranked) - _SHOWN} more configurations</summary>"
        left = len(ranked) - len(rows)
        said = f"<p class='note'>{left} of lower rank are in results.csv.</p>" if left else ""
        folded = html.table(heads, rows[_SHOWN:], "ranking")
        body += f"<details>{summary}{folded}{said}</details>"
    return html.section("Ranking", body, _note(configurations, len(ranked) * (len(ranked) - 1) // 2))


def _name(index: int, configuration) -> str:
    numbers = [run.trial for run in configuration.runs if run.trial is not None]
    under = ("trial " if len(numbers) == 1 else "trials ") + _listed(numbers)
    if not numbers:
        under = f"seed {configuration.runs[0].seed}"
    if len(configuration.runs) < configuration.planned:
        under += f" · {len(configuration.runs)} of {configuration.planned} done"
    swatch = html.swatch(index, plots.SERIES) if index < plots.SERIES else ""
    return f'{swatch}{escape(configuration.label)}<small class="under">{under}</small>'


def _listed(numbers: list) -> str:
    """ "516–519" for consecutive ones, else "3, 7"."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]}–{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _loss(configuration) -> str:
    spread = configuration.spread("heldout_loss")
    loss = html.number(configuration.mean("heldout_loss"))
    return f"{loss} <small>± {spread:.4f}</small>" if math.isfinite(spread) else loss


def _verdict(standing: Standing, scale: tuple, drawn: bool) -> list:
    interval = standing.against_first
    if interval is None:
        return [html.badge("win", "first"), ""]
    verdict = html.badge("tied", "tied")
    if standing.worse:
        verdict = html.badge("worse", "worse")
    elif standing.better:
        verdict = html.badge("good", "better on test")
    bar = interval_bar(interval, *scale, claimed=not standing.tied) if drawn else ""
    known = f"<small class='p'>p {html.p_value(standing.p)}</small>" if math.isfinite(standing.p) else ""
    return [f"{verdict} {html.signed(interval.mean)} {known}", bar]


def _measures(configuration, adjacent: bool) -> list:
    change = configuration.change("adjacent_loss", "base_adjacent_loss")
    return [
        html.signed(configuration.mean("gap")),
        *([html.signed(change), html.number(configuration.mean("adjacent_drift"), 5)] if adjacent else []),
        html.number(configuration.mean("test_loss")),
        html.count(configuration.mean("trainable_parameters")),
        html.duration(configuration.mean("seconds")) + _operations(configuration),
    ]


def _operations(configuration) -> str:
    tflops = configuration.mean("tflops")
    return f'<small class="below">{html.tflops(tflops)} TFLOP</small>' if math.isfinite(tflops) else ""


def _base_cells(winner, adjacent: bool) -> list:
    loss, test = winner.mean("base_heldout_loss"), winner.mean("base_test_loss")
    gap = html.signed(loss - winner.mean("base_concept_train_loss"))
    change = ["", ""] if adjacent else []
    return ["", "untouched base", html.number(loss), "", "", gap, *change, html.number(test), "", ""]


def interval_bar(interval, low: float, high: float, claimed: bool) -> str:
    """A small drawing of the interval on the scale [low, high] with a line at 0."""
    if not math.isfinite(interval.low) or high <= low:
        return ""

    def place(value: float) -> str:
        return f"{4 + (min(max(value, low), high) - low) / (high - low) * (_BAR_WIDTH - 8):.1f}"

    def line(start: str, end: str, top: int, bottom: int, style: str) -> str:
        return f'<line x1="{start}" x2="{end}" y1="{top}" y2="{bottom}" {style}/>'

    colour = "var(--muted-strong)"
    if claimed:
        colour = "var(--bad)" if interval.mean > 0 else "var(--good)"
    zero = line(place(0), place(0), 0, 16, 'stroke="var(--muted)" stroke-dasharray="2 2"')
    span = line(place(interval.low), place(interval.high), 8, 8, f'stroke="{colour}" stroke-width="2"')
    dot = f'<circle cx="{place(interval.mean)}" cy="8" r="3.5" fill="{colour}"/>'
    box = f'width="{_BAR_WIDTH}" height="16" viewBox="0 0 {_BAR_WIDTH} 16"'
    return f'<svg {box} aria-hidden="true">{zero}{span}{dot}</svg>'
