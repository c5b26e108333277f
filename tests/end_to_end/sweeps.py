"""How the end-to-end tests write sweeps and read what their trials trained."""

import csv

import numpy as np
from safetensors.numpy import load_file

from support import BASE, run


def write_sweep(folder, dataset, **options):
    """A sweep file of these options, whose trials come to lie in folder/sweep."""
    settings = {"base": BASE, "data": dataset, "sweep.output": folder / "sweep", "sweep.pictures": 0, "validation.steps": 0, **options}
    sections = {}
    for name, value in settings.items():
        section, _, option = name.rpartition(".")
        sections.setdefault(section, []).append(f"{option} = {value}")
    text = "\n".join(sections.pop("", []))
    for section, lines in sections.items():
        text += f"\n[{section}]\n" + "\n".join(lines)
    file = folder / "x.sweep.cfg"
    file.write_text(text + "\n")
    return file


def sweep(file, *arguments, ranks=1, code=0):
    return run(["sweep", "--config", file, *arguments], ranks, code)


def losses(folder):
    """Losses by trial id."""
    found = {}
    for trial in sorted((folder / "sweep/trials").iterdir()):
        if (trial / "metrics.csv").exists():
            with open(trial / "metrics.csv") as rows:
                found[trial.name] = np.array([float(row["loss"]) for row in csv.DictReader(rows)])
    return found


def parameters(folder, step):
    return {path.parents[2].name: load_file(path)
            for path in sorted((folder / "sweep/trials").glob(f"*/checkpoints/step-{step:08d}/parameters.safetensors"))}


def same_bits(ours, theirs):
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def of_trial(found, identity):
    """A trial's values in a sweep in which it may have another number."""
    return next(value for name, value in found.items() if name.endswith(identity))


def shared_identity(ours, theirs):
    """The one trial that two sweeps have in common."""
    shared = {name.split("-")[1] for name in ours} & {name.split("-")[1] for name in theirs}
    assert len(shared) == 1
    return shared.pop()
