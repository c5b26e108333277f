"""The picture grid of the report: captions that no trial trained on, drawn by the base and by each configuration."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from . import html
from .pictures import column_saturation, data_uri, picture_file
from .runs import Sweep

# More columns would not be read, and more rows would make the page heavy.
_LARGEST_COLUMNS = 8
_LARGEST_ROWS = 24


def picture_section(sweep: Sweep, configurations: list, title: str = "Concepts never trained on") -> str:
    """Empty where no pictures were drawn."""
    if not sweep.pictures or not sweep.pictures.get("images"):
        return ""
    images = sweep.pictures["images"][:_LARGEST_ROWS]
    columns = _columns(sweep, configurations)
    head = "".join(_column_head(sweep.folder, column, images) for column in columns)
    rows = "".join(_row(sweep.folder, columns, image) for image in images)
    head = f"<thead><tr><th class='left'>caption</th>{head}</tr></thead>"
    table = f"<table class='pictures'>{head}<tbody>{rows}</tbody></table>"
    settings = sweep.pictures.get("settings", {})
    note = (
        "Captions of validation and test images, with the same starting noise in every column. "
        f"{escape(str(settings.get('sampler', '')).upper())}, "
        f"{settings.get('num_inference_steps', '?')} steps, guidance "
        f"{settings.get('guidance_scale', '?')}. The round trip shows what the VAE alone keeps of the real image."
    )
    left_out = len(configurations) - sum(column["kind"] == "trial" for column in columns)
    if left_out > 0:
        note += f" {left_out} configurations of lower rank are left out."
    return html.section(title, f'<div class="scroll">{table}</div>', note)


def _columns(sweep: Sweep, configurations: list) -> list:
    """Base, then configurations by rank (each by its best seed), then the real image and its round trip."""
    drawn = {column["name"]: column for column in sweep.pictures["columns"]}
    columns = [{"name": "base", "kind": "base", "title": "untouched base"}] if "base" in drawn else []
    for index, configuration in enumerate(configurations[:_LARGEST_COLUMNS]):
        name = configuration.exported.name
        if name in drawn:
            columns.append({"name": name, "kind": "trial", "title": configuration.label, "rank": index})
    for name, title in (("real", "real image"), ("roundtrip", "VAE round trip")):
        if name in drawn:
            columns.append({"name": name, "kind": name, "title": title})
    return columns


def _column_head(folder: Path, column: dict, images: list) -> str:
    mean = column_saturation(folder, column["name"], images)
    under = f"<br><small>saturation {mean:.2f}</small>" if math.isfinite(mean) else ""
    return f"<th>{escape(column['title'])}{under}</th>"


def _row(folder: Path, columns: list, image: dict) -> str:
    split = html.badge("good" if image["split"] == "validation" else "plain", image["split"])
    cells = []
    for column in columns:
        uri = data_uri(picture_file(folder, column["name"], image))
        css = "best" if column.get("rank") == 0 else ""
        alt = escape(f"{image['caption']}: {column['title']}", quote=True)
        cells.append(
            f'<td class="{css}"><img src="{uri}" alt="{alt}" title="{alt}"></td>'
            if uri
            else '<td class="missing">missing</td>'
        )
    return f"<tr><td class='left'>{escape(image['caption'])}<br>{split}</td>{''.join(cells)}</tr>"
