"""AdamW and clipping equal torch's, learning-rate schedules equal diffusers' get_scheduler."""

import itertools
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler

TOOLS = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests"

PARAMETERS = [
    {"name": "a.weight", "shape": [17, 9], "group": "slow"},
    {"name": "a.bias", "shape": [17], "group": "slow"},
    {"name": "embedding", "shape": [3, 160], "group": "fast"},
    {"name": "b.weight", "shape": [64, 33], "group": "slow"},
]
STEPS = 6


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def rates(step):
    return {"slow": 1e-3 / (step + 1), "fast": 5e-2}


def make_tensors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(item["shape"], generator=generator) for item in PARAMETERS]


def packed(tensors):
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors])


def train_ours(folder, cuts, options, max_grad_norm):
    spec = {
        "parameters": PARAMETERS,
        "learning_rate": [rates(step) for step in range(STEPS)],
        "cuts": cuts,
        "max_grad_norm": max_grad_norm,
        **options,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    inputs = [packed(make_tensors(0))] + [packed(make_tensors(1 + step, 0.05)) for step in range(STEPS)]
    np.concatenate(inputs).tofile(folder / "input.f32")
    command = [TOOLS / "optim_adamw_tool", folder / "spec.json", folder / "input.f32", folder / "output.f32"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    output = np.fromfile(folder / "output.f32", dtype=np.float32)
    count = inputs[0].size
    parameters, moment1, moment2, clipping = np.split(output, [count, 2 * count, 3 * count])
    return parameters, moment1, moment2, clipping.reshape(STEPS, 2)


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
        *ours, clipping = train_ours(tmp_path, [1.0], OPTIONS, max_grad_norm)
        *theirs, norms = train_torch(OPTIONS, max_grad_norm, foreach=False, fused=False)
        assert error(clipping[:, 0], norms) < 1e-6
        assert (clipping[:, 1] < 1).all() == clips
        for found, expected in zip(ours, theirs):
            assert error(found, expected) < 1e-6


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
