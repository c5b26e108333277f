"""Pictures of diffusers with what ldmtune trained, and of `ldmtune sample` from the same initial noise."""

import sys

import h5py
import torch
from diffusers import DDIMScheduler
from recomputed_models import load_pipeline
from safetensors.torch import load_file
from support import SOURCE, run

sys.path.insert(0, str(SOURCE / "analysis"))
from ldmtune_analysis.diffusers_hypernetwork import load_hypernetwork  # noqa: E402

STEPS, GUIDANCE, NEGATIVE = 4, 3.0, "a blurry dog"


def sample(folder, base, prompt, *options):
    """The trace of one picture, without its leading dimension."""
    folder.mkdir(exist_ok=True)
    run(["sample", "--base", base, "--prompt", prompt, "--negative_prompt", NEGATIVE, "--num_inference_steps", STEPS,
         "--guidance_scale", GUIDANCE, "--width", 64, "--height", 64, "--trace", folder / "trace.h5", *options])  # fmt: skip
    with h5py.File(folder / "trace.h5") as file:
        return {name: torch.from_numpy(file[name][0]) for name in file}


def draw(pipeline, prompt, noise):
    """The same three by diffusers, for initial noise (C, h, w)."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    with torch.no_grad():
        positive, negative, *_ = pipeline.encode_prompt(prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True,
                                                        negative_prompt=NEGATIVE)  # fmt: skip
        latent = pipeline(prompt, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, width=64, height=64,
                          latents=noise[None].clone(), output_type="latent").images  # fmt: skip
        image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
        image = pipeline.image_processor.postprocess(image, output_type="np")[0] * 255
    return {"context": torch.cat([negative, positive]), "final_latent": latent[0], "image": torch.from_numpy(image)}


def load_embedding(pipeline, file, word):
    """A file of SDXL's holds vectors for each encoder under names that load_textual_inversion takes one at a time."""
    if file.suffix == ".safetensors" and "clip_g" in load_file(file):
        vectors = load_file(file)
        for name, encoder, tokenizer in (("clip_l", pipeline.text_encoder, pipeline.tokenizer),
                                         ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2)):  # fmt: skip
            pipeline.load_textual_inversion({word: vectors[name]}, token=word, text_encoder=encoder, tokenizer=tokenizer)
    else:
        pipeline.load_textual_inversion(str(file.parent), weight_name=file.name, token=word)


def load_lora(pipeline, file, strength):
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.set_adapters(pipeline.get_active_adapters(), strength)


def with_trained(base, is_xl, method, file, word, strength):
    """The base in diffusers with an exported file, by diffusers' own loaders (a hypernetwork by ours in analysis/)."""
    pipeline = load_pipeline(base, is_xl)
    if method == "textual_inversion":
        load_embedding(pipeline, file, word)
    elif method == "lora":
        load_lora(pipeline, file, strength)
    else:
        load_hypernetwork(pipeline, file, strength=strength)
    return pipeline
