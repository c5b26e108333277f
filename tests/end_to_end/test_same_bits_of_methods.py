"""Textual inversion, LoRA and dreambooth: same bits on 1, 2 and 4 ranks, and after kill -9 and a resume on another number
of them. (Hypernetworks, and what else may not change bits: test_same_bits.py.)

Four leaves, a dataset not divisible by the batch, dropped captions, fresh posterior samples, active clipping, weights of
the text encoder too. Hashes are compared within one run of the test: another CPU may give other bits.
"""

import os
import signal
import subprocess
import time

import pytest

from support import BASE, checkpoints, command, environment, prepare, run, sha256

STEPS = 6
METHODS = {
    "textual_inversion": {"textual_inversion.placeholder_token": "<zorp> | <ground>", "textual_inversion.num_vectors": "3,1",
                          "textual_inversion.initializer_text": "blue monster face | background",
                          "caption.template": "<zorp> [filewords] <ground>"},
    "lora": {"lora.rank": "3", "lora.target_modules": "all", "lora.text_encoder_target_modules": "all", "optim.learning_rate": "1e-2"},
    "dreambooth": {"dreambooth.train_text_encoder": "true", "dreambooth.with_prior_preservation": "true",
                   "dreambooth.num_class_images": "5", "optim.learning_rate": "1e-4"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "seven", 7, "--validation_images", "1", "--test_images", "1")


@pytest.fixture(scope="module")
def class_data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("class") / "five", 5, "--validation_images", "0", "--test_images", "0")


class Method:
    def __init__(self, method, dataset, class_data, folder):
        self.settings = {
            "method": method, "base": BASE, "data": dataset, "train.global_batch_size": 4, "train.micro_batch_size": 1,
            "train.max_train_steps": STEPS, "train.checkpointing_steps": 2, "train.checkpoints_total_limit": 0, "train.seed": 7,
            "train.max_grad_norm": "0.001", "data.latent_sampling": "random", "caption.dropout": 0.3, "validation.steps": 2, **METHODS[method],
        }  # fmt: skip
        if method == "dreambooth":
            self.settings["dreambooth.class_data"] = class_data
        self.reference = folder / "run"
        run(self.options(self.reference))

    def options(self, output, *more):
        return ["train", *(word for name, value in self.settings.items() for word in (f"--{name}", str(value))), "--output", output, *more]

    def assert_same_run(self, folder):
        assert checkpoints(folder) == checkpoints(self.reference)
        for file in ("validation.csv", "validation_images.csv"):
            assert (folder / file).read_text() == (self.reference / file).read_text(), file
        assert self.exported(folder) == self.exported(self.reference)

    def exported(self, folder):
        """Hashes of the files for other programs; dreambooth's are made by `export`."""
        files = {file.name: sha256(file) for file in (folder / f"checkpoints/step-{STEPS:08d}").iterdir() if file.stem == "run"}
        assert files or self.settings["method"] == "dreambooth"
        return files


@pytest.fixture(scope="module", params=METHODS)
def method(request, dataset, class_data, tmp_path_factory):
    made = Method(request.param, dataset, class_data, tmp_path_factory.mktemp(request.param))
    hashes = checkpoints(made.reference)
    assert list(hashes) == [f"step-{step:08d}" for step in (2, 4, 6)] and len(set(hashes.values())) == 3
    norms = [float(line.split(",")[4]) for line in (made.reference / "metrics.csv").read_text().splitlines()[1:]]
    assert len(norms) == STEPS and min(norms) > 0.001, "clipping is active"
    return made


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks(method, tmp_path, ranks):
    run(method.options(tmp_path / "run"), ranks)
    method.assert_same_run(tmp_path / "run")


def test_kill_9_and_resume_on_another_number_of_ranks(method, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(method.options(folder), 2), env=environment(), start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics, end = folder / "metrics.csv", time.monotonic() + 240
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 4:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    # mpirun's ranks are in its session, in groups of their own.
    subprocess.run(["pkill", "-9", "-s", str(process.pid)], check=False)
    process.wait()
    assert not (folder / "result.json").exists()
    run(method.options(folder, "--train.resume_from_checkpoint", "latest"), 4)
    method.assert_same_run(folder)
