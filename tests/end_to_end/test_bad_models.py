"""Bases, LoRAs and embeddings that are of no use: exit 2, what they are and which file it is, and nothing written,
by `train` as by `sample` (and `prepare`, which reads bases too).
"""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import BASE, prepare, run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("ldm") / "base.safetensors"
    run(["export", BASE, "--format", "ldm", "--output", file])
    return load_file(file)


def refused(tmp_path, dataset, base, *words, commands=("train", "sample", "prepare"), more=()):
    """Each command's message holds the words, and no output is left."""
    arguments = {
        "train": ["--data", dataset, "--output", tmp_path / "out", "--train.max_train_steps", "1", "--validation.steps", "0"],
        "sample": ["--prompt", "rocket", "--num_inference_steps", "1", "--output", tmp_path / "out"],
        "prepare": ["--images", dataset.with_name(dataset.name + ".images"), "--output", tmp_path / "out"],
    }  # fmt: skip
    for command in commands:
        target = [str(word) + (".png" if command == "sample" and word == tmp_path / "out" else "") for word in arguments[command]]
        output = run([command, "--base", base, *target, *more], code=2)
        for word in words:
            assert word in output, f"{command}: {output}"
        assert not list(tmp_path.glob("out*"))


def linked_base(folder, *copied):
    """The embedded base by links, with copies of what a test changes."""
    for source in sorted(path for path in BASE.rglob("*") if path.is_file()):
        name = source.relative_to(BASE)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if str(name) in copied:
            shutil.copy(source, folder / name)
        else:
            (folder / name).symlink_to(source)
    return folder


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("pipeline, words", [
    ("StableDiffusion3Pipeline", ["not a UNet model"]),
    ("FluxPipeline", ["not a UNet model"]),
    ("StableDiffusionInpaintPipeline", ["inpainting"]),
    ("StableDiffusionXLInpaintPipeline", ["inpainting"]),
    ("StableDiffusionXLImg2ImgPipeline", ["refiner"]),
])
def test_folders_of_other_models(tmp_path, dataset, pipeline, words):
    base = linked_base(tmp_path / "base", "model_index.json")
    change_json(base / "model_index.json", _class_name=pipeline)
    refused(tmp_path, dataset, base, pipeline, str(base), *words)


def test_an_inpainting_unet_in_a_folder_that_does_not_say_so(tmp_path, dataset):
    weights, config = "unet/diffusion_pytorch_model.safetensors", "unet/config.json"
    base = linked_base(tmp_path / "base", config)
    (base / weights).unlink()
    tensors = load_file(BASE / weights)
    first = tensors["conv_in.weight"]
    save_file(tensors | {"conv_in.weight": np.concatenate([first, first, first[:, :1]], axis=1)}, base / weights)
    change_json(base / config, in_channels=9)
    # `prepare` needs the VAE alone, which is as any other.
    refused(tmp_path, dataset, base, config, "in_channels is 9", "inpainting", commands=("train", "sample"))


UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"


@pytest.mark.parametrize("name, extra, words", [
    ("sd3", {UNET + "joint_blocks.0.x_block.attn.qkv.weight": (1,)}, ["Stable Diffusion 3", "not a UNet model"]),
    ("flux", {"double_blocks.0.img_attn.qkv.weight": (1,)}, ["Flux", "not a UNet model"]),
    ("inpainting", {FIRST: (64, 9, 3, 3)}, ["inpainting"]),
    ("refiner", {"conditioner.embedders.0.model.ln_final.weight": (8,)}, ["refiner"]),
])
def test_single_files_of_other_models(tmp_path, dataset, single_file, name, extra, words):
    file = tmp_path / f"{name}.safetensors"
    save_file(single_file | {key: np.zeros(shape, np.float32) for key, shape in extra.items()}, file)
    refused(tmp_path, dataset, file, file.name, *words, more=["--base.tokenizer", BASE])


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("cut", ["header", "data"])
def test_truncated_weights(tmp_path, dataset, name, cut):
    base = linked_base(tmp_path / "base", name)
    content = (base / name).read_bytes()
    (base / name).write_bytes(content[:100] if cut == "header" else content[:-1000])
    refused(tmp_path, dataset, base, str(base / name), commands=("train", "sample"))


def test_a_truncated_vae(tmp_path, dataset):
    name = "vae/diffusion_pytorch_model.safetensors"
    base = linked_base(tmp_path / "base", name)
    (base / name).write_bytes((base / name).read_bytes()[:-1000])
    refused(tmp_path, dataset, base, str(base / name))


def test_a_truncated_single_file(tmp_path, dataset, single_file):
    file = tmp_path / "cut.safetensors"
    save_file(single_file, file)
    file.write_bytes(file.read_bytes()[:-1000])
    refused(tmp_path, dataset, file, "cut.safetensors", more=["--base.tokenizer", BASE])


def lora(width, context, block="mid_block"):
    layer = f"unet.{block}.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{layer}.lora_A.weight": np.ones((2, context), np.float32), f"{layer}.lora_B.weight": np.ones((width, 2), np.float32)}


@pytest.mark.parametrize("name, words", [("nowhere", ["match nothing", "side_block"]), ("sd15", ["another base", "768"]), ("cut", [])])
def test_loras_that_do_not_fit_a_base_to_be_merged(tmp_path, dataset, name, words):
    file = tmp_path / f"{name}.safetensors"
    save_file({"nowhere": lora(192, 160, "side_block"), "sd15": lora(1280, 768), "cut": lora(192, 160)}[name], file)
    if name == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    refused(tmp_path, dataset, BASE, file.name, *words, commands=("train", "sample"), more=["--base.merge", f"{file}:0.5"])


@pytest.mark.parametrize("name, words", [("sd15", ["768 wide", "160 wide"]), ("xl", ["SDXL", "768 wide", "1280 wide", "160 wide"]), ("cut", [])])
def test_embeddings_of_another_width_or_cut_short(tmp_path, dataset, name, words):
    file = tmp_path / f"{name}.safetensors"
    rows = {"sd15": {"emb_params": 768}, "xl": {"clip_l": 768, "clip_g": 1280}, "cut": {"emb_params": 160}}[name]
    save_file({key: np.ones((2, width), np.float32) for key, width in rows.items()}, file)
    if name == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    refused(tmp_path, dataset, BASE, file.name, *words, commands=("sample",), more=["--embedding", file])
    trains = ["--method", "textual_inversion", "--textual_inversion.placeholder_token", "<zorp>", "--textual_inversion.num_vectors", "2",
              "--caption.template", "[name] [filewords]", "--textual_inversion.initial_embedding", file]
    refused(tmp_path, dataset, BASE, file.name, *words, commands=("train",), more=trains)


def test_too_few_class_images(tmp_path, dataset):
    more = ["--method", "dreambooth", "--dreambooth.with_prior_preservation", "true", "--dreambooth.class_data", dataset,
            "--dreambooth.num_class_images", "7"]
    refused(tmp_path, dataset, BASE, "dreambooth.num_class_images", "at least 7", str(dataset), "found 6", commands=("train",), more=more)
