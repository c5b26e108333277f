"""The audit trace of a run, recomputed by diffusers, an independent hypernetwork and a Python Philox.

What `--train.trace` wrote is recomputed from the base, the dataset and the initial parameters alone: order, noise,
timesteps, captions' tokens, context, prediction, loss, gradient and the AdamW step, at a tolerance of 2e-4 of the
largest value (fp32 sums in another order over a UNet; measured differences are some 1e-6).
"""

import json
import pathlib
import sys

import h5py
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

import philox

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import BASE, prepare, run  # noqa: E402

TOLERANCE = 2e-4
STEPS = 3
LEAVES, MICRO = 4, 2
SEED, DATA_SEED = 11, 3
LEARNING_RATE, BETA1, BETA2, EPSILON, DECAY, MAX_NORM = 1e-2, 0.9, 0.99, 1e-8, 0.05, 0.05


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


class Network(torch.nn.Module):
    """One of a hypernetwork's pair: x + linear(x), built from the traced parameters' names and shapes."""

    def __init__(self, parameters, activation):
        super().__init__()
        layers = {}
        for name, value in parameters.items():
            index, kind = name.split(".")
            layers.setdefault(int(index), {})[kind] = torch.nn.Parameter(torch.tensor(value))
        self.layers = sorted(layers.items())
        self.last_linear = max(index for index, p in self.layers if p["weight"].dim() == 2)
        self.activation = activation

    def forward(self, x):
        y = x
        for index, p in self.layers:
            if p["weight"].dim() == 2:
                y = torch.nn.functional.linear(y, p["weight"], p["bias"])
                if index != self.last_linear:
                    y = self.activation(y)
            else:
                y = torch.nn.functional.layer_norm(y, (y.shape[-1],), p["weight"], p["bias"])
        return x + y

    def named(self):
        return {f"{index}.{kind}": value for index, p in self.layers for kind, value in p.items()}


class Hypernetwork:
    """Networks by width and role; `install` makes diffusers' attention read to_k and to_v through them."""

    def __init__(self, parameters):
        self.networks = {}
        groups = {}
        for name, value in parameters.items():
            width, role, _, rest = name.split(".", 3)
            groups.setdefault((int(width), role), {})[rest] = value
        for key, values in groups.items():
            self.networks[key] = Network(values, torch.relu)

    def install(self, unet):
        for module in unet.modules():
            if hasattr(module, "to_k") and hasattr(module, "to_v"):
                module.to_k.register_forward_pre_hook(self.hook("k"))
                module.to_v.register_forward_pre_hook(self.hook("v"))

    def hook(self, role):
        def before(module, arguments):
            network = self.networks.get((arguments[0].shape[-1], role))
            return (network(arguments[0]),) if network else None

        return before

    def named(self):
        return {f"{width}.{role}.linear.{rest}": value
                for (width, role), network in self.networks.items() for rest, value in network.named().items()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "ten", 10, "--validation_images", "1", "--test_images", "1")


def start(dataset, folder, *more, ranks=2, code=0):
    arguments = {
        "base": BASE, "data": dataset, "output": folder, "train.trace": folder.with_suffix(".h5"), "train.trace_steps": STEPS,
        "hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal",
        "hypernetwork.layer_norm": "true", "hypernetwork.layer_norm_init": "ones", "train.max_train_steps": 6,
        "train.global_batch_size": LEAVES * MICRO, "train.micro_batch_size": MICRO, "train.seed": SEED, "data.seed": DATA_SEED,
        "data.latent_sampling": "random", "train.max_grad_norm": MAX_NORM, "optim.learning_rate": LEARNING_RATE,
        "optim.adam_beta2": BETA2, "optim.adam_weight_decay": DECAY, "validation.steps": 0,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    run(["train", *words, *more], ranks, code)
    return h5py.File(folder.with_suffix(".h5"))


@pytest.fixture(scope="module")
def trace(dataset, tmp_path_factory):
    return start(dataset, tmp_path_factory.mktemp("trace") / "run")


@pytest.fixture(scope="module")
def networks():
    unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32)
    return unet.eval().requires_grad_(False), text.eval().requires_grad_(False)


def tree(group):
    return {name: group[name][()] for name in group}


def training_samples(dataset):
    """sample_id -> (mean, std) of the training split in order of sample_id, and captions, read with h5py alone."""
    samples = {}
    for part in sorted(dataset.glob("part-*.h5")):
        with h5py.File(part) as file:
            for bucket in file.values():
                for i, sample_id in enumerate(bucket["sample_id"][()]):
                    if bucket["split"][i] == 0:
                        samples[int(sample_id)] = (bucket["latent_mean"][i].astype(np.float32), bucket["latent_std"][i].astype(np.float32))
    captions = [json.loads(line) for line in (dataset / "captions.jsonl").read_text().splitlines()]
    return dict(sorted(samples.items())), {row["sample_id"]: row["text"] for row in captions}


