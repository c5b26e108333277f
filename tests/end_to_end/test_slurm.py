"""Sweeps and trainings on a real Slurm of four nodes on this machine (tests/slurm/local_slurm.sh), in short form.

What takes longer (time limits, a node that falls silent, its processes living on) is in tests/slurm/long_form.py.
"""

import csv
import os
import pathlib
import re
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(os.environ["LDMTUNE_SOURCE"]) / "tests/slurm"))

import cluster as slurm  # noqa: E402
from support import BASE, BINARY, SOURCE, checkpoints, prepare  # noqa: E402

STEPS = 150
CONFIG = """
base = {base}
data = {data}
[train]
max_train_steps = {steps}
global_batch_size = 1
checkpointing_steps = 10
checkpoints_total_limit = 1
[optim]
learning_rate = {learning_rate}
[hypernetwork]
layer_structure = {structures}
widths = 160
[validation]
steps = 0
max_images = 2
timesteps = 4
[sample]
steps = 0
num_inference_steps = 2
[sweep]
output = {output}
pictures = 1
seeds = {seeds}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "twelve", 12)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.running_cluster(tmp_path_factory.mktemp("slurm"), nodes=4, cpus=1, grace=30) as running:
        yield running


def write_config(folder, data, **changed):
    values = dict(base=BASE, data=data, output=folder / "sweep", steps=STEPS, learning_rate="1e-3 | 5e-4",
                  structures="1,0.5,1 | 1,1,1", seeds="0,1,2,3")
    file = folder / "x.sweep.cfg"
    file.write_text(CONFIG.format(**dict(values, **changed)))
    return file


class Sweep:
    """A submitted sweep's folders."""

    def __init__(self, folder):
        self.folder = folder
        with open(folder / "slurm/001/elements.tsv", newline="") as stream:
            self.members = {int(row[0]): row[2].split(",") for row in csv.reader(stream, delimiter="\t")}

    def runs(self, element):
        return [run for id_ in self.members[element] for run in self.folder.glob(f"trials/*-{id_}")]

    def in_mid_training(self, element):
        """Whether all its trials have a checkpoint and are well before their end."""
        runs = self.runs(element)
        return len(runs) == len(self.members[element]) and all(
            0 < slurm.checkpoint_step(run) and slurm.steps_in(run) < 0.5 * STEPS for run in runs)

    def lost_updates(self, element):
        """Updates of an element that is not running which are in no checkpoint."""
        return sum(max(0, slurm.steps_in(run) - slurm.checkpoint_step(run)) for run in self.runs(element))

    def log(self, element):
        return (self.folder / f"slurm/001/element-{element}.log").read_text()


def interrupt(cluster, sweep, actions):
    """Does actions[element](node, job) when the element is in mid-training; returns how many updates all that lost."""
    waiting, acted, lost = dict(actions), set(), 0
    deadline = time.monotonic() + 120
    while waiting or acted:
        assert time.monotonic() < deadline, f"not trained: {waiting}; not requeued: {acted}\n{cluster.call('squeue', '-r')}"
        states = cluster.elements()
        for element in [one for one in waiting if states[one][0] == "RUNNING" and sweep.in_mid_training(one)]:
            waiting.pop(element)(*states[element][1:])
            acted.add(element)
        for element in [one for one in acted if states[one][0] == "PENDING"]:
            lost += sweep.lost_updates(element)
            acted.remove(element)
        time.sleep(0.1)
    return lost


def test_a_sweep_survives_a_requeue_a_preemption_and_a_killed_node(cluster, data, tmp_path):
    """16 trials in 4 packs, one on each node."""
    config = write_config(tmp_path, data)
    said = cluster.submit("--pack", "4", config, "--", "--partition=low")
    assert "elements 0-3, report job" in said
    sweep = Sweep(tmp_path / "sweep")
    assert [len(ids) for ids in sweep.members.values()] == [4, 4, 4, 4]

    lost = interrupt(cluster, sweep, {
        0: lambda node, job: cluster.call("scontrol", "requeue", job),
        1: lambda node, job: cluster.call("sbatch", "--partition=high", f"--nodelist={node}", "--ntasks=1", "--output=none",
                                          "--wrap", "true"),
        2: lambda node, job: (cluster.kill_node(node), cluster.start_node(node)),
    })
    print(f"{lost} of {16 * STEPS} updates lost")
    assert "pending" in cluster.status(config)
    cluster.wait_for_all(240)

    assert "16 trials: 16 done" in cluster.status(config)
    for element in range(4):
        starts = re.findall(r"start (\d+),", sweep.log(element))
        assert starts[:2] == (["0", "1"] if element < 3 else ["0"]), sweep.log(element)
        assert sweep.log(element).count("Done:") == 4, sweep.log(element)
        for run in sweep.runs(element):
            resumes = re.findall(rf"Resuming \S*/{run.name}/checkpoints", sweep.log(element))
            assert bool(resumes) == (element < 3), sweep.log(element)
            assert slurm.steps_in(run) == STEPS
    assert "the same Slurm job" in sweep.log(2), "the killed node's lock was taken over"
    assert lost < 0.05 * 16 * STEPS, f"{lost} updates lost"
    rows = list(csv.DictReader((tmp_path / "sweep/results.csv").open(newline="")))
    assert [row["status"] for row in rows] == ["done"] * 16
    assert (tmp_path / "sweep/best.pt").exists()
    assert "<html" in (tmp_path / "sweep/report.html").read_text()[:200].lower()
    assert "nothing to submit" in cluster.submit("--pack", "4", config)


