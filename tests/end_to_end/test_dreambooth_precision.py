"""Dreambooth in bf16 and fp16: fp32 weights behind rounded copies, and masks beside class images."""

import csv
import json

import h5py
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from support import BASE, checkpoints, prepare, run, small_image_folder

STEPS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


@pytest.fixture(scope="module")
def class_data(tmp_path_factory):
    """Drawn by the first run, in fp32 whatever trains."""
    return tmp_path_factory.mktemp("class") / "images"


def options(dataset, class_data, output, **changes):
    settings = {
        "method": "dreambooth", "base": BASE, "data": dataset, "output": output, "optim.learning_rate": "1e-4",
        "train.global_batch_size": "2", "train.micro_batch_size": "1", "train.max_train_steps": STEPS, "train.seed": "7",
        "train.checkpointing_steps": "1", "train.checkpoints_total_limit": "0", "validation.steps": "0",
        "dreambooth.train_text_encoder": "true", "dreambooth.with_prior_preservation": "true", "dreambooth.class_data": class_data,
        "dreambooth.class_prompt": "rocket", "dreambooth.num_class_images": "2", "sample.num_inference_steps": "2", **changes,
    }
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def column(folder, name):
    with open(folder / "metrics.csv") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def weights(folder, step=STEPS):
    return load_file(folder / f"checkpoints/step-{step:08d}/parameters.safetensors")


@pytest.fixture(scope="module")
def exact(dataset, class_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact") / "run"
    run(options(dataset, class_data, folder))
    return folder


def test_bf16_follows_fp32_with_fp32_weights_and_the_same_bits_on_two_ranks(dataset, class_data, exact, tmp_path):
    settings = {"train.mixed_precision": "bf16"}
    run(options(dataset, class_data, tmp_path / "one", **settings))
    assert column(tmp_path / "one", "loss") != column(exact, "loss")
    assert column(tmp_path / "one", "loss") == pytest.approx(column(exact, "loss"), rel=0.03)
    assert column(tmp_path / "one", "grad_norm") == pytest.approx(column(exact, "grad_norm"), rel=0.1)
    base = {f"unet.{name}": value for name, value in load_file(BASE / "unet/diffusion_pytorch_model.safetensors").items()}
    trained, expected = weights(tmp_path / "one"), weights(exact)
    for name in base:
        # The steps are far below a bf16 weight's spacing: rounded weights would not have moved at all.
        moved, wanted = trained[name] - base[name], expected[name] - base[name]
        assert trained[name].dtype == np.float32 and 0 < np.abs(moved).max() < 1e-3
        assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.5 or moved.size < 1000, name

    run(options(dataset, class_data, tmp_path / "two", **settings), 2)
    assert checkpoints(tmp_path / "two") == checkpoints(tmp_path / "one")
    run(options(dataset, class_data, tmp_path / "resumed", **settings, **{"train.stop_after": "1"}), 2, code=85)
    run(options(dataset, class_data, tmp_path / "resumed", **settings, **{"train.resume_from_checkpoint": "latest"}))
    assert checkpoints(tmp_path / "resumed") == checkpoints(tmp_path / "one")


def test_fp16_scales_the_loss(dataset, class_data, tmp_path):
    # fp16 is slow on CPUs: one update, without class images.
    settings = {"train.max_train_steps": "1", "dreambooth.with_prior_preservation": "false", "validation.max_images": "1"}
    run(options(dataset, class_data, tmp_path / "exact", **settings))
    run(options(dataset, class_data, tmp_path / "half", **settings, **{"train.mixed_precision": "fp16"}), 2)
    assert column(tmp_path / "half", "loss") != column(tmp_path / "exact", "loss")
    assert column(tmp_path / "half", "loss") == pytest.approx(column(tmp_path / "exact", "loss"), rel=0.01)
    assert column(tmp_path / "half", "grad_norm") == pytest.approx(column(tmp_path / "exact", "grad_norm"), rel=0.05)
    state = json.loads((tmp_path / "half/checkpoints/step-00000001/state.json").read_text())
    assert state["loss_scale"]["good_updates"] == 1 and state["loss_scale"]["skipped"] == 0


def test_what_is_frozen_computes_in_bf16_too_and_averages_are_measured(dataset, class_data, tmp_path):
    settings = {"train.mixed_precision": "bf16", "dreambooth.train_unet": "attention", "dreambooth.train_text_encoder": "false",
                "optim.use_ema": "true", "validation.steps": "1", "train.gradient_checkpointing": "true"}
    # Drawn in this run or found: the contexts that train come from the bf16 text encoder either way.
    run(options(dataset, tmp_path / "class", tmp_path / "one", **settings))
    run(options(dataset, class_data, tmp_path / "two", **settings), 2)
    assert checkpoints(tmp_path / "one") == checkpoints(tmp_path / "two")
    assert (tmp_path / "one/validation.csv").read_text() == (tmp_path / "two/validation.csv").read_text()
    result = json.loads((tmp_path / "one/result.json").read_text())
    assert result["heldout_loss"] != result["base_heldout_loss"]
    run(["export", tmp_path / "one", "--format", "diffusers", "--output", tmp_path / "model"])
    exported = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    average = load_file(tmp_path / f"one/checkpoints/step-{STEPS:08d}/ema.safetensors")
    assert all(np.array_equal(exported[name.removeprefix("unet.")], value) for name, value in average.items())


def test_masks_hold_for_instances_and_not_for_class_images(class_data, tmp_path):
    images = small_image_folder(tmp_path / "images", 4)
    for path in images.glob("*.png"):
        alpha = np.zeros((128, 128), np.uint8)
        alpha[:, :64] = 255
        picture = Image.open(path).convert("RGB").resize((128, 128))
        picture.putalpha(Image.fromarray(alpha))
        picture.save(path)
    run(["prepare", "--base", BASE, "--images", images, "--output", tmp_path / "masked", "--mask", "alpha",
         "--validation_images", "0", "--test_images", "0"])
    settings = {"loss.masked": "true", "train.max_train_steps": "1"}
    run(options(tmp_path / "masked", class_data, tmp_path / "run", **settings, **{"train.trace": tmp_path / "trace.h5"}))
    run(options(tmp_path / "masked", class_data, tmp_path / "two", **settings), 2)
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "two")
    with h5py.File(tmp_path / "trace.h5") as trace:
        for leaf in range(4):
            micro = trace[f"step_000001/micro_{leaf:04d}"]
            squares = (micro["prediction"][()] - micro["target"][()]) ** 2
            is_class = leaf % 2 == 1
            assert ("mask" in micro) == (not is_class)
            mask = np.ones_like(squares[:, :1]) if is_class else micro["mask"][()]
            assert is_class or 0.4 < mask.mean() < 0.6
            expected = (squares * mask).sum() / (mask.sum() * squares.shape[1])
            assert micro["loss"][0] == pytest.approx(expected, rel=1e-5)
