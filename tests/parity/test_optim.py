"""Optimizers equal torch's AdamW and the published Lion and Prodigy, clipping torch's, averages diffusers' EMAModel,
learning-rate schedules diffusers' get_scheduler."""

import itertools
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

TOOLS = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests"

PARAMETERS = [
    {"name": "a.weight", "shape": [17, 9], "group": "slow"},
    {"name": "a.bias", "shape": [17], "group": "slow"},
    {"name": "embedding", "shape": [3, 160], "group": "fast"},
    {"name": "b.weight", "shape": [64, 33], "group": "slow"},
]
STEPS = 6
STATES = {"adamw": 2, "lion": 1, "prodigy": 4}


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def rates(step):
    return {"slow": 1e-3 / (step + 1), "fast": 5e-2}


def make_tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(item["shape"], generator=generator) for item in PARAMETERS]


def packed(tensors):
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def gradients(step):
    return make_tensors(1 + step, 0.05)


def train_ours(folder, cuts, options, max_grad_norm, learning_rates=rates, start=1.0, gradients=gradients):
    spec = {
        "parameters": PARAMETERS,
        "learning_rate": [learning_rates(step) for step in range(STEPS)],
        "cuts": cuts,
        "max_grad_norm": max_grad_norm,
        **options,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    inputs = [packed(make_tensors(0, start))] + [packed(gradients(step)) for step in range(STEPS)]
    np.concatenate(inputs).tofile(folder / "input.f32")
    command = [TOOLS / "optim_adamw_tool", folder / "spec.json", folder / "input.f32", folder / "output.f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = np.fromfile(folder / "output.f32", dtype=np.float32)
    count = inputs[0].size
    states = STATES[options.get("optimizer", "adamw")]
    *flat, rows = np.split(output, [count * (1 + i) for i in range(states + 2)])
    assert rows.size == 3 * STEPS
    return *flat, rows.reshape(STEPS, 3)


def train_torch(options, max_grad_norm, **kind):
    parameters = [torch.nn.Parameter(tensor) for tensor in make_tensors(0)]
    groups = [
        {"name": name, "params": [p for p, item in zip(parameters, PARAMETERS) if item["group"] == name]}
        for name in ["slow", "fast"]
    ]
    optimizer = torch.optim.AdamW(
        groups,
        betas=(options["beta1"], options["beta2"]),
        eps=options["epsilon"],
        weight_decay=options["weight_decay"],
        **kind,
    )
    norms = []
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, make_tensors(1 + step, 0.05)):
            parameter.grad = gradient
        if max_grad_norm > 0:
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm).item())
        for group in optimizer.param_groups:
            group["lr"] = rates(step)[group["name"]]
        optimizer.step()
    moments = [packed([optimizer.state[p][key] for p in parameters]) for key in ["exp_avg", "exp_avg_sq"]]
    return packed(parameters), *moments, np.array(norms)


OPTIONS = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}


@pytest.mark.parametrize("kind", [{"fused": True}, {"fused": False, "foreach": False}])
def test_adamw_equals_torchs(kind, tmp_path):
    ours = train_ours(tmp_path, [1.0], OPTIONS, 0)
    theirs = train_torch(OPTIONS, 0, **kind)
    for found, expected in zip(ours, theirs[:3]):
        assert error(found, expected) < 1e-6


def test_slices_have_the_same_bits(tmp_path):
    whole = train_ours(tmp_path, [1.0], OPTIONS, 0)
    for cuts in [[0.25, 0.5, 0.75, 1.0], [0.0113, 0.3331, 0.3332, 1.0]]:
        sliced = train_ours(tmp_path, cuts, OPTIONS, 0)
        assert all(np.array_equal(a, b) for a, b in zip(whole, sliced))


def test_clipping_equals_torchs(tmp_path):
    # Gradient norms are about 2.6, so 1 clips and 100 does not.
    for max_grad_norm, clips in [(1.0, True), (100.0, False)]:
        *ours, _, clipping = train_ours(tmp_path, [1.0], OPTIONS, max_grad_norm)
        *theirs, norms = train_torch(OPTIONS, max_grad_norm, foreach=False, fused=False)
        assert error(clipping[:, 0], norms) < 1e-6
        assert (clipping[:, 1] < 1).all() == clips
        for found, expected in zip(ours, theirs):
            assert error(found, expected) < 1e-6


