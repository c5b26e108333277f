"""Noise schedules and samplers equal diffusers' schedulers.

The model is a fixed function, so that whole trajectories can be compared. Error is max|a-b| / max|b|.
"""

import itertools
import json
import os
import pathlib
import subprocess
from unittest import mock

import numpy as np
import pytest
import torch
import philox
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral

TOOL = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "diffusion_sampler_tool"
BASE = pathlib.Path(os.environ["LDMTUNE_SOURCE"]) / "datasets" / "emoji-base" / "scheduler" / "scheduler_config.json"
SHAPE = (4, 4, 8, 8)
TOLERANCE = 1e-5
SAMPLERS = ["ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras"]

STABLE_DIFFUSION = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
SCHEDULES = {
    "defaults": {},
    "stable_diffusion": STABLE_DIFFUSION,
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400},
    "linear": {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.015, "num_train_timesteps": 500},
    "trained": {"trained_betas": [0.001 * (i + 1) for i in range(50)], "num_train_timesteps": 50},
    "zero_snr": {**STABLE_DIFFUSION, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def model(sample, timestep):
    return 0.8 * sample + 0.3 * torch.sin(2 * sample + 0.01 * float(timestep))


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, *SHAPE), generator=generator)


@pytest.fixture
def ask(tmp_path, inputs):
    """Sends requests to the tool and gives the floats it answers with."""

    def run(requests):
        (tmp_path / "requests.json").write_text(json.dumps(requests))
        inputs.numpy().tofile(tmp_path / "input.f32")
        command = [TOOL, tmp_path / "requests.json", tmp_path / "input.f32", tmp_path / "output.f32"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return np.fromfile(tmp_path / "output.f32", dtype=np.float32)

    return run


def make_scheduler(name, config):
    if name == "ddim":
        return DDIMScheduler.from_config({**config, "clip_sample": False})
    if name == "euler":
        return EulerDiscreteScheduler.from_config(config)
    if name == "euler_ancestral":
        return EulerAncestralDiscreteScheduler.from_config(config)
    return DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=name.endswith("karras"))


def step_noise(step):
    """Image 5 of seed 3, as the tool draws it."""
    return torch.from_numpy(philox.Stream(3, "sampler_noise", 0, 5 << 16 | step).normal(SHAPE))


def reference(name, config, steps, noise):
    """init_noise_sigma, timesteps and trajectory of diffusers' scheduler."""
    scheduler = make_scheduler(name, config)
    scheduler.set_timesteps(steps)
    sample = noise * scheduler.init_noise_sigma
    states = [sample]
    for timestep in scheduler.timesteps:
        output = model(scheduler.scale_model_input(sample, timestep), timestep)
        with mock.patch.object(ancestral, "randn_tensor", lambda *_, **__: step_noise(int(scheduler.step_index))):
            sample = scheduler.step(output, timestep, sample).prev_sample
        states.append(sample)
    timesteps = scheduler.timesteps.numpy().astype(np.float32)
    return float(scheduler.init_noise_sigma), timesteps, torch.stack(states).numpy()


def check_trajectories(answer, cases, noise, tolerance=TOLERANCE):
    offset = 0
    for name, config, steps in cases:
        label = f"{name} {steps} {config}"
        sigma, timesteps, states = reference(name, config, steps, noise)
        assert len(timesteps) == steps, label
        assert abs(answer[offset] / sigma - 1) < 1e-6, label
        np.testing.assert_allclose(answer[offset + 1 : offset + 1 + steps], timesteps, rtol=1e-7, err_msg=label)
        found = answer[offset + 1 + steps :][: states.size].reshape(states.shape)
        # Each state on its own scale: late ones are far smaller than Euler's first.
        assert max(error(a, b) for a, b in zip(found, states)) < tolerance, label
        offset += 1 + steps + states.size
    assert offset == answer.size


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_trajectories(name, prediction, ask, inputs):
    cases = []
    for spacing, steps in itertools.product(["leading", "linspace", "trailing"], [1, 7, 20, 50]):
        for offset, to_one in [(1, False), (0, True)]:
            config = {
                **STABLE_DIFFUSION,
                "prediction_type": prediction,
                "timestep_spacing": spacing,
                "steps_offset": offset,
                "set_alpha_to_one": to_one,
            }
            cases.append((name, config, steps))
    answer = ask([{"config": config, "sampler": name, "steps": steps} for name, config, steps in cases])
    check_trajectories(answer, cases, inputs[1])


def test_other_schedules_and_absent_keys(ask, inputs):
    keys = ["defaults", "cosine", "linear", "trained"]
    cases = [(name, SCHEDULES[key], 9) for name in SAMPLERS for key in keys]
    # There Karras' first two sigmas belong to one whole timestep, and diffusers then starts at the second.
    for key in ["cosine", "trained"]:
        cases.remove(("dpmpp_2m_karras", SCHEDULES[key], 9))
    answer = ask([{"config": config, "sampler": name, "steps": steps} for name, config, steps in cases])
    check_trajectories(answer, cases, inputs[1])


def test_zero_terminal_snr(ask, inputs):
    config = {**SCHEDULES["zero_snr"], "timestep_spacing": "trailing"}
    for name, tolerance in [("ddim", TOLERANCE), ("euler", 5e-5)]:
        # Euler goes from sigma = 4096 to 18 in its first step: diffusers' float32 difference of numbers of that size is
        # itself 1.6e-5 from the same steps in float64.
        answer = ask([{"config": config, "sampler": name, "steps": 10}])
        check_trajectories(answer, [(name, config, 10)], inputs[1], tolerance)


def test_the_embedded_bases_config(ask, inputs):
    config = json.loads(BASE.read_text())
    cases = [(name, config, 20) for name in SAMPLERS]
    answer = ask([{"config": config, "sampler": name, "steps": steps} for name, config, steps in cases])
    check_trajectories(answer, cases, inputs[1])


@pytest.mark.parametrize("key", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_targets(key, prediction, ask, inputs):
    config = {**SCHEDULES[key], "prediction_type": prediction}
    scheduler = DDPMScheduler.from_config(config)
    last = scheduler.config.num_train_timesteps - 1
    timestep = torch.tensor([0, 1, last // 2, last])
    answer = ask([{"config": config, "timestep": timestep.tolist()}])
    latents, noise = inputs
    noisy = scheduler.add_noise(latents, noise, timestep)
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, timestep)
    loss = torch.nn.functional.mse_loss(noisy, target, reduction="none").mean(dim=(1, 2, 3))
    parts = np.split(answer, np.cumsum([last + 1, noisy.numel(), noisy.numel()]))
    assert np.array_equal(parts[0], scheduler.alphas_cumprod.numpy()), "the schedule itself has the same bits"
    for found, expected in zip(parts[1:], [noisy, target, loss]):
        assert error(found, expected.numpy().ravel()) < 1e-6
