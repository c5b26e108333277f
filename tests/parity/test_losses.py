"""Loss weights, losses and timesteps equal the formulas of diffusers' training scripts and of the papers."""

import json
import math
import os
import pathlib
import statistics
import subprocess

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

import philox

TOOL = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests/diffusion_loss_tool"
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
TIMESTEPS = [0, 1, 37, 200, 500, 640, 998, 999]
SHAPE = (len(TIMESTEPS), 4, 6, 5)


def error(found, expected):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def inputs():
    generator = torch.Generator().manual_seed(5)
    prediction, target = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    masks = torch.randint(0, 256, (SHAPE[0], *SHAPE[2:]), generator=generator)
    masks[0] = 0
    masks[1] = 255
    return prediction, target, masks


def ours(folder, scheduler, **options):
    spec = {"scheduler": scheduler, "timesteps": TIMESTEPS, "shape": SHAPE, "loss": {key: str(value).lower() for key, value in options.items()}}
    (folder / "spec.json").write_text(json.dumps(spec))
    np.concatenate([tensor.float().numpy().ravel() for tensor in inputs()]).tofile(folder / "input.f32")
    done = subprocess.run([TOOL, "loss", folder / "spec.json", folder / "input.f32", folder / "output.f32"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.fromfile(folder / "output.f32", np.float32).reshape(3, -1)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_equal_diffusers(tmp_path, prediction_type, gamma):
    scheduler = {**SCHEDULE, "prediction_type": prediction_type}
    weight = ours(tmp_path, scheduler, snr_gamma=gamma)[0]
    # diffusers' train_text_to_image.py
    snr = compute_snr(DDPMScheduler(**scheduler), torch.tensor(TIMESTEPS))
    expected = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = expected / snr if prediction_type == "epsilon" else expected / (snr + 1)
    # compute_snr subtracts in fp32 where sigma is small: 1e-5 of the largest weight is its rounding.
    assert error(weight, expected) < 1e-5
    assert weight.min() < 0.5 * weight.max()


@pytest.mark.parametrize("prediction_type, last", [("epsilon", 1.0), ("v_prediction", 0.0)])
def test_min_snr_weights_at_zero_snr(tmp_path, prediction_type, last):
    scheduler = {**SCHEDULE, "prediction_type": prediction_type, "rescale_betas_zero_snr": True}
    assert ours(tmp_path, scheduler, snr_gamma=5)[0][-1] == last


def huber_c_of_diffusers(kind, huber_c, timestep):
    """As examples/research_projects/scheduled_huber_loss_training computes it."""
    if kind == "constant":
        return huber_c
    if kind == "exponential":
        alpha = -math.log(huber_c) / SCHEDULE["num_train_timesteps"]
        return math.exp(-alpha * timestep)
    alphas_cumprod = DDPMScheduler(**SCHEDULE).alphas_cumprod[timestep]
    sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return float((1 - huber_c) / (1 + sigmas) ** 2 + huber_c)


@pytest.mark.parametrize("kind", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("loss_type", ["huber", "smooth_l1"])
def test_pseudo_huber_losses_equal_diffusers(tmp_path, loss_type, kind):
    _, thresholds, loss = ours(tmp_path, SCHEDULE, loss_type=loss_type, huber_schedule=kind, huber_c=0.2)
    prediction, target, _ = inputs()
    for i, timestep in enumerate(TIMESTEPS):
        c = huber_c_of_diffusers(kind, 0.2, timestep)
        assert thresholds[i] == pytest.approx(c, rel=1e-4)
        root = torch.sqrt((prediction[i] - target[i]) ** 2 + c**2) - c
        expected = (2 * c * root if loss_type == "huber" else 2 * root).mean()
        assert loss[i] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("unmasked", [0.0, 0.25])
def test_masked_loss(tmp_path, unmasked, normalize):
    loss = ours(tmp_path, SCHEDULE, masked=True, unmasked_weight=unmasked, normalize_masked_area=normalize)[2]
    prediction, target, masks = inputs()
    squared = (prediction - target) ** 2
    weight = (unmasked + (1 - unmasked) * masks / 255).unsqueeze(1).expand(SHAPE)
    expected = (squared * weight).mean(dim=(1, 2, 3))
    if normalize:
        area = weight.mean(dim=(1, 2, 3))
        expected = torch.where(area > 0, expected / area, 0)
    assert error(loss, expected) < 1e-6
    plain = squared.mean(dim=(1, 2, 3)).numpy()
    assert loss[1] == pytest.approx(plain[1], rel=1e-5), "a full mask changes nothing"
    assert (loss[0] == 0) == (unmasked == 0), "an empty mask gives no loss, and no NaN"


def timesteps(folder, draws, batch=8, seed=3, dataset=0, **options):
    spec = {"scheduler": SCHEDULE, "noise": {key: str(value).lower() for key, value in options.items()}, "seed": seed, "dataset": dataset,
            "batch": batch, "draws": draws}
    (folder / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run([TOOL, "timesteps", folder / "spec.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def expected_timestep(u, sampling, mean, std, low, high):
    """The quantile of u, written from its definition."""
    if sampling == "uniform":
        return low + int(u * (high - low))
    normal = mean + std * statistics.NormalDist().inv_cdf(u + 2.0**-54)
    if sampling == "logit_normal":
        return low + int((high - low) / (1 + math.exp(-normal)))
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.double()
    log_sigma = 0.5 * torch.log((1 - alphas) / alphas)[low:high]
    return low + int((log_sigma - normal).abs().argmin())


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("sampling, mean, std", [("uniform", 0, 1), ("logit_normal", 0.3, 0.8), ("log_normal", -1.2, 1.2)])
def test_timesteps_by_an_independent_philox(tmp_path, sampling, mean, std, stratified):
    low, high, batch = 20, 900, 8
    found = timesteps(tmp_path, 40, batch, seed=9, dataset=2, timestep_sampling=sampling, timestep_mean=mean, timestep_std=std,
                      stratified=stratified, min_timestep=low, max_timestep=high)
    for draw, timestep in enumerate(found):
        stream = philox.Stream(9, "timestep", 2, draw)
        if sampling == "uniform" and not stratified:
            assert timestep == low + stream.integer(0, high - low)
            continue
        u = stream.integer(0, 2**53) / 2**53
        if stratified:
            parts = philox.Stream(9, "timestep_stratum", 2, draw // batch).permutation(batch)
            u = (parts[draw % batch] + u) / batch
        assert timestep == expected_timestep(u, sampling, mean, std, low, high)


def test_strata_lower_the_variance_and_keep_the_mean(tmp_path):
    batch, updates = 20, 200
    plain, strata = (np.array(timesteps(tmp_path, batch * updates, batch, stratified=s)).reshape(updates, batch) for s in [False, True])
    # Each twentieth of [0, 1000) is met once an update.
    assert all(sorted((row * batch) // 1000) == list(range(batch)) for row in strata)
    assert strata.mean() == pytest.approx(499.5, abs=3)
    assert plain.mean() == pytest.approx(499.5, abs=20)
    assert strata.mean(axis=1).std() < 0.2 * plain.mean(axis=1).std()


def test_shapes_have_their_moments(tmp_path):
    found = np.array(timesteps(tmp_path, 4000, timestep_sampling="logit_normal", timestep_mean=-0.5, timestep_std=0.7))
    logits = np.log((found + 0.5) / (1000 - found - 0.5))
    assert logits.mean() == pytest.approx(-0.5, abs=0.05)
    assert logits.std() == pytest.approx(0.7, abs=0.05)
    found = np.array(timesteps(tmp_path, 4000, timestep_sampling="log_normal", timestep_mean=-0.4, timestep_std=0.8))
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.double().numpy()[found]
    log_sigma = 0.5 * np.log((1 - alphas) / alphas)
    assert log_sigma.mean() == pytest.approx(-0.4, abs=0.05)
    assert log_sigma.std() == pytest.approx(0.8, abs=0.05)
