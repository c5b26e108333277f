"""Same bits on 1, 2 and 4 ranks and after a resume for Lion, Prodigy, averages, min-SNR, huber and stratified timesteps."""

import json

import pytest
from safetensors.numpy import load_file

from support import BASE, checkpoints, prepare, run, sha256

STEPS = 4
CASES = {
    "lion": {"optim.optimizer": "lion", "optim.learning_rate": "1e-3", "loss.snr_gamma": "5", "noise.offset": "0.1",
             "optim.use_ema": "true", "optim.ema_decay": "0.5"},
    "prodigy": {"optim.optimizer": "prodigy", "optim.learning_rate": "1", "optim.prodigy_d_coef": "100", "loss.loss_type": "huber",
                "noise.stratified": "true", "noise.timestep_sampling": "logit_normal"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "nine", 9, "--validation_images", "1", "--test_images", "1")


def options(dataset, output, case, **changes):
    settings = {
        "base": BASE, "data": dataset, "output": output, "hypernetwork.name": "bits", "hypernetwork.layer_structure": "1,2,1",
        "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal", "train.global_batch_size": "4", "train.micro_batch_size": "1",
        "train.max_train_steps": STEPS, "train.checkpointing_steps": "2", "train.checkpoints_total_limit": "0", "validation.steps": "0",
        "validation.max_images": "1", **CASES[case], **changes,
    }
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def state(folder):
    return json.loads((folder / f"checkpoints/step-{STEPS:08d}/state.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_ranks_and_resume(dataset, tmp_path, case):
    reference = tmp_path / "one"
    run(options(dataset, reference, case))
    for ranks in [2, 4]:
        run(options(dataset, tmp_path / str(ranks), case), ranks)
        assert checkpoints(tmp_path / str(ranks)) == checkpoints(reference)
        assert state(tmp_path / str(ranks))["optimizer"] == state(reference)["optimizer"]
    resumed = tmp_path / "resumed"
    run(options(dataset, resumed, case, **{"train.stop_after": "1"}), 4, code=85)
    run(options(dataset, resumed, case, **{"train.resume_from_checkpoint": "latest"}), 2)
    hashes = checkpoints(resumed)
    hashes.pop("step-00000001")
    assert hashes == checkpoints(reference)
    for file in ["bits.pt", *(["ema.safetensors"] if case == "lion" else [])]:
        path = f"checkpoints/step-{STEPS:08d}/{file}"
        assert sha256(resumed / path) == sha256(reference / path)


def test_prodigys_estimate_is_kept(dataset, tmp_path):
    run(options(dataset, tmp_path / "run", "prodigy"))
    kept = state(tmp_path / "run")["optimizer"]
    assert kept["updates"] == STEPS and kept["d"] > 1e-6


def test_the_average_is_what_is_exported_and_measured(dataset, tmp_path):
    averaged, plain = tmp_path / "averaged", tmp_path / "plain"
    run(options(dataset, averaged, "lion"))
    run(options(dataset, plain, "lion", **{"optim.use_ema": "false"}))
    last = f"checkpoints/step-{STEPS:08d}"
    assert sha256(averaged / last / "parameters.safetensors") == sha256(plain / last / "parameters.safetensors"), "training is the same"
    assert sha256(averaged / last / "bits.pt") != sha256(plain / last / "bits.pt")
    losses = [(folder / "validation.csv").read_text().splitlines()[-1] for folder in [averaged, plain]]
    assert losses[0] != losses[1]
    average, trained = (load_file(averaged / last / name) for name in ["ema.safetensors", "parameters.safetensors"])
    assert average.keys() == trained.keys()
    run(["export", averaged / last, "--format", "a1111", "--name", "bits", "--output", tmp_path / "bits.pt"])
    assert sha256(tmp_path / "bits.pt") == sha256(averaged / last / "bits.pt")
    out = run(options(dataset, averaged, "lion", **{"optim.use_ema": "false", "train.resume_from_checkpoint": "latest"}), code=2)
    assert "optim.use_ema" in out
