"""A search with Optuna: packs of suggestions are trained, told, and go on after an interruption; the sweep's commands read it."""

import csv
import json
import os
import subprocess
import sys

import optuna
import pytest

from support import BINARY, SOURCE, environment, prepare
from sweeps import sweep, write_sweep


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "eight", 8, "--validation_images", "1", "--test_images", "1")


def write(folder, dataset):
    folder.mkdir(exist_ok=True)
    return write_sweep(folder, dataset, **{
        "optim.learning_rate": "log_uniform(1e-4, 1e-1)", "hypernetwork.layer_structure": "1,1 | 1,2,1",
        "hypernetwork.activation": "choice(relu; linear)", "train.max_train_steps": 3, "train.global_batch_size": 1,
        "validation.timesteps": 4, "sweep.draws": 2})


def search(folder, *words, code=0):
    command = [sys.executable, "-m", "ldmtune_analysis", "optuna", folder / "x.sweep.cfg", "--program", BINARY, "--pack", "2", *words]
    settings = dict(environment(), PYTHONPATH=os.fspath(SOURCE / "analysis"))
    done = subprocess.run(list(map(str, command)), env=settings, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def told(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "sweep/optuna/journal.log"))
    study = optuna.load_study(study_name="ldmtune", storage=optuna.storages.JournalStorage(backend))
    return [(trial.state.name, trial.params, trial.value, trial.user_attrs) for trial in study.trials]


def test_a_search_goes_on_where_it_was_interrupted(dataset, tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    write(stopped, dataset)
    assert "goes on" in search(stopped, "--trials", 3, "--train.stop_after", 2, code=85)
    assert [state for state, *_ in told(stopped)] == ["RUNNING"] * 2
    assert "trials 0 to 1 of 3 told; best held-out loss" in search(stopped, "--trials", 3)
    write(whole, dataset)
    search(whole, "--trials", 3)
    assert told(whole) == told(stopped)

    with open(whole / "sweep/results.csv") as rows:
        results = {row["id"]: row for row in csv.DictReader(rows)}
    assert len(results) == 3 and {row["status"] for row in results.values()} == {"done"}
    for state, values, loss, attributes in told(whole):
        row = results[attributes["trials"][0]]
        assert state == "COMPLETE" and loss == float(row["heldout_loss"])
        assert float(row["optim.learning_rate"]) == values["optim.learning_rate"]
        assert row["hypernetwork.layer_structure"] == values["hypernetwork.layer_structure"]
    sweep(whole / "sweep/optuna/sweep.cfg", "best")
    best = json.loads((whole / "sweep/best.json").read_text())
    assert best["scores"]["heldout_loss"] == min(loss for _, _, loss, _ in told(whole))
