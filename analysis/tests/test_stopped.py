"""Trials that successive halving stopped: shown as such, ranked nowhere."""

import json

import pytest
from ldmtune_analysis import collect, load_results, load_sweep
from ldmtune_analysis.report import render
from synthetic import write_sweep


@pytest.fixture()
def sweep(tmp_path):
    """Trial 3 has the lowest loss, after 100 updates of 300."""
    folder = write_sweep(tmp_path / "demo", [0.07, 0.08, 0.09, 0.05])
    file = next((folder / "trials").glob("003-*")) / "result.json"
    result = json.loads(file.read_text())
    result.update(status="stopped", rung=1, steps=100, test_loss=None, reason="rung 1, after update 100; 2 of 4 went on")
    file.write_text(json.dumps(result))
    return load_sweep(folder)


def test_it_is_neither_done_nor_unfinished(sweep):
    assert [run.trial for run in sweep.stopped] == [3] and sweep.unfinished == []
    assert [configuration.runs[0].trial for configuration in sweep.configurations] == [0, 1, 2]
    row = sweep.table.set_index("trial").loc[3]
    assert row["status"] == "stopped" and row["steps"] == 100 and row["reason"].startswith("rung 1")


def test_what_it_cost_is_what_it_trained(sweep):
    for run in sweep.runs:
        run.planned["tflops"] = 9.0
    assert [run.tflops for run in sweep.runs] == [9.0, 9.0, 9.0, pytest.approx(3.0)]


def test_the_report_lists_it_apart(sweep):
    page = render(sweep)
    assert "3 of 4 trials done" in page and "1 stopped by successive halving" in page
    stopped = page.split("Stopped early")[1]
    assert "003-" in stopped and "rung 1" in stopped and "0.0500" in stopped
    ranking = page.split("Ranking")[1].split("Stopped early")[0]
    assert "1,2,4,2,1 · layer norm" not in ranking


def test_a_collection_says_so(sweep, tmp_path):
    collect([sweep], tmp_path / "all.h5")
    table = load_results(tmp_path / "all.h5").set_index("trial")
    assert list(table["status"]) == ["done", "done", "done", "stopped"]
    assert table.loc[3, "steps"] == 100 and table.loc[3, "reason"].startswith("rung 1")
