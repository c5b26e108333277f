"""Bases as one file in the original LDM layout: diffusers reads what ldmtune writes, ldmtune reads what others write.

The random bases follow their families' conventions (8 heads or heads 64 wide, groups of 32), which is all that a file
without configurations leaves to guess; ldmtune's own header, where a test is not about it, is stripped.
"""

import io
import json
import pathlib
import sys

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers import AutoencoderKL
from PIL import Image
from networks import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, random_text_encoder, randomized
from random_bases import SCHEDULE, TOKENS, VOCABULARY, save_tokenizer, xl_pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run  # noqa: E402

NETWORKS = ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]


def text_encoder(width, act):
    last = len(VOCABULARY) - 1
    return random_text_encoder(CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_attention_heads=width // 64, num_hidden_layers=3, hidden_act=act,
        vocab_size=len(VOCABULARY), max_position_embeddings=TOKENS, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last))


def build(family, folder):
    """A pipeline, saved in `folder` too."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(save_tokenizer(folder.with_name(folder.name + ".tokenizer"), "<|endoftext|>"))
    width = {"sd1": 64, "sd2": 128}[family]
    heads = {"sd1": 8, "sd2": (1, 1, 2, 2)}[family]
    unet = randomized(UNet2DConditionModel(
        block_out_channels=(64, 64, 128, 128), attention_head_dim=heads, cross_attention_dim=width, sample_size=64,
        use_linear_projection=family == "sd2", layers_per_block=2, down_block_types=(CROSS_DOWN,) * 3 + (PLAIN_DOWN,),
        up_block_types=(PLAIN_UP,) + (CROSS_UP,) * 3))
    vae = randomized(AutoencoderKL(block_out_channels=(32, 32, 64, 64), layers_per_block=2,
                                   down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4))
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **SCHEDULE,
                              prediction_type="v_prediction" if family == "sd2" else "epsilon")
    pipeline = StableDiffusionPipeline(vae, text_encoder(width, "gelu" if family == "sd2" else "quick_gelu"), tokenizer, unet,
                                       scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def base(request, tmp_path_factory):
    return make(request, tmp_path_factory)


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def plain_base(request, tmp_path_factory):
    """Families whose small base keeps to the conventions; random_bases' SDXL has narrower heads than 64."""
    return make(request, tmp_path_factory)


def make(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    pipeline = xl_pipeline(folder) if request.param == "sdxl" else build(request.param, folder)
    run(["export", folder, "--format", "ldm", "--output", folder.with_suffix(".safetensors")])
    return request.param, folder, pipeline


def without_header(file, target, change=lambda tensors: None):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, target)
    return target


def networks_of(family):
    return NETWORKS + (["text_encoder_2/model"] if family == "sdxl" else [])


def assert_same_tensors(ours, theirs, family):
    for name in networks_of(family):
        a, b = load_file(ours / (name + ".safetensors")), load_file(theirs / (name + ".safetensors"))
        b = {key if not name.startswith("text") or key.startswith("text_") else "text_model." + key: value for key, value in b.items()}
        assert a.keys() == b.keys(), name
        assert all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a), name


def test_round_trip_is_exact(base, tmp_path):
    family, folder, _ = base
    file = folder.with_suffix(".safetensors")
    run(["export", file, "--format", "diffusers", "--base.tokenizer", folder, "--output", tmp_path / "back"])
    assert_same_tensors(tmp_path / "back", folder, family)
    run(["export", tmp_path / "back", "--format", "ldm", "--output", tmp_path / "again.safetensors"])
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    kind.from_pretrained(tmp_path / "back", local_files_only=True)


def test_diffusers_reads_the_file(base):
    """from_single_file, with the base's own folder as the configuration, gives the base's tensors."""
    family, folder, pipeline = base
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    names = ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if family == "sdxl" else [])
    loaded = kind.from_single_file(folder.with_suffix(".safetensors"), config=str(folder), local_files_only=True)
    for name in names:
        theirs = getattr(loaded, name).state_dict()
        for key, value in getattr(pipeline, name).state_dict().items():
            assert torch.equal(theirs[key], value), f"{name} {key}"


