"""slurm/sweep_jobs.py: which elements are submitted, and what status says, with made-up answers of Slurm."""

import importlib.util
import json
import os
import subprocess
import time

import pytest

from support import SOURCE

PLAN = """trial  id        optim.learning_rate  seed  trainable parameters  steps
-----  --------  -------------------  ----  --------------------  -----
0      00000000  1e-3                 0     51,680                60
1      11111111  1e-3                 1     51,680                60
2      22222222  5e-4                 0     51,680                60
3      33333333  5e-4                 1     51,680                60
"""


@pytest.fixture()
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(SOURCE / "slurm"))
    spec = importlib.util.spec_from_file_location("sweep_jobs", SOURCE / "slurm/sweep_jobs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.answers = {"id": "me\n", "squeue": "", "sacct": None}

    def answer(*command):
        said = module.answers[command[0]]
        return (said, "") if said is not None else (None, command[0] + " is not there")

    monkeypatch.setattr(module, "output_of", answer)
    return module


@pytest.fixture()
def folder(tmp_path):
    return submission(tmp_path, "001", [[0, 1], [2, 3]], "7\n0-1\n8\n")


def submission(folder, name, elements, jobs=""):
    """A submission of trials by element; returns `folder`."""
    here = folder / "slurm" / name
    here.mkdir(parents=True)
    (here / "plan.txt").write_text(PLAN)
    rows = [f"{n}\t{','.join(map(str, trials))}\t{','.join(str(t) * 8 for t in trials)}" for n, trials in enumerate(elements)]
    (here / "elements.tsv").write_text("\n".join(rows) + "\n")
    if jobs:
        (here / "jobs").write_text(jobs)
    return folder


def trial(folder, number, steps=0, done=False, beat=None, failed=""):
    run = folder / "trials" / f"{number:03d}-{str(number) * 8}"
    run.parent.mkdir(exist_ok=True)
    if failed:
        run.with_name(run.name + ".failed.json").write_text(json.dumps({"reason": failed}))
        return
    run.mkdir()
    (run / "config.cfg").write_text("[train]\nmax_train_steps = 60    # updates\n")
    (run / "metrics.csv").write_text("step,epoch\n" + "".join(f"{step},0.1\n" for step in range(1, steps + 1)))
    if done:
        (run / "result.json").write_text(json.dumps({"status": "done", "heldout_loss": 0.125}))
    if beat is not None:
        (run / "lock.json").write_text(json.dumps({"heartbeat": time.time() - beat}))


def lines(jobs, folder, capsys, code):
    assert jobs.status(folder) == code
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}


def test_states_of_a_sweep_in_progress(jobs, folder, capsys):
    trial(folder, 0, 60, done=True)
    trial(folder, 1, 17, beat=3)
    jobs.answers["squeue"] = "7|0|RUNNING|n3\n7|1|PENDING|(JobArrayTaskLimit)\n8|N/A|PENDING|(Dependency)\n"
    said = lines(jobs, folder, capsys, 0)
    assert "7_0" in said["0"] and "RUNNING n3" in said["0"] and said["0"].endswith("held-out loss 0.125")
    assert "running" in said["1"] and said["1"].endswith("at step 17 of 60")
    assert "7_1" in said["2"] and "pending" in said["2"] and "JobArrayTaskLimit" in said["2"]
    assert said["4"].startswith("4 trials: 1 done, 2 pending, 1 running")
    assert said["report"] == "report job 8: PENDING (Dependency)"


def test_a_requeued_trial_is_pending_at_its_step(jobs, folder, capsys):
    trial(folder, 2, 30, beat=5)
    jobs.answers["squeue"] = "7|0|RUNNING|n1\n7|1|PENDING|(BeginTime)\n"
    said = lines(jobs, folder, capsys, 0)
    assert "pending" in said["2"] and "at step 30 of 60, BeginTime" in said["2"]
    assert "its element runs" in said["0"]


