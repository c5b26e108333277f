"""The search with a stand-in for ldmtune, which trains nothing: its losses are a formula of the options."""

import sys
from pathlib import Path

import ldmtune_analysis
import optuna
import pytest
from ldmtune_analysis import load_sweep
from ldmtune_analysis.__main__ import main

PROGRAM = """#!{python}
import hashlib, itertools, json, pathlib, sys
sys.path.insert(0, {analysis!r})
from search_space import _file_settings, split_list, unquoted
words = sys.argv[2:]
assert sys.argv[1] == "sweep" and words[0] == "--config"
with open({calls!r}, "a") as log:
    log.write(" ".join(words[2:]) + "\\n")
given = dict(_file_settings(pathlib.Path(words[1])))
output = pathlib.Path(unquoted(given["sweep.output"]))
varied = [name for name in split_list(given.get("sweep.zip", ""), ",") if name]
seeds = split_list(given.get("sweep.seeds", "0"), ",")
rows = list(zip(*[split_list(given[name], "|") for name in varied])) or [()]
settings = [dict(given, **dict(zip(varied, row))) for row in rows]
trials, failed, new = [], False, 0
for setting, seed in itertools.product(settings, seeds):
    rate, norm = float(setting["optim.learning_rate"]), setting["hypernetwork.layer_norm"]
    identity = hashlib.sha256(json.dumps([setting["optim.learning_rate"], norm, seed]).encode()).hexdigest()[:8]
    folder = output / "trials" / ("000-" + identity)
    trials.append(dict(trial=len(trials), id=identity, folder="trials/" + folder.name, seed=int(seed),
                       options=dict((name, setting[name]) for name in varied)))
    if "collect" in words or (folder / "result.json").exists():
        continue
    new += 1
    if new > {stop_after}:
        sys.exit(85)
    folder.mkdir(parents=True, exist_ok=True)
    if rate > 0.5:
        pathlib.Path(str(folder) + ".failed.json").write_text(json.dumps(dict(reason="loss nan")))
        failed = True
    else:
        loss = abs(rate - 0.1) + (0.01 if norm == "true" else 0) + 0.001 * int(seed)
        (folder / "result.json").write_text(json.dumps(dict(status="done", heldout_loss=loss)))
(output / "sweep.json").write_text(json.dumps(dict(varied=varied, trials=trials)))
sys.exit(1 if failed else 0)
"""
CONFIG = """
base = some/base
[optim]
learning_rate = log_uniform(1e-3, 1)
[hypernetwork]
layer_norm = false | true
[sweep]
output = {output}
draws = 3
seeds = 0,1
"""


class Desk:
    def __init__(self, folder, config=CONFIG):
        self.folder, self.output, self.calls = folder, folder / "sweep", folder / "calls"
        folder.mkdir(exist_ok=True)
        (folder / "x.sweep.cfg").write_text(config.format(output=self.output))

    def program(self, stop_after=1000):
        file = self.folder / "ldmtune"
        root = str(Path(ldmtune_analysis.__file__).parent)
        file.write_text(
            PROGRAM.format(python=sys.executable, analysis=root, calls=str(self.calls), stop_after=stop_after)
        )
        file.chmod(0o755)
        return str(file)

    def search(self, *words, stop_after=1000):
        arguments = ["optuna", str(self.folder / "x.sweep.cfg"), "--program", self.program(stop_after), *map(str, words)]
        return main(arguments)

    def study(self):
        backend = optuna.storages.journal.JournalFileBackend(str(self.output / "optuna/journal.log"))
        return optuna.load_study(study_name="ldmtune", storage=optuna.storages.JournalStorage(backend))

    def told(self):
        return [(trial.number, trial.state.name, trial.params, trial.value) for trial in self.study().trials]


def test_it_asks_a_pack_at_a_time_and_tells_mean_losses(tmp_path):
    desk = Desk(tmp_path)
    assert desk.search("--trials", 10, "--pack", 4) == 0
    calls = desk.calls.read_text().splitlines()
    assert [call for call in calls if call.startswith("run")] == ["run --pack 4 --sweep.pictures 0"] * 3
    assert calls[-1] == "collect"
    told = desk.told()
    assert [number for number, *_ in told] == list(range(10))
    states = {state for _, state, *_ in told}
    assert "COMPLETE" in states
    for _, state, values, loss in told:
        rate = values["optim.learning_rate"]
        if state == "COMPLETE":
            assert loss == pytest.approx(abs(rate - 0.1) + 0.01 * (values["hypernetwork.layer_norm"] == "true") + 0.0005)
        else:
            assert rate > 0.5 and loss is None
    assert {run.status for run in load_sweep(desk.output).runs} <= {"done", "failed"}
    assert len(load_sweep(desk.output).runs) == 20


def test_the_seed_decides_and_an_interruption_changes_nothing(tmp_path):
    whole, stopped, other = Desk(tmp_path / "whole"), Desk(tmp_path / "stopped"), Desk(tmp_path / "other")
    assert whole.search("--trials", 9, "--pack", 3) == 0
    assert stopped.search("--trials", 6, "--pack", 3, stop_after=3) == 85
    assert [state for _, state, *_ in stopped.told()] == ["RUNNING"] * 3
    assert stopped.search("--trials", 6, "--pack", 3) == 0
    assert stopped.search("--trials", 9, "--pack", 3) == 0
    assert stopped.told() == whole.told()
    assert other.search("--trials", 9, "--pack", 3, "--seed", 1) == 0
    assert other.told() != whole.told()


def test_a_kill_between_two_questions_changes_nothing(tmp_path):
    whole, killed = Desk(tmp_path / "whole"), Desk(tmp_path / "killed")
    assert whole.search("--trials", 4, "--pack", 4) == 0
    assert killed.search("--trials", 4, "--pack", 4, stop_after=0) == 85
    journal = killed.output / "optuna/journal.log"
    lines = journal.read_text().splitlines(keepends=True)
    values = [index for index, line in enumerate(lines) if "param_name" in line]
    journal.write_text("".join(lines[: values[2] + 1]))  # the second trial has one of its two values
    assert killed.search("--trials", 4, "--pack", 4) == 0
    assert killed.told() == whole.told()


def test_a_search_of_one_at_a_time_learns(tmp_path):
    desk = Desk(tmp_path)
    assert desk.search("--trials", 20, "--train.device", "cpu") == 0
    assert desk.study().best_value < 0.04
    assert "device = cpu" in (desk.output / "optuna/sweep.cfg").read_text()


def test_what_cannot_be_searched_is_said(tmp_path, capsys):
    desk = Desk(tmp_path, CONFIG + "halving_factor = 3\n")
    assert desk.search("--trials", 2) == 2 and "sweep.halving_factor" in capsys.readouterr().err
    desk = Desk(tmp_path / "fixed", "[optim]\nlearning_rate = 1\n[sweep]\noutput = {output}\n")
    assert desk.search("--trials", 2) == 2 and "no option varies" in capsys.readouterr().err
    assert not desk.output.exists()
    desk = Desk(tmp_path / "changed")
    assert desk.search("--trials", 2) == 0
    assert desk.search("--trials", 4, "--base", "another/base") == 2
    assert "begun with base = some/base" in capsys.readouterr().err
    assert desk.search("--trials", 4, "word") == 2


def test_without_optuna_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    desk = Desk(tmp_path)
    assert desk.search("--trials", 2) == 2
    assert "pip install" in capsys.readouterr().err
    assert not desk.output.exists()