def test_order_noise_and_timesteps_by_an_independent_philox(dataset, trace):
    samples, _ = training_samples(dataset)
    ids = list(samples)
    scaling = json.loads((dataset / "index.json").read_text())["scaling_factor"]
    alphas = alphas_cumprod()
    stream = philox.SampleStream([len(ids)], DATA_SEED, SEED, 0, MICRO)
    for step in range(1, STEPS + 1):
        for leaf in range(LEAVES):
            micro = trace[f"step_{step:06d}/micro_{leaf:04d}"]
            draws = stream.micro_batch((step - 1) * LEAVES + leaf)
            assert list(micro["sample_id"]) == [ids[draw.row] for draw in draws]
            for row, draw in enumerate(draws):
                mean, std = samples[ids[draw.row]]
                noise = philox.Stream(SEED, "noise", 0, draw.draw).normal(mean.shape)
                posterior = philox.Stream(SEED, "posterior", 0, draw.draw).normal(mean.shape)
                timestep = philox.Stream(SEED, "timestep", 0, draw.draw).integer(0, 1000)
                latent = (mean + std * posterior) * scaling
                assert micro["timestep"][row] == timestep
                assert error(micro["noise"][row], noise) < 1e-6
                assert error(micro["latent"][row], latent) < 1e-6
                a = alphas[timestep]
                assert error(micro["noisy"][row], np.sqrt(a) * latent + np.sqrt(1 - a) * noise) < 1e-5
                assert error(micro["target"][row], noise) < 1e-6


def alphas_cumprod():
    config = json.loads((BASE / "scheduler/scheduler_config.json").read_text())
    betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"], dtype=np.float64) ** 2
    return np.cumprod(1 - betas)


def test_tokens_and_context_by_transformers(dataset, trace, networks):
    _, captions = training_samples(dataset)
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    micro = trace["step_000001/micro_0000"]
    texts = [captions[int(i)] for i in micro["sample_id"]]
    length = micro["input_ids"].shape[1]
    ids = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    assert np.array_equal(micro["input_ids"][()], ids.numpy())
    assert error(micro["context"], networks[1](ids).last_hidden_state.detach().numpy()) < TOLERANCE


def recompute_step(trace, networks, step, first=1):
    """Gradient and losses of one step from the parameters before it."""
    before = "step_000000" if step == first else f"step_{step - 1:06d}"
    hypernetwork = Hypernetwork(tree(trace[f"{before}/parameter"]))
    unet = UNet2DConditionModel.from_config(networks[0].config)
    unet.load_state_dict(networks[0].state_dict())
    unet.eval().requires_grad_(False)
    hypernetwork.install(unet)
    total = 0
    for leaf in range(LEAVES):
        micro = {name: torch.tensor(value) for name, value in tree(trace[f"step_{step:06d}/micro_{leaf:04d}"]).items()}
        prediction = unet(micro["noisy"], micro["timestep"], micro["context"]).sample
        assert error(micro["prediction"], prediction.detach()) < TOLERANCE
        loss = ((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3))
        assert error(micro["loss"], loss.detach()) < TOLERANCE
        part = (loss * micro["weight"]).sum() / (LEAVES * MICRO)
        part.backward()
        total += part.item()
    return total, {name: value.grad.numpy() for name, value in hypernetwork.named().items()}


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_loss_and_gradient_by_diffusers(trace, networks, step):
    total, gradients = recompute_step(trace, networks, step)
    group = trace[f"step_{step:06d}"]
    assert abs(group.attrs["loss"] - total) < TOLERANCE * total
    assert set(gradients) == set(group["gradient"])
    # Softmax does not see a shift of all keys, so the last bias of a k network has no gradient in exact arithmetic;
    # what rounding leaves there is held against the largest gradient instead of against itself.
    floor = 1e-3 * max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = np.abs(group["gradient"][name][()] - gradient).max()
        assert difference < TOLERANCE * max(np.abs(gradient).max(), floor), name
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
    assert abs(group.attrs["grad_norm"] - norm) < TOLERANCE * norm


def assert_adamw_steps(trace, first_step, state):
    """Replays clipping and torch's AdamW on the traced gradients and compares the traced parameters."""
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in tree(trace["step_000000/parameter"]).items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, weight_decay=DECAY)
    for name, parameter in parameters.items():
        if state:
            optimizer.state[parameter] = {"step": torch.tensor(float(first_step)), "exp_avg": torch.tensor(state[0][name]),
                                          "exp_avg_sq": torch.tensor(state[1][name])}
    for step in range(first_step + 1, first_step + STEPS + 1):
        group = trace[f"step_{step:06d}"]
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(group["gradient"][name][()])
        torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM)
        assert group.attrs["clip_coefficient"] == pytest.approx(min(1, MAX_NORM / group.attrs["grad_norm"]), rel=1e-4)
        optimizer.step()
        for name, parameter in parameters.items():
            assert error(group["parameter"][name], parameter.detach()) < TOLERANCE, name


def test_adamw_steps_by_torch(trace):
    assert trace["step_000001"].attrs["clip_coefficient"] < 1
    assert_adamw_steps(trace, 0, None)


def test_a_resumed_run_traces_its_moments(dataset, tmp_path):
    first = start(dataset, tmp_path / "run", "--train.stop_after", "3", ranks=1, code=85)
    assert "moment1" not in first["step_000000"]
    first.close()
    (tmp_path / "run.h5").unlink()
    resumed = start(dataset, tmp_path / "run", "--train.resume_from_checkpoint", "latest")
    assert resumed["step_000000"].attrs["step"] == 3
    assert_adamw_steps(resumed, 3, [tree(resumed["step_000000/moment1"]), tree(resumed["step_000000/moment2"])])