def test_the_rungs_of_successive_halving_follow_each_other(cluster, data, tmp_path):
    config = write_config(tmp_path, data, seeds="0", steps=6)
    halving = ["--sweep.halving_factor", "2", "--sweep.halving_min_steps", "3"]
    said = cluster.submit("--pack", "2", config, *halving)
    assert "rungs 0 1, one after the other" in said
    cluster.wait_for_all(120)
    said = cluster.status(config)
    assert "4 trials: 2 done, 2 stopped" in said and "rung 0, after update 3" in said
    rows = list(csv.DictReader((tmp_path / "sweep/results.csv").open(newline="")))
    assert sorted((row["status"], row["steps"]) for row in rows) == [("done", "6")] * 2 + [("stopped", "3")] * 2
    logs = sorted(path.name for path in (tmp_path / "sweep/slurm/001").glob("rung-*.log"))
    assert logs == ["rung-0-0.log", "rung-0-1.log", "rung-1-0.log"]
    assert "2 stopped by successive halving" in (tmp_path / "sweep/report.html").read_text()
    assert "nothing to submit" in cluster.submit("--pack", "2", config, *halving)


# A program that, as on a login node without MPI, starts in jobs only, and says what the jobs gave it.
WRAPPER = """#!/bin/sh
[ -n "$SLURM_JOB_ID" ] || exit 127
echo "wrapper $HDF5_USE_FILE_LOCKING, in image: $IMAGE" >&2
exec {binary} "$@"
"""
# Just enough of Apptainer: exec IMAGE PROGRAM ARGUMENTS.
APPTAINER = """#!/bin/sh
[ "$1 $2" = "exec x.sif" ] || exit 1
shift 2
IMAGE=yes exec "$@"
"""


def fake(folder, name, text):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder / name


def test_a_failed_element_is_submitted_again_alone(cluster, data, tmp_path):
    """In a container, from a login node without MPI, on a file system without locks, reading data from the nodes' disks."""
    program = fake(tmp_path / "bin", "wrapper", WRAPPER.format(binary=BINARY))
    apptainer = fake(tmp_path / "bin", "apptainer", APPTAINER)
    fake(tmp_path / "bin", "flock", "#!/bin/sh\nexit 71\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    config = write_config(tmp_path, data, structures="1,0.5,1", seeds="0", learning_rate="1e-3 | 1e30", steps=3)
    cluster.site(f"LDMTUNE_CONTAINER=({apptainer} exec x.sif)\nexport LDMTUNE_SCRATCH={tmp_path}/scratch\n", program)
    try:
        said = cluster.submit("--no-report", config, PATH=path)
        assert "planning on a compute node" in said and "elements 0-1;" in said
        cluster.wait_for_all(60)
        said = cluster.status(config, code=1)
        assert "2 trials: 1 done, 1 failed" in said and "not finite" in said
        assert "wrapper FALSE, in image: yes" in (tmp_path / "sweep/slurm/001/element-0.log").read_text()
        assert len(list((tmp_path / "scratch").glob("ldmtune-*/part-00000.h5"))) == 1
        assert "elements 1;" in cluster.submit("--no-report", config, PATH=path)
        cluster.wait_for_all(60)
        assert not (tmp_path / "sweep/slurm/002/element-0.log").exists()
        assert "not finite" in (tmp_path / "sweep/slurm/002/element-1.log").read_text()
    finally:
        cluster.site()


def test_ranks_that_a_trial_cannot_use_are_refused_before_anything_is_submitted(cluster, data, tmp_path):
    config = write_config(tmp_path, data)
    said = cluster.submit(config, "--", "--ntasks=2", code=2)
    assert "each element gets 2 rank(s)" in said and "global_batch_size / micro_batch_size = 1 leaves" in said
    assert "nothing was submitted" in said and not (tmp_path / "sweep").exists()


def test_srun_and_mpirun_train_the_same_on_two_nodes(cluster, data, tmp_path):
    words = ["--base", BASE, "--data", data, "--train.max_train_steps", "4", "--train.global_batch_size", "2", "--validation.steps", "0",
             "--validation.max_images", "1", "--hypernetwork.widths", "160", "--hypernetwork.name", "x"]
    (tmp_path / "x.cfg").write_text("method = hypernetwork\n")
    found = {}
    for launcher in ("srun --mpi=pmix --kill-on-bad-exit=1", "mpirun --bind-to none"):
        cluster.site(f"LDMTUNE_LAUNCHER=({launcher})\n")
        output = tmp_path / launcher.split()[0]
        cluster.call("sbatch", "--nodes=2", "--ntasks-per-node=1", "--wait", f"--output={tmp_path}/job.log",
                     "slurm/train.sbatch", tmp_path / "x.cfg", *words, "--output", output, cwd=SOURCE)
        assert "2 rank(s)" in (tmp_path / "job.log").read_text()
        found[launcher] = checkpoints(output)
    assert len({str(sorted(hashes.items())) for hashes in found.values()}) == 1 and all(found.values()), found
