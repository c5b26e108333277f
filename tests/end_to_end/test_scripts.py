"""The scripts around the program: set-up without root, ranks that save on SIGTERM, job files that the program accepts."""

import os
import re
import signal
import subprocess
import time

import pytest

from support import BASE, SOURCE, checkpoints, command, environment, prepare, run

SCRIPTS = [path for folder in ("jobs", "tests", "tests/slurm", "slurm", ".ci") for path in sorted((SOURCE / folder).iterdir())
           if path.is_file() and path.read_bytes().startswith((b"#!/usr/bin/env bash", b"# shellcheck shell=bash"))]
TRAIN_FILES = sorted(path for path in (SOURCE / "jobs").glob("*.cfg") if not path.name.endswith(".sweep.cfg"))
SWEEP_FILES = sorted((SOURCE / "jobs").glob("*.sweep.cfg"))


def script(*words, code=0, **environment_changes):
    """Runs a script of the repository from another folder and returns what it printed."""
    done = subprocess.run([str(SOURCE / words[0]), *map(str, words[1:])], env=dict(environment(), **environment_changes),
                          capture_output=True, text=True, timeout=120, cwd="/")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def fake_command(folder, name, body):
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_bash(path):
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("name", ["jobs/setup.sh", "jobs/build.sh", "jobs/demo.sh", "jobs/launch.sh", "tests/run.sh"])
def test_help_says_how_to_call_it(name):
    assert name in script(name, "--help")


@pytest.mark.parametrize("words", [("jobs/setup.sh", "--gpu"), ("jobs/demo.sh", "--fast"), ("jobs/demo.sh", "--ranks", "3"),
                                   ("jobs/build.sh", "--preset", "tiny"), ("jobs/launch.sh",), ("jobs/launch.sh", "-n", "two", "true")])
def test_bad_usage_ends_with_2_and_what_was_expected(words):
    assert "expected" in script(*words, code=2)


def test_setup_without_root_prints_the_line_to_run(tmp_path):
    fake_command(tmp_path, "id", "echo 1000")
    fake_command(tmp_path, "apt-get", "echo must not be called; exit 1")
    fake_command(tmp_path, "pkg-config", 'case "$*" in *libpcre2-8*|*cairo*) exit 1;; esac')
    output = script("jobs/setup.sh", code=2, PATH=f"{tmp_path}:{os.environ['PATH']}")
    lines = [line for line in output.splitlines() if line.startswith("apt-get")]
    assert lines == ["apt-get update && apt-get install -y --no-install-recommends libpcre2-dev libcairo2-dev"]
    assert "must not be called" not in output


def test_setup_refuses_a_torch_dir_without_libtorch(tmp_path):
    output = script("jobs/setup.sh", code=2, Torch_DIR=str(tmp_path))
    assert str(tmp_path) in output and "share/cmake/Torch" in output


def test_launch_gives_the_ranks_and_the_exit_code():
    printed = script("jobs/launch.sh", "-n", "3", "sh", "-c", "echo rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE, $OMP_NUM_THREADS thread")
    assert sorted(re.findall(r"rank \d of \d, \d thread", printed)) == [f"rank {rank} of 3, 1 thread" for rank in range(3)]
    script("jobs/launch.sh", "-n", "1", "sh", "-c", "exit 7", code=7)


def test_sigterm_to_launch_becomes_a_checkpoint_that_resumes(tmp_path):
    dataset = prepare(tmp_path / "data", 8)
    output = tmp_path / "run"
    words = command(["train", "--base", BASE, "--data", dataset, "--output", output, "--train.micro_batch_size", "4",
                     "--train.max_train_steps", "100000", "--validation.steps", "0"])
    process = subprocess.Popen([SOURCE / "jobs/launch.sh", "-n", "2", *words], env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    metrics = output / "metrics.csv"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < deadline, "training did not start"
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 85, printed
    (last,) = checkpoints(output)
    run([*words[1:], "--train.resume_from_checkpoint", "latest", "--train.stop_after", "1"], code=85)
    assert list(checkpoints(output)) == [last, f"step-{int(last[5:]) + 1:08d}"]


@pytest.mark.parametrize("path", SWEEP_FILES, ids=lambda path: path.name)
def test_sweep_files_are_accepted(path, tmp_path):
    """On as many ranks as an element of slurm/site.sh has."""
    dataset = prepare(tmp_path / "data", 8)
    site = subprocess.run(["bash", "-c", ". slurm/site.sh; echo ${LDMTUNE_ELEMENT[*]}"], cwd=SOURCE, capture_output=True, text=True,
                          check=True).stdout
    nodes, tasks = re.fullmatch(r"--nodes=(\d+) --ntasks-per-node=(\d+) --cpus-per-task=1\n", site).groups()
    printed = run(["sweep", "--config", path, "--base", BASE, "--data", dataset, "--validation.adjacent", "", "--sweep.output",
                   tmp_path / "sweep", "plan", "--ranks", int(nodes) * int(tasks)], cwd=SOURCE)
    assert len(re.findall(r"^\d+ +[0-9a-f]{8}", printed, re.MULTILINE)) >= 4, printed


def dataset_for(path, folder):
    """What the job file's captions and prompts speak of: the mascot, or drawings."""
    if "mascot" not in path.read_text():
        return prepare(folder, 8)
    run(["prepare", "--base", BASE, "--images", SOURCE / "datasets/mascot", "--output", folder])
    return folder


@pytest.mark.parametrize("path", TRAIN_FILES, ids=lambda path: path.name)
def test_train_files_are_accepted(path, tmp_path):
    """With the embedded base and a small dataset in place of the file's; two updates of one sample, in a folder of its own."""
    for folder in ("jobs", "datasets"):
        (tmp_path / folder).symlink_to(SOURCE / folder)
    dataset = dataset_for(path, tmp_path / "data")
    small = ["--dreambooth.num_class_images", "2"] if "[dreambooth]" in path.read_text() else []
    printed = run(["train", "--config", path, "--base", BASE, "--data", dataset, "--output", tmp_path / "run", "--variant", "",
                   "--train.max_train_steps", "2", "--train.global_batch_size", "1", "--train.micro_batch_size", "1",
                   "--train.mixed_precision", "no", "--validation.steps", "0", "--validation.max_images", "1",
                   "--validation.adjacent", dataset, "--validation.timesteps", "4", "--sample.steps", "0",
                   "--caption.max_chunks", "1", *small], cwd=tmp_path)
    assert "Done" in printed
    assert list(checkpoints(tmp_path / "run")) == ["step-00000002"]
