"""`ldmtune sample` draws what diffusers' StableDiffusionPipeline draws from the same initial noise."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import philox
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.schedulers import scheduling_euler_ancestral_discrete as ancestral
from PIL import Image

SOURCE = Path(os.environ.get("LDMTUNE_SOURCE", Path(__file__).parents[2]))
BINARY = Path(os.environ.get("LDMTUNE_BUILD", SOURCE / "build")) / "ldmtune"
BASE = SOURCE / "datasets/emoji-base"

TOLERANCE = 1e-3  # of max|a - b| / max|b|, after a dozen steps of two fp32 implementations
LEVELS = 2.0      # of 255, on average: a rounding may fall either way

SCHEDULERS = {
    "ddim": lambda config: DDIMScheduler.from_config(config, clip_sample=False),
    "euler": EulerDiscreteScheduler.from_config,
    "euler_ancestral": EulerAncestralDiscreteScheduler.from_config,
    "dpmpp_2m": DPMSolverMultistepScheduler.from_config,
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
}


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def sample(folder, *options):
    """Runs `ldmtune sample` and reads its trace: arrays with a leading dimension of pictures."""
    command = [BINARY, "sample", "--base", BASE, "--trace", folder / "trace.h5", "--output", folder / "grid.png", *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300)
    with h5py.File(folder / "trace.h5") as file:
        return {name: torch.from_numpy(file[name][()]) for name in file}


def error(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def reference(pipeline, sampler, prompt, negative, steps, guidance, noise):
    """diffusers' context (negative, positive), final latent and image for initial noise (C, h, w)."""
    pipeline.scheduler = SCHEDULERS[sampler](pipeline.scheduler.config)
    with torch.no_grad():
        positive, uncond = pipeline.encode_prompt(prompt, "cpu", 1, True, negative)
        latent = pipeline(
            prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance,
            latents=noise[None].clone(), height=noise.shape[1] * pipeline.vae_scale_factor,
            width=noise.shape[2] * pipeline.vae_scale_factor, output_type="latent").images
        image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
        image = pipeline.image_processor.postprocess(image, output_type="np")[0] * 255
    return torch.cat([uncond, positive]), latent[0], torch.from_numpy(image)


