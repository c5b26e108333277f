"""Same bits on 1, 2, 4 and 8 ranks, after a kill and a resume on another number of ranks, and while being watched.

Eight leaves, epoch boundaries inside, a dataset not divisible by the batch, dropout in the network and of captions,
fresh posterior samples and active clipping. Hashes are compared within one run of the test, never with stored ones:
another CPU may give other bits.
"""

import os
import signal
import subprocess
import time

import pytest

from support import BASE, SOURCE, checkpoints, command, environment, prepare, run, sha256

STEPS = 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "thirteen", 13, "--validation_images", "1", "--test_images", "1")


def options(dataset, output, **changes):
    settings = {
        "base": BASE, "data": dataset, "output": output,
        "hypernetwork.name": "bits", "hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu",
        "hypernetwork.layer_norm": "true", "hypernetwork.layer_norm_init": "ones",
        "hypernetwork.dropout_structure": "0,0.3,0.1", "caption.dropout": "0.3", "data.latent_sampling": "random",
        "train.global_batch_size": "8", "train.micro_batch_size": "1", "train.max_grad_norm": "0.01",
        "train.max_train_steps": STEPS, "train.checkpointing_steps": "2", "train.checkpoints_total_limit": "0",
        "optim.learning_rate": "1e-2", "validation.steps": "3", "train.seed": "7",
    }
    settings.update(changes)
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(options(dataset, folder))
    hashes = checkpoints(folder)
    assert list(hashes) == ["step-00000002", "step-00000004", "step-00000006"]
    assert len(set(hashes.values())) == 3
    return folder


def exported(folder):
    return sha256(folder / f"checkpoints/step-{STEPS:08d}/bits.pt")


def columns(folder, file, *names):
    lines = [line.split(",") for line in (folder / file).read_text().splitlines()]
    places = [lines[0].index(name) for name in names]
    return [[line[place] for place in places] for line in lines[1:]]


def assert_same_run(folder, reference):
    assert checkpoints(folder) == checkpoints(reference)
    assert exported(folder) == exported(reference)
    assert columns(folder, "metrics.csv", "step", "loss", "grad_norm") == columns(reference, "metrics.csv", "step", "loss", "grad_norm")
    assert (folder / "validation.csv").read_text() == (reference / "validation.csv").read_text()
    assert (folder / "validation_images.csv").read_text() == (reference / "validation_images.csv").read_text()


def test_clipping_was_active(reference):
    norms = [float(norm) for _, norm in columns(reference, "metrics.csv", "step", "grad_norm")]
    assert len(norms) == STEPS and min(norms) > 0.01


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_any_number_of_ranks(dataset, reference, tmp_path, ranks):
    run(options(dataset, tmp_path / "run"), ranks)
    assert_same_run(tmp_path / "run", reference)


def test_another_seed_gives_other_bits(dataset, reference, tmp_path):
    run(options(dataset, tmp_path / "run", **{"train.seed": "8"}), 2)
    assert exported(tmp_path / "run") != exported(reference)


def test_a_traced_run_has_the_same_bits(dataset, reference, tmp_path):
    run(options(dataset, tmp_path / "run", **{"train.trace": tmp_path / "trace.h5", "train.trace_steps": "2",
                                              "sample.steps": "2", "sample.num_inference_steps": "2"}), 2)
    assert (tmp_path / "trace.h5").exists()
    assert checkpoints(tmp_path / "run") == checkpoints(reference)


def test_stop_after_and_resume_on_more_ranks(dataset, reference, tmp_path):
    run(options(dataset, tmp_path / "run", **{"train.stop_after": "3"}), 1, code=85)
    assert "step-00000003" in checkpoints(tmp_path / "run")
    run(options(dataset, tmp_path / "run", **{"train.resume_from_checkpoint": "latest"}), 4)
    hashes = checkpoints(tmp_path / "run")
    hashes.pop("step-00000003")
    assert hashes == checkpoints(reference)
    assert exported(tmp_path / "run") == exported(reference)
    assert (tmp_path / "run/validation.csv").read_text() == (reference / "validation.csv").read_text()


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        assert process.poll() is None, f"ended early with {process.returncode}"
        time.sleep(0.02)


def start(words):
    return subprocess.Popen(words, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_kill_9_in_mid_epoch_and_resume_on_another_number_of_ranks(dataset, reference, tmp_path):
    folder = tmp_path / "run"
    process = start(command(options(dataset, folder), 2))
    metrics = folder / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    # mpirun's ranks are in its session, in groups of their own.
    subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
    process.wait()
    assert not (folder / "result.json").exists()
    run(options(dataset, folder, **{"train.resume_from_checkpoint": "latest"}), 4)
    assert_same_run(folder, reference)


LAUNCH = [str(SOURCE / "jobs/launch.sh"), "-n", "2"]


@pytest.mark.parametrize("signal_number, launcher", [
    (signal.SIGTERM, []), (signal.SIGINT, []), (signal.SIGUSR2, []), (signal.SIGUSR2, LAUNCH), (signal.SIGTERM, LAUNCH)])
def test_signals_checkpoint_and_exit_85(dataset, reference, tmp_path, signal_number, launcher):
    folder = tmp_path / "run"
    process = start([*launcher, *command(options(dataset, folder, **{"train.max_train_steps": 200}))])
    metrics = folder / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 2, process)
    process.send_signal(signal_number)
    assert process.wait(timeout=120) == 85
    stopped_at = list(checkpoints(folder))[-1]
    last = columns(folder, "metrics.csv", "step")[-1][0]
    assert stopped_at == f"step-{int(last):08d}", "the checkpoint is of the last update"


def test_sigterm_to_mpirun_leaves_a_whole_checkpoint_that_goes_on_to_the_same_bits(dataset, reference, tmp_path):
    # mpirun itself answers SIGTERM with exit code 1 and kills its ranks after a second, done or not; what counts is
    # that what they leave is whole. (jobs/launch.sh turns SIGTERM into SIGUSR2, which mpirun forwards.)
    folder = tmp_path / "run"
    process = start(command(options(dataset, folder), 2))
    metrics = folder / "metrics.csv"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= 4, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) != 0
    assert checkpoints(folder)
    run(options(dataset, folder, **{"train.resume_from_checkpoint": "latest"}), 2)
    assert exported(folder) == exported(reference)
