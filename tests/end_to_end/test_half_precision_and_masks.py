"""fp16 training with a loss scale, and masks from alpha channels and files."""

import json

import h5py
import numpy as np
import pytest
from PIL import Image

from support import BASE, checkpoints, prepare, run, small_image_folder


def options(dataset, output, **changes):
    settings = {
        "base": BASE, "data": dataset, "output": output, "hypernetwork.name": "half", "hypernetwork.layer_structure": "1,2,1",
        "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal", "train.global_batch_size": "2", "train.micro_batch_size": "1",
        "train.max_train_steps": "3", "train.checkpointing_steps": "0", "train.checkpoints_total_limit": "0", "train.mixed_precision": "fp16",
        "validation.steps": "0", "validation.max_images": "1", **changes,
    }
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def losses(folder):
    return [float(line.split(",")[2]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]


def norms(folder):
    return [float(line.split(",")[4]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "1")


def test_fp16_trains_as_fp32_does_with_the_same_bits_on_two_ranks_and_after_a_resume(dataset, tmp_path):
    run(options(dataset, tmp_path / "half"))
    run(options(dataset, tmp_path / "full", **{"train.mixed_precision": "no"}))
    # Gradients are unscaled before they are measured and clipped.
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), rel=0.02)
    assert norms(tmp_path / "half") == pytest.approx(norms(tmp_path / "full"), rel=0.1)
    state = json.loads((tmp_path / "half/checkpoints/step-00000003/state.json").read_text())
    assert state["loss_scale"]["good_updates"] == 3 and state["loss_scale"]["skipped"] == 0
    run(options(dataset, tmp_path / "two"), 2)
    assert checkpoints(tmp_path / "two") == checkpoints(tmp_path / "half")
    run(options(dataset, tmp_path / "resumed", **{"train.stop_after": "1"}), code=85)
    run(options(dataset, tmp_path / "resumed", **{"train.resume_from_checkpoint": "latest"}))
    last = "step-00000003"
    assert checkpoints(tmp_path / "resumed")[last] == checkpoints(tmp_path / "half")[last]
    resumed = json.loads((tmp_path / f"resumed/checkpoints/{last}/state.json").read_text())
    assert resumed["loss_scale"] == state["loss_scale"]


METHODS = {
    "lora": {"lora.target_modules": "all", "lora.text_encoder_target_modules": "all", "optim.learning_rate": "1e-3"},
    "textual_inversion": {"textual_inversion.placeholder_token": "<zorp>", "textual_inversion.initializer_text": "blue face",
                          "textual_inversion.num_vectors": "2", "caption.template": "[name] [filewords]"},
}


@pytest.mark.parametrize("method, precision", [("lora", "fp16"), ("textual_inversion", "bf16")])
def test_gradients_pass_through_a_text_encoder_in_half_precision(dataset, tmp_path, method, precision):
    settings = {"method": method, "train.max_train_steps": 2, **METHODS[method]}
    run(options(dataset, tmp_path / "full", **settings, **{"train.mixed_precision": "no"}))
    run(options(dataset, tmp_path / "half", **settings, **{"train.mixed_precision": precision}))
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "full"), rel=0.02)
    assert norms(tmp_path / "half") == pytest.approx(norms(tmp_path / "full"), rel=0.1)
    assert checkpoints(tmp_path / "half") != checkpoints(tmp_path / "full")


def masks(dataset):
    found = {}
    for part in sorted(dataset.glob("part-*.h5")):
        with h5py.File(part) as file:
            for bucket in file.values():
                found.update(zip(map(int, bucket["sample_id"][()]), bucket["mask"][()]))
    return found


def test_masks_of_alpha_and_of_files_agree_and_flip_with_their_images(tmp_path):
    images = small_image_folder(tmp_path / "images", 4)
    by_file = small_image_folder(tmp_path / "by_file", 4)
    (by_file / "masks").mkdir()
    for i, path in enumerate(sorted(images.glob("*.png"))):
        picture = Image.open(path).convert("RGB").resize((64, 64))
        alpha = np.zeros((64, 64), np.uint8)
        alpha[:, : 16 * (i + 1)] = 255
        picture.save(by_file / path.name)
        Image.fromarray(alpha).save(by_file / "masks" / path.name)
        picture.putalpha(Image.fromarray(alpha))
        picture.save(path)
    common = ["prepare", "--base", BASE, "--validation_images", "0", "--test_images", "0", "--random_flip", "true"]
    run([*common, "--images", images, "--output", tmp_path / "alpha", "--mask", "alpha"], 2)
    run([*common, "--images", by_file, "--output", tmp_path / "files", "--mask", "files"])
    alpha, files = masks(tmp_path / "alpha"), masks(tmp_path / "files")
    assert sorted(alpha) == list(range(8)) == sorted(files)
    for sample, mask in alpha.items():
        assert np.array_equal(mask, files[sample])
        side = mask.shape[-1]
        expected = np.zeros((side, side), np.uint8)
        expected[:, : side * (sample // 2 + 1) // 4] = 255
        assert np.array_equal(mask, expected[:, ::-1] if sample % 2 else expected)
    (by_file / "masks" / sorted(by_file.glob("*.png"))[0].name).unlink()
    out = run([*common, "--images", by_file, "--output", tmp_path / "missing", "--mask", "files"], code=2)
    assert "option mask" in out and "1 of 4 images" in out
    assert not (tmp_path / "missing").exists()


def test_a_masked_loss_needs_masks(dataset, tmp_path):
    out = run(options(dataset, tmp_path / "run", **{"loss.masked": "true"}), code=2)
    assert "loss.masked" in out and "--mask" in out
