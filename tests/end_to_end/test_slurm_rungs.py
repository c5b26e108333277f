"""Successive halving on Slurm, with stand-ins for Slurm and the program: an array for each rung, and what status says."""

import json
import re
import subprocess
import sys

import pytest

from support import SOURCE
from test_slurm_submit import Desk

RUNGS = """
successive halving  up to step  settings  trials  TFLOP  packs
------------------  ----------  --------  ------  -----  -----
rung 0              10          6         6       0.60   2
rung 1              20          3         3       0.30   1
rung 2              60          1         1       0.40   1
""".replace("\n", "\\n")


@pytest.fixture()
def desk(tmp_path):
    return Desk(tmp_path)


def submit(desk, *words, **environment):
    return desk.submit("--pack", "4", "x.sweep.cfg", "--sweep.halving_factor", "2", *words, RUNGS=RUNGS, **environment)


def ended(desk, number, status, steps, **more):
    run = desk.output / f"trials/{number:03d}-{str(number) * 8}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(json.dumps({"status": status, "steps": steps, "heldout_loss": 0.125, **more}))


def judge(desk, rung, candidates, survivors):
    (desk.output / "halving").mkdir(exist_ok=True)
    entries = [{"id": str(number) * 8, "heldout_loss": 0.1} for number in candidates]
    text = {"rung": rung, "candidates": entries, "go_on": [[str(number) * 8 for number in survivors]]}
    (desk.output / f"halving/rung-{rung}.json").write_text(json.dumps(text))


def status(desk, queued):
    """Lines of status.sh by trial."""
    (desk.folder / "bin/squeue").write_text(f"#!/bin/sh\nprintf '{queued}'\n")
    command = ["env", f"PATH={desk.folder}/bin:/usr/bin:/bin", sys.executable, SOURCE / "slurm/sweep_jobs.py", "status", desk.output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}


def test_an_array_for_each_rung_after_the_one_before(desk):
    said = submit(desk)
    first, second, third, report = desk.submitted()
    assert "--array=0-1%16 " in first and "--dependency" not in first and first.endswith(" 0")
    assert "--array=0%16 --dependency=afterany:1 " in second and "rung-1-%a.log" in second and second.endswith(" 1")
    assert "--array=0%16 --dependency=afterany:2 " in third and third.endswith(" 2")
    assert "--dependency=afterany:3 " in report
    folder = desk.output / "slurm/001"
    assert (folder / "rungs").read_text() == "0 1 0-1\n1 2 0\n2 3 0\n"
    assert (folder / "jobs").read_text() == "3\n0\n4\n"
    assert "rungs 0 1 2, one after the other" in said and "report job 4" in said


def test_without_packs_its_elements_are_packs_of_one(desk):
    desk.submit("x.sweep.cfg", RUNGS=RUNGS)
    assert (desk.output / "slurm/001/pack").read_text() == "1"


def test_elements_cannot_be_named(desk):
    assert "leave it out" in desk.submit("--elements", "1", "x.sweep.cfg", RUNGS=RUNGS, code=2)
    assert not desk.submitted() and not desk.output.exists()


def test_submitted_again_it_goes_on_with_the_rung_that_is_not_judged(desk):
    submit(desk)
    for number in (0, 1, 2, 3, 4):
        ended(desk, number, "paused", 10)
    submit(desk)
    assert [re.search(r"--array=(\S+)%16", line)[1] for line in desk.submitted()[4:7]] == ["1", "0", "0"]
    judge(desk, 0, range(6), [1, 2, 5])
    submit(desk)
    second, third, _ = desk.submitted()[8:]
    assert second.endswith(" 1") and "--dependency" not in second and third.endswith(" 2")
    judge(desk, 1, [1, 2, 5], [2])
    ended(desk, 2, "done", 60)
    assert "nothing to submit" in submit(desk)


def test_a_sweep_in_the_queue_is_not_submitted_twice(desk):
    submit(desk)
    said = submit(desk, QUEUED="1|0|FAILED|n1\n2|0|PENDING|(Dependency)\n")
    assert "in the queue already (2)" in said and len(desk.submitted()) == 4


def test_a_sweep_of_which_an_array_was_refused_leaves_no_jobs(desk):
    (desk.folder / "bin/sbatch").write_text('#!/bin/sh\ncase "$*" in *afterany*) exit 1 ;; *) echo 17 ;; esac\n')
    submit(desk, code=1)
    assert (desk.folder / "record.cancelled").read_text() == "scancel --quiet 17\n"
    assert not desk.output.exists()


def test_status_follows_the_rungs(desk):
    submit(desk)
    ended(desk, 0, "paused", 10)
    said = status(desk, "1|0|COMPLETED|n1\\n1|1|RUNNING|n2\\n2|0|PENDING|(Dependency)\\n")
    assert "pending" in said["0"] and "at step 10, held-out loss 0.125, waits for its rung" in said["0"]
    assert "1_1" in said["4"] and "its element runs" in said["4"]
    for number in range(6):
        ended(desk, number, *(("paused", 10) if number in (1, 2, 5) else ("stopped", 10)), reason="rung 0, after update 10")
    judge(desk, 0, range(6), [1, 2, 5])
    said = status(desk, "1|0|COMPLETED|n1\\n2|0|RUNNING|n1\\n3|0|PENDING|(Dependency)\\n")
    assert "stopped" in said["0"] and said["0"].endswith("rung 0, after update 10")
    assert "2_0" in said["1"] and "2_0" in said["5"] and "1_0" in said["3"]
    assert "3 pending, 3 stopped" in said["6"]


def test_status_of_a_rung_that_ended_badly(desk):
    submit(desk)
    ended(desk, 0, "paused", 10)
    said = status(desk, "1|0|COMPLETED|n1\\n1|1|NODE_FAIL|n2\\n2|0|FAILED|n1\\n3|0|FAILED|n1\\n")
    assert "failed" in said["4"] and "NODE_FAIL" in said["4"]
    assert "failed" in said["0"] and "the job ended (COMPLETED, n1) at step 10" in said["0"]
