"""Successive halving: survivors train to the bits they would have had anyway, through packs, kills and array elements."""

import csv
import json

import pytest

from support import prepare
from sweeps import parameters, same_bits, sweep, write_sweep

RUNGS = [2, 4]
STEPS = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "ten", 10, "--validation_images", "2", "--test_images", "1")


def write(folder, dataset, **options):
    """Four settings of two seeds, with a learning rate that knows where it ends."""
    return write_sweep(folder, dataset, **{
        "hypernetwork.layer_structure": "1,2,1 | 1,2,2,1", "optim.learning_rate": "1e-2 | 1e-3", "hypernetwork.activation": "relu",
        "optim.lr_scheduler": "cosine", "train.max_train_steps": STEPS, "train.global_batch_size": 2, "train.micro_batch_size": 1,
        "train.checkpointing_steps": 2, "train.checkpoints_total_limit": 0, "validation.timesteps": 4, "validation.max_images": 2,
        "sweep.seeds": "0,1", **options})


HALVING = {"sweep.halving_factor": 2, "sweep.halving_min_steps": RUNGS[0]}


def results(folder):
    with open(folder / "sweep/results.csv") as rows:
        return {row["id"]: row for row in csv.DictReader(rows)}


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """All trials to their end, measured at the rungs."""
    folder = tmp_path_factory.mktemp("whole")
    sweep(write(folder, dataset, **{"validation.steps": 2}), "run", "--pack", "4")
    return folder


@pytest.fixture(scope="module")
def halved(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halved")
    sweep(write(folder, dataset, **HALVING, **{"validation.steps": 2}), "run", "--pack", "4")
    return folder


def setting(row):
    return row["hypernetwork.layer_structure"], row["optim.learning_rate"]


def best_settings(whole, step, candidates, keep):
    """By the mean over seeds of the losses of the sweep that trained everything."""
    means = {}
    for identity, row in results(whole).items():
        with open(whole / "sweep" / row["folder"] / "validation.csv") as rows:
            loss = next(float(line["concept_heldout"]) for line in csv.DictReader(rows) if int(line["step"]) == step)
        means.setdefault(setting(row), []).append(loss)
    return set(sorted(candidates, key=lambda one: sum(means[one]))[:keep])


def same_as_whole(folder, whole):
    """By number, since what is measured when is a part of the id."""
    for step in (*RUNGS, STEPS):
        ours, theirs = ({name[:3]: bits for name, bits in parameters(one, step).items()} for one in (folder, whole))
        assert ours, step
        assert all(same_bits(ours[trial], theirs[trial]) for trial in ours), step


def test_the_best_settings_go_on_with_the_same_bits(whole, halved):
    rows = results(halved)
    first = best_settings(whole, RUNGS[0], {setting(row) for row in rows.values()}, 2)
    last = best_settings(whole, RUNGS[1], first, 1)
    for row in rows.values():
        expected = ("done", STEPS) if setting(row) in last else ("stopped", RUNGS[1] if setting(row) in first else RUNGS[0])
        assert (row["status"], int(row["steps"])) == expected
        assert (f"after update {row['steps']}" in row["reason"]) == (row["status"] == "stopped")
        assert bool(row["test_loss"]) == (row["status"] == "done"), "test images are measured at the end alone"
    assert [len(parameters(halved, step)) for step in (*RUNGS, STEPS)] == [8, 4, 2]
    same_as_whole(halved, whole)
    everything = results(whole)
    for identity, row in rows.items():
        if row["status"] == "done":
            assert row["heldout_loss"] == everything[identity]["heldout_loss"]
            assert row["test_loss"] == everything[identity]["test_loss"]
    assert sweep(halved / "x.sweep.cfg", "best").strip().endswith("best.pt")
    assert json.loads((halved / "sweep/best.json").read_text())["candidates"] == 2


def test_killed_again_and_again_it_ends_the_same(dataset, halved, whole, tmp_path):
    file = write(tmp_path, dataset, **HALVING, **{"validation.steps": 2})
    for code in (85, 85, 0):  # in the second pack of rung 0, then in the last rung
        sweep(file, "run", "--pack", "4", "--train.stop_after", "3", code=code)
    same_as_whole(tmp_path, whole)
    ours, theirs = results(tmp_path), results(halved)
    for column in ("status", "steps", "heldout_loss", "reason"):
        assert {i: row[column] for i, row in ours.items()} == {i: row[column] for i, row in theirs.items()}
    assert "updates of 2 samples" not in sweep(file, "run", "--pack", "4"), "nothing is left to do"


def test_rungs_as_array_elements_on_two_ranks(dataset, halved, whole, tmp_path):
    # Without validation.steps: the rungs are measured all the same.
    file = write(tmp_path, dataset, **HALVING)
    assert "--rung" in sweep(file, "pack", "0", "--pack", "4", code=2)
    assert "cannot be judged" in sweep(file, "pack", "0", "--pack", "4", "--rung", "1", code=1)
    for rung, packs in enumerate([2, 1, 1]):
        for pack in range(packs):
            said = sweep(file, "pack", pack, "--pack", "4", "--rung", rung, ranks=2)
            assert f"rung {rung}, pack {pack}: nothing is left to do" in said
    assert len(parameters(tmp_path, STEPS)) == 2
    same_as_whole(tmp_path, whole)
    sweep(file, "collect")
    assert sorted(row["status"] for row in results(tmp_path).values()) == ["done"] * 2 + ["stopped"] * 6
    assert "rung" in sweep(file, "pack", "0", "--pack", "4", "--rung", "3", code=2)


def test_alone_too_and_a_failed_trial_loses(dataset, tmp_path):
    file = write(tmp_path, dataset, **HALVING, **{
        "hypernetwork.layer_structure": "1,1,1", "optim.learning_rate": "1e30 | 1e-3 | 1e-4", "optim.lr_scheduler": "constant",
        "train.max_grad_norm": 0, "train.max_train_steps": 6, "sweep.seeds": "0"})
    sweep(file, "run", code=1)
    found = {}
    for row in results(tmp_path).values():
        found.setdefault(row["optim.learning_rate"], []).append(row["status"])
    assert len(found) == 3 and found.pop("1e+30" if "1e+30" in found else "1e30") == ["failed"]
    assert sorted(found.values()) == [["done"], ["stopped"]]
    table = sweep(file, "plan")
    assert "rung 0" in table and "halving saves" in table


def test_bad_options_are_named_before_anything_is_written(dataset, tmp_path):
    file = write(tmp_path, dataset, **HALVING)
    assert "sweep.halving_min_steps" in sweep(file, "run", "--sweep.halving_min_steps", STEPS, code=2)
    assert "sweep.halving_factor" in sweep(file, "plan", "--sweep.halving_factor", "1", code=2)
    assert "no rungs" in sweep(file, "pack", "0", "--pack", "4", "--rung", "0", "--sweep.halving_factor", "0", code=2)
    assert not (tmp_path / "sweep/trials").exists()