def test_lion_follows_its_paper(tmp_path):
    """Algorithm 2 of arXiv 2302.06675."""
    options = {**OPTIONS, "optimizer": "lion"}
    parameters, moment, *_ = train_ours(tmp_path, [1.0], options, 0)
    group_rates = [np.concatenate([np.full(np.prod(item["shape"]), rates(step)[item["group"]]) for item in PARAMETERS]) for step in range(STEPS)]
    theta, m = packed(make_tensors(0)).astype(np.float64), 0
    for step in range(STEPS):
        g = packed(make_tensors(1 + step, 0.05)).astype(np.float64)
        c = options["beta1"] * m + (1 - options["beta1"]) * g
        theta = theta - group_rates[step] * (np.sign(c) + options["weight_decay"] * theta)
        m = options["beta2"] * m + (1 - options["beta2"]) * g
    assert error(parameters, theta) < 1e-6
    assert error(moment, m) < 1e-6
    for cuts in [[0.25, 0.5, 1.0], [0.0113, 0.3331, 0.3332, 1.0]]:
        sliced = train_ours(tmp_path, cuts, options, 0)
        assert np.array_equal(parameters, sliced[0]) and np.array_equal(moment, sliced[1])


# Prodigy's estimate lives on how far parameters moved, about 1e-6 at first: small parameters, so that fp32 resolves it,
# and gradients that mostly agree, so that it grows.
SMALL = 1e-4


def agreeing_gradients(step):
    return [common + own for common, own in zip(make_tensors(1, 0.05), make_tensors(2 + step, 0.01))]


def prodigy_of_the_paper(learning_rates, beta1, beta2, epsilon, weight_decay, use_bias_correction, safeguard_warmup, d_coef):
    """Algorithm 4 of arXiv 2306.06101 in double, with what its authors' code adds: beta3 = sqrt(beta2), bias
    correction, warm-up kept out of the estimate, decoupled weight decay."""
    x0 = packed(make_tensors(0, SMALL)).astype(np.float64)
    x, m, v, s, r = x0.copy(), 0, 0, 0, 0.0
    d = d0 = 1e-6
    beta3, estimates = np.sqrt(beta2), []
    updates = 0
    for step in range(STEPS):
        g = packed(agreeing_gradients(step)).astype(np.float64)
        gamma = learning_rates[step]
        if gamma > 0:
            updates += 1
            if use_bias_correction:
                gamma *= np.sqrt(1 - beta2**updates) / (1 - beta1**updates)
            m = beta1 * m + (1 - beta1) * d * g
            v = beta2 * v + (1 - beta2) * d**2 * g**2
            r = beta3 * r + (d / d0) * d * gamma * (g @ (x0 - x))
            s = beta3 * s + (d / d0) * d * (1 if safeguard_warmup else gamma) * g
            step_size = d * gamma
            d = max(d, d_coef * r / np.abs(s).sum())
            x = x - step_size * weight_decay * x
            x = x - step_size * m / (np.sqrt(v) + d * epsilon)
        estimates.append(d)
    return x, x0, m, v, s, np.array(estimates)


@pytest.mark.parametrize("corrected, safeguarded, d_coef", [(True, True, 8.0), (False, False, 1.0), (True, False, 8.0)])
def test_prodigy_follows_its_paper(tmp_path, corrected, safeguarded, d_coef):
    options = {**OPTIONS, "optimizer": "prodigy", "use_bias_correction": corrected, "safeguard_warmup": safeguarded, "d_coef": d_coef}
    warm_up = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    parameters, initial, moment1, moment2, s, _, rows = train_ours(
        tmp_path, [1.0], options, 0, lambda step: {"slow": warm_up[step], "fast": warm_up[step]}, SMALL, agreeing_gradients)
    named = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}
    *expected, estimates = prodigy_of_the_paper(
        warm_up, **named, use_bias_correction=corrected, safeguard_warmup=safeguarded, d_coef=d_coef)
    assert estimates[-1] > 2 * estimates[0], "the estimate grew"
    assert error(rows[:, 2], estimates) < 1e-5
    for found, value in zip([parameters, initial, moment1, moment2, s], expected):
        assert error(found, value) < 1e-5


def test_averages_equal_diffusers(tmp_path):
    *_, average, _ = train_ours(tmp_path, [1.0], OPTIONS, 0)
    parameters = [torch.nn.Parameter(tensor) for tensor in make_tensors(0)]
    groups = [{"name": name, "params": [p for p, item in zip(parameters, PARAMETERS) if item["group"] == name]} for name in ["slow", "fast"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    ema = EMAModel(parameters, decay=0.9)
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, make_tensors(1 + step, 0.05)):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rates(step)[group["name"]]
        optimizer.step()
        ema.step(parameters)
    assert error(average, packed(ema.shadow_params)) < 1e-6
    assert error(average, packed(parameters)) > 1e-4


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_schedules_equal_diffusers(name):
    # Ours refuses a warm-up that `constant` ignores.
    warmups = [0] if name == "constant" else [0, 1, 10]
    for warmup, total in itertools.product(warmups, [10, 37, 100]):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-3)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        count = total + 20
        command = [TOOLS / "optim_schedule_tool", "2e-3", name, str(warmup), str(total), str(count)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        expected = [2e-3 * scheduler.lr_lambdas[0](update) for update in range(count)]
        np.testing.assert_allclose([float(text) for text in printed], expected, rtol=1e-12, atol=1e-18)
