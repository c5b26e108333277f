"""LoRA on an SDXL-like base: both text encoders, kohya's LDM block numbers; pictures equal diffusers' with the same file.

Training takes two updates, so that no factor is zero; then the file goes through every spelling.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from random_bases import xl_pipeline
from test_sdxl import PROMPTS, base, error, run, sample, small_image_folder  # noqa: F401

STRENGTH = 0.6


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):  # noqa: F811
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


def test_every_component_trains(lora):
    factors = load_file(lora)
    for component in ("unet.", "text_encoder.", "text_encoder_2."):
        still = {name for name, value in factors.items() if name.startswith(component) and "lora_B" in name and not value.any()}
        assert any(name.startswith(component) for name in factors)
        # SDXL reads the last layer but one; the second encoder's last one is seen by the pooled embedding.
        layers = {name.split(".layers.")[1].split(".")[0] for name in still}
        assert len(layers) <= 1 if component == "text_encoder." else not still, component


def test_pictures_equal_diffusers_in_every_spelling(base, lora, tmp_path):  # noqa: F811
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
