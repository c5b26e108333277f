"""Packs of LoRA and of textual inversion: as trials alone within 1e-4, and bits that neither slot, mates, ranks nor an
interruption change. (Hypernetworks: test_packs.py; dreambooth's trials have a base each and train one by one.)
"""

import numpy as np
import pytest

from support import prepare
from sweeps import losses, of_trial, parameters, same_bits, shared_identity, sweep, write_sweep

STEPS = 4
METHODS = {
    # Mates with other ranks, other layers, one with factors in the text encoder and one without.
    "lora": {"lora.rank": "2 | 3", "lora.target_modules": "all", "lora.text_encoder_target_modules": "all | q_proj",
             "sweep.zip": "lora.rank, lora.text_encoder_target_modules", "optim.learning_rate": "3e-3 | 1e-3"},
    "textual_inversion": {"textual_inversion.placeholder_token": "<zorp>", "textual_inversion.num_vectors": 2, "caption.template": "[name] [filewords]",
                          "textual_inversion.initializer_text": "blue face", "train.seed": "3 | 4", "optim.learning_rate": "2e-2 | 5e-3"},
}
# What was in the last slot is in the first, among others.
OTHER_MATES = {
    "lora": {"lora.rank": "3 | 4", "lora.text_encoder_target_modules": "q_proj | fc1", "optim.learning_rate": "1e-3 | 2e-3"},
    "textual_inversion": {"train.seed": "4 | 5", "optim.learning_rate": "5e-3 | 1e-2"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "1")


def write_grid(folder, dataset, method, **changes):
    options = {"method": method, "train.max_train_steps": STEPS, "train.global_batch_size": 2, "train.micro_batch_size": 1,
               "train.checkpointing_steps": 2, "caption.dropout": 0.2, **METHODS[method], **changes}
    return write_sweep(folder, dataset, **options)


@pytest.fixture(scope="module", params=METHODS)
def packed(request, dataset, tmp_path_factory):
    """Method and folder of a sweep whose four trials trained in one pack."""
    folder = tmp_path_factory.mktemp(request.param)
    sweep(write_grid(folder, dataset, request.param), "run", "--pack", "4")
    trained = parameters(folder, STEPS)
    assert len(trained) == 4 and len({next(iter(values.values())).tobytes() for values in trained.values()}) == 4
    return request.param, folder


def test_packed_losses_agree_with_trials_alone(dataset, packed, tmp_path):
    method, folder = packed
    sweep(write_grid(tmp_path, dataset, method), "run")
    together, alone = losses(folder), losses(tmp_path)
    assert together.keys() == alone.keys() and len(alone) == 4
    for trial in alone:
        assert len(alone[trial]) == STEPS and np.abs(together[trial] - alone[trial]).max() < 1e-4, trial


def test_an_interruption_and_two_ranks_leave_the_bits(dataset, packed, tmp_path):
    method, folder = packed
    file = write_grid(tmp_path, dataset, method)
    sweep(file, "run", "--pack", "4", "--train.stop_after", "3", ranks=2, code=85)
    sweep(file, "run", "--pack", "4")
    ours, theirs = parameters(tmp_path, STEPS), parameters(folder, STEPS)
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[trial], theirs[trial]) for trial in theirs)


def test_a_trials_bits_do_not_depend_on_slot_or_pack_mates(dataset, packed, tmp_path):
    method, folder = packed
    sweep(write_grid(tmp_path, dataset, method, **OTHER_MATES[method]), "run", "--pack", "4")
    ours, theirs = parameters(tmp_path, STEPS), parameters(folder, STEPS)
    identity = shared_identity(ours, theirs)
    assert same_bits(of_trial(ours, identity), of_trial(theirs, identity))
