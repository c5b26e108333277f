"""SDXL: `ldmtune sample` draws what StableDiffusionXLPipeline draws, with a LoRA too, in every spelling of its keys.

The networks alone are compared in test_networks.py, trained runs in test_methods.py. Tolerances are of max|a - b| / max|b|.
"""

import json
import pathlib
import sys

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from networks import error
from random_bases import xl_pipeline
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run, small_image_folder  # noqa: E402

PROMPTS = ["a red rocket!", "two apples, on blue paper"]
STRENGTH = 0.6


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
def lora(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = small_image_folder(folder / "images", 6)
    run(["prepare", "--base", base[0], "--images", images, "--output", folder / "set", "--resolution", 64,
         "--validation_images", 1, "--test_images", 1])
    run(["train", "--method", "lora", "--base", base[0], "--data", folder / "set", "--output", folder / "run",
         "--lora.target_modules", "all", "--lora.text_encoder_target_modules", "all", "--lora.rank", 4, "--lora.alpha", 8,
         "--train.max_train_steps", 2, "--train.global_batch_size", 2, "--optim.learning_rate", 0.05, "--validation.steps", 0])
    return folder / "run/checkpoints/step-00000002/run.safetensors"


def in_ldm_numbers(name):
    """kohya's key for SDXL: two residual blocks a level."""
    for side, first in (("down_blocks", 1), ("up_blocks", 0)):
        if name.startswith(f"lora_unet_{side}_"):
            block, _, attention, rest = name.removeprefix(f"lora_unet_{side}_").split("_", 3)
            number = first + int(block) * 3 + int(attention)
            return f"lora_unet_{'input' if first else 'output'}_blocks_{number}_1_{rest}"
    return name.replace("lora_unet_mid_block_attentions_0", "lora_unet_middle_block_1")


def test_every_component_of_a_lora_trains(lora):
    factors = load_file(lora)
    for component in ("unet.", "text_encoder.", "text_encoder_2."):
        still = {name for name, value in factors.items() if name.startswith(component) and "lora_B" in name and not value.any()}
        assert any(name.startswith(component) for name in factors)
        # SDXL reads the last layer but one; the second encoder's last one is seen by the pooled embedding.
        layers = {name.split(".layers.")[1].split(".")[0] for name in still}
        assert len(layers) <= 1 if component == "text_encoder." else not still, component


def test_pictures_with_a_lora_in_every_spelling(base, lora, tmp_path):
    folder = base[0]
    run(["export", lora.parents[2], "--format", "kohya", "--output", tmp_path / "kohya.safetensors"])
    kohya = load_file(tmp_path / "kohya.safetensors")
    assert {name.split("_")[1] for name in kohya} == {"unet", "te1", "te2"}
    renamed = {in_ldm_numbers(name): value for name, value in kohya.items()}
    assert any("input_blocks" in name for name in renamed) and any("middle_block" in name for name in renamed)
    save_file(renamed, tmp_path / "ldm.safetensors")
    words = ["--prompt", PROMPTS[0], "--num_inference_steps", 4, "--guidance_scale", 5, "--sampler", "euler"]
    traces = [sample(tmp_path, folder, *words, "--lora", f"{file}:{STRENGTH}")
              for file in (lora, tmp_path / "kohya.safetensors", tmp_path / "ldm.safetensors")]
    plain = sample(tmp_path, folder, *words)["final_latent"]
    assert all(torch.equal(trace["final_latent"], traces[0]["final_latent"]) for trace in traces)
    assert error(traces[0]["final_latent"], plain) > 5e-3

    pipeline = xl_pipeline(tmp_path / "again")
    pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    pipeline.set_adapters(pipeline.get_active_adapters(), STRENGTH)
    with torch.no_grad():
        context = pipeline.encode_prompt(PROMPTS[0], do_classifier_free_guidance=True)
        latent = pipeline(PROMPTS[0], num_inference_steps=4, guidance_scale=5.0, output_type="latent",
                          latents=traces[0]["initial_noise"].clone()).images
    assert error(traces[0]["context"][0], torch.cat([context[1], context[0]])) < 1e-3
    assert error(traces[0]["final_latent"], latent) < 1e-3


def test_an_embedding_of_one_encoder_is_refused(base, lora, tmp_path):
    torch.save({"emb_params": torch.randn(2, 48)}, tmp_path / "small.pt")
    sampling = ["sample", "--embedding", tmp_path / "small.pt", "--prompt", "small", "--output", tmp_path / "x.png"]
    training = ["train", "--data", lora.parents[3] / "set", "--output", tmp_path / "run", "--method", "textual_inversion",
                "--textual_inversion.placeholder_token", "<zorp>", "--textual_inversion.num_vectors", 2, "--caption.template", "[name] cat",
                "--textual_inversion.initial_embedding", tmp_path / "small.pt", "--train.max_train_steps", 1]
    for words in (sampling, training):
        output = run([*words, "--base", base[0]], code=2)
        assert "small.pt" in output and "48 wide" in output and "64 wide" in output
    assert not (tmp_path / "x.png").exists() and not (tmp_path / "run").exists()


def test_two_words_train_and_draw(base, lora, tmp_path):
    """The checkpoint holds both, and draws what the files of each draw together."""
    run(["train", "--method", "textual_inversion", "--base", base[0], "--data", lora.parents[3] / "set", "--output", tmp_path / "run",
         "--textual_inversion.placeholder_token", "<zorp> | <gleep>", "--textual_inversion.num_vectors", "2,1",
         "--textual_inversion.initializer_text", "ab | c", "--caption.template", "<zorp> on <gleep>", "--train.max_train_steps", 1,
         "--train.global_batch_size", 2, "--validation.steps", 0])
    checkpoint = tmp_path / "run/checkpoints/step-00000001"
    assert {name: tuple(value.shape) for name, value in load_file(checkpoint / "run.safetensors").items()} == {
        "<zorp>.clip_l": (2, 48), "<zorp>.clip_g": (2, 64), "<gleep>.clip_l": (1, 48), "<gleep>.clip_g": (1, 64)}
    words = []
    for token in ("<zorp>", "<gleep>"):
        file = tmp_path / f"{token}.safetensors"
        run(["export", tmp_path / "run", "--format", "kohya", "--token", token, "--output", file])
        words += ["--embedding", f"{file}={token}"]
    prompt = ["--prompt", "<gleep> and <zorp>", "--num_inference_steps", 1]
    apart = sample(tmp_path, base[0], *prompt, *words)
    together = sample(tmp_path, base[0], *prompt, "--embedding", checkpoint / "run.safetensors")
    assert torch.equal(apart["context"], together["context"])
    assert not torch.equal(sample(tmp_path, base[0], *prompt)["context"], together["context"])


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
