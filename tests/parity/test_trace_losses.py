"""A traced run with min-SNR weights, offset noise, masks, stratified timesteps and zero terminal SNR on a base that
predicts v, recomputed by diffusers' schedule, its training scripts' formulas and a Python Philox.
"""

import json
import shutil
import sys
import pathlib

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from PIL import Image

import philox
from test_trace import LEAVES, MICRO, Hypernetwork, error, tree

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import BASE, run, small_image_folder  # noqa: E402

STEPS, SEED, GAMMA, OFFSET = 2, 11, 5.0, 0.1
TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The embedded base as one that predicts v: links to its files, with another scheduler_config.json."""
    folder = tmp_path_factory.mktemp("base") / "v-base"
    folder.mkdir()
    for item in BASE.iterdir():
        if item.name != "scheduler":
            (folder / item.name).symlink_to(item)
    shutil.copytree(BASE / "scheduler", folder / "scheduler")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    return folder


def subject(name):
    """A mask for an image: a rectangle that depends on the name."""
    left = 8 + 4 * (sum(name.encode()) % 5)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, left : left + 31] = 255
    return mask


@pytest.fixture(scope="module")
def dataset(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    images = small_image_folder(folder / "images", 9)
    for image in sorted(images.glob("*.png")):
        width, height = Image.open(image).size
        Image.fromarray(subject(image.stem)).resize((width, height), Image.NEAREST).save(images / f"{image.stem}.mask.png")
    run(["prepare", "--base", base, "--images", images, "--output", folder / "set", "--mask", "files",
         "--validation_images", "1", "--test_images", "1"])
    return folder / "set"


def start(base, dataset, folder, *more, ranks=2):
    arguments = {
        "base": base, "data": dataset, "output": folder, "train.trace": folder.with_suffix(".h5"), "train.trace_steps": STEPS,
        "hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal",
        "train.max_train_steps": STEPS, "train.global_batch_size": LEAVES * MICRO, "train.micro_batch_size": MICRO, "train.seed": SEED,
        "validation.steps": 0, "validation.max_images": 1, "noise.offset": OFFSET, "noise.stratified": "true", "noise.min_timestep": 100,
        "noise.rescale_betas_zero_snr": "true", "loss.snr_gamma": GAMMA, "loss.masked": "true", "loss.unmasked_weight": "0.25",
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    run(["train", *words, *more], ranks)
    return h5py.File(folder.with_suffix(".h5"))


@pytest.fixture(scope="module")
def trace(base, dataset, tmp_path_factory):
    return start(base, dataset, tmp_path_factory.mktemp("trace") / "run")


@pytest.fixture(scope="module")
def schedule(base):
    config = json.loads((base / "scheduler/scheduler_config.json").read_text())
    return DDPMScheduler.from_config(config, rescale_betas_zero_snr=True)


def micro_batches(trace):
    for step in range(1, STEPS + 1):
        for leaf in range(LEAVES):
            draws = [((step - 1) * LEAVES + leaf) * MICRO + slot for slot in range(MICRO)]
            yield draws, tree(trace[f"step_{step:06d}/micro_{leaf:04d}"])


def test_offset_noise_and_strata_by_an_independent_philox(trace):
    batch = LEAVES * MICRO
    for draws, micro in micro_batches(trace):
        for row, draw in enumerate(draws):
            shape = micro["noise"][row].shape
            noise = philox.Stream(SEED, "noise", 0, draw).normal(shape)
            noise += OFFSET * philox.Stream(SEED, "noise_offset", 0, draw).normal((shape[0], 1, 1))
            assert error(micro["noise"][row], noise) < 1e-6
            part = philox.Stream(SEED, "timestep_stratum", 0, draw // batch).permutation(batch)[draw % batch]
            u = (part + philox.Stream(SEED, "timestep", 0, draw).integer(0, 2**53) / 2**53) / batch
            assert micro["timestep"][row] == 100 + int(u * 900)


def test_schedule_and_weights_by_diffusers(trace, schedule):
    assert schedule.alphas_cumprod[-1] == 0
    for _, micro in micro_batches(trace):
        latent, noise, t = (torch.tensor(micro[name]) for name in ["latent", "noise", "timestep"])
        assert error(micro["noisy"], schedule.add_noise(latent, noise, t)) < 1e-5
        assert error(micro["target"], schedule.get_velocity(latent, noise, t)) < 1e-5
        snr = compute_snr(schedule, t)
        assert error(micro["weight"], torch.clamp(snr, max=GAMMA) / (snr + 1)) < 1e-5


def test_masks_are_those_of_the_images(trace, dataset):
    rows = map(json.loads, (dataset / "captions.jsonl").read_text().splitlines())
    names = {row["sample_id"]: pathlib.Path(row["source"]).stem for row in rows}
    for _, micro in micro_batches(trace):
        for row, sample_id in enumerate(micro["sample_id"]):
            file = dataset.parent / f"images/{names[int(sample_id)]}.mask.png"
            image = torch.tensor(np.array(Image.open(file)), dtype=torch.float32)[None, None]
            resized = torch.nn.functional.interpolate(image, (64, 64), mode="bilinear", antialias=True)
            mask = torch.nn.functional.avg_pool2d(resized, 64 // micro["mask"].shape[-1])[0]
            # The dataset keeps whole levels of 255.
            assert np.abs(micro["mask"][row] - (0.25 + 0.75 * mask.numpy() / 255)).max() < 0.75 * 0.51 / 255
            assert mask.min() == 0 and mask.max() == 255


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_loss_and_gradient_by_diffusers(base, trace, step):
    from diffusers import UNet2DConditionModel

    hypernetwork = Hypernetwork(tree(trace[f"step_{step - 1:06d}/parameter"]))
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
    hypernetwork.install(unet)
    total = 0
    for leaf in range(LEAVES):
        micro = {name: torch.tensor(value) for name, value in tree(trace[f"step_{step:06d}/micro_{leaf:04d}"]).items()}
        prediction = unet(micro["noisy"], micro["timestep"], micro["context"]).sample
        squared = (prediction - micro["target"]) ** 2
        mask = micro["mask"].expand(squared.shape)
        loss = (squared * mask).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
        assert error(micro["loss"], loss.detach()) < TOLERANCE
        part = (loss * micro["weight"]).sum() / (LEAVES * MICRO)
        part.backward()
        total += part.item()
    group = trace[f"step_{step:06d}"]
    assert abs(group.attrs["loss"] - total) < TOLERANCE * total
    gradients = {name: value.grad.numpy() for name, value in hypernetwork.named().items()}
    floor = 1e-3 * max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = np.abs(group["gradient"][name][()] - gradient).max()
        assert difference < TOLERANCE * max(np.abs(gradient).max(), floor), name


def test_pseudo_huber_loss_is_recomputed_from_the_trace(base, dataset, tmp_path):
    trace = start(base, dataset, tmp_path / "run", "--loss.loss_type", "huber", "--loss.huber_schedule", "exponential", "--loss.masked", "false")
    for _, micro in micro_batches(trace):
        assert "mask" not in micro
        c = np.exp(micro["timestep"] / 1000 * np.log(0.1))
        assert error(micro["huber_c"], c) < 1e-6
        c = c[:, None, None, None]
        expected = (2 * c * (np.sqrt((micro["prediction"] - micro["target"]).astype(np.float64) ** 2 + c**2) - c)).mean(axis=(1, 2, 3))
        assert error(micro["loss"], expected) < 1e-5


def test_what_does_not_go_together_is_named(base, dataset, tmp_path):
    common = ["train", "--output", tmp_path / "run", "--data", dataset]
    out = run([*common, "--base", BASE, "--noise.rescale_betas_zero_snr", "true"], code=2)
    assert "noise.rescale_betas_zero_snr" in out and "predicts v" in out
    out = run([*common, "--base", base, "--noise.min_timestep", "1000"], code=2)
    assert "noise.min_timestep" in out
    assert not (tmp_path / "run").exists()
