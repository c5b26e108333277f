"""slurm/report.sbatch with stand-ins for Slurm, the program and the analysis: whatever fails, the rest is made."""

import pytest

from test_slurm_submit import Desk

# Writes down what it is asked for, and fails where the fault is in that.
PROGRAM = '''echo "$*" >>"$RECORD"
case "$*" in *--sweep.pictures*) ;; *" $FAULT") echo "error: the disk is full" >&2; exit "${CODE:-1}" ;; esac'''


@pytest.fixture()
def desk(tmp_path):
    """A submitted sweep whose array has ended."""
    desk = Desk(tmp_path)
    desk.submit("x.sweep.cfg", "--train.seed", "1")
    desk.record.unlink()
    desk.command("ldmtune", PROGRAM)
    desk.command("sleep", "exit 0")  # after a requeue
    desk.command("scontrol", 'echo "scontrol $*" >>"$RECORD"')
    return desk


def report(desk, fault="nothing", code=0, **environment):
    (desk.root / "slurm/report.sbatch").chmod(0o755)
    job = dict(SLURM_JOB_ID="7", SLURM_NTASKS="1", SLURM_JOB_NODELIST="n1", SLURM_RESTART_COUNT="0")
    return desk.script("report.sbatch", desk.root, desk.output / "slurm/001", code=code, FAULT=fault, **job, **environment)


def asked_for(desk):
    before = f"sweep --config {desk.output}/slurm/001/sweep.cfg --train.seed 1 "
    return [line.removeprefix(before) for line in desk.record.read_text().splitlines()]


def test_pictures_the_winner_and_the_page(desk):
    assert f"analysis report {desk.output}" in report(desk)
    assert asked_for(desk) == ["collect", "best"]


def test_pictures_that_cannot_be_drawn_stop_nothing_else(desk):
    said = report(desk, "collect", code=1)
    assert "the disk is full" in said and "collect failed with exit code 1" in said
    assert asked_for(desk) == ["collect", "--sweep.pictures 0 --sweep.strengths  collect", "best"]
    assert f"analysis report {desk.output}" in said


def test_without_a_winner_there_is_a_page(desk):
    assert f"analysis report {desk.output}" in report(desk, "best", code=1)
    assert asked_for(desk) == ["collect", "best"]


def test_a_page_that_cannot_be_made_is_an_error(desk):
    desk.analysis("raise SystemExit(2)")
    assert "no report.html" in report(desk, code=1)
    assert asked_for(desk) == ["collect", "best"]


def test_interrupted_it_goes_on_later(desk):
    said = report(desk, "collect", code=85, CODE="85")
    assert asked_for(desk) == ["collect", "scontrol requeue 7"]
    assert "analysis report" not in said
