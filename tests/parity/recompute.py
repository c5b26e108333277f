"""A whole training run recomputed from its options, base, dataset and initial parameters, and compared with its trace.

The recomputation runs free: after the start nothing is taken from the trace, so an error in any update would be seen in
all that follow. (Lion's sign and Prodigy's estimate would make much of a rounding: these two take the traced gradient,
once it has been compared.) Errors are max|a - b| / max|b|; where the values are zero in exact arithmetic, such as the
gradient of an attention's key bias, against a part of the largest of their kind instead.
"""

import collections

import numpy as np
import torch
from run_inputs import sample_losses


# Of the largest of a kind: what is smaller is held against this instead of against itself.
FLOOR = 5e-3


def of_largest(ours, theirs, floor=0.0):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor, 1e-30)


def kind_of(name):
    """Tensors of a kind have gradients of a size."""
    if ".lora_" in name:
        return "lora_A" if ".lora_A." in name else "lora_B"
    return name.split(".")[0]


class Lion:
    """Algorithm 2 of arXiv 2302.06675."""

    def __init__(self, parameters, rate, decay, beta1=0.9, beta2=0.99):
        self.parameters, self.rate, self.decay, self.beta1, self.beta2 = parameters, rate, decay, beta1, beta2
        self.moment = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def step(self):
        for name, parameter in self.parameters.items():
            m, g = self.moment[name], parameter.grad
            direction = torch.sign(self.beta1 * m + (1 - self.beta1) * g)
            parameter.sub_(self.rate * (direction + self.decay * parameter))
            self.moment[name] = self.beta2 * m + (1 - self.beta2) * g


class Prodigy:
    """Algorithm 4 of arXiv 2306.06101 in double with its authors' code's defaults; learning rate 1."""

    def __init__(self, parameters, decay, d_coef, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.parameters, self.decay, self.d_coef = parameters, decay, d_coef
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.x = torch.cat([value.detach().double().flatten() for value in parameters.values()])
        self.x0 = self.x.clone()
        self.m, self.v, self.s = (torch.zeros_like(self.x) for _ in range(3))
        self.r, self.d, self.updates = 0.0, 1e-6, 0

    def step(self):
        g = torch.cat([value.grad.double().flatten() for value in self.parameters.values()])
        beta3, d, relative = self.beta2**0.5, self.d, self.d / 1e-6
        self.updates += 1
        gamma = d * (1 - self.beta2**self.updates) ** 0.5 / (1 - self.beta1**self.updates)
        self.m = self.beta1 * self.m + (1 - self.beta1) * d * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * d**2 * g**2
        self.r = beta3 * self.r + relative * gamma * (g @ (self.x0 - self.x)).item()
        self.s = beta3 * self.s + relative * d * g
        self.d = max(d, self.d_coef * self.r / self.s.abs().sum().item())
        self.x = self.x - gamma * self.decay * self.x
        self.x = self.x - gamma * self.m / (self.v.sqrt() + self.d * self.epsilon)
        begin = 0
        for value in self.parameters.values():
            value.copy_(self.x[begin : begin + value.numel()].view(value.shape))
            begin += value.numel()


def compare_inputs(errors, micro, batch, ids):
    for name in ("sample_id", "dataset", "timestep"):
        assert np.array_equal(micro[name][()], batch[name]), name
    assert np.array_equal(micro["input_ids"][()], ids)
    expected = {"latent", "noise", "noisy", "target", "weight"} | ({"mask", "huber_c", "time_ids"} & set(batch) & set(micro))
    assert ("mask" in micro) == ("mask" in batch) and ("huber_c" in micro) == ("huber_c" in batch)
    for name in expected:
        errors["inputs"] = max(errors["inputs"], of_largest(micro[name], batch[name]))


def run_leaf(errors, model, micro, inputs, m, batch_size):
    """Adds the leaf's gradient; returns its loss."""
    batch, captions, draws = inputs.micro_batch(m)
    ids = model.input_ids(captions)
    compare_inputs(errors, micro, batch, ids)
    model.begin_leaf(draws)
    context, pooled = model.condition(ids)
    prediction = model.predict(batch, context, pooled)
    losses = sample_losses(prediction, batch, inputs.settings.huber)
    found = {"context": context, "prediction": prediction, "loss": losses} | ({"pooled": pooled} if pooled is not None else {})
    assert ("pooled" in micro) == ("time_ids" in micro) == ("pooled" in found)
    for name, value in found.items():
        errors[name] = max(errors[name], of_largest(micro[name], value.detach()))
    part = (losses * batch["weight"]).sum() / batch_size
    part.backward()
    return part.item()


def compare_by_kind(ours, theirs):
    """Largest error of tensors by name, with the floor of their kind."""
    largest = collections.defaultdict(float)
    for name, value in theirs.items():
        largest[kind_of(name)] = max(largest[kind_of(name)], float(np.abs(value).max()))
    return max(of_largest(ours[name], value, FLOOR * largest[kind_of(name)]) for name, value in theirs.items())


def run_step(errors, model, group, step, sources, optimizer, max_norm, takes_traced_gradient):
    """One update; `sources` are the instances' inputs and, with prior preservation, the class images'."""
    for value in model.parameters.values():
        value.grad = torch.zeros_like(value)
    settings = sources[0].settings
    total = 0.0
    leaves = settings.leaves * len(sources)
    assert f"micro_{leaves - 1:04d}" in group and f"micro_{leaves:04d}" not in group
    for leaf in range(leaves):
        m = (step - 1) * settings.leaves + leaf // len(sources)
        total += run_leaf(errors, model, group[f"micro_{leaf:04d}"], sources[leaf % len(sources)], m,
                          settings.leaves * settings.micro_batch_size)  # fmt: skip
    gradients = {name: value.grad.numpy() for name, value in model.parameters.items()}
    traced = {name: group["gradient"][name][()] for name in group["gradient"]}
    assert set(traced) == set(gradients)
    errors["gradient"] = max(errors["gradient"], compare_by_kind(traced, gradients))
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    coefficient = min(1.0, max_norm / (norm + 1e-6))  # as torch's clip_grad_norm_
    for name, value in (("loss", total), ("grad_norm", norm), ("clip_coefficient", coefficient)):
        errors["scalars"] = max(errors["scalars"], abs(group.attrs[name] - value) / value)
    for name, value in model.parameters.items():
        value.grad = (torch.tensor(traced[name]) if takes_traced_gradient else value.grad) * coefficient
    with torch.no_grad():
        optimizer.step()
    return coefficient


def compare_parameters(errors, model, traced, start):
    """How far parameters came, of the farthest of their kind; a few roundings of fp32 are forgiven."""
    now = {name: value.detach().numpy().astype(np.float64) for name, value in model.parameters.items()}
    moved = {name: value - start[name] for name, value in now.items()}
    farthest = collections.defaultdict(float)
    for name, value in moved.items():
        farthest[kind_of(name)] = max(farthest[kind_of(name)], np.abs(value).max())
    for name, value in now.items():
        difference = np.abs(traced[name] - value) - 2.0**-22 * np.abs(value)
        errors["parameter"] = max(errors["parameter"], difference.max() / max(farthest[kind_of(name)], 1e-30))
