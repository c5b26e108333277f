"""One self-contained HTML page that answers: which configuration was best, by how much, and what is merely luck."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from . import html, plots
from .cost import cost_section
from .effect_section import effect_sections
from .effects import analyse_effects
from .grid import picture_section
from .method_section import method_sections
from .metrics import metrics_section
from .ranking import ranking_section, reported_kind, standings
from .runs import Sweep

_UNFINISHED_SHOWN = 40


def write_report(sweep: Sweep, output, tuned: list | None = None) -> Path:
    """tuned: see effects.analyse_effects."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    partial.write_text(render(sweep, tuned), encoding="utf-8")
    partial.replace(output)
    return output


def render(sweep: Sweep, tuned: list | None = None) -> str:
    configurations = sweep.configurations
    ranked = standings(configurations)
    sections = [_answer(sweep, ranked)]
    if configurations:
        sections.append(method_sections(sweep))
        sections.append(ranking_section(ranked))
        sections.append(effect_sections(analyse_effects(sweep, tuned)))
        sections.append(_curves(configurations[: plots.SERIES], len(configurations)))
        sections.append(cost_section(configurations, reported_kind(configurations)))
        sections += [picture_section(sweep, configurations), metrics_section(sweep, configurations)]
    sections += [_stopped(sweep), _unfinished(sweep), _settings(sweep, configurations)]
    return html.document(
        f"{sweep.title}: what the trials showed" if sweep.folder else f"Comparison: {sweep.title}",
        _subtitle(sweep),
        [text for text in sections if text],
    )


def _subtitle(sweep: Sweep) -> str:
    done = sum(run.status == "done" for run in sweep.runs)
    parts = [f"{done} of {len(sweep.runs)} trials done" if sweep.folder else f"{done} of {len(sweep.runs)} runs done"]
    if sweep.stopped:
        parts.append(f"{len(sweep.stopped)} stopped by successive halving")
    for key, word in (("base", "base"), ("data", "dataset")):
        if sweep.plan.get(key):
            parts.append(f"{word} <code>{escape(sweep.plan[key])}</code>")
    ranks = {int(run.score("ranks")) for run in sweep.runs if math.isfinite(run.score("ranks"))}
    if ranks:
        parts.append("/".join(map(str, sorted(ranks))) + (" rank" if ranks == {1} else " ranks"))
    return " · ".join(parts)


def _joined(names: list) -> str:
    shown = 4 if sum(map(len, names)) < 35 * len(names) else 2
    quoted = [f"<b>{escape(name)}</b>" for name in names[:shown]]
    if len(names) > shown:
        quoted.append(f"{len(names) - shown} more")
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def _answer(sweep: Sweep, ranked: list) -> str:
    if not ranked:
        return html.section(
            "", '<p class="lead">No trial is done yet, so there is nothing to compare.</p>', css="answer"
        )
    winner = ranked[0].configuration
    against_base = winner.against_base()
    lines = [f'<p class="lead">{_gain_sentence(winner, against_base)}</p>']
    if len(ranked) > 1:
        lines.append(f"<p>{_tie_sentence(ranked)}</p>")
    lines.append(f"<p>{_test_sentence(winner)}</p>")
    lines += [f"<p>{text}</p>" for text in _warnings(sweep, winner, against_base)]
    return html.section("", "".join(lines) + _tiles(winner), css="answer")


def _gain_sentence(winner, interval) -> str:
    base, loss = winner.mean("base_heldout_loss"), winner.mean("heldout_loss")
    name = f"<b>{escape(winner.label)}</b>"
    if not math.isfinite(base):
        return f"{name} has the lowest held-out loss, {html.number(loss)}; the untouched base was not measured."
    share, before, after = html.percent((base - loss) / base), html.number(base), html.number(loss)
    if interval.below_zero:
        said = f"{name} did best: it cuts the held-out loss by {share}, from {before} (untouched base) to {after}."
    elif interval.above_zero:
        said = f"Nothing helped: even {name}, the best, is worse than the untouched base, {after} against {before}."
    else:
        said = f"{name} has the lowest held-out loss, {after}, but cannot be told from the untouched base ({before})."
    seeds = f" and {len(winner.runs)} {_replicates(winner)}" if len(winner.runs) > 1 else ""
    return f"{said} Paired difference {html.interval_text(interval)} over {interval.images} validation images{seeds}."


