"""Sweeps made in memory with effects that are known, or none: losses as runs have them, without files."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pandas as pd
from ldmtune_analysis.runs import Run, Sweep

STRUCTURES = ["1,2,1", "1,2,2,1", "1,2,4,2,1"]
OPTIONS = {
    "hypernetwork.layer_structure": STRUCTURES,
    "hypernetwork.layer_norm": ["false", "true"],
    "optim.learning_rate": ["1e-3", "3e-3"],
}


def make_study(
    rng, effect=None, options=None, replicates: int = 3, images: int = 16, noise: float = 0.004, conditions=None
):
    """effect(options) is added to the loss. Luck: of an image (shared by all runs), of a replicate (shared by all
    configurations), of a run (shared by its images) and of each measurement."""
    options = options or OPTIONS
    of_image = {kind: rng.uniform(0.1, 0.3, size=images) for kind in ("heldout", "test")}
    of_replicate = noise * rng.normal(size=replicates)
    runs = []
    for values in product(*options.values()):
        chosen = dict(zip(options, values))
        for replicate in range(replicates):
            luck = of_replicate[replicate] + noise * rng.normal() + (effect(chosen) if effect else 0.0)
            losses = {}
            for kind, level in of_image.items():
                measured = level + luck + noise * rng.normal(size=images)
                losses[kind, "end"] = pd.Series(measured)
                losses[kind, "base"] = pd.Series(level + 0.05)
            runs.append(_run(len(runs), chosen, replicate, losses))
    return Sweep("study", None, list(options), runs, plan={"conditions": conditions or {}})


def _run(number: int, options: dict, seed: int, losses: dict) -> Run:
    result = {
        "heldout_loss": losses["heldout", "end"].mean(),
        "test_loss": losses["test", "end"].mean(),
        "base_heldout_loss": losses["heldout", "base"].mean(),
        "concept_train_loss": losses["heldout", "end"].mean() - 0.01,
        "seconds": 10.0 + number,
        "trainable_parameters": 1000.0,
    }
    run = Run(
        f"{number:03d}", Path("."), "done", options, seed, result, {}, trial=number, planned={"subset_seed": seed}
    )
    run.__dict__["_losses"] = losses  # what the cached property would read from validation_images.csv
    return run
