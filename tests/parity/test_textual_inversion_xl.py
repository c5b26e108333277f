"""Textual inversion on an SDXL base: vectors for both text encoders, drawn with and recomputed by diffusers."""

import pathlib
import sys

import h5py
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from random_bases import xl_pipeline
from test_trace import error

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run, small_image_folder  # noqa: E402

WORD, VECTORS = "<zorp>", 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "xl"
    pipeline = xl_pipeline(folder)
    # With eos_token_id 2, as SDXL's files have it, transformers pools at the highest id, which would be a new word's.
    encoder = pipeline.text_encoder_2
    next(m for m in encoder.modules() if hasattr(m, "eos_token_id")).eos_token_id = pipeline.tokenizer_2.eos_token_id
    return folder, pipeline


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    images = small_image_folder(folder / "images", 4)
    run(["prepare", "--base", base[0], "--images", images, "--output", folder / "set", "--resolution", 64])
    options = {
        "method": "textual_inversion", "base": base[0], "data": folder / "set", "output": folder / "run",
        "textual_inversion.placeholder_token": WORD, "textual_inversion.num_vectors": VECTORS,
        "textual_inversion.initializer_text": "ab", "caption.template": "[name] cat", "train.max_train_steps": 2,
        "train.global_batch_size": 4, "train.micro_batch_size": 2, "train.trace": folder / "run.h5", "train.trace_steps": 1,
    }  # fmt: skip
    run(["train", *(word for name, value in options.items() for word in (f"--{name}", str(value)))], 2)
    run(["export", folder / "run", "--format", "kohya", "--output", folder / "zorp.safetensors"])
    return folder


def load_into(pipeline, vectors):
    for name, encoder, tokenizer in (("clip_l", pipeline.text_encoder, pipeline.tokenizer),
                                     ("clip_g", pipeline.text_encoder_2, pipeline.tokenizer_2)):  # fmt: skip
        pipeline.load_textual_inversion({WORD: vectors[name]}, token=WORD, text_encoder=encoder, tokenizer=tokenizer)


def test_starts_from_both_encoders_tokens(base, trained):
    with h5py.File(trained / "run.h5") as trace:
        for name, encoder, tokenizer in (("embedding", base[1].text_encoder, base[1].tokenizer),
                                         ("embedding_2", base[1].text_encoder_2, base[1].tokenizer_2)):  # fmt: skip
            rows = encoder.get_input_embeddings().weight[tokenizer("ab", add_special_tokens=False).input_ids]
            assert error(trace[f"step_000000/parameter/{name}"], rows.detach().numpy()) == 0
            assert (trace[f"step_000001/gradient/{name}"][()] != 0).all(axis=1).any()


def test_diffusers_draws_the_same(base, trained, tmp_path):
    folder, pipeline = base
    prompt = f"{WORD} a cat"
    run(["sample", "--base", folder, "--embedding", f"{trained / 'zorp.safetensors'}={WORD}", "--prompt", prompt, "--trace",
         tmp_path / "trace.h5", "--num_inference_steps", 6, "--guidance_scale", 5, "--negative_prompt", "dog"])  # fmt: skip
    with h5py.File(tmp_path / "trace.h5") as file:
        trace = {name: torch.from_numpy(file[name][()]) for name in file}
    load_into(pipeline, load_file(trained / "zorp.safetensors"))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    with torch.no_grad():
        context = pipeline.encode_prompt(prompt, do_classifier_free_guidance=True, negative_prompt="dog")
        latent = pipeline(prompt, negative_prompt="dog", num_inference_steps=6, guidance_scale=5.0, width=64, height=64,
                          latents=trace["initial_noise"].clone(), output_type="latent").images  # fmt: skip
    assert error(trace["context"][0], torch.cat([context[1], context[0]])) < 1e-4
    assert error(trace["final_latent"], latent) < 1e-3


def test_an_embedding_of_one_encoder_is_refused(base, tmp_path):
    torch.save({"emb_params": torch.randn(2, 48)}, tmp_path / "small.pt")
    output = run(["sample", "--base", base[0], "--embedding", tmp_path / "small.pt", "--prompt", "small", "--output",
                  tmp_path / "x.png"], code=2)  # fmt: skip
    assert "48 wide" in output and "64 wide" in output