def _replicates(configuration) -> str:
    return "seeds" if len({run.subset_seed for run in configuration.runs}) == 1 else "replicates"


def _tie_sentence(ranked: list) -> str:
    tied = [one.configuration.label for one in ranked[1:] if one.tied]
    worse = [one.configuration.label for one in ranked[1:] if one.worse]
    better = [one.configuration.label for one in ranked[1:] if one.better]
    name = escape(ranked[0].configuration.label)
    if not tied and not better:
        return f"It is clearly ahead of all others ({_joined(worse)}): each paired difference stands after correction."
    said = (
        f"{_joined(tied)} {'is' if len(tied) == 1 else 'are'} tied with it: no difference can be claimed"
        if tied
        else ""
    )
    if tied:
        said += ", so prefer the smaller or faster." if not worse else "."
    if worse:
        said += f" {_joined(worse)} {'is' if len(worse) == 1 else 'are'} clearly worse than {name}."
    if better:
        said += f" {_joined(better)} did better on the test images than {name}, though validation chose otherwise."
    return said


def _test_sentence(winner) -> str:
    loss, base = winner.mean("test_loss"), winner.mean("base_test_loss")
    if not math.isfinite(loss):
        return "No test images were measured."
    interval = winner.against_base("test")
    images = f" over {interval.images} images" if interval.images else ""
    return (
        f"On the test images, which chose nothing: {html.number(loss)} against the base's {html.number(base)}, "
        f"difference {html.interval_text(interval) if interval.images else html.signed(loss - base)}{images}."
    )


