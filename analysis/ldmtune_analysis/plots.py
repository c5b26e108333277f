"""Curves as inline SVG. Colours are CSS variables of the page, so that a figure follows its light or dark theme."""

from __future__ import annotations

import io
import re

import matplotlib

from . import html

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator  # noqa: E402

SERIES = 8
# matplotlib wants real colours; each stands for a CSS variable and is replaced by it in the SVG.
_STAND_INS = {"#010203": "--muted", "#010204": "--line", "#010205": "--muted-strong"}
_STAND_INS.update({f"#0102{16 + i:02x}": f"--series-{i}" for i in range(SERIES)})
_COLOUR = {variable: colour for colour, variable in _STAND_INS.items()}


def series_colour(index: int) -> str:
    return _COLOUR[f"--series-{index % SERIES}"]


def _line_style(index: int) -> str:
    return ["-", "--", ":", "-."][(index // SERIES) % 4]


def _figure(columns: int, height: float = 3.1, width: float = 5.2):
    style = {
        "font.family": "sans-serif",
        "font.size": 8.5,
        "svg.fonttype": "none",
        "text.color": _COLOUR["--muted-strong"],
        "axes.labelcolor": _COLOUR["--muted-strong"],
        "axes.edgecolor": _COLOUR["--line"],
        "axes.titlesize": 9.5,
        "axes.titlecolor": _COLOUR["--muted-strong"],
        "xtick.color": _COLOUR["--line"],
        "ytick.color": _COLOUR["--line"],
        "xtick.labelcolor": _COLOUR["--muted-strong"],
        "ytick.labelcolor": _COLOUR["--muted-strong"],
        "grid.color": _COLOUR["--line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, columns, figsize=(width * columns, height), squeeze=False)
        for axis in axes[0]:
            axis.grid(True, linewidth=0.5, alpha=0.6)
            axis.set_axisbelow(True)
            axis.tick_params(length=0)
        return figure, list(axes[0])


def _to_svg(figure, name: str, label: str) -> str:
    figure.tight_layout(w_pad=3)
    stream = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    # ids are unique inside a figure only; several figures share the page
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, variable in _STAND_INS.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px; font-family: inherit", svg)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'class="plot"', svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _count_updates(axis) -> None:
    axis.set_xlabel("update")
    axis.margins(x=0.02)
    axis.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _numeric(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame[["step", column]].apply(pd.to_numeric, errors="coerce").dropna()


def _smoothed(values: pd.Series) -> pd.Series:
    """Centred moving average over a thirtieth of the run: a step's loss is mostly the luck of its timesteps."""
    return values.rolling(max(1, len(values) // 30 * 2 + 1), center=True, min_periods=1).mean()


_POINTS = 200  # of a curve: more would not be seen


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    step = max(1, -(-len(rows) // _POINTS))
    return rows if step == 1 else pd.concat([rows.iloc[:-1:step], rows.iloc[-1:]])


def _drawn_runs(configuration) -> list:
    """At most five replicates."""
    return configuration.runs[:5]


def loss_curves(configurations: list) -> str | None:
    """Training (smoothed) and held-out loss, a colour a configuration, a line a seed; None without any rows."""
    if all(run.validation.empty and run.metrics.empty for c in configurations for run in c.runs):
        return None
    figure, (train, heldout) = _figure(2)
    for index, configuration in enumerate(configurations):
        line = {"color": series_colour(index), "linestyle": _line_style(index), "linewidth": 1.5}
        for run in _drawn_runs(configuration):
            rows = _numeric(run.metrics, "loss")
            rows = _thinned(rows.assign(loss=_smoothed(rows["loss"])))
            train.plot(rows["step"], rows["loss"], **{**line, "linewidth": 1.1}, alpha=0.9)
            rows = _thinned(_numeric(run.validation, "concept_heldout"))
            heldout.plot(rows["step"], rows["concept_heldout"], marker="o", markersize=2.5, **line)
    base = configurations[0].mean("base_heldout_loss")
    if base == base:
        heldout.axhline(base, color=_COLOUR["--muted"], linewidth=1, linestyle=(0, (4, 3)))
        heldout.annotate(
            "untouched base",
            (1, base),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=_COLOUR["--muted-strong"],
        )
    train.set_title("Training loss (moving average)", loc="left")
    heldout.set_title("Held-out loss, same noise every time", loc="left")
    for axis in (train, heldout):
        _count_updates(axis)
    return _to_svg(figure, "curves", "Training and held-out loss over updates")


def _validation_curves(axis, configurations: list, values) -> bool:
    """A line a run of `values` (a function of validation.csv's numbers); False where there was nothing."""
    for index, configuration in enumerate(configurations):
        for run in _drawn_runs(configuration):
            rows = _thinned(values(run.validation))
            if rows.empty:
                continue
            axis.plot(
                rows.iloc[:, 0],
                rows.iloc[:, 1],
                marker="o",
                markersize=2.5,
                color=series_colour(index),
                linestyle=_line_style(index),
                linewidth=1.5,
            )
    return bool(axis.lines)


def adjacent_curves(configurations: list) -> str | None:
    """Loss on adjacent concepts over steps; None where it was not measured."""
    title = "Loss on adjacent concepts (rising: forgetting)"
    return _column_curves(configurations, "adjacent", "adjacent", title, "Loss on adjacent concepts over updates")


def drift_curves(configurations: list) -> str | None:
    """Distance from the base's predictions on adjacent concepts over steps; None where it was not measured."""
    description = "Mean squared difference from the base's prediction on adjacent concepts over updates"
    return _column_curves(configurations, "adjacent_drift", "drift", "Drift from the base on adjacent concepts", description)


def _column_curves(configurations: list, column: str, name: str, title: str, description: str) -> str | None:
    """A figure of one column of validation.csv over steps; None where no trial has it."""
    figure, (axis,) = _figure(1)
    if not _validation_curves(axis, configurations, lambda frame: _numeric(frame, column)):
        plt.close(figure)
        return None
    axis.set_title(title, loc="left")
    _count_updates(axis)
    return _to_svg(figure, name, description)


def _gap(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame[["step", "concept_heldout", "concept_train"]].apply(pd.to_numeric, errors="coerce").dropna()
    return pd.DataFrame({"step": numbers["step"], "gap": numbers["concept_heldout"] - numbers["concept_train"]})


def gap_curves(configurations: list) -> str | None:
    """Held-out minus training concepts over steps; None where either was not measured."""
    figure, (axis,) = _figure(1)
    if not _validation_curves(axis, configurations, _gap):
        plt.close(figure)
        return None
    axis.axhline(0, color=_COLOUR["--muted"], linewidth=0.8)
    axis.set_title("Held-out minus training images (rising: overfitting)", loc="left")
    _count_updates(axis)
    return _to_svg(figure, "gap", "Overfitting gap over updates")


def quartile_curves(configurations: list) -> str | None:
    """Held-out loss over steps, a panel a quarter of the timesteps; None where it was not measured."""
    figure, axes = _figure(4, 2.7, 3.1)
    drawn = False
    for number, axis in enumerate(axes, start=1):
        column = f"heldout_q{number}"
        drawn |= _validation_curves(axis, configurations, lambda frame, column=column: _numeric(frame, column))
        axis.set_title(("Least noise", "Second quarter", "Third quarter", "Most noise")[number - 1], loc="left")
        _count_updates(axis)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if not drawn:
        plt.close(figure)
        return None
    return _to_svg(figure, "quartile-curves", "Held-out loss by timestep quartile over updates")


def cost_plots(configurations: list, panels: list, loss: str) -> str:
    """Loss against each cost. panels: (key, label, configurations of the Pareto front, cheapest first)."""
    figure, axes = _figure(len(panels), 3.0, 10.4 / max(len(panels), 2))
    ranked = configurations[:SERIES]
    for axis, (key, label, front) in zip(axes, panels):
        rest = configurations[SERIES:]
        axis.plot(
            [c.mean(key) for c in rest], [c.mean(loss) for c in rest], ".", color=_COLOUR["--muted"], markersize=3
        )
        axis.plot(
            [c.mean(key) for c in front],
            [c.mean(loss) for c in front],
            color=_COLOUR["--muted-strong"],
            linewidth=1.1,
            drawstyle="steps-post",
        )
        for index, one in reversed(list(enumerate(ranked))):
            axis.plot(one.mean(key), one.mean(loss), "o", color=series_colour(index), markersize=6)
        values = [c.mean(key) for c in configurations if c.mean(key) > 0]
        if values and max(values) > 4 * min(values):
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(lambda value, _: html.count(value) if value >= 1000 else f"{value:g}")
        axis.set_xlabel(label)
        axis.set_title(("Test" if loss == "test_loss" else "Held-out") + " loss", loc="left")
    return _to_svg(figure, "cost", "Loss against cost, with the Pareto front")


def strength_curves(arms: list) -> str | None:
    """Fit against forgetting: test loss over the change of the loss on adjacent images, a line a method through its
    strengths, a panel an arm and kind. arms: (label, [(series, frame of methods.read_strengths)]). None without any."""
    figure = _strength_figure(arms, series_colour)
    return figure and _to_svg(figure, "strengths", "Test loss against the change of the adjacent loss, over strengths")


def strength_picture(arms: list, file) -> None:
    """The same of methods.compare_methods as a PNG with a legend; nothing where no strengths were measured."""
    from .methods import read_strengths

    names = list(dict.fromkeys(entry.method for arm in arms for entry in arm.entries))
    panels = []
    for arm in arms:
        found = [(names.index(entry.method), read_strengths(entry)) for entry in arm.entries]
        panels.append((arm.label, [(index, frame) for index, frame in found if len(frame)]))
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure = _strength_figure(panels, lambda index: colours[index % len(colours)])
    if figure is None:
        return
    handles = [plt.Line2D([], [], color=colours[index], label=name.replace("_", " ")) for index, name in enumerate(names)]
    figure.axes[-1].legend(handles=handles, fontsize=7.5, labelcolor="black")
    for axis in figure.axes:
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.get_xticklabels(), *axis.get_yticklabels()):
            text.set_color("black")
        axis.set_title(axis.get_title(loc="left"), loc="left", color="black")
        axis.grid(color="#dddddd")
    figure.tight_layout()
    figure.savefig(file, dpi=110, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _strength_figure(arms: list, colour_of):
    panels = []
    for label, curves in arms:
        for kind, words in (("adjacent", "without the word"), ("adjacent_trigger", "with the word")):
            lines = [(index, _strength_line(frame, kind)) for index, frame in curves]
            lines = [(index, line) for index, line in lines if len(line)]
            if lines:
                panels.append((label.split(":")[0], words, lines))
    if not panels:
        return None
    figure, axes = _figure(len(panels), 3.4, max(2.9, 10.4 / len(panels)))
    for axis, (label, words, lines) in zip(axes, panels):
        for index, line in lines:
            colour, end = colour_of(index), line.iloc[-1]
            axis.plot(line["forgetting"], line["fit"], marker="o", markersize=4, color=colour, linewidth=1.5)
            place = {"xy": (end["forgetting"], end["fit"]), "xytext": (4, 4), "textcoords": "offset points"}
            axis.annotate(f"{end['strength']:g}", **place, fontsize=7.5, color=colour)
        axis.axvline(0, color=_COLOUR["--muted"], linewidth=0.8)
        axis.set_xlabel(f"adjacent loss, change {words}")
        axis.set_title(label, loc="left")
    axes[0].set_ylabel("test loss")
    return figure


def _strength_line(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """strength, fit, forgetting: the change from strength 0 (from the lowest where 0 was not measured)."""
    by_kind = frame.pivot(index="strength", columns="kind", values="loss").sort_index()
    fit = "test" if "test" in by_kind else "heldout"
    if kind not in by_kind or fit not in by_kind:
        return pd.DataFrame()
    origin = by_kind[kind].get(0.0, by_kind[kind].iloc[0])
    line = pd.DataFrame({"fit": by_kind[fit], "forgetting": by_kind[kind] - origin}).dropna()
    return line.reset_index()


def quartile_plot(configurations: list) -> str | None:
    """Held-out loss by timestep quartile at the end, with the untouched base; None where it was not measured."""
    names = [f"heldout_q{i}" for i in range(1, 5)]
    figure, (axis,) = _figure(1)
    places = range(4)
    base = None
    for index, configuration in enumerate(configurations):
        ends = []
        for run in configuration.runs:
            rows = run.validation[["step", *names]].apply(pd.to_numeric, errors="coerce").dropna()
            if rows.empty:
                continue
            ends.append(rows.iloc[-1][names])
            if base is None and rows.iloc[0]["step"] == 0:
                base = rows.iloc[0][names]
        if ends:
            axis.plot(
                places,
                pd.DataFrame(ends).mean(),
                marker="o",
                markersize=4,
                color=series_colour(index),
                linestyle=_line_style(index),
                linewidth=1.5,
            )
    if not axis.lines:
        plt.close(figure)
        return None
    if base is not None:
        axis.plot(
            places, base, marker="o", markersize=4, color=_COLOUR["--muted"], linestyle=(0, (4, 3)), linewidth=1.2
        )
    axis.set_xticks(list(places), ["first quarter\n(least noise)", "second", "third", "last quarter\n(most noise)"])
    axis.set_xlim(-0.35, 3.35)
    axis.set_yscale("log")  # the quarters differ by more than ten times; what counts is the share that goes
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_title("Held-out loss by timestep", loc="left")
    return _to_svg(figure, "quartiles", "Held-out loss by timestep quartile")
