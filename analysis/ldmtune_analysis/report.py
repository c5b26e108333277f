"""One self-contained HTML page that answers: which configuration was best, by how much, and what is merely luck."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from . import html, plots
from .grid import picture_section
from .runs import Sweep


def write_report(sweep: Sweep, output) -> Path:
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_text(render(sweep), encoding="utf-8")
    partial.replace(output)
    return output


def render(sweep: Sweep) -> str:
    configurations = sweep.configurations
    sections = [_answer(sweep, configurations)]
    if configurations:
        sections += [_ranking(configurations), _curves(configurations)]
        sections.append(picture_section(sweep, configurations))
    sections += [_unfinished(sweep), _settings(sweep, configurations)]
    return html.document(f"{sweep.title}: what the trials showed" if sweep.folder else f"Comparison: {sweep.title}",
                         _subtitle(sweep), [text for text in sections if text])


def _subtitle(sweep: Sweep) -> str:
    done = sum(run.status == "done" for run in sweep.runs)
    parts = [f"{done} of {len(sweep.runs)} trials done" if sweep.folder else f"{done} of {len(sweep.runs)} runs done"]
    for key, word in (("base", "base"), ("data", "dataset")):
        if sweep.plan.get(key):
            parts.append(f"{word} <code>{escape(sweep.plan[key])}</code>")
    ranks = {int(run.score("ranks")) for run in sweep.runs if math.isfinite(run.score("ranks"))}
    if ranks:
        parts.append("/".join(map(str, sorted(ranks))) + (" rank" if ranks == {1} else " ranks"))
    return " · ".join(parts)


def _joined(names: list) -> str:
    quoted = [f"<b>{escape(name)}</b>" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _answer(sweep: Sweep, configurations: list) -> str:
    if not configurations:
        return html.section("", '<p class="lead">No trial is done yet, so there is nothing to compare.</p>', css="answer")
    winner = configurations[0]
    against_base = winner.against_base()
    lines = [f'<p class="lead">{_gain_sentence(winner, against_base)}</p>']
    if len(configurations) > 1:
        lines.append(f"<p>{_tie_sentence(winner, configurations[1:])}</p>")
    lines.append(f"<p>{_test_sentence(winner)}</p>")
    lines += [f"<p>{text}</p>" for text in _warnings(sweep, winner, against_base)]
    return html.section("", "".join(lines) + _tiles(winner), css="answer")


def _gain_sentence(winner, interval) -> str:
    base, loss = winner.mean("base_heldout_loss"), winner.mean("heldout_loss")
    name = f"<b>{escape(winner.label)}</b>"
    if not math.isfinite(base):
        return f"{name} has the lowest held-out loss, {html.number(loss)}; the untouched base was not measured."
    share = html.percent((base - loss) / base)
    if interval.below_zero:
        said = f"{name} did best: it cuts the held-out loss by {share}, from {html.number(base)} (untouched base) to {html.number(loss)}."
    elif interval.above_zero:
        said = f"Nothing helped: even {name}, the best, is worse than the untouched base, {html.number(loss)} against {html.number(base)}."
    else:
        said = f"{name} has the lowest held-out loss, {html.number(loss)}, but cannot be told from the untouched base ({html.number(base)})."
    seeds = f" and {len(winner.runs)} seeds" if len(winner.runs) > 1 else ""
    return f"{said} Paired difference {html.interval_text(interval)} over {interval.images} validation images{seeds}."


def _tie_sentence(winner, others: list) -> str:
    tied = [other.label for other in others if other.against(winner).holds_zero]
    worse = [other.label for other in others if other.against(winner).above_zero]
    name = escape(winner.label)
    if not tied:
        return f"It is clearly ahead of all others ({_joined(worse)}): each paired 95% interval against it lies above 0."
    said = f"{_joined(tied)} {'is' if len(tied) == 1 else 'are'} tied with it: the paired 95% interval of the difference holds 0"
    said += ", so prefer the smaller or faster." if not worse else "."
    return said + (f" {_joined(worse)} {'is' if len(worse) == 1 else 'are'} clearly worse than {name}." if worse else "")


def _test_sentence(winner) -> str:
    loss, base = winner.mean("test_loss"), winner.mean("base_test_loss")
    if not math.isfinite(loss):
        return "No test images were measured."
    interval = winner.against_base("test")
    images = f" over {interval.images} images" if interval.images else ""
    return (f"On the test images, which chose nothing: {html.number(loss)} against the base's {html.number(base)}, "
            f"difference {html.interval_text(interval) if interval.images else html.signed(loss - base)}{images}.")


def _warnings(sweep: Sweep, winner, interval) -> list:
    said = []
    for key, word in (("dataset_sha256", "datasets"), ("base_sha256", "base models")):
        if len({run.result.get(key) for run in sweep.runs if run.status == "done"}) > 1:
            said.append(f"The runs used different {word}: their losses measure different things, and the ranking below does not hold.")
    if 0 < interval.images < 6:
        said.append(f"Only {interval.images} validation images: take the intervals with care.")
    unfinished = len(sweep.unfinished)
    if unfinished:
        said.append(f"{unfinished} of {len(sweep.runs)} are not done (see below) and were not considered.")
    if sweep.best and sweep.best.get("trial") not in [run.trial for run in winner.runs]:
        said.append("<code>best.pt</code> was exported from another trial than this winner; run <code>ldmtune sweep … best</code> again.")
    return [html.badge("tied", "note") + " " + text for text in said]


def _tiles(winner) -> str:
    base = winner.mean("base_heldout_loss")
    gap = winner.mean("heldout_loss") - winner.mean("concept_train_loss")
    adjacent = winner.change("adjacent_loss", "base_adjacent_loss")
    tiles = [
        html.tile(html.number(winner.mean("heldout_loss")), "held-out loss of the winner"),
        html.tile(html.number(base), "held-out loss of the untouched base"),
        html.tile(html.signed(gap), "gap: held-out minus training concepts"),
        html.tile(html.count(winner.mean("trainable_parameters")), "trainable parameters"),
        html.tile(html.duration(winner.mean("seconds")), f"to train, {html.number(winner.mean('samples_per_s'), 1)} samples/s"),
    ]
    if math.isfinite(adjacent):
        tiles.insert(3, html.tile(html.signed(adjacent), "change on adjacent concepts (above 0: forgetting)"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _interval_bar(interval, low: float, high: float) -> str:
    """A small drawing of the interval on the scale [low, high] with a line at 0."""
    if not math.isfinite(interval.low) or high <= low:
        return ""
    width = 120

    def place(value: float) -> float:
        return 4 + (value - low) / (high - low) * (width - 8)

    colour = "var(--bad)" if interval.above_zero else "var(--warn)"
    return (f'<svg width="{width}" height="16" viewBox="0 0 {width} 16" aria-hidden="true">'
            f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="0" y2="16" stroke="var(--muted)" stroke-dasharray="2 2"/>'
            f'<line x1="{place(interval.low):.1f}" x2="{place(interval.high):.1f}" y1="8" y2="8" stroke="{colour}" stroke-width="2"/>'
            f'<circle cx="{place(interval.mean):.1f}" cy="8" r="3.5" fill="{colour}"/></svg>')


def _ranking(configurations: list) -> str:
    winner = configurations[0]
    intervals = [other.against(winner) for other in configurations[1:]]
    known = [interval for interval in intervals if math.isfinite(interval.low)]
    low, high = min([0.0] + [i.low for i in known]), max([0.0] + [i.high for i in known])
    adjacent = any(math.isfinite(configuration.mean("adjacent_loss")) for configuration in configurations)
    head = ("<tr><th></th><th class='left'>configuration</th><th>held-out loss</th><th class='left'>difference to the first</th><th></th>"
            f"<th>held-out −<br>train</th>{'<th>adjacent<br>change</th>' if adjacent else ''}"
            "<th>test loss</th><th>parameters</th><th>time</th><th>samples/s</th></tr>")
    rows = [_ranking_row(index, configuration, intervals[index - 1] if index else None, (low, high), adjacent)
            for index, configuration in enumerate(configurations)]
    rows.append(_base_row(winner, adjacent))
    note = ("Held-out loss: mean squared error on validation images at fixed noise and timesteps, the same for every trial; ± is the "
            "standard deviation over seeds. Differences are paired by image; a tie is a 95% bootstrap interval that holds 0.")
    if len(configurations) > 1 and all(len(configuration.runs) == 1 for configuration in configurations):
        note += (" With one seed a configuration, the intervals cover the luck of which images were held out, not that of the seed: "
                 "<code>sweep.seeds</code> measures it.")
    return html.section("Ranking", f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>', note)


def _ranking_row(index: int, configuration, interval, scale: tuple, adjacent: bool) -> str:
    spread = configuration.spread("heldout_loss")
    loss = html.number(configuration.mean("heldout_loss")) + (f" <small>± {spread:.4f}</small>" if math.isfinite(spread) else "")
    if interval is None:
        verdict, bar = html.badge("win", "first"), ""
    else:
        verdict = html.badge("tied", "tied") if interval.holds_zero else html.badge("worse", "worse")
        verdict += f" {html.signed(interval.mean)}"
        bar = _interval_bar(interval, *scale)
    cells = [
        html.signed(configuration.mean("heldout_loss") - configuration.mean("concept_train_loss")),
        *([html.signed(configuration.change("adjacent_loss", "base_adjacent_loss"))] if adjacent else []),
        html.number(configuration.mean("test_loss")),
        html.count(configuration.mean("trainable_parameters")),
        html.duration(configuration.mean("seconds")),
        html.number(configuration.mean("samples_per_s"), 1),
    ]
    body = f"<td>{loss}</td><td class='left'>{verdict}</td><td>{bar}</td>" + "".join(f"<td>{cell}</td>" for cell in cells)
    name = f"{html.swatch(index, plots.SERIES)}{escape(configuration.label)}<small class='under'>{_trials(configuration)}</small>"
    return f"<tr{' class=winner' if index == 0 else ''}><td>{index + 1}</td><td class='left'>{name}</td>{body}</tr>"


def _trials(configuration) -> str:
    numbers = [str(run.trial) for run in configuration.runs if run.trial is not None]
    if not numbers:
        return f"seed {configuration.runs[0].seed}"
    return ("trial " if len(numbers) == 1 else "trials ") + ", ".join(numbers)


def _base_row(winner, adjacent: bool) -> str:
    gap = winner.mean("base_heldout_loss") - winner.mean("base_concept_train_loss")
    return (f"<tr class='base'><td></td><td class='left'>untouched base</td><td>{html.number(winner.mean('base_heldout_loss'))}</td>"
            f"<td></td><td></td><td>{html.signed(gap)}</td>{'<td></td>' if adjacent else ''}<td>{html.number(winner.mean('base_test_loss'))}</td><td></td><td></td><td></td></tr>")


def _legend(configurations: list) -> str:
    entries = [f"<span>{html.swatch(i, plots.SERIES)}{escape(c.label)}</span>" for i, c in enumerate(configurations)]
    entries.append('<span><span class="swatch" style="background:var(--muted)"></span>untouched base</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def _curves(configurations: list) -> str:
    curves = plots.loss_curves(configurations)
    small = [plot for plot in (plots.quartile_plot(configurations), plots.adjacent_curves(configurations)) if plot]
    if not curves and not small:
        return ""
    body = _legend(configurations) + '<div class="plots">'
    body += f'<div class="wide scroll">{curves}</div>' if curves else ""
    body += "".join(f'<div class="{"single" if len(small) == 1 else ""}">{plot}</div>' for plot in small) + "</div>"
    return html.section("How training went", body)


def _unfinished(sweep: Sweep) -> str:
    if not sweep.unfinished:
        return ""
    rows = []
    for run in sweep.unfinished:
        options = ", ".join(f"{name} = {value}" for name, value in run.options.items())
        kind = {"failed": "worse", "interrupted": "tied"}.get(run.status, "plain")
        rows.append(f"<tr><td class='left'>{escape(run.name)}</td><td class='left'>{html.badge(kind, run.status)}</td>"
                    f"<td class='left'>{escape(options)}</td><td class='left'>{escape(run.reason) or '–'}</td></tr>")
    head = "<tr><th class='left'>trial</th><th class='left'>status</th><th class='left'>options</th><th class='left'>reason</th></tr>"
    return html.section("Not done", f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>',
                        "<code>ldmtune sweep … run</code> tries failed trials again and goes on with interrupted ones.")


def _settings(sweep: Sweep, configurations: list) -> str:
    entries = []
    if sweep.best:
        scores = sweep.best.get("scores", {})
        entries.append(("exported", f"<code>{escape(str(sweep.best.get('file')))}</code> from trial {sweep.best.get('trial')} "
                        f"(held-out loss {html.number(scores.get('heldout_loss'))}), sha256 <code>{escape(str(sweep.best.get('sha256'))[:16])}…</code>"))
    varied = {name: sorted({run.options.get(name, "") for run in sweep.runs}) for name in sweep.varied if name != "folder"}
    for name, values in varied.items():
        entries.append((name, " | ".join(f"<code>{escape(value) or '(none)'}</code>" for value in values)))
    seeds = sorted({run.seed for run in sweep.runs})
    entries.append(("seeds", ", ".join(map(str, seeds))))
    config = configurations[0].exported.config if configurations else {}
    shared = [(name, f"<code>{escape(value) or '(none)'}</code>") for name, value in config.items()
              if name not in varied and name not in ("output", "train.resume_from_checkpoint", "train.seed")]
    body = html.definition_list(entries)
    if shared:
        body += f"<details><summary>All {len(shared)} options of the winner that did not vary</summary>{html.definition_list(shared)}</details>"
    return html.section("Settings", body)