def _warnings(sweep: Sweep, winner, interval) -> list:
    said = []
    for key, word in (("dataset_sha256", "datasets"), ("base_sha256", "base models")):
        if len({run.result.get(key) for run in sweep.runs if run.status == "done"}) > 1:
            said.append(
                f"The runs used different {word}: their losses measure different things, and the ranking does not hold."
            )
    if 0 < interval.images < 6:
        said.append(f"Only {interval.images} validation images: take the intervals with care.")
    unfinished = len(sweep.unfinished)
    if unfinished:
        said.append(f"{unfinished} of {len(sweep.runs)} are not done (see below) and were not considered.")
    if sweep.best and sweep.best.get("trial") not in [run.trial for run in winner.runs]:
        said.append(
            "<code>best.pt</code> was exported from another trial than this winner; "
            "run <code>ldmtune sweep … best</code> again."
        )
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
        html.tile(
            html.duration(winner.mean("seconds")), f"to train, {html.number(winner.mean('samples_per_s'), 1)} samples/s"
        ),
    ]
    if math.isfinite(adjacent):
        tiles.insert(3, html.tile(html.signed(adjacent), "change on adjacent concepts (above 0: forgetting)"))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _legend(configurations: list) -> str:
    entries = [f"<span>{html.swatch(i, plots.SERIES)}{escape(c.label)}</span>" for i, c in enumerate(configurations)]
    entries.append('<span><span class="swatch" style="background:var(--muted)"></span>untouched base</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def _curves(configurations: list, total: int) -> str:
    curves = plots.loss_curves(configurations)
    kinds = (plots.gap_curves, plots.adjacent_curves, plots.drift_curves, plots.quartile_plot)
    small = [plot for plot in (kind(configurations) for kind in kinds) if plot]
    if not curves and not small:
        return ""
    body = _legend(configurations) + '<div class="plots">'
    body += f'<div class="wide scroll">{curves}</div>' if curves else ""
    body += "".join(f'<div class="{"single" if len(small) == 1 else ""}">{plot}</div>' for plot in small)
    quartiles = plots.quartile_curves(configurations)
    body += (f'<div class="wide scroll">{quartiles}</div>' if quartiles else "") + "</div>"
    left = total - len(configurations)
    note = f"The {len(configurations)} first of {total} configurations." if left else ""
    return html.section("How training went", body, note)


def _options(run) -> str:
    return escape(", ".join(f"{name} = {value}" for name, value in run.options.items() if value is not None))


def _stopped(sweep: Sweep) -> str:
    """What successive halving ended, longest trained first: no results, so they are ranked nowhere."""
    if not sweep.stopped:
        return ""
    rows = []
    order = sorted(sweep.stopped, key=lambda run: (-run.score("steps"), run.score("heldout_loss")))
    for run in order[:_UNFINISHED_SHOWN]:
        rung = html.badge("plain", f"rung {run.result.get('rung', '?')}")
        loss, step = html.number(run.score("heldout_loss")), html.count(run.score("steps"))
        rows.append(("", [escape(run.name), rung, step, loss, _options(run)]))
    heads = ["<<trial", "<<stopped at", "updates", "held-out loss then", "<<options"]
    note = (
        "Successive halving ended these trainings early, as others had a lower held-out loss after as many updates. "
        "Their losses then are not those of a whole training, so they are in no ranking, test or plot above."
    )
    left = len(order) - len(rows)
    note += f" {left} more are not shown." if left else ""
    return html.section("Stopped early", html.table(heads, rows), note)


def _unfinished(sweep: Sweep) -> str:
    if not sweep.unfinished:
        return ""
    rows = []
    order = {"failed": 0, "interrupted": 1}
    listed = sorted(sweep.unfinished, key=lambda run: order.get(run.status, 2))[:_UNFINISHED_SHOWN]
    for run in listed:
        kind = {"failed": "worse", "interrupted": "tied"}.get(run.status, "plain")
        rows.append(("", [escape(run.name), html.badge(kind, run.status), _options(run), escape(run.reason) or "–"]))
    note = "<code>ldmtune sweep … run</code> tries failed trials again and goes on with interrupted ones."
    if sweep.plan.get("rungs"):
        note += " Trials that failed in a rung that is judged have lost and are not tried again."
    left = len(sweep.unfinished) - len(listed)
    note += f" {left} more are not shown." if left else ""
    return html.section("Not done", html.table(["<<trial", "<<status", "<<options", "<<reason"], rows), note)


def _settings(sweep: Sweep, configurations: list) -> str:
    entries = [("exported", _export(sweep.best))] if sweep.best else []
    varied = [name for name in sweep.varied if name != "folder"]
    for name in varied:
        values = sorted({run.options[name] for run in sweep.runs if run.options.get(name) is not None})
        more = f" | … {len(values) - 20} more" if len(values) > 20 else ""
        entries.append((name, " | ".join(map(_code, values[:20])) + more))
    for key, word in (("seed", "seeds"), ("subset_seed", "draws of the training subset")):
        values = sorted({getattr(run, key) for run in sweep.runs})
        if key == "seed" or len(values) > 1:
            entries.append((word, ", ".join(map(str, values[:40]))))
    hidden = {*varied, "data.subset_seed", "output", "train.resume_from_checkpoint", "train.seed"}
    config = configurations[0].exported.config if configurations else {}
    shared = [(name, _code(value)) for name, value in config.items() if name not in hidden]
    body = html.definition_list(entries)
    if shared:
        summary = f"<summary>All {len(shared)} options of the winner that did not vary</summary>"
        body += f"<details>{summary}{html.definition_list(shared)}</details>"
    return html.section("Settings", body)


def _code(text: str) -> str:
    return f"<code>{escape(text) or '(none)'}</code>"


def _export(best: dict) -> str:
    loss = html.number(best.get("scores", {}).get("heldout_loss"))
    sha256 = escape(str(best.get("sha256"))[:16])
    return (
        f"{_code(str(best.get('file')))} from trial {best.get('trial')} (held-out loss {loss}), "
        f"sha256 <code>{sha256}…</code>"
    )
