"""The ranked table of the report."""

from __future__ import annotations

import math
from html import escape

from . import html, plots

_BAR_WIDTH = 96
_NOTE = (
    "Held-out loss: mean squared error on validation images at fixed noise and timesteps, the same for every trial; "
    "± is the standard deviation over seeds. Differences are paired by image; a tie is a 95% bootstrap interval that "
    "holds 0."
)
_ONE_SEED_NOTE = (
    " With one seed a configuration, the intervals cover the luck of which images were held out, not that of the seed: "
    "<code>sweep.seeds</code> measures it."
)


def ranking_section(configurations: list) -> str:
    """A row a configuration, best first, and the untouched base; the adjacent column only where that was measured."""
    winner = configurations[0]
    intervals = [None] + [other.against(winner) for other in configurations[1:]]
    known = [interval for interval in intervals[1:] if math.isfinite(interval.low)]
    scale = min([0.0] + [i.low for i in known]), max([0.0] + [i.high for i in known])
    adjacent = any(math.isfinite(configuration.mean("adjacent_loss")) for configuration in configurations)
    heads = ["", "<<configuration", "held-out loss", "<<difference to the first", "", "held-out −<br>train"]
    heads += ["adjacent<br>change"] if adjacent else []
    heads += ["test loss", "parameters", "time", "samples/s"]
    rows = []
    for index, (configuration, interval) in enumerate(zip(configurations, intervals)):
        cells = [str(index + 1), _name(index, configuration), _loss(configuration), *_verdict(interval, scale)]
        rows.append(("" if index else "winner", cells + _measures(configuration, adjacent)))
    rows.append(("base", _base_cells(winner, adjacent)))
    one_seed = len(configurations) > 1 and all(len(configuration.runs) == 1 for configuration in configurations)
    return html.section("Ranking", html.table(heads, rows), _NOTE + (_ONE_SEED_NOTE if one_seed else ""))


def _name(index: int, configuration) -> str:
    numbers = [str(run.trial) for run in configuration.runs if run.trial is not None]
    under = ("trial " if len(numbers) == 1 else "trials ") + ", ".join(numbers)
    if not numbers:
        under = f"seed {configuration.runs[0].seed}"
    swatch = html.swatch(index, plots.SERIES)
    return f'{swatch}{escape(configuration.label)}<small class="under">{under}</small>'


def _loss(configuration) -> str:
    spread = configuration.spread("heldout_loss")
    loss = html.number(configuration.mean("heldout_loss"))
    return f"{loss} <small>± {spread:.4f}</small>" if math.isfinite(spread) else loss


def _verdict(interval, scale: tuple) -> list:
    if interval is None:
        return [html.badge("win", "first"), ""]
    verdict = html.badge("tied", "tied") if interval.holds_zero else html.badge("worse", "worse")
    return [f"{verdict} {html.signed(interval.mean)}", _interval_bar(interval, *scale)]


def _measures(configuration, adjacent: bool) -> list:
    gap = configuration.mean("heldout_loss") - configuration.mean("concept_train_loss")
    change = configuration.change("adjacent_loss", "base_adjacent_loss")
    return [
        html.signed(gap),
        *([html.signed(change)] if adjacent else []),
        html.number(configuration.mean("test_loss")),
        html.count(configuration.mean("trainable_parameters")),
        html.duration(configuration.mean("seconds")),
        html.number(configuration.mean("samples_per_s"), 1),
    ]


def _base_cells(winner, adjacent: bool) -> list:
    loss, test = winner.mean("base_heldout_loss"), winner.mean("base_test_loss")
    gap = html.signed(loss - winner.mean("base_concept_train_loss"))
    change = [""] if adjacent else []
    return ["", "untouched base", html.number(loss), "", "", gap, *change, html.number(test), "", "", ""]


def _interval_bar(interval, low: float, high: float) -> str:
    """A small drawing of the interval on the scale [low, high] with a line at 0."""
    if not math.isfinite(interval.low) or high <= low:
        return ""

    def place(value: float) -> str:
        return f"{4 + (value - low) / (high - low) * (_BAR_WIDTH - 8):.1f}"

    def line(start: str, end: str, top: int, bottom: int, style: str) -> str:
        return f'<line x1="{start}" x2="{end}" y1="{top}" y2="{bottom}" {style}/>'

    colour = "var(--bad)" if interval.above_zero else "var(--warn)"
    zero = line(place(0), place(0), 0, 16, 'stroke="var(--muted)" stroke-dasharray="2 2"')
    span = line(place(interval.low), place(interval.high), 8, 8, f'stroke="{colour}" stroke-width="2"')
    dot = f'<circle cx="{place(interval.mean)}" cy="8" r="3.5" fill="{colour}"/>'
    box = f'width="{_BAR_WIDTH}" height="16" viewBox="0 0 {_BAR_WIDTH} 16"'
    return f'<svg {box} aria-hidden="true">{zero}{span}{dot}</svg>'
