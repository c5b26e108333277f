"""The report's tables of what each option did and how options interact."""

from __future__ import annotations

import math
from html import escape

from . import html
from .effects import Contrast, Effects, Factor, Interaction, level_label, short_name
from .ranking import interval_bar

_LEVELS_SHOWN = 12


def effect_sections(effects: Effects) -> str:
    """Empty where nothing varied."""
    factors = [factor for factor in effects.factors if len(factor.levels) > 1]
    if not factors:
        return ""
    body = _claims(effects) + _factor_table(factors)
    for interaction in effects.interactions:
        body += _interaction_table(interaction)
    return html.section("What each option did", body, _note(effects))


def _note(effects: Effects) -> str:
    on = "test" if effects.measured_on == "test" else "validation"
    said = (
        f"Differences of {on} loss between runs that are alike in all else (other options, seed, data draw), below 0: "
        "lower loss; 95% intervals over pairs of runs and images together. Claims share one Holm correction: in 95% of "
        "studies without any true effect not one is made."
    )
    if effects.tuned:
        names = ", ".join(short_name(name) for name in effects.tuned)
        said += f" Each combination counts at the {names} with its lowest validation loss."
    if not effects.replicated:
        said += " No configuration was trained twice: what differs by the luck of a seed alone may be claimed here."
    return said


def contrast_words(contrast: Contrast) -> str:
    """ "layer norm on against layer norm off: −0.0040 (95% interval ...)"."""
    level = level_label(contrast.factor, contrast.level)
    reference = level_label(contrast.factor, contrast.reference)
    return f"{escape(level)} against {escape(reference)}: {html.interval_text(contrast.interval)}"


def _interaction_words(interaction: Interaction, contrast: Contrast) -> str:
    here, there = contrast.within.split("|")
    first = level_label(interaction.first, contrast.level)
    return (
        f"what {escape(first)} changes differs between {escape(level_label(interaction.second, here))} and "
        f"{escape(level_label(interaction.second, there))} by {html.interval_text(contrast.interval)}"
    )


def _claims(effects: Effects) -> str:
    said = [contrast_words(one) for factor in effects.factors for one in factor.contrasts if one.claimed]
    for interaction in effects.interactions:
        said += [_interaction_words(interaction, one) for one in interaction.contrasts if one.claimed]
    if not said:
        return "<p>No option made a difference that can be told from luck.</p>"
    items = "".join(f"<li>{text}</li>" for text in said[:20])
    more = f"<p class='note'>and {len(said) - 20} more, in the table.</p>" if len(said) > 20 else ""
    return f"<p>Claimed, each after correction:</p><ul>{items}</ul>{more}"


def _scale(contrasts: list) -> tuple:
    ends = [end for one in contrasts for end in (one.interval.low, one.interval.high) if math.isfinite(end)]
    means = [one.interval.mean for one in contrasts if math.isfinite(one.interval.mean)]
    reach = max([abs(mean) for mean in means] + [1e-12]) * 3  # a hopeless interval must not flatten the others
    return max(min([0.0, *ends]), -reach), min(max([0.0, *ends]), reach)


def _verdict(contrast: Contrast) -> str:
    if not contrast.claimed:
        return html.badge("plain", "no claim")
    return html.badge("good", "lower") if contrast.interval.mean < 0 else html.badge("worse", "higher")


def _contrast_cells(contrast: Contrast, scale: tuple) -> list:
    interval = contrast.interval
    ends = f"{html.signed(interval.low)} to {html.signed(interval.high)}" if math.isfinite(interval.low) else "–"
    return [
        html.signed(interval.mean),
        interval_bar(interval, *scale, claimed=contrast.claimed),
        ends,
        html.p_value(contrast.p),
        _verdict(contrast),
    ]


def _factor_table(factors: list) -> str:
    rows = [row for factor in factors for row in _factor_rows(factor)]
    heads = ["<<option", "<<level", "mean loss", "runs", "against first", "", "95% interval", "p", "<<"]
    return html.table(heads, rows)


def _factor_rows(factor: Factor) -> list:
    scale = _scale(factor.contrasts)
    by_level = {contrast.level: contrast for contrast in factor.contrasts}
    rows = []
    for index, (level, mean, runs) in enumerate(factor.levels[:_LEVELS_SHOWN]):
        name = f"<b>{escape(short_name(factor.name))}</b>" if index == 0 else ""
        cells = [name, escape(level_label(factor.name, level)), html.number(mean), str(runs)]
        contrast = by_level.get(level)
        if contrast:
            cells += _contrast_cells(contrast, scale)
        else:
            cells += [escape(factor.remark) if factor.remark and index else "", "", "", "", ""]
        rows.append(("", cells))
    left = len(factor.levels) - _LEVELS_SHOWN
    if left > 0:
        rows.append(("", ["", f"and {left} more levels", "", "", "", "", "", "", ""]))
    return rows


def _interaction_table(interaction: Interaction) -> str:
    first, second = short_name(interaction.first), short_name(interaction.second)
    scale = _scale([*interaction.simple, *interaction.contrasts])
    rows = []
    for contrast in interaction.simple:
        plain = Contrast(contrast.factor, contrast.level, contrast.reference, contrast.interval)
        cells = _contrast_cells(plain, scale)
        cells[3:] = ["", ""]  # shown, not claimed: the claim is whether they differ
        rows.append(("", [_pair(contrast), "at " + escape(level_label(interaction.second, contrast.within)), *cells]))
    for contrast in interaction.contrasts:
        here, there = (escape(level_label(interaction.second, level)) for level in contrast.within.split("|"))
        rows.append(("sum", [_pair(contrast), f"{here} minus {there}", *_contrast_cells(contrast, scale)]))
    heads = [f"<<{escape(first)}", f"<<{escape(second)}", "difference", "", "95% interval", "p", "<<"]
    return f"<h3>Does the effect of {escape(first)} depend on {escape(second)}?</h3>" + html.table(heads, rows)


def _pair(contrast: Contrast) -> str:
    level = level_label(contrast.factor, contrast.level)
    return f"{escape(level)} <small>against {escape(level_label(contrast.factor, contrast.reference))}</small>"
