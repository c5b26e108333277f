import multiprocessing
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from ldmtune_analysis import load_sweep
from ldmtune_analysis.__main__ import main
from ldmtune_analysis import collection
from ldmtune_analysis.collection import COLUMNS, collect, load_results
from synthetic import write_sweep


def test_a_row_a_trial_with_typed_and_documented_columns(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07], seeds=(0, 1), fail=(3,)))
    file = collect([sweep], tmp_path / "results.h5")
    with h5py.File(file) as content:
        group = content["results"]
        assert group["heldout_loss"].dtype == np.float64 and group["trial"].dtype == np.int64
        assert group["heldout_loss"].attrs["unit"] == "mean squared error"
        assert all(group[name].attrs["description"] for name in group)
        assert group["hypernetwork.layer_norm"].asstr()[:].tolist() == ["false", "false", "true", "true"]
    table = load_results(file)
    assert list(table["trial"]) == [0, 1, 2, 3] and list(table["status"]) == ["done"] * 3 + ["failed"]
    assert set(COLUMNS) <= set(table.columns)
    assert np.isnan(table["test_loss"][3]) and pd.isna(table["best_step"][3]) and "nan" in table["reason"][3]
    assert table["test_loss"][0] == sweep.runs[0].score("test_loss")
    images = load_results(file, "image_losses")
    assert len(images) == 3 * 16 and set(images["kind"]) == {"heldout", "test"}
    csv = pd.read_csv(tmp_path / "results.csv")
    assert "0,00000000,done,0,0,hypernetwork,300,0.0" in (tmp_path / "results.csv").read_text()
    assert list(csv.columns) == list(table.columns) and csv["heldout_loss"].equals(table["heldout_loss"])


def test_sweeps_are_added_and_their_own_rows_replaced(tmp_path):
    first = write_sweep(tmp_path / "a", [0.09, 0.07])
    second = write_sweep(tmp_path / "b", [0.05], best=False, pictures=False)
    output = tmp_path / "all.h5"
    collect([load_sweep(first)], output)
    collect([load_sweep(second)], output)
    result = first / "trials" / "001-00000001" / "result.json"
    result.write_text(result.read_text().replace('"seconds": 41.0', '"seconds": 43.5'))
    collect([load_sweep(first)], output)
    table = load_results(output)
    assert len(table) == 3 and table.groupby("sweep").size().tolist() == [2, 1]
    assert sorted(table["seconds"]) == [41.0, 41.0, 43.5]
    assert len(load_results(output, "image_losses")) == 3 * 16


def _collect_one(folder, output):
    collect([load_sweep(folder)], output)


def test_many_collectors_at_once_lose_nothing(tmp_path):
    folders = [write_sweep(tmp_path / name, [0.09], best=False, pictures=False) for name in "abcd"]
    output = tmp_path / "all.h5"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_collect_one, args=(folder, output)) for folder in folders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(load_results(output)) == 4
    assert not list(tmp_path.glob("*.partial"))


def test_the_command_writes_into_the_first_sweep(tmp_path, capsys):
    folder = write_sweep(tmp_path / "sweep", [0.09])
    (folder / "results.csv").write_text("the sweep's own\n")
    assert main(["collect", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "collected.h5")
    assert list(pd.read_csv(folder / "collected.csv")["status"]) == ["done"]
    assert (folder / "results.csv").read_text() == "the sweep's own\n"
    assert main(["collect", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize("name, expected", [("results.h5", "results.csv, the sweep's own"), ("all.csv", "ends in .h5")])
def test_a_name_that_would_replace_another_file_is_refused(tmp_path, capsys, name, expected):
    folder = write_sweep(tmp_path / "sweep", [0.09])
    (folder / "results.csv").write_text("the sweep's own\n")
    assert main(["collect", str(folder), "-o", str(folder / name)]) == 2
    assert expected in capsys.readouterr().err
    assert (folder / "results.csv").read_text() == "the sweep's own\n" and not (folder / name).exists()


def test_the_train_loss_has_the_name_that_results_csv_gives_it(tmp_path, monkeypatch):
    folder = write_sweep(tmp_path / "a", [0.09])
    result = load_sweep(folder).runs[0].result
    # A file of before: under the keys of result.json.
    old = {collection._KEYS.get(name, name): documented for name, documented in COLUMNS.items()}
    with monkeypatch.context() as before:
        before.setattr(collection, "COLUMNS", old)
        before.setattr(collection, "_KEYS", {})
        collect([load_sweep(folder)], tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as content:
        assert "concept_train_loss" in content["results"] and "train_loss" not in content["results"]
    table = load_results(collect([load_sweep(write_sweep(tmp_path / "b", [0.07]))], tmp_path / "all.h5"))
    assert len(table) == 2 and "concept_train_loss" not in table
    assert table["train_loss"][0] == result["concept_train_loss"]
    assert table["base_train_loss"][0] == result["base_concept_train_loss"]


def test_the_readme_lists_the_columns():
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| x? ?\| x \|", readme, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(COLUMNS)


def test_options_of_one_sweep_are_empty_in_the_other(tmp_path):
    folder = write_sweep(tmp_path / "a", [0.09])
    other = write_sweep(tmp_path / "b", [0.09])
    plan = other / "sweep.json"
    plan.write_text(plan.read_text().replace("hypernetwork.layer_norm", "hypernetwork.activation"))
    table = load_results(collect([load_sweep(folder), load_sweep(other)], tmp_path / "all.h5"))
    assert table["hypernetwork.activation"].tolist() == ["", "false"]
    assert table["hypernetwork.layer_norm"].tolist() == ["false", ""]


@pytest.mark.parametrize("table", ["results", "image_losses"])
def test_an_unfinished_sweep_collects_too(tmp_path, table):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09], fail=(0,), pictures=False))
    assert len(load_results(collect([sweep], tmp_path / "r.h5"), table)) == (1 if table == "results" else 0)