def test_failed_trials_say_why(jobs, folder, capsys):
    trial(folder, 0, failed="update 3: not finite")
    trial(folder, 2, 30, beat=500)
    (folder / "slurm/001/element-1.log").write_text("Training\nslurmstepd: error: Exceeded job memory limit\nbye\n")
    jobs.answers["squeue"] = "7|0|COMPLETED|n1\n"
    jobs.answers["sacct"] = "7_0|COMPLETED|0:0|n1\n7_1|OUT_OF_MEMORY|0:125|n2\n7_1.batch|FAILED|1:0|n2\n"
    said = lines(jobs, folder, capsys, 1)
    assert "update 3: not finite" in said["0"]
    assert "the job ended (COMPLETED, n1)" in said["1"]
    assert "OUT_OF_MEMORY, exit 0:125) at step 30 of 60: slurmstepd: error: Exceeded job memory limit" in said["2"]


def test_a_failed_trial_that_was_submitted_again_is_pending(jobs, folder, capsys):
    """The old failure counts until the new element is submitted, and again if that fails too."""
    trial(folder, 0, failed="update 3: not finite")
    trial(folder, 1, 9)
    trial(folder, 1, failed="out of memory")
    trial(folder, 2, failed="update 8: not finite")
    submission(folder, "002", [[0, 1], [2, 3]], "9\n0-1\n10\n")
    for name in ("000-00000000", "001-11111111", "002-22222222"):
        os.utime(folder / f"trials/{name}.failed.json", (time.time() - 60, time.time() - 60))
    jobs.answers["squeue"] = "7|0|FAILED|n1\n9|0|PENDING|(Priority)\n9|1|RUNNING|n2\n"
    said = lines(jobs, folder, capsys, 0)
    assert "9_0" in said["0"] and "pending" in said["0"] and said["0"].endswith("Priority")
    assert "pending" in said["1"] and said["1"].endswith("at step 9 of 60, Priority")
    assert "pending" in said["2"] and said["2"].endswith("its element runs")
    assert said["4"].startswith("4 trials: 4 pending")
    trial(folder, 2, failed="again not finite")  # in the new element, which still trains the others of its pack
    said = lines(jobs, folder, capsys, 1)
    assert "failed" in said["2"] and said["2"].endswith("again not finite")
    jobs.answers["squeue"] = ""
    assert "failed" in lines(jobs, folder, capsys, 1)["0"]


def test_a_job_that_nobody_remembers(jobs, folder, capsys):
    trial(folder, 0, 9, beat=2)
    said = lines(jobs, folder, capsys, 1)
    assert "running" in said["0"]
    assert "no longer known to Slurm" in said["1"]


def test_elements_that_are_finished_or_queued_are_not_submitted_again(jobs, folder):
    submission(folder, "002", [[0, 1], [2, 3]])
    jobs.answers["squeue"] = "7|0|FAILED|n1\n7|1|RUNNING|n2\n"
    assert jobs.choose_elements(folder, folder / "slurm/002") == ([0], ["element 1 is in the queue already (7_1)"])
    trial(folder, 0, done=True)
    trial(folder, 1, failed="x")
    assert jobs.choose_elements(folder, folder / "slurm/002")[0] == [0]
    jobs.answers["squeue"] = ""
    assert jobs.choose_elements(folder, folder / "slurm/002")[0] == [0, 1]


def test_other_packs_keep_away_from_trials_in_the_queue(jobs, folder):
    """Trials are known by id: element 1 of the old submission is trials 2 and 3, now in elements of their own."""
    submission(folder, "002", [[0], [1], [2], [3]])
    jobs.answers["squeue"] = "7|0|COMPLETED|n1\n7|1|PENDING|(Resources)\n"
    assert jobs.choose_elements(folder, folder / "slurm/002")[0] == [0, 1]


