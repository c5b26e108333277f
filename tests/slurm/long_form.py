"""What end_to_end.slurm has no time for, on a local Slurm: about ten minutes on two cores.

    python -m pytest tests/slurm/long_form.py        (LDMTUNE_BUILD, LDMTUNE_SOURCE as ctest sets them, or the repository's own)

A time limit, ranks on two nodes under srun and mpirun that are requeued, a node that falls silent and one that only seems to
have died, a node that is preempted while its job starts.
"""

import os
import pathlib
import re

import pytest

os.environ.setdefault("LDMTUNE_SOURCE", str(pathlib.Path(__file__).parents[2]))

import cluster as slurm  # noqa: E402
from support import BASE, SOURCE, checkpoints, prepare, run  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "twelve", 12)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.running_cluster(tmp_path_factory.mktemp("slurm"), nodes=4, cpus=1, node_timeout=20) as running:
        yield running


def options(data, steps):
    return ["--base", BASE, "--data", data, "--train.max_train_steps", steps, "--train.global_batch_size", "2",
            "--train.checkpointing_steps", "20", "--validation.steps", "0", "--validation.max_images", "1",
            "--hypernetwork.widths", "160", "--hypernetwork.name", "x"]


class Job:
    """A training submitted with train.sbatch."""

    def __init__(self, cluster, folder, words, nodes=1, sbatch=()):
        self.cluster, self.log, self.run = cluster, folder / "job.log", folder / "run"
        (folder / "x.cfg").write_text("method = hypernetwork\n")
        self.id = cluster.call(
            "sbatch", "--parsable", f"--nodes={nodes}", "--ntasks-per-node=1", f"--output={self.log}", *sbatch, "slurm/train.sbatch",
            folder / "x.cfg", *words, "--output", self.run, cwd=SOURCE).strip()

    def show(self, key):
        return re.search(rf"\b{key}=(\S*)", self.cluster.call("scontrol", "show", "job", self.id)).group(1)

    def state(self):
        return self.show("JobState")

    def wait_for_step(self, step):
        slurm.wait_until(lambda: slurm.steps_in(self.run) >= step, 120, f"step {step}")

    def wait_for(self, state, seconds=180):
        slurm.wait_until(lambda: self.state() == state, seconds, f"{state}:\n{self.log.read_text()}")

    def finish(self):
        self.wait_for("COMPLETED")
        return self.log.read_text()


@pytest.fixture(scope="module")
def through(data, tmp_path_factory):
    """Hashes of the last checkpoint of 300 updates that nothing interrupted."""
    folder = tmp_path_factory.mktemp("through") / "run"
    run(["train", *options(data, 300), "--output", folder])
    return checkpoints(folder)["step-00000300"]


def test_a_time_limit(cluster, data, through, tmp_path):
    """Slurm checks limits every half minute; the signal comes 120 s before the end, that is at once for a limit of now + 2 minutes."""
    job = Job(cluster, tmp_path, options(data, 300), sbatch=["--time=60"])
    job.wait_for_step(20)
    cluster.call("scontrol", "update", f"JobId={job.id}", "EndTime=now+100")
    log = job.finish()
    assert "start 1," in log and "requeueing" in log and "Resuming" in log, log
    assert checkpoints(job.run)["step-00000300"] == through


@pytest.mark.parametrize("launcher", ["srun --mpi=pmix --kill-on-bad-exit=1", "mpirun --bind-to none"])
def test_two_nodes_are_signalled_and_go_on(cluster, data, through, tmp_path, launcher):
    cluster.site(f"LDMTUNE_LAUNCHER=({launcher})\nexport OMPI_MCA_odls_base_sigkill_timeout=20\n")
    try:
        job = Job(cluster, tmp_path, options(data, 300), nodes=2)
        job.wait_for_step(20)
        cluster.call("scancel", "--batch", "--signal=USR2", job.id)
        log = job.finish()
    finally:
        cluster.site()
    assert "exit code 85" in log and "2 rank(s)" in log and len(re.findall("Resuming", log)) == 1, log
    assert checkpoints(job.run)["step-00000300"] == through


def test_a_signal_while_the_job_starts(cluster, data, through, tmp_path):
    job = Job(cluster, tmp_path, options(data, 300))
    slurm.wait_until(lambda: job.log.exists() and "start 0," in job.log.read_text(), 60, "the job to start")
    cluster.call("scancel", "--batch", "--signal=USR2", job.id)
    log = job.finish()
    assert "start 1," in log, log
    assert checkpoints(job.run)["step-00000300"] == through


def test_a_node_that_falls_silent(cluster, data, through, tmp_path):
    """Nobody tells Slurm; it finds out by its timeout and starts the job elsewhere."""
    job = Job(cluster, tmp_path, options(data, 300))
    job.wait_for_step(30)
    node = job.show("NodeList")
    cluster.kill_node(node, tell_slurm=False)
    log = job.finish()
    cluster.start_node(node)
    assert "it is the same Slurm job" in log and "step-00000020" in log, log
    assert checkpoints(job.run)["step-00000300"] == through


def test_a_node_that_only_seems_dead(cluster, data, through, tmp_path):
    """Its ranks train on: they end when they see that the requeued job holds the folder."""
    steps = 1500
    job = Job(cluster, tmp_path, options(data, steps))
    job.wait_for_step(30)
    node = job.show("NodeList")
    cluster.cut_off(node)
    try:
        slurm.wait_until(lambda: "start 1," in job.log.read_text(), 90, "the job to start elsewhere")
        slurm.wait_until(lambda: "was taken over by another run" in (job.run / "log.txt").read_text(), 60, "the old ranks to end")
        log = job.finish()
    finally:
        cluster.kill_node(node, tell_slurm=False)
        cluster.start_node(node)
    assert slurm.steps_in(job.run) == steps, log
    assert (job.run / "result.json").exists()
    assert not (job.run / "lock.json").exists(), "removed by the job that held it, at its end"
