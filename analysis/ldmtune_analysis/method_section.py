"""The report's section on methods: tables, a sentence for each question, fit against forgetting over strengths."""

from __future__ import annotations

import math
from html import escape

from . import html, plots
from .effects import RATE
from .grid import picture_section
from .methods import BASE, Arm, Entry, Verdict, compare_methods, read_strengths
from .runs import Sweep


def method_sections(sweep: Sweep) -> str:
    """Empty where the method did not vary or no trial is done."""
    arms = compare_methods(sweep)
    if not arms:
        return ""
    names = method_order(arms)
    body = _legend(names)
    for arm in arms:
        body += f"<h3>{escape(arm.label)}</h3>"
        body += "<ul>" + "".join(f"<li>{sentence(verdict)}</li>" for verdict in arm.verdicts) + "</ul>"
        body += _table(arm, names)
    curves = plots.strength_curves([(arm.label, _curves(arm, names)) for arm in arms])
    if curves:
        body += f'<div class="plots"><div class="wide scroll">{curves}</div></div>'
    winners = [entry.configuration for entry in arms[0].entries]
    pictures = picture_section(sweep, winners, f"Side by side ({arms[0].label})")
    return html.section("Methods", body, _note(arms)) + pictures


def method_order(arms: list) -> list:
    """Methods in the order of the first arm: each keeps its colour over all arms."""
    return list(dict.fromkeys(entry.method for arm in arms for entry in arm.entries))


def said(name: str) -> str:
    return name if name == BASE else name.replace("_", " ").replace("lora", "LoRA")


def _bold(names: list) -> str:
    quoted = [f"<b>{escape(said(name))}</b>" for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def sentence(verdict: Verdict) -> str:
    """Who won at what, or tied, in plain words (HTML)."""
    question, first, tied = verdict.question, verdict.first, verdict.tied
    start = f"{question.title} ({question.meaning}): "
    shown = html.signed if question.measure == "gap" else html.number
    value = shown(verdict.values[first], 5 if question.measure == "drift" else 4)
    beaten = [name for name in list(verdict.values)[1:] if name not in tied]
    if not tied:
        runner = beaten[0] if beaten else None
        against = f", against {_bold([runner])}: {_interval(verdict, runner)}" if runner else ""
        return f"{start}{_bold([first])} {'is lowest' if first == BASE else 'won'}, {value}{against}."
    text = f"{start}{_bold([first, *tied])} are tied, the lowest is {value}"
    if beaten:
        text += f"; {_bold(beaten)} {'is' if len(beaten) == 1 else 'are'} worse than {escape(said(first))}"
        text += f" ({', '.join(f'{escape(said(name))} {_interval(verdict, name)}' for name in beaten)})"
    return text + "."


def _interval(verdict: Verdict, other: str) -> str:
    """How much worse the other is than the first."""
    duel = verdict.duel(other, verdict.first)
    if duel is None:
        return "–"
    digits = 5 if verdict.question.measure == "drift" else 4
    interval = duel.interval
    ends = f"{html.signed(interval.low, digits)} to {html.signed(interval.high, digits)}"
    known = f" [{ends}]" if math.isfinite(interval.low) else ""
    return f"{html.signed(interval.mean, digits)}{known}"


def _legend(names: list) -> str:
    entries = [f"<span>{html.swatch(i, plots.SERIES)}{escape(said(name))}</span>" for i, name in enumerate(names)]
    entries.append('<span><span class="swatch" style="background:var(--muted)"></span>untouched base</span>')
    return f'<div class="legend">{"".join(entries)}</div>'


def _changes(entry: Entry, arm: Arm, key: str) -> str:
    verdict = next((one for one in arm.verdicts if one.question.key == key), None)
    if verdict is None or entry.method not in verdict.values:
        return "–"
    duel = verdict.duel(entry.method, BASE)
    if duel is None:
        return html.number(verdict.values[entry.method], 5)
    interval = duel.interval
    ends = f"<small class='below'>{html.signed(interval.low)} to {html.signed(interval.high)}</small>"
    return html.signed(interval.mean) + (ends if math.isfinite(interval.low) else "")


def _bytes(value: float) -> str:
    return f"{html.count(value)}B" if math.isfinite(value) else "–"


def _table(arm: Arm, names: list) -> str:
    heads = ["<<method", "held-out<br>loss", "test loss", "test change", "adjacent<br>change", "with the<br>word"]
    heads += ["drift", "with the<br>word", "held-out −<br>train", "file", "parameters", "samples", "TFLOP", "time"]
    rows = []
    for entry in arm.entries:
        one = entry.configuration
        rate = one.options.get(RATE)
        under = f"learning rate {escape(rate)}" if rate else ""
        under += f" · {len(one.runs)} of {one.planned} done" if len(one.runs) < one.planned else ""
        spread = one.spread("heldout_loss")
        loss = html.number(one.mean("heldout_loss"))
        cells = [
            f'{html.swatch(names.index(entry.method), plots.SERIES)}{escape(said(entry.method))}'
            f'<small class="under">{under}</small>',
            f"{loss} <small>± {spread:.4f}</small>" if math.isfinite(spread) else loss,
            html.number(one.mean("test_loss")),
            *(_changes(entry, arm, key) for key in ("fit", "forgetting", "forgetting_trigger")),
            *(_changes(entry, arm, key) for key in ("drift", "drift_trigger")),
            html.signed(one.mean("gap")),
            _bytes(one.mean("export_bytes")),
            html.count(one.mean("trainable_parameters")),
            html.count(entry.samples),
            html.tflops(one.mean("training_tflops")),
            html.duration(one.mean("seconds")),
        ]
        rows.append(("", cells))
    one = arm.entries[0].configuration
    gap = one.mean("base_heldout_loss") - one.mean("base_concept_train_loss")
    base = ["untouched base", html.number(one.mean("base_heldout_loss")), html.number(one.mean("base_test_loss"))]
    base += ["", "", "", html.number(0.0, 5), html.number(0.0, 5), html.signed(gap), "", "", "", "", ""]
    return html.table(heads, [*rows, ("base", base)], "ranking")


def _curves(arm: Arm, names: list) -> list:
    """(series, measured strengths) of each entry."""
    found = [(names.index(entry.method), read_strengths(entry)) for entry in arm.entries]
    return [(index, frame) for index, frame in found if len(frame)]


def _note(arms: list) -> str:
    claims = sum(len(verdict.duels) for arm in arms for verdict in arm.verdicts)
    note = (
        "Each method at the learning rate with its lowest mean validation loss; intervals (95%) are of paired "
        "differences over images and replicates together. Who won is said only where Holm's correction over all "
        f"{claims} comparisons of this section leaves p &lt; 0.05; else they are tied. Changes are against the untouched "
        "base; drift is the mean squared difference from its own predictions. TFLOP are counted: forward and backward of "
        "training, class images and text encoder too."
    )
    if all(len(entry.configuration.runs) == 1 for arm in arms for entry in arm.entries):
        note += " With one seed a method, intervals cover the luck of images, not that of the seed."
    return note