def test_only_submitted_elements_count(jobs, folder, capsys):
    """Element 1 was left out of the second submission, so the first still says what became of it."""
    submission(folder, "002", [[0, 1], [2, 3]], "9\n0\n10\n")
    jobs.answers["squeue"] = "7|0|FAILED|n1\n7|1|COMPLETED|n1\n9|0|PENDING|(Resources)\n"
    said = lines(jobs, folder, capsys, 1)
    assert "9_0" in said["0"] and "7_1" in said["2"]


def test_an_unreachable_slurm_is_an_error(jobs, folder):
    jobs.answers["squeue"] = None
    with pytest.raises(SystemExit, match="squeue failed"):
        jobs.status(folder)


@pytest.mark.parametrize("text, options, expected", [
    ("[sweep]\noutput = runs/x   # here\n", [], "runs/x"),
    ('[sweep]\noutput = "runs/a # b"\n', [], "runs/a # b"),
    ("output = other\n[train]\noutput = no\n[sweep]\nseeds = 0\noutput=runs/y\n", [], "runs/y"),
    ("sweep.output = top\n", [], "top"),
    ("[sweep]\noutput = runs/x\n", ["--train.seed", "1", "--sweep.output", "z"], "z"),
    ("[sweep]\noutput = runs/x\n", ["--sweep.output=w"], "w"),
])
def test_the_folder_of_a_sweep(jobs, tmp_path, text, options, expected):
    (tmp_path / "x.cfg").write_text(text)
    assert jobs.sweep_output(tmp_path / "x.cfg", options) == expected


def test_a_file_without_output_is_refused(jobs, tmp_path):
    (tmp_path / "x.cfg").write_text("[sweep]\nseeds = 0\n")
    with pytest.raises(SystemExit, match="sweep.output"):
        jobs.sweep_output(tmp_path / "x.cfg", [])


@pytest.mark.parametrize("numbers, expected", [([0, 1, 2, 5], "0-2,5"), ([3], "3"), ([], ""), ([7, 4, 6], "4,6-7")])
def test_array_text(jobs, numbers, expected):
    assert jobs.array_text(numbers) == expected


def test_elements_of_the_plan(jobs, tmp_path, capsys):
    (tmp_path / "plan.txt").write_text(PLAN)
    jobs.list_elements(tmp_path)
    assert capsys.readouterr().out == "".join(f"{n}\t{n}\t{str(n) * 8}\n" for n in range(4))
    (tmp_path / "packs.txt").write_text("pack  trials\n----  ------\n0     0 2 3\n1     1\n")
    jobs.list_elements(tmp_path)
    assert capsys.readouterr().out == "0\t0,2,3\t00000000,22222222,33333333\n1\t1\t11111111\n"
    (tmp_path / "plan.txt").write_text("nothing\n")
    with pytest.raises(SystemExit, match="names no trials"):
        jobs.list_elements(tmp_path)


@pytest.mark.parametrize("words, expected", [
    (["submit.sh"], "expected a sweep file"),
    (["submit.sh", "nowhere.sweep.cfg"], "nowhere.sweep.cfg"),
    (["submit.sh", "--pack", "0", "x"], "--pack"),
    (["submit.sh", "--concurrent", "many", "x"], "--concurrent"),
    (["submit.sh", "--elements", "a", "x"], "--elements"),
    (["submit.sh", "--later", "x"], "--later"),
    (["status.sh", "nowhere.sweep.cfg"], "nowhere.sweep.cfg"),
])
def test_bad_usage_ends_with_2(words, expected):
    done = subprocess.run([SOURCE / "slurm" / words[0], *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and expected in done.stderr


@pytest.mark.parametrize("name", ["submit.sh", "status.sh"])
def test_help(name):
    done = subprocess.run([SOURCE / "slurm" / name, "--help"], capture_output=True, text=True, check=True)
    assert f"slurm/{name}" in done.stdout
