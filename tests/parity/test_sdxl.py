"""SDXL: `ldmtune sample` draws what StableDiffusionXLPipeline draws, and a traced run is recomputed by diffusers.

The networks alone are compared in test_networks.py. Tolerances are of max|a - b| / max|b|.
"""

import json
import pathlib
import sys

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from random_bases import xl_pipeline
from test_trace import Hypernetwork, error, tree

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run, small_image_folder  # noqa: E402

PROMPTS = ["a red rocket!", "two apples, on blue paper"]
STEPS, LEAVES, MICRO = 2, 2, 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "xl"
    return folder, xl_pipeline(folder)


def sample(folder, base, *options):
    run(["sample", "--base", base, "--trace", folder / "trace.h5", "--output", folder / "grid.png", *options])
    with h5py.File(folder / "trace.h5") as file:
        return {name: torch.from_numpy(file[name][()]) for name in file}


@pytest.mark.parametrize("sampler, guidance, negative, size", [
    ("euler", 5.0, None, (64, 64)),
    ("ddim", 5.0, "a blurry picture!", (96, 80)),
    ("ddim", 1.0, None, (64, 64)),
])
def test_pictures_equal_those_of_diffusers(base, tmp_path, sampler, guidance, negative, size):
    folder, pipeline = base
    kind = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler}[sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **({"clip_sample": False} if sampler == "ddim" else {}))
    trace = sample(tmp_path, folder, "--prompt", " | ".join(PROMPTS), "--negative_prompt", negative or "", "--seed", 5,
                   "--sampler", sampler, "--guidance_scale", guidance, "--num_inference_steps", 6, "--width", size[0],
                   "--height", size[1])
    for row, prompt in enumerate(PROMPTS):
        call = dict(negative_prompt=negative, num_inference_steps=6, guidance_scale=guidance, width=size[0], height=size[1],
                    latents=trace["initial_noise"][row][None].clone())
        with torch.no_grad():
            context = pipeline.encode_prompt(prompt, do_classifier_free_guidance=True, negative_prompt=negative)
            latent = pipeline(prompt, output_type="latent", **call).images
            image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
            image = pipeline.image_processor.postprocess(image, output_type="np")[0] * 255
        assert error(trace["context"][row], torch.cat([context[1], context[0]])) < 1e-4
        assert error(trace["final_latent"][row], latent[0]) < 1e-3
        assert np.abs(trace["image"][row].numpy().astype(float) - image).mean() < 2
    # The two share their noise; what the prompts change must be far above the tolerance.
    assert error(trace["final_latent"][0], trace["final_latent"][1]) > 5e-3


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = small_image_folder(folder / "images", 6)
    run(["prepare", "--base", base[0], "--images", images, "--output", folder / "set", "--resolution", 64,
         "--validation_images", 1, "--test_images", 1])
    options = {
        "base": base[0], "data": folder / "set", "output": folder / "run", "train.trace": folder / "run.h5", "train.trace_steps": STEPS,
        "hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.weight_init": "XavierNormal",
        "train.max_train_steps": STEPS, "train.global_batch_size": LEAVES * MICRO, "train.micro_batch_size": MICRO,
        "optim.learning_rate": 1e-2, "validation.steps": 1, "caption.dropout": 0.3,
    }
    run(["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))], 2)
    return folder


def test_networks_stand_at_every_width(trained):
    """Self-attention of the levels with transformers, 48 and 64 wide, and the text of both encoders, 48 + 64."""
    with h5py.File(trained / "run.h5") as trace:
        assert {name.split(".")[0] for name in trace["step_000000/parameter"]} == {"48", "64", "112"}


def test_conditioning_is_what_diffusers_gives(base, trained):
    pipeline = base[1]
    captions = {row["sample_id"]: row["text"] for row in map(json.loads, (trained / "set/captions.jsonl").open())}
    sizes = {}
    for part in (trained / "set").glob("part-*.h5"):
        with h5py.File(part) as file:
            for name, bucket in file.items():
                for i, sample_id in enumerate(bucket["sample_id"]):
                    width, height = map(int, name.split("x"))
                    original, crop = bucket["original_size"][i], bucket["crop"][i]
                    sizes[sample_id] = (original[1], original[0], crop[1], crop[0], height, width)
    with h5py.File(trained / "run.h5") as trace:
        micro = tree(trace["step_000001/micro_0000"])
        for row, sample_id in enumerate(micro["sample_id"]):
            ids = torch.tensor(micro["input_ids"][row]).chunk(2)
            texts = {captions[sample_id], ""}
            prompts = {text: [t(text, padding="max_length", max_length=24, truncation=True).input_ids
                              for t in (pipeline.tokenizer, pipeline.tokenizer_2)] for text in texts}
            found = [text for text, pair in prompts.items() if [x.tolist() for x in ids] == pair]
            assert len(found) == 1, "the caption, or the empty one where it was dropped"
            with torch.no_grad():
                context, _, pooled, _ = pipeline.encode_prompt(found[0], do_classifier_free_guidance=False)
            assert error(micro["context"][row], context[0]) < 1e-4
            assert error(micro["pooled"][row], pooled[0]) < 1e-4
            assert tuple(micro["time_ids"][row]) == sizes[sample_id]


def test_loss_and_gradient_by_diffusers(base, trained):
    unet = base[1].unet
    with h5py.File(trained / "run.h5") as trace:
        for step in range(1, STEPS + 1):
            hypernetwork = Hypernetwork(tree(trace[f"step_{step - 1:06d}/parameter"]))
            copied = type(unet).from_config(unet.config)
            copied.load_state_dict(unet.state_dict())
            copied.eval().requires_grad_(False)
            hypernetwork.install(copied)
            total = 0
            for leaf in range(LEAVES):
                micro = {name: torch.tensor(value) for name, value in tree(trace[f"step_{step:06d}/micro_{leaf:04d}"]).items()}
                added = {"text_embeds": micro["pooled"], "time_ids": micro["time_ids"]}
                prediction = copied(micro["noisy"], micro["timestep"], micro["context"], added_cond_kwargs=added).sample
                assert error(micro["prediction"], prediction.detach()) < 2e-4
                loss = ((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3))
                part = (loss * micro["weight"]).sum() / (LEAVES * MICRO)
                part.backward()
                total += part.item()
            assert abs(trace[f"step_{step:06d}"].attrs["loss"] - total) < 2e-4 * total
            gradients = {name: value.grad for name, value in hypernetwork.named().items()}
            floor = 1e-3 * max(gradient.abs().max() for gradient in gradients.values())
            for name, gradient in gradients.items():
                difference = np.abs(trace[f"step_{step:06d}/gradient/{name}"][()] - gradient.numpy()).max()
                assert difference < 2e-4 * max(gradient.abs().max(), floor), name


def test_validation_ran(trained):
    rows = (trained / "run/validation.csv").read_text().splitlines()
    assert len(rows) == 1 + 1 + STEPS


def test_components_of_two_models_are_refused(base, tmp_path):
    folder = tmp_path / "mixed"
    base[1].save_pretrained(folder)
    config = folder / "text_encoder_2/config.json"
    config.write_text(config.read_text().replace('"CLIPTextModelWithProjection"', '"CLIPTextModel"'))
    file = folder / "unet/config.json"
    values = json.loads(file.read_text())
    values["projection_class_embeddings_input_dim"] = 80
    file.write_text(json.dumps(values))
    output = run(["sample", "--base", folder, "--prompt", "x", "--output", tmp_path / "x.png"], code=2)
    assert "add_embedding.linear_1.weight" in output and "[128, 72]" in output
