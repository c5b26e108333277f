"""Gradient checkpointing computes activations again instead of keeping them: every method trains to the same bits."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import BASE, checkpoints, prepare, run
from sweeps import parameters, same_bits, sweep, write_sweep

METHODS = {
    "hypernetwork": {"hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.layer_norm": "true",
                     "hypernetwork.dropout_structure": "0,0.3,0"},
    "lora": {"lora.target_modules": "all"},
    "textual_inversion": {"textual_inversion.placeholder_token": "zorp", "textual_inversion.num_vectors": "2",
                          "caption.template": "a [name]"},
    "dreambooth": {"dreambooth.train_text_encoder": "true"},
    "dreambooth-attention": {"dreambooth.train_unet": "attention"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


def train(dataset, folder, method, checkpointing, **changes):
    settings = {"method": method.split("-")[0], "base": BASE, "data": dataset, "output": folder, "optim.learning_rate": "1e-3",
                "train.global_batch_size": "4", "train.micro_batch_size": "2", "train.max_train_steps": "3",
                "train.gradient_checkpointing": checkpointing, "validation.steps": "0", **METHODS.get(method, {}), **changes}
    run(["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))])
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_weights_have_the_same_bits(dataset, tmp_path, method):
    kept, again = (train(dataset, tmp_path / value, method, value) for value in ("false", "true"))
    assert checkpoints(kept) == checkpoints(again) and len(checkpoints(kept)) == 1
    losses = [(folder / "metrics.csv").read_text().splitlines() for folder in (kept, again)]
    assert [line.split(",")[2] for line in losses[0]] == [line.split(",")[2] for line in losses[1]]


def test_lora_of_both_networks_is_close(dataset, tmp_path):
    """The text's context then gets four gradients a layer, which a block adds up by itself: in another order."""
    options = {"lora.text_encoder_target_modules": "q_proj, v_proj", "optim.adam_epsilon": "1e-3"}
    kept, again = (load_file(next(train(dataset, tmp_path / value, "lora", value, **options).glob("checkpoints/*/parameters.safetensors")))
                   for value in ("false", "true"))
    for name, values in kept.items():
        assert np.abs(values - again[name]).max() <= 1e-4 * np.abs(values).max() + 1e-9, name


def test_packs_have_the_same_bits(dataset, tmp_path):
    trained = []
    for checkpointing in ("false", "true"):
        options = {"hypernetwork.layer_structure": "1,2,1 | 1,2,2,1", "hypernetwork.activation": "relu", "train.max_train_steps": 3,
                   "train.global_batch_size": 2, "train.micro_batch_size": 1, "train.gradient_checkpointing": checkpointing}
        (tmp_path / checkpointing).mkdir()
        sweep(write_sweep(tmp_path / checkpointing, dataset, **options), "run", "--pack", "3")
        trained.append(list(parameters(tmp_path / checkpointing, 3).values()))
    assert len(trained[0]) == len(trained[1]) == 2
    assert all(any(same_bits(ours, theirs) for theirs in trained[1]) for ours in trained[0])
