"""What quality costs: seconds, counted operations, parameters; and which configurations nothing beats."""

from __future__ import annotations

import math
from html import escape

from . import html, plots

COSTS = [
    ("seconds", "training time (s)"),
    ("tflops", "counted TFLOP"),
    ("trainable_parameters", "trainable parameters"),
    ("adjacent_drift", "drift on adjacent concepts"),
]
_LISTED = 12


def pareto_front(configurations: list, cost: str, loss: str) -> list:
    """Configurations of which none is both cheaper (or as cheap) and better, cheapest first."""
    known = [one for one in configurations if math.isfinite(one.mean(cost)) and math.isfinite(one.mean(loss))]
    front: list = []
    for one in sorted(known, key=lambda one: (one.mean(cost), one.mean(loss))):
        if not front or one.mean(loss) < front[-1].mean(loss):
            front.append(one)
    return front


def cost_section(configurations: list, kind: str) -> str:
    """Loss against each cost, with its Pareto front; empty where nothing was measured or there is one configuration."""
    loss = "test_loss" if kind == "test" else "heldout_loss"
    panels = []
    for key, label in COSTS:
        front = pareto_front(configurations, key, loss)
        if front and len({one.mean(key) for one in configurations}) > 1:
            panels.append((key, label, front))
    if len(configurations) < 2 or not panels:
        return ""
    drawing = plots.cost_plots(configurations, panels, loss)
    body = f'<div class="plots"><div class="wide scroll">{drawing}</div></div>' + _front_table(panels, loss)
    note = (
        "Lower and further left is better; the line joins configurations that nothing beats at their cost or below. "
        "TFLOP are counted from the networks' shapes (UNet and what trains, forward and backward, validation too), by "
        "<code>ldmtune sweep plan</code>."
    )
    if any(key == "adjacent_drift" for key, _, _ in panels):
        note += (
            " Drift is the mean squared difference from the untouched base's own prediction of adjacent concepts: what "
            "training changed where it should have changed nothing."
        )
    return html.section("Quality against cost", body, note)


def _front_table(panels: list, loss: str) -> str:
    member: dict = {}
    for key, _, front in panels:
        for one in front:
            member.setdefault(id(one), (one, []))[1].append(key)
    names = {"seconds": "time", "tflops": "TFLOP", "trainable_parameters": "parameters", "adjacent_drift": "drift"}
    rows = []
    for one, keys in sorted(member.values(), key=lambda entry: entry[0].mean(loss))[:_LISTED]:
        rows.append(
            (
                "",
                [
                    escape(one.label),
                    html.number(one.mean(loss)),
                    html.duration(one.mean("seconds")),
                    html.tflops(one.mean("tflops")),
                    html.count(one.mean("trainable_parameters")),
                    ", ".join(names[key] for key in keys),
                ],
            )
        )
    heads = ["<<on a front", loss.replace("_", " ").replace("heldout", "held-out"), "time", "TFLOP", "parameters"]
    return html.table([*heads, "<<unbeaten for its"], rows)
