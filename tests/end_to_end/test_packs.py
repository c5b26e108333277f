"""Packed sweeps: trials that train together agree with trials alone, survive an interruption, and spare each other."""

import csv
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from support import BASE, prepare, run

STEPS = 50


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "ten", 10, "--validation_images", "2", "--test_images", "1")


def write_sweep(folder, dataset, **changes):
    settings = {
        "base": BASE, "data": dataset, "sweep.output": folder / "sweep", "sweep.pictures": 0,
        "hypernetwork.layer_structure": "1,2,1 | 1,2,2,1", "optim.learning_rate": "2e-3 | 1e-3",
        "hypernetwork.activation": "relu", "train.max_train_steps": STEPS, "train.global_batch_size": 2,
        "train.micro_batch_size": 1, "train.checkpointing_steps": 25, "validation.steps": 0,
    }
    settings.update(changes)
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


@pytest.fixture(scope="module")
def packed(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    output = sweep(write_sweep(folder, dataset), "run", "--pack", "4")
    assert "4 trials" in output or "trial 3" in output
    return folder


def test_packed_losses_agree_with_trials_alone(dataset, packed, tmp_path):
    sweep(write_sweep(tmp_path, dataset), "run")
    together, alone = losses(packed), losses(tmp_path)
    assert together.keys() == alone.keys() and len(alone) == 4
    for trial in alone:
        assert len(alone[trial]) == STEPS
        # The base rounds differently at another batch width; over 50 updates this stays below 1e-4 of the loss.
        assert np.abs(together[trial] - alone[trial]).max() < 1e-4, trial


def test_packs_have_the_same_bits_on_two_ranks(dataset, packed, tmp_path):
    sweep(write_sweep(tmp_path, dataset), "run", "--pack", "4", ranks=2)
    ours, theirs = parameters(tmp_path, STEPS), parameters(packed, STEPS)
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[trial], theirs[trial]) for trial in theirs)


def test_a_trials_bits_do_not_depend_on_slot_or_pack_mates(dataset, packed, tmp_path):
    # The same trial in another grid: another place, other companions, the same width.
    file = write_sweep(tmp_path, dataset, **{"optim.learning_rate": "5e-3 | 1e-3", "hypernetwork.layer_structure": "1,3,1 | 1,2,2,1"})
    sweep(file, "run", "--pack", "4")
    ours, theirs = parameters(tmp_path, STEPS), parameters(packed, STEPS)
    shared = {name.split("-")[1] for name in ours} & {name.split("-")[1] for name in theirs}
    assert len(shared) == 1
    identity = shared.pop()
    one = next(value for name, value in ours.items() if name.endswith(identity))
    other = next(value for name, value in theirs.items() if name.endswith(identity))
    assert same_bits(one, other)


def test_an_interrupted_pack_goes_on_to_the_same_bits(dataset, packed, tmp_path):
    file = write_sweep(tmp_path, dataset)
    sweep(file, "run", "--pack", "4", "--train.stop_after", "20", code=85)
    assert len(list((tmp_path / "sweep/trials").glob("*/checkpoints/step-00000020/MANIFEST.json"))) == 4
    sweep(file, "run", "--pack", "4")
    ours, theirs = parameters(tmp_path, STEPS), parameters(packed, STEPS)
    assert all(same_bits(ours[trial], theirs[trial]) for trial in theirs)


def test_a_trial_that_ends_leaves_its_place_to_the_next(dataset, packed, tmp_path):
    sweep(write_sweep(tmp_path, dataset), "run", "--pack", "2")
    assert all(len(values) == STEPS for values in losses(tmp_path).values())
    with open(tmp_path / "sweep/results.csv") as rows:
        assert [row["status"] for row in csv.DictReader(rows)] == ["done"] * 4


def test_a_failing_trial_spares_its_pack_mates(dataset, packed, tmp_path):
    file = write_sweep(tmp_path, dataset, **{"optim.learning_rate": "2e-3 | 1e30", "hypernetwork.layer_structure": "1,2,1",
                                             "train.max_grad_norm": "0"})
    sweep(file, "run", "--pack", "2", code=1)
    with open(tmp_path / "sweep/results.csv") as rows:
        results = list(csv.DictReader(rows))
    assert [row["status"] for row in results] == ["done", "failed"]
    assert "not finite" in results[1]["reason"]
    assert json.loads(next((tmp_path / "sweep/trials").glob("*/result.json")).read_text())["status"] == "done"


def test_array_elements_train_one_pack_each(dataset, packed, tmp_path):
    file = write_sweep(tmp_path, dataset)
    table = sweep(file, "plan", "--pack", "3")
    assert "0 1 2" in table and table.splitlines()[-1].split() == ["1", "3"]
    sweep(file, "pack", "1", "--pack", "3")
    assert len(losses(tmp_path)) == 1
    assert "pack" in sweep(file, "pack", "2", "--pack", "3", code=2)
    assert "--pack" in sweep(file, "pack", "0", code=2)
    assert "pack" in sweep(file, "run", "--pack", "many", code=2)


def test_trials_of_different_batches_do_not_share_a_pack(dataset, tmp_path):
    file = write_sweep(tmp_path, dataset, **{"optim.learning_rate": "2e-3", "train.global_batch_size": "2 | 4", "train.max_train_steps": 2})
    table = sweep(file, "plan", "--pack", "4")
    assert [line.split()[1:] for line in table.splitlines()[2:]] == [["0", "2"], ["1", "3"]]
    sweep(file, "run", "--pack", "auto")
    assert all(len(values) == 2 for values in losses(tmp_path).values())
