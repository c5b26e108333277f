"""Small pieces of the page: numbers, badges, tables, and the document around them."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files


def number(value: float, digits: int = 4) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """With a real minus sign and a plus."""
    if value is None or not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else "−") + f"{abs(value):.{digits}f}"


def percent(value: float) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{abs(value) * 100:.0f}%"


def count(value: float) -> str:
    """21,935,360 as 21.9 M."""
    if value is None or not math.isfinite(value):
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def p_value(value: float) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "&lt; 0.001" if value < 0.001 else "1" if value > 0.9995 else f"{value:.3f}"


def tflops(value: float) -> str:
    """10^12 operations."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def interval_text(interval) -> str:
    """ "−0.1540 (95% interval −0.1700 to −0.1300)"."""
    if not math.isfinite(interval.low):
        return f"{signed(interval.mean)} (too few images for an interval)"
    return f"{signed(interval.mean)} (95% interval {signed(interval.low)} to {signed(interval.high)})"


def badge(kind: str, text: str) -> str:
    return f'<span class="badge {kind}">{escape(text)}</span>'


def swatch(index: int, series: int) -> str:
    return f'<span class="swatch" style="background:var(--series-{index % series})"></span>'


def tile(value: str, label: str, css: str = "") -> str:
    return f'<div class="tile"><b class="{css}">{escape(value)}</b><span>{escape(label)}</span></div>'


def definition_list(entries) -> str:
    """entries: (term, escaped HTML)."""
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{text}</dd>" for term, text in entries) + "</dl>"


def table(heads: list, rows: list, css: str = "") -> str:
    """heads: titles as HTML; a column whose title starts with "<<" is left-aligned. rows: (class, cells as HTML)."""
    left = [head.startswith("<<") for head in heads]

    def line(tag: str, cells: list, kind: str = "") -> str:
        drawn = "".join(f"<{tag}{' class=left' if side else ''}>{cell}</{tag}>" for cell, side in zip(cells, left))
        return f'<tr class="{kind}">{drawn}</tr>' if kind else f"<tr>{drawn}</tr>"

    head = line("th", [head.removeprefix("<<") for head in heads])
    body = "".join(line("td", cells, kind) for kind, cells in rows)
    return f'<div class="scroll"><table class="{css}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def section(title: str, body: str, note: str = "", css: str = "") -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    remark = f'<p class="note">{note}</p>' if note else ""
    return f'<section class="{css}">{heading}{remark}{body}</section>'


def document(title: str, subtitle: str, sections: list) -> str:
    package = files(__package__)
    style = package.joinpath("style.css").read_text(encoding="utf-8")
    script = package.joinpath("theme.js").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
<script>{script}</script>
</head>
<body><main>
<header><div><h1>{escape(title)}</h1><p>{subtitle}</p></div><span class="spacer"></span>
<button class="theme" type="button">Light / dark</button></header>
{"".join(sections)}
<footer>Written by ldmtune_analysis. Validation images chose; test images are only reported.</footer>
</main></body></html>
"""
