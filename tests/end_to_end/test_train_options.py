"""Options of train that change what a run does: precision, epochs, schedules, chunks, subsets, splits."""

import csv
import json

import numpy as np
import pytest
import torch

from support import BASE, checkpoints, prepare, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "twelve", 12, "--validation_images", "2", "--test_images", "1")


def train(dataset, output, *more, ranks=1, code=0):
    words = ["train", "--base", BASE, "--data", dataset, "--output", output, "--train.global_batch_size", "4",
             "--train.micro_batch_size", "2", "--optim.learning_rate", "1e-3", "--hypernetwork.activation", "relu",
             "--validation.steps", "0", "--train.max_train_steps", "4"]
    return run([*words, *more], ranks, code)


def rows(folder, file="metrics.csv"):
    with open(folder / file) as lines:
        return list(csv.DictReader(lines))


def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_bf16_follows_fp32(dataset, tmp_path):
    train(dataset, tmp_path / "fp32")
    train(dataset, tmp_path / "bf16", "--train.mixed_precision", "bf16")
    exact = np.array([float(row["loss"]) for row in rows(tmp_path / "fp32")])
    rounded = np.array([float(row["loss"]) for row in rows(tmp_path / "bf16")])
    # bf16 keeps 8 bits: predictions differ by under a percent, and so do their mean squared errors.
    assert np.abs(exact - rounded).max() < 0.03 * exact.max()
    assert (exact != rounded).any()
    weights = torch.load(next((tmp_path / "bf16").glob("checkpoints/*/*.pt")), weights_only=True)
    assert weights[160][0]["linear.0.weight"].dtype == torch.float32


def test_bf16_has_the_same_bits_on_two_ranks(dataset, tmp_path):
    train(dataset, tmp_path / "one", "--train.mixed_precision", "bf16")
    train(dataset, tmp_path / "two", "--train.mixed_precision", "bf16", ranks=2)
    assert checkpoints(tmp_path / "one") == checkpoints(tmp_path / "two")


def test_epochs_replace_steps(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--train.num_train_epochs", "2")
    # nine training images twice, four an update: 4.5 updates, rounded up
    assert result(tmp_path / "run")["steps"] == 5


def test_a1111s_schedule_ends_the_training(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--optim.learning_rate", "1e-3:1, 5e-4:3")
    assert [float(row["lr"]) for row in rows(tmp_path / "run")] == [1e-3, 5e-4, 5e-4]


def test_warm_up_and_cosine(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--optim.lr_scheduler", "cosine", "--optim.lr_warmup_steps", "2")
    rates = [float(row["lr"]) for row in rows(tmp_path / "run")]
    assert rates[:3] == pytest.approx([0, 5e-4, 1e-3]) and 0 < rates[3] < 1e-3


def test_two_chunks_of_context(dataset, tmp_path):
    output = train(dataset, tmp_path / "run", "--caption.max_chunks", "2", "--caption.template", "a drawing of [filewords]")
    assert result(tmp_path / "run")["steps"] == 4, output


def test_truncated_captions_are_counted(dataset, tmp_path):
    output = train(dataset, tmp_path / "run", "--caption.template", " ".join(["[filewords]"] * 12))
    assert "caption.max_chunks" in output


def test_a_subset_trains_on_fewer_images(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--data.subset", "2", "--train.num_train_epochs", "2")
    assert result(tmp_path / "run")["steps"] == 1


def test_a_finished_run_resumed_is_finished_again(dataset, tmp_path):
    train(dataset, tmp_path / "run")
    before, measured = result(tmp_path / "run"), rows(tmp_path / "run", "validation.csv")
    train(dataset, tmp_path / "run", "--train.resume_from_checkpoint", "latest")
    after = result(tmp_path / "run")
    assert after["heldout_loss"] == before["heldout_loss"]
    assert rows(tmp_path / "run", "validation.csv") == measured


def test_more_steps_continue_a_finished_run(dataset, tmp_path):
    train(dataset, tmp_path / "short")
    train(dataset, tmp_path / "short", "--train.resume_from_checkpoint", "latest", "--train.max_train_steps", "6")
    train(dataset, tmp_path / "long", "--train.max_train_steps", "6")
    assert checkpoints(tmp_path / "short")["step-00000006"] == checkpoints(tmp_path / "long")["step-00000006"]


def test_a_dataset_without_held_out_images(tmp_path):
    dataset = prepare(tmp_path / "all", 6, "--validation_images", "0", "--test_images", "0")
    train(dataset, tmp_path / "run")
    assert result(tmp_path / "run")["heldout_loss"] is None
    assert result(tmp_path / "run")["concept_train_loss"] > 0


def test_old_checkpoints_are_removed_but_not_the_best(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--train.checkpointing_steps", "1", "--train.checkpoints_total_limit", "2",
          "--validation.steps", "1", "--train.max_train_steps", "6")
    kept = list(checkpoints(tmp_path / "run"))
    best = result(tmp_path / "run")["best_step"]
    assert len(kept) == 2 and "step-00000006" in kept
    assert best == 6 or f"step-{best:08d}" in kept


def test_the_echoed_configuration_gives_the_same_run(dataset, tmp_path):
    train(dataset, tmp_path / "run", "--caption.template", "a #1 \"[filewords]\" | drawing")
    run(["train", "--config", tmp_path / "run/config.cfg", "--output", tmp_path / "again"])
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "again")


def test_adjacent_concepts_are_measured(dataset, tmp_path):
    adjacent = prepare(tmp_path / "adjacent", 8, "--validation_images", "3")
    train(dataset, tmp_path / "run", "--validation.adjacent", adjacent)
    measured = result(tmp_path / "run")
    assert measured["adjacent_loss"] != measured["base_adjacent_loss"]
    kinds = [row["kind"] for row in rows(tmp_path / "run", "validation_images.csv")]
    assert kinds.count("adjacent") == 6
