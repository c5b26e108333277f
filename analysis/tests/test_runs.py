import json
import math

import pytest
from ldmtune_analysis import load_run, load_runs, load_sweep
from ldmtune_analysis.runs import option_label
from synthetic import write_run, write_sweep


def test_a_run_becomes_tables(tmp_path):
    write_run(tmp_path / "run", 0.07, seed=3)
    run = load_run(tmp_path / "run")
    assert run.status == "done" and run.seed == 3
    assert run.config["data"] == '"sets/a#1"' and run.config["train.max_train_steps"] == "300"
    assert len(run.metrics) == 300 and run.validation["step"].iloc[-1] == 300
    assert len(run.losses()) == 8 and len(run.losses("test")) == 8
    assert run.losses().mean() == pytest.approx(run.score("heldout_loss"))
    assert run.losses(at="base").mean() == pytest.approx(run.score("base_heldout_loss"))
    assert math.isnan(run.score("no_such_score"))


def test_an_unfinished_run_has_empty_tables(tmp_path):
    (tmp_path / "run" / "checkpoints" / "step-00000100").mkdir(parents=True)
    run = load_run(tmp_path / "run")
    assert run.status == "interrupted"
    assert run.metrics.empty and run.losses().empty
    assert load_run(tmp_path / "nothing").status == "pending"


def test_configurations_group_seeds_and_rank_by_their_mean(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07, 0.08], seeds=(0, 1, 2)))
    ranked = sweep.configurations
    assert [len(configuration.runs) for configuration in ranked] == [3, 3, 3]
    assert ranked[0].label == "1,2,1 · layer norm"
    assert ranked[0].mean("heldout_loss") < ranked[1].mean("heldout_loss") < ranked[2].mean("heldout_loss")
    assert 0 < ranked[0].spread("heldout_loss") < 0.005
    assert ranked[0].exported.seed == 0, "the fixture's lowest seed has the lowest loss"
    assert ranked[0].losses().shape == (8, 3) and ranked[0].losses(at="base").shape == (8, 1)
    assert ranked[0].against_base().below_zero
    assert ranked[2].against(ranked[0]).above_zero


def test_a_single_seed_has_no_spread(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09]))
    assert math.isnan(sweep.configurations[0].spread("heldout_loss"))


def test_equal_configurations_are_tied(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.0700, 0.0701, 0.09]))
    first, second, third = sweep.configurations
    assert second.against(first).holds_zero
    assert third.against(first).above_zero


def test_failed_trials_are_kept_apart(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07], fail=(1,)))
    assert [run.name[:3] for run in sweep.unfinished] == ["001"]
    assert sweep.unfinished[0].status == "failed" and "nan" in sweep.unfinished[0].reason
    assert len(sweep.configurations) == 1
    assert list(sweep.table["status"]) == ["done", "failed"]


def test_the_table_has_a_row_a_trial(tmp_path):
    table = load_sweep(write_sweep(tmp_path / "sweep", [0.09, 0.07, 0.08, 0.06])).table
    assert list(table["trial"]) == [0, 1, 2, 3]
    assert {"hypernetwork.layer_structure", "seed", "heldout_loss", "adjacent_loss", "reason"} <= set(table)


def test_a_missing_number_is_nan(tmp_path):
    sweep = load_sweep(write_sweep(tmp_path / "sweep", [0.09], adjacent=False))
    assert math.isnan(sweep.configurations[0].mean("adjacent_loss"))


def test_single_runs_are_compared_under_their_names(tmp_path):
    write_run(tmp_path / "a", 0.09)
    write_run(tmp_path / "b", 0.07)
    sweep = load_runs([tmp_path / "a", tmp_path / "b"])
    assert [configuration.label for configuration in sweep.configurations] == ["b", "a"]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="sweep.json"):
        load_sweep(tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        load_runs([tmp_path / "gone"])


def test_a_damaged_result_is_an_error(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [0.09])
    next((folder / "trials").glob("*/result.json")).write_text("[1]")
    with pytest.raises(ValueError, match="result.json"):
        load_sweep(folder)


@pytest.mark.parametrize(
    "options, label",
    [
        ({"hypernetwork.layer_structure": "1,2,1", "hypernetwork.layer_norm": "true"}, "1,2,1 · layer norm"),
        (
            {"optim.learning_rate": "1e-3", "hypernetwork.dropout_structure": ""},
            "learning rate 1e-3 · dropout structure none",
        ),
        ({}, ""),
    ],
)
def test_labels_read_well(options, label):
    assert option_label(options) == label


def test_json_of_the_fixture_is_the_contract(tmp_path):
    result = write_run(tmp_path / "run", 0.07)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == pytest.approx(result)


def test_only_the_options_that_differ_are_shown(tmp_path):
    for name, rate in (("a", "1e-3"), ("b", "2e-3")):
        write_run(tmp_path / name, 0.09)
        with open(tmp_path / name / "config.cfg", "a") as file:
            file.write(f"log_steps = 1\n\n[optim]\nlearning_rate = {rate}\n\n[output]\n")
    sweep = load_runs([tmp_path / "a", tmp_path / "b"])
    assert sweep.varied == ["folder", "optim.learning_rate"]
    assert {configuration.label for configuration in sweep.configurations} == {
        "a · learning rate 1e-3",
        "b · learning rate 2e-3",
    }


def test_a_sweep_stands_for_its_trials_in_a_comparison(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [0.09, 0.07])
    write_run(tmp_path / "a", 0.08)
    assert [run.name for run in load_runs([folder, tmp_path / "a"]).runs] == ["000-00000000", "001-00000001", "a"]


def test_replicates_are_seeds_and_subset_draws(tmp_path):
    folder = write_sweep(tmp_path / "sweep", [0.09], seeds=(0, 1))
    plan = folder / "sweep.json"
    plan.write_text(plan.read_text().replace('"seed": 1', '"seed": 0, "subset_seed": 3'))
    (configuration,) = load_sweep(folder).configurations
    assert list(configuration.losses().columns) == ["0", "0/3"]
    assert list(load_sweep(folder).table["subset_seed"]) == [0, 3]