@pytest.mark.parametrize("sampler, steps, guidance, negative", [
    ("ddim", 12, 3.0, ""),
    ("ddim", 7, 7.5, "a blurry picture"),
    ("ddim", 10, 1.0, ""),
    ("euler", 12, 3.0, ""),
    ("euler", 7, 7.5, "a blurry picture"),
])
def test_equals_diffusers(pipeline, tmp_path, sampler, steps, guidance, negative):
    prompts = ["rocket on a white background", "red apple on a blue background"]
    trace = sample(tmp_path, "--prompt", " | ".join(prompts), "--negative_prompt", negative, "--seed", 11, "--sampler", sampler,
                   "--num_inference_steps", steps, "--guidance_scale", guidance, "--num_images", 2)
    assert trace["initial_noise"].shape == (4, 4, 16, 16)
    assert trace["context"].shape == (4, 2, 24, 160)
    for row in range(4):
        context, latent, image = reference(
            pipeline, sampler, prompts[row // 2], negative, steps, guidance, trace["initial_noise"][row])
        assert error(trace["context"][row], context) < TOLERANCE
        assert error(trace["final_latent"][row], latent) < TOLERANCE
        assert (trace["image"][row].float() - image).abs().mean().item() < LEVELS
    # Other noise and other prompts must not pass for each other.
    assert error(trace["final_latent"][0], trace["final_latent"][1]) > 10 * TOLERANCE, "other noise, another picture"
    assert error(trace["final_latent"][0], trace["final_latent"][2]) > 0.1


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras"])
def test_further_samplers(pipeline, tmp_path, monkeypatch, sampler):
    seed, steps = 5, 8
    trace = sample(tmp_path, "--prompt", "rocket", "--seed", seed, "--sampler", sampler, "--num_images", 2,
                   "--num_inference_steps", steps, "--guidance_scale", 3)
    for index in range(2):
        def step_noise(shape, **_):
            step = int(pipeline.scheduler.step_index)
            return torch.from_numpy(philox.Stream(seed, "sampler_noise", 0, index << 16 | step).normal(tuple(shape)))

        monkeypatch.setattr(ancestral, "randn_tensor", step_noise)
        _, latent, image = reference(pipeline, sampler, "rocket", "", steps, 3.0, trace["initial_noise"][index])
        assert error(trace["final_latent"][index], latent) < TOLERANCE
        assert (trace["image"][index].float() - image).abs().mean().item() < LEVELS


def test_another_size(pipeline, tmp_path):
    trace = sample(tmp_path, "--prompt", "rocket", "--num_inference_steps", 5, "--width", 96, "--height", 80)
    assert trace["image"].shape == (1, 80, 96, 3)
    _, latent, image = reference(pipeline, "ddim", "rocket", "", 5, 7.5, trace["initial_noise"][0])
    assert error(trace["final_latent"][0], latent) < TOLERANCE
    assert (trace["image"][0].float() - image).abs().mean().item() < LEVELS


def hypernetwork(width, generator):
    """One A1111 network of structure 1, 2, 1 with ReLU."""
    linear = torch.nn.Sequential(torch.nn.Linear(width, 2 * width), torch.nn.ReLU(), torch.nn.Linear(2 * width, width))
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return linear


def test_hypernetwork_at_a_strength(pipeline, tmp_path):
    strength, generator = 0.7, torch.Generator().manual_seed(1)
    networks = {width: (hypernetwork(width, generator), hypernetwork(width, generator)) for width in (128, 160, 192)}
    named = {width: tuple({f"linear.{key}": value for key, value in network.state_dict().items()} for network in pair)
             for width, pair in networks.items()}
    torch.save({**named, "step": 1, "name": "random", "layer_structure": [1.0, 2.0, 1.0], "activation_func": "relu",
                "is_layer_norm": False, "weight_initialization": "Normal", "sd_checkpoint": None,
                "sd_checkpoint_name": None, "activate_output": False, "use_dropout": False,
                "dropout_structure": None, "last_layer_dropout": False, "optional_info": None}, tmp_path / "random.pt")
    trace = sample(tmp_path, "--prompt", "rocket on a white background", "--num_inference_steps", 6, "--strengths", "0,1",
                   "--hypernetwork", f"{tmp_path / 'random.pt'}:{strength}", "--guidance_scale", 3)

    def bend(network):
        return lambda module, inputs: (inputs[0] + strength * network(inputs[0]),)

    handles = []
    noise = trace["initial_noise"][0]
    _, plain, _ = reference(pipeline, "ddim", "rocket on a white background", "", 6, 3.0, noise)
    for name, module in pipeline.unet.named_modules():
        if name.endswith((".to_k", ".to_v")):
            handles.append(module.register_forward_pre_hook(bend(networks[module.in_features][name.endswith("v")])))
    assert handles
    _, bent, _ = reference(pipeline, "ddim", "rocket on a white background", "", 6, 3.0, noise)
    for handle in handles:
        handle.remove()
    assert error(bent, plain) > 0.05
    assert error(trace["final_latent"][0], plain) < TOLERANCE
    assert error(trace["final_latent"][1], bent) < TOLERANCE
    assert torch.equal(trace["initial_noise"][0], trace["initial_noise"][1])


def test_png_keeps_the_settings(tmp_path):
    sample(tmp_path, "--prompt", "rocket", "--num_inference_steps", 2, "--seed", 3, "--output_dir", tmp_path / "single")
    with Image.open(tmp_path / "single" / "image-000-000.png") as image:
        assert image.size == (64, 64)
        assert image.text["parameters"].startswith("rocket\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 3, ")
    with Image.open(tmp_path / "grid.png") as image:
        assert "Seed: 3" in image.text["parameters"]
        assert np.asarray(image.convert("RGB")).std() > 5
