"""Whole random base models as diffusers saves them, small enough for a test: of Stable Diffusion 1, 2 and XL's shape."""

import json
from pathlib import Path

from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from networks import build_unet, build_vae, random_text_encoder
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

TOKENS = 24
# What the text encoders have embeddings for: letters, digits, punctuation, and the two special tokens.
VOCABULARY = ["!"] + [chr(c) + end for end in ("", "</w>") for c in range(ord("a"), ord("z") + 1)]
VOCABULARY += [chr(c) for c in range(ord("0"), ord("9") + 1)] + ["!</w>", ",</w>", "<|startoftext|>", "<|endoftext|>"]
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def save_tokenizer(folder: Path, pad_token: str) -> Path:
    """A CLIP tokenizer of single letters. SDXL's second pads with "!", which becomes a special token by that."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"model_max_length": TOKENS, "pad_token": pad_token, "tokenizer_class": "CLIPTokenizer",
              "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def text_encoder(projects: bool, **changes):
    """48 wide with quick_gelu, or 64 wide with gelu and a projection to 24, as SDXL's first and second."""
    last = len(VOCABULARY) - 1
    config = dict(vocab_size=len(VOCABULARY), max_position_embeddings=TOKENS, num_attention_heads=4, num_hidden_layers=4,
                  bos_token_id=last - 1, eos_token_id=last, pad_token_id=last)
    if not projects:
        return random_text_encoder(CLIPTextConfig(**config | dict(hidden_size=48, intermediate_size=192, hidden_act="quick_gelu") | changes))
    second = dict(hidden_size=64, intermediate_size=256, hidden_act="gelu", projection_dim=24, eos_token_id=2, pad_token_id=0)
    return random_text_encoder(CLIPTextConfig(**config | second | changes), CLIPTextModelWithProjection)


def sd_pipeline(family: str, folder: Path) -> StableDiffusionPipeline:
    """Saved into `folder` too. "sd1" predicts the noise from text 48 wide; "sd2", OpenCLIP's kind of text encoder, v
    from text 64 wide, with a padding token that is a character of prompts too."""
    is_second = family == "sd2"
    tokenizer = CLIPTokenizer.from_pretrained(save_tokenizer(folder.with_name(folder.name + ".tokenizer"), "!" if is_second else "<|endoftext|>"))
    wide = dict(hidden_size=64, intermediate_size=256, hidden_act="gelu", pad_token_id=0) if is_second else {}
    encoder = text_encoder(False, **wide)
    unet = build_unet(family, cross_attention_dim=encoder.config.hidden_size, sample_size=8)
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="v_prediction" if is_second else "epsilon", **SCHEDULE)
    pipeline = StableDiffusionPipeline(build_vae("sd"), encoder, tokenizer, unet, scheduler, safety_checker=None,
                                       feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_of(family: str, folder: Path):
    return xl_pipeline(folder) if family == "sdxl" else sd_pipeline(family, folder)


def xl_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    """Saved into `folder` too: a UNet of depths 1, 2, 3, whose context is 112 wide and whose pooled text is 24 wide."""
    tokenizers = [CLIPTokenizer.from_pretrained(save_tokenizer(folder.with_name(folder.name + f".tokenizer{i}"), pad))
                  for i, pad in enumerate(("<|endoftext|>", "!"))]
    unet = build_unet("sdxl")
    unet.register_to_config(sample_size=8)
    pipeline = StableDiffusionXLPipeline(
        build_vae("sd"), text_encoder(False), text_encoder(True), *tokenizers, unet,
        EulerDiscreteScheduler(timestep_spacing="leading", **SCHEDULE), add_watermarker=False)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
