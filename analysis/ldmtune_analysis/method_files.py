"""What a comparison of methods leaves as files: tables, sentences, and pictures for a README."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from PIL import Image, ImageDraw

from .method_section import said, sentence
from .methods import compare_methods, tables
from .pictures import picture_file
from .plots import strength_picture
from .runs import Sweep

_CELL, _LABEL, _MARGIN = 128, 18, 150


def write_methods(sweep: Sweep, folder) -> Path:
    """methods.csv, duels.csv, strengths.csv, verdicts.md, strengths.png and pictures.png, as far as there are such.

    Errors: ValueError if no method varied or no trial is done.
    """
    arms = compare_methods(sweep)
    if not arms:
        raise ValueError(f"{sweep.title}: expected a sweep over `method` with finished trials, found none")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables(arms).items():
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "verdicts.md").write_text(_verdicts(arms), encoding="utf-8")
    strength_picture(arms, folder / "strengths.png")
    _draw_pictures(sweep, arms[0], folder / "pictures.png")
    return folder


def _verdicts(arms: list) -> str:
    lines = []
    for arm in arms:
        lines.append(f"## {arm.label}\n")
        for verdict in arm.verdicts:
            text = sentence(verdict).replace("<b>", "**").replace("</b>", "**")
            lines.append("- " + unescape(re.sub(r"<[^>]*>", "", text)))
        lines.append("")
    return "\n".join(lines)


def _draw_pictures(sweep: Sweep, arm, file: Path) -> None:
    """A row a held-out caption; the base, each method of the arm, and the real image side by side."""
    if not sweep.pictures or not sweep.folder:
        return
    columns = [("untouched base", "base")]
    columns += [(said(entry.method), entry.configuration.exported.name) for entry in arm.entries]
    columns.append(("real image", "real"))
    images = [one for one in sweep.pictures["images"] if picture_file(sweep.folder, "base", one).is_file()]
    width, height = _MARGIN + _CELL * len(columns), _LABEL + _CELL * len(images)
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for place, (title, name) in enumerate(columns):
        pen.text((_MARGIN + _CELL * place + 4, 3), title, fill="black")
        for row, image in enumerate(images):
            source = picture_file(sweep.folder, name, image)
            if source.is_file():
                with Image.open(source) as picture:
                    cell = picture.convert("RGB").resize((_CELL, _CELL), Image.Resampling.NEAREST)
                page.paste(cell, (_MARGIN + _CELL * place, _LABEL + _CELL * row))
    for row, image in enumerate(images):
        words, line = image["caption"].split(" "), ""
        lines = []
        for word in words:
            line = f"{line} {word}".strip()
            if len(line) > 18:
                lines.append(line)
                line = ""
        pen.text((4, _LABEL + _CELL * row + 40), "\n".join([*lines, line, f"({image['split']})"]), fill="black")
    page.save(file, optimize=True)
