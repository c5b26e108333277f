"""stop.rule = dvar: the rule against numpy, the same stop on other ranks and after a resume, in packs too."""

import csv
import json

import numpy as np
import pytest

from support import BASE, checkpoints, prepare, run
from sweeps import sweep, write_sweep

WINDOW, EVERY, THRESHOLD = 8, 2, 0.15
# Fast, then nearly not at all: the loss settles soon after update 8.
STOP = {"stop.rule": "dvar", "stop.window": WINDOW, "stop.every": EVERY, "stop.threshold": THRESHOLD, "stop.images": 2,
        "optim.learning_rate": "2e-2:8, 1e-7", "train.max_train_steps": 60}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "eight", 8, "--validation_images", "1", "--test_images", "1")


def options(dataset, output, **changes):
    settings = {
        "base": BASE, "data": dataset, "output": output, "hypernetwork.layer_structure": "1,1", "hypernetwork.name": "stop",
        "hypernetwork.weight_init": "XavierNormal", "train.global_batch_size": 4, "train.micro_batch_size": 1,
        "train.checkpointing_steps": 0, "train.checkpoints_total_limit": 0, "validation.steps": 0, **STOP,
    }  # fmt: skip
    settings.update(changes)
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    output = run(options(dataset, folder))
    assert "Ends after update" in output
    return folder


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_the_rule_is_that_of_the_paper(reference):
    rows = list(csv.DictReader((reference / "stopping.csv").open()))
    steps, losses = [int(row["step"]) for row in rows], np.array([float(row["loss"]) for row in rows])
    assert steps == list(range(0, steps[-1] + 1, EVERY))
    values = WINDOW // EVERY
    for i, row in enumerate(rows):
        seen = losses[: i + 1]
        if len(seen) < values:
            assert row["ratio"] == ""
            continue
        ratio = np.var(seen[-values:]) / np.var(seen)
        assert abs(float(row["ratio"]) - ratio) < 1e-9
        assert (ratio < THRESHOLD) == (i == len(rows) - 1), "it ends at the first value below the threshold"
    assert steps[-1] < 60


def test_result_and_checkpoint_are_those_of_the_stop(dataset, reference, tmp_path):
    found, step = result(reference), int(list(csv.DictReader((reference / "stopping.csv").open()))[-1]["step"])
    assert (found["steps"], found["max_train_steps"], found["stopped_by"]) == (step, 60, "dvar")
    assert list(checkpoints(reference)) == [f"step-{step:08d}"] and found["checkpoint"].endswith(f"step-{step:08d}")
    assert (reference / "metrics.csv").read_text().splitlines()[-1].startswith(f"{step},")
    assert (reference / "validation.csv").read_text().splitlines()[-1].startswith(f"{step},")
    run(options(dataset, tmp_path / "run", **{"stop.rule": "none", "train.max_train_steps": step}))
    assert checkpoints(tmp_path / "run") == checkpoints(reference), "watching changes no bits"
    assert result(tmp_path / "run")["stopped_by"] is None and not (tmp_path / "run/stopping.csv").exists()


@pytest.mark.parametrize("first, then", [(3, 2), (5, 1)])
def test_ranks_and_resumes_stop_alike(dataset, reference, tmp_path, first, then):
    run(options(dataset, tmp_path / "run", **{"train.stop_after": first}), then, code=85)
    run(options(dataset, tmp_path / "run", **{"train.resume_from_checkpoint": "latest"}), 3 - then)
    assert (tmp_path / "run/stopping.csv").read_text() == (reference / "stopping.csv").read_text()
    step = f"step-{result(reference)['steps']:08d}"
    assert checkpoints(tmp_path / "run")[step] == checkpoints(reference)[step]
    assert result(tmp_path / "run")["heldout_loss"] == result(reference)["heldout_loss"]


def test_a_stopped_run_is_finished_by_a_resume_and_goes_on_without_the_rule(dataset, reference, tmp_path):
    run(options(dataset, tmp_path / "run"))
    before = result(tmp_path / "run")
    (tmp_path / "run/result.json").unlink()  # killed between the checkpoint and the result
    run(options(dataset, tmp_path / "run", **{"train.resume_from_checkpoint": "latest"}))
    after = result(tmp_path / "run")
    assert [after[key] for key in ("steps", "stopped_by", "heldout_loss")] == [before[key] for key in ("steps", "stopped_by", "heldout_loss")]
    more = {"train.resume_from_checkpoint": "latest", "stop.rule": "none", "train.max_train_steps": before["steps"] + 2}
    run(options(dataset, tmp_path / "run", **more))
    assert result(tmp_path / "run")["steps"] == before["steps"] + 2 and result(tmp_path / "run")["stopped_by"] is None


def test_a_trial_that_stops_leaves_its_pack(dataset, tmp_path):
    file = write_sweep(tmp_path, dataset, **{
        **STOP, "stop.rule": "dvar | none", "train.max_train_steps": 20, "hypernetwork.layer_structure": "1,1",
        "hypernetwork.weight_init": "XavierNormal", "train.global_batch_size": 2, "train.micro_batch_size": 1})  # fmt: skip
    sweep(file, "run", "--pack", "2")
    rows = list(csv.DictReader((tmp_path / "sweep/results.csv").open()))
    assert [row["status"] for row in rows] == ["done", "done"]
    assert int(rows[0]["steps"]) < 20 and int(rows[1]["steps"]) == 20


@pytest.mark.parametrize("changes, expected", [
    ({"stop.rule": "patience"}, ["stop.rule", "none or dvar", "patience"]),
    ({"stop.every": 0}, ["stop.every", "1 or more"]),
    ({"stop.window": 3}, ["stop.window", "two times stop.every (2)", "found 3"]),
    ({"stop.threshold": 0}, ["stop.threshold", "between 0 and 1"]),
    ({"stop.images": 0}, ["stop.images"]),
    ({"train.early_stop_eps": 0.1}, ["stop.threshold"]),
])  # fmt: skip
def test_bad_options(dataset, tmp_path, changes, expected):
    output = run(options(dataset, tmp_path / "run", **changes), code=2)
    assert all(text in output for text in expected), output
    assert not (tmp_path / "run").exists()
