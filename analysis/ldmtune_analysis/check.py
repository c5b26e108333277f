"""What a good sweep shows, as checks that pass or fail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from . import html
from .pictures import column_saturation
from .runs import Sweep
from .torch_zip import hypernetwork_summary, read_torch_file

LARGEST_SATURATION_RATIO = 0.5


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.detail}"


def run_checks(sweep: Sweep) -> list:
    return [gain_check(sweep), saturation_check(sweep), export_check(sweep)]


def gain_check(sweep: Sweep) -> Check:
    """The paired 95% interval of (best - base) over validation images lies below 0."""
    name = "best trial beats the untouched base"
    configurations = sweep.configurations
    if not configurations:
        return Check(name, False, "no trial is done")
    interval = configurations[0].against_base()
    detail = (
        f"{configurations[0].label}: difference {html.interval_text(interval)} over {interval.images} validation images"
    )
    return Check(name, interval.below_zero, detail)


def saturation_check(sweep: Sweep) -> Check:
    """Pictures of concepts never seen in the (grey) style have at most half of the base's colour saturation."""
    name = "pictures of unseen concepts lost their colour"
    configurations = sweep.configurations
    if not configurations or not sweep.pictures:
        return Check(name, False, "no pictures: sweep with sweep.pictures above 0")
    images = sweep.pictures["images"]
    base = column_saturation(sweep.folder, "base", images)
    best = column_saturation(sweep.folder, _best_column(sweep), images)
    if not math.isfinite(base) or not math.isfinite(best):
        return Check(
            name,
            False,
            f"pictures of the base or of {_best_column(sweep)} are missing; run `ldmtune sweep ... collect`",
        )
    detail = f"mean saturation {best:.3f} against the base's {base:.3f} over {len(images)} captions"
    return Check(
        name,
        best <= LARGEST_SATURATION_RATIO * base,
        f"{detail} (ratio {best / base if base else math.inf:.2f}, at most 0.50)",
    )


def _best_column(sweep: Sweep) -> str:
    return Path(sweep.best["folder"]).name if sweep.best else sweep.configurations[0].exported.name


def export_check(sweep: Sweep) -> Check:
    """best.pt opens without executing anything, and with torch.load(weights_only=True) where torch is there."""
    name = "best.pt opens"
    if not sweep.best:
        return Check(name, False, "no best.json: run `ldmtune sweep ... best`")
    file = sweep.folder / sweep.best["file"]
    try:
        summary = hypernetwork_summary(read_torch_file(file))
    except (OSError, ValueError) as error:
        return Check(name, False, str(error))
    widths = ", ".join(map(str, summary["widths"]))
    detail = f"{file}: structure {summary['layer_structure']}, widths {widths}, {summary['parameters']:,} parameters"
    problem = _torch_problem(file)
    if problem:
        return Check(name, False, f"torch.load(weights_only=True) refuses {file}: {problem}")
    return Check(name, True, detail)


def _torch_problem(file: Path) -> str:
    try:
        import torch
    except ImportError:
        return ""
    try:
        torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # torch's own kinds of error are many
        return str(error).splitlines()[0]
    return ""
