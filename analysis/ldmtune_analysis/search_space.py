"""What a sweep file lets vary, in the syntax of `ldmtune sweep`: which options, over which values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

_DRAW = re.compile(r"(log_uniform|uniform|integer|choice)\((.*)\)")
_CONDITION = re.compile(r"\sif\s+[a-z_.]+\s*=")


@dataclass(frozen=True)
class Range:
    """How one option varies: "log_uniform", "uniform" and "integer" between two numbers (both included), or "choice"."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple = ()  # of a choice, without quotes


@dataclass
class SearchSpace:
    ranges: dict  # option -> Range, in the order of the file
    fixed: dict  # option -> text as given


def read_search_space(file: Path, overrides: list) -> SearchSpace:
    """Settings of the file and (option, text) overrides, which win. Errors: ValueError naming the option."""
    settings = dict(_file_settings(file))
    for name, text in overrides:
        if next(_unquoted_places(text, "#"), None) is not None:
            raise ValueError(f"option {name}: '{text}' holds a # outside double quotes")
        settings[name] = text.strip()
    ranges = {name: _range(name, text) for name, text in settings.items()}
    return SearchSpace(
        ranges={name: one for name, one in ranges.items() if one is not None},
        fixed={name: text for name, text in settings.items() if ranges[name] is None},
    )


def quoted(text: str) -> str:
    """As the config reader takes it back: in quotes where it holds what means something there."""
    if text == text.strip() and not re.search(r'[#|"\\;]', text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def unquoted(text: str) -> str:
    text = text.strip()
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def split_list(text: str, separator: str) -> list:
    """Pieces between separators that stand outside quotes, without their quotes."""
    pieces, begin = [], 0
    for at in [*_unquoted_places(text, separator), len(text)]:
        pieces.append(unquoted(text[begin:at]))
        begin = at + 1
    return pieces


def _unquoted_places(text: str, wanted: str):
    inside, skipped = False, False
    for at, character in enumerate(text):
        if skipped:
            skipped = False
        elif inside and character == "\\":
            skipped = True
        elif character == '"':
            inside = not inside
        elif not inside and character == wanted:
            yield at


def _file_settings(file: Path):
    section = ""
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        line = line[: next(_unquoted_places(line, "#"), len(line))].strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip() + "."
        elif "=" in line:
            name, _, value = line.partition("=")
            yield section + name.strip(), value.strip()


def _range(name: str, text: str) -> Range | None:
    if name.startswith("sweep.") or name == "sample.prompts":
        return None
    if _CONDITION.search(re.sub(r'"[^"]*"', "", text)):
        raise ValueError(f"option {name}: '{text}' has alternatives with conditions of their own; say it by sweep.conditions")
    draw = _DRAW.fullmatch(text.strip())
    if draw and draw[1] != "choice":
        return _numbers(name, draw[1], draw[2])
    values = split_list(draw[2], ";") if draw else split_list(text, "|")
    if len(values) < 2:
        if draw:
            raise ValueError(f"option {name}: expected choice(a; b; ...), found '{text}'")
        return None
    if len(set(values)) < len(values):
        raise ValueError(f"option {name}: '{text}' names a value twice; leave out the repeated one")
    return Range("choice", values=tuple(values))


def _numbers(name: str, kind: str, arguments: str) -> Range:
    try:
        low, high = (float(piece) for piece in arguments.split(","))
    except ValueError:
        low = high = math.nan
    if kind == "integer" and math.isfinite(low) and math.isfinite(high):
        low, high = float(math.ceil(low)), float(math.floor(high))
    if not (math.isfinite(low) and math.isfinite(high) and low < high) or (kind == "log_uniform" and low <= 0):
        above = " with a lowest above 0" if kind == "log_uniform" else ""
        raise ValueError(f"option {name}: expected {kind}(lowest, highest){above}, found '{kind}({arguments})'")
    return Range(kind, low, high)
