"""Dreambooth's trace, recomputed by diffusers, transformers and torch; its exported folder, drawn by diffusers.

All weights of UNet and text encoder train, each at its own learning rate, with prior preservation: leaves of instances
and of class images alternate. Tolerance 2e-4 of the largest value, as in test_trace.py.
"""

import h5py
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

import philox
from test_generate import LEVELS, reference as reference_picture
from test_trace import BASE, TOLERANCE, error, prepare, run, training_samples, tree

STEPS, LEAVES, MICRO = 2, 2, 2
SEED, DATA_SEED = 11, 3
RATES = {"unet": 1e-3, "text_encoder": 1e-4}
DECAY, MAX_NORM, PRIOR_WEIGHT = 0.05, 0.05, 0.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dreambooth")


@pytest.fixture(scope="module")
def dataset(folder):
    return prepare(folder / "six", 6, "--validation_images", "1", "--test_images", "0")


@pytest.fixture(scope="module")
def trace(folder, dataset):
    settings = {
        "method": "dreambooth", "base": BASE, "data": dataset, "output": folder / "run", "train.trace": folder / "trace.h5",
        "train.trace_steps": STEPS, "train.max_train_steps": STEPS, "train.global_batch_size": LEAVES * MICRO,
        "train.micro_batch_size": MICRO, "train.seed": SEED, "data.seed": DATA_SEED, "train.max_grad_norm": MAX_NORM,
        "optim.learning_rate": RATES["unet"], "optim.adam_weight_decay": DECAY, "validation.steps": 0,
        "dreambooth.train_text_encoder": "true", "dreambooth.text_encoder_learning_rate": RATES["text_encoder"],
        "dreambooth.with_prior_preservation": "true", "dreambooth.prior_loss_weight": PRIOR_WEIGHT,
        "dreambooth.class_data": folder / "class", "dreambooth.class_prompt": "rocket on a white background",
        "dreambooth.num_class_images": 5, "sample.num_inference_steps": 3,
    }
    run(["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))], 2)
    return h5py.File(folder / "trace.h5")


class Model:
    """diffusers' and transformers' networks with the traced parameters, all of which need gradients."""

    def __init__(self, parameters):
        self.unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32).eval()
        self.text = CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32).eval()
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(torch.tensor(parameters[name]))

    def named(self):
        text = {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in self.text.named_parameters()}
        return {**{f"unet.{key}": value for key, value in self.unet.named_parameters()},
                **{f"text_encoder.{key}": value for key, value in text.items()}}


def before(trace, step):
    return tree(trace[f"step_{step - 1:06d}/parameter"])


def test_the_trace_starts_at_the_base_and_names_every_weight(trace):
    parameters = before(trace, 1)
    untouched = Model(parameters).named()
    assert set(parameters) == set(untouched)
    original = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32)
    assert all(np.array_equal(parameters[f"unet.{key}"], value.detach().numpy()) for key, value in original.named_parameters())


def test_leaves_of_instances_and_class_images_alternate(trace, dataset, folder):
    for place, data in enumerate((dataset, folder / "class")):
        samples, _ = training_samples(data)
        ids = list(samples)
        stream = philox.SampleStream([len(ids)], DATA_SEED, SEED, place, MICRO)
        for step in range(1, STEPS + 1):
            for leaf in range(LEAVES):
                micro = trace[f"step_{step:06d}/micro_{2 * leaf + place:04d}"]
                draws = stream.micro_batch((step - 1) * LEAVES + leaf)
                assert list(micro["dataset"]) == [place] * MICRO
                assert list(micro["sample_id"]) == [ids[draw.row] for draw in draws]
                assert np.allclose(micro["weight"], PRIOR_WEIGHT if place else 1)
                for row, draw in enumerate(draws):
                    noise = philox.Stream(SEED, "noise", place, draw.draw).normal(micro["noise"].shape[1:])
                    assert error(micro["noise"][row], noise) < 1e-6
                    assert micro["timestep"][row] == philox.Stream(SEED, "timestep", place, draw.draw).integer(0, 1000)
        assert f"micro_{2 * LEAVES:04d}" not in trace["step_000001"]


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_loss_and_gradient_by_diffusers(trace, step):
    model = Model(before(trace, step))
    total = 0
    for leaf in range(2 * LEAVES):
        micro = {name: torch.tensor(value) for name, value in tree(trace[f"step_{step:06d}/micro_{leaf:04d}"]).items()}
        context = model.text(micro["input_ids"]).last_hidden_state
        assert error(micro["context"], context.detach()) < TOLERANCE
        prediction = model.unet(micro["noisy"], micro["timestep"], context).sample
        assert error(micro["prediction"], prediction.detach()) < TOLERANCE
        part = (((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3)) * micro["weight"]).sum() / (LEAVES * MICRO)
        part.backward()
        total += part.item()
    group = trace[f"step_{step:06d}"]
    assert abs(group.attrs["loss"] - total) < TOLERANCE * total
    gradients = {name: value.grad.numpy() for name, value in model.named().items()}
    # A shift of all keys is nothing to a softmax: what rounding leaves of such a gradient is held against the largest.
    floor = 1e-3 * max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = np.abs(group["gradient"][name][()] - gradient).max()
        assert difference < TOLERANCE * max(np.abs(gradient).max(), floor), name


def test_adamw_steps_by_torch_at_two_learning_rates(trace):
    parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in before(trace, 1).items()}
    groups = [{"params": [value for name, value in parameters.items() if name.startswith(f"{component}.")], "lr": rate}
              for component, rate in RATES.items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    for step in range(1, STEPS + 1):
        group = trace[f"step_{step:06d}"]
        assert sorted(group.attrs["learning_rate"]) == sorted(RATES.values())
        assert group.attrs["clip_coefficient"] < 1
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(group["gradient"][name][()])
        torch.nn.utils.clip_grad_norm_(parameters.values(), MAX_NORM)
        optimizer.step()
        for name, parameter in parameters.items():
            assert error(group["parameter"][name], parameter.detach()) < TOLERANCE, name


def test_diffusers_draws_from_the_exported_folder(trace, folder):
    run(["export", folder / "run", "--format", "diffusers", "--output", folder / "model"])
    prompt = "rocket on a white background"
    run(["sample", "--base", folder / "model", "--prompt", prompt, "--num_inference_steps", "8", "--guidance_scale", "3",
         "--trace", folder / "sample.h5", "--output", folder / "grid.png"])
    with h5py.File(folder / "sample.h5") as file:
        ours = {name: torch.from_numpy(file[name][()]) for name in file}
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "model", torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    trained = trace[f"step_{STEPS:06d}/parameter"]
    for key, value in pipeline.unet.named_parameters():
        assert np.array_equal(trained[f"unet.{key}"][()], value.detach().numpy()), key
    context, latent, image = reference_picture(pipeline, "ddim", prompt, "", 8, 3.0, ours["initial_noise"][0])
    assert error(ours["context"][0], context) < 1e-3
    assert error(ours["final_latent"][0], latent) < 1e-3
    assert (ours["image"][0].float() - image).abs().mean().item() < LEVELS