def sample(base, folder, *options):
    folder.mkdir()
    run(["sample", "--base", base, "--prompt", "a rocket", "--num_inference_steps", 2, "--width", 64, "--height", 64,
         "--output", folder / "x.png", "--output_dir", folder / "single", *options])
    return (folder / "single/image-000-000.png").read_bytes()


@pytest.mark.parametrize("form", ["safetensors", "ckpt"])
def test_a_foreign_file_is_the_same_base(plain_base, tmp_path, form):
    """No header of ours, EMA copies and buffers beside; torch's format with a state_dict."""
    family, folder, _ = plain_base

    def change(tensors):
        tensors["model_ema.decay"] = torch.tensor(0.5)
        tensors["betas"] = torch.zeros(1000)
        if family == "sd2":  # as published: a projection, and a last layer that is never used
            tensors["cond_stage_model.model.text_projection"] = torch.zeros(128, 128)
            tensors["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
            for key in [key for key in tensors if ".resblocks.2." in key]:
                tensors[key.replace(".resblocks.2.", ".resblocks.3.")] = tensors[key] + 1

    file = without_header(folder.with_suffix(".safetensors"), tmp_path / "foreign.safetensors", change)
    if form == "ckpt":
        torch.save({"state_dict": load_file(file), "global_step": 7}, tmp_path / "foreign.ckpt")
    ours = sample(tmp_path / f"foreign.{form}", tmp_path / "a", "--base.tokenizer", folder / "tokenizer")
    assert pixels(ours) == pixels(sample(folder, tmp_path / "b"))
    other = sample(tmp_path / f"foreign.{form}", tmp_path / "c", "--base.tokenizer", folder / "tokenizer",
                   "--base.prediction_type", "epsilon" if family == "sd2" else "v_prediction")
    assert pixels(other) != pixels(ours)


def pixels(png):
    return Image.open(io.BytesIO(png)).convert("RGB").tobytes()


def test_types_and_another_vae(base, tmp_path):
    family, folder, pipeline = base
    run(["export", folder, "--format", "ldm", "--dtype", "fp16", "--output", tmp_path / "half.safetensors"])
    with safe_open(tmp_path / "half.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}
    other = {key: value * 1.5 for key, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items()}
    save_file(other, tmp_path / "vae.safetensors")
    run(["export", folder, "--format", "diffusers", "--base.vae", tmp_path / "vae.safetensors", "--output", tmp_path / "changed"])
    written = load_file(tmp_path / "changed/vae/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(written[key], other[key]) for key in other)
    config = json.loads((tmp_path / "changed/vae/config.json").read_text())
    assert config["scaling_factor"] == pipeline.vae.config.scaling_factor


def test_bad_files_are_refused_by_name(base, tmp_path):
    family, folder, _ = base
    file = folder.with_suffix(".safetensors")
    assert "base.tokenizer" in run(["sample", "--base", file, "--prompt", "x", "--output", tmp_path / "x.png"], code=2)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    refused = {"cut": ("cut.safetensors",), "sd3": ("Stable Diffusion 3", "not a UNet model"), "flux": ("Flux", "not a UNet model"),
               "inpaint": ("inpainting",), "lora": ("is a LoRA",), "unknown": ("more.weight", "no place"), "lacks": ("missing",)}
    unet = "model.diffusion_model."
    without_header(file, tmp_path / "sd3.safetensors", lambda t: t.update({unet + "joint_blocks.0.x": torch.zeros(1)}))
    without_header(file, tmp_path / "flux.safetensors", lambda t: t.update({"double_blocks.0.x": torch.zeros(1)}))
    without_header(file, tmp_path / "inpaint.safetensors",
                   lambda t: t.update({unet + "input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)}))
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    without_header(file, tmp_path / "unknown.safetensors", lambda t: t.update({unet + "more.weight": torch.zeros(1)}))
    without_header(file, tmp_path / "lacks.safetensors", lambda t: t.pop(unet + "input_blocks.1.0.in_layers.2.weight"))
    for name, words in refused.items():
        output = run(["sample", "--base", tmp_path / f"{name}.safetensors", "--base.tokenizer", folder, "--prompt", "x",
                      "--output", tmp_path / "x.png"], code=2)
        assert all(word in output for word in words), output
