"""LoRA against PEFT and diffusers: outputs, gradients, files in both layouts, merged bases, pictures.

Files are made by PEFT's own adapters on random SD 1-like and SD 2-like bases and on the embedded one, with factors in
attention, feed-forward, projections (1x1 convolutions on SD 1) and the text encoder; tolerance 1e-4 of the largest value
(two fp32 implementations; measured differences are some 1e-6).
"""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import philox
from networks import error
from test_base_model import build_pipeline
from test_generate import BASE, LEVELS, sample
from test_generate import reference as reference_picture

TOOL = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "adapt_lora_tool"
TOLERANCE = 1e-4
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
STRENGTH = 0.7


def tool(*words, code=0):
    done = subprocess.run([str(word) for word in (TOOL, *words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def load_pipeline(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True,
                                                       safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def add_random_adapters(pipeline, rank=3, alpha=2.0, text=True, alpha_pattern=None):
    """PEFT's adapters with every factor drawn at random; some layers have another rank."""
    torch.manual_seed(0)
    pipeline.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=UNET_TARGETS, init_lora_weights=False,
                                         rank_pattern={"attn2.to_k": 5}, alpha_pattern=alpha_pattern or {}))
    if text:
        pipeline.text_encoder.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TEXT_TARGETS,
                                                     init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in named_factors(pipeline).items():
            parameter.normal_(std=0.3 if "lora_A" in name else 0.1)


def named_factors(pipeline):
    """Every factor under ldmtune's name."""
    factors = {}
    for component in ("unet", "text_encoder"):
        for name, parameter in getattr(pipeline, component).named_parameters():
            if ".lora_" not in name:
                continue
            layer, factor = name.split(".lora_", 1)
            if component == "text_encoder" and not layer.startswith("text_model."):
                layer = "text_model." + layer
            factors[f"{component}.{layer}.lora_{factor[0]}.weight"] = parameter
    return factors


def save_by_diffusers(pipeline, folder):
    """pytorch_lora_weights.safetensors with PEFT's settings."""
    layers, metadata = {}, {}
    for component in ("unet", "text_encoder"):
        module = getattr(pipeline, component)
        if not getattr(module, "peft_config", None):
            continue
        layers[f"{component}_lora_layers"] = get_peft_model_state_dict(module, adapter_name="default")
        metadata |= _collate_lora_metadata({component: module})
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **metadata)
    return folder / "pytorch_lora_weights.safetensors"


def random_inputs(pipeline, seed=3):
    generator = torch.Generator().manual_seed(seed)
    channels, positions = pipeline.unet.config.in_channels, pipeline.text_encoder.config.max_position_embeddings
    vocabulary = pipeline.tokenizer.vocab_size
    shape = (2, channels, 16, 16)
    return {"sample": torch.randn(shape, generator=generator), "timestep": torch.tensor([17, 803]),
            "input_ids": torch.randint(0, vocabulary, (2, positions), generator=generator),
            "cotangent": torch.randn(shape, generator=generator)}


def run_pipeline(pipeline, inputs):
    context = pipeline.text_encoder(inputs["input_ids"]).last_hidden_state
    return context, pipeline.unet(inputs["sample"], inputs["timestep"], context).sample


def run_tool(folder, lora, inputs, work, strength=1.0):
    save_file(inputs, work / "inputs.safetensors")
    tool("forward", folder, lora, strength, work / "inputs.safetensors", work / "outputs.safetensors")
    return load_file(work / "outputs.safetensors")


@pytest.fixture(scope="module", params=["sd1", "sd2", "emoji"])
def base(request, tmp_path_factory):
    if request.param == "emoji":
        return BASE
    folder = tmp_path_factory.mktemp(request.param)
    build_pipeline(request.param, folder / "tokenizer-of-it").save_pretrained(folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def adapted(base):
    pipeline = load_pipeline(base)
    add_random_adapters(pipeline, alpha_pattern={"attn2.to_k": 4.5})
    return pipeline


def test_outputs_and_gradients_equal_peft(base, adapted, tmp_path):
    inputs = random_inputs(adapted)
    ours = run_tool(base, save_by_diffusers(adapted, tmp_path), inputs, tmp_path)
    factors = named_factors(adapted)
    for factor in factors.values():
        factor.grad = None
    context, output = run_pipeline(adapted, inputs)
    output.backward(inputs["cotangent"])
    assert error(ours["context"], context.detach()) < TOLERANCE
    assert error(ours["sample"], output.detach()) < TOLERANCE
    gradients = {name.removeprefix("gradient."): value for name, value in ours.items() if name.startswith("gradient.")}
    assert set(gradients) == set(factors)
    assert any(name.startswith("text_encoder.") for name in factors)
    for name, factor in factors.items():
        assert error(gradients[name], factor.grad) < TOLERANCE, name
    with torch.no_grad():
        adapted.unet.disable_adapters()
        adapted.text_encoder.disable_adapters()
        _, plain = run_pipeline(adapted, inputs)
        adapted.unet.enable_adapters()
        adapted.text_encoder.enable_adapters()
    assert error(ours["sample"], plain) > 0.05  # the factors matter


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_diffusers_loads_what_ldmtune_writes(base, adapted, tmp_path, layout):
    """The file read back gives PEFT's very factors, and a fresh pipeline with it the same output, at a strength too."""
    if layout == "kohya":  # where alphas differ, diffusers loses the attention layers' own (their keys match nothing)
        adapted = load_pipeline(base)
        add_random_adapters(adapted)
    original = save_by_diffusers(adapted, tmp_path)
    written = tmp_path / f"{layout}.safetensors"
    tool("rewrite", base, original, written, layout)
    fresh = load_pipeline(base)
    fresh.load_lora_weights(written.parent, weight_name=written.name)
    inputs = random_inputs(adapted)
    del inputs["cotangent"]
    with torch.no_grad():
        assert error(run_pipeline(fresh, inputs)[1], run_pipeline(adapted, inputs)[1]) < 1e-6
        fresh.set_adapters(fresh.get_active_adapters(), STRENGTH)
        weakened = run_pipeline(fresh, inputs)[1]
    assert error(run_tool(base, written, inputs, tmp_path, STRENGTH)["sample"], weakened) < TOLERANCE


def test_round_trips_are_exact(base, adapted, tmp_path):
    first = save_by_diffusers(adapted, tmp_path)
    names = {}
    for i, layout in enumerate(["kohya", "diffusers", "kohya"]):
        source = first if i == 0 else tmp_path / f"{i - 1}.safetensors"
        tool("rewrite", base, source, tmp_path / f"{i}.safetensors", layout)
        names[i] = load_file(tmp_path / f"{i}.safetensors")
    assert (tmp_path / "0.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    assert set(names[1]) == set(named_factors(adapted))
    for name, factor in named_factors(adapted).items():
        assert torch.equal(names[1][name], factor.detach()), name
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert names[0][key + ".alpha"].item() == 4.5 and names[0][key + ".lora_down.weight"].shape[0] == 5
    assert any(name.startswith("lora_te_text_model_encoder_layers_0_mlp_fc1.") for name in names[0])
    with safe_open(tmp_path / "1.safetensors", "pt") as file:
        assert LORA_ADAPTER_METADATA_KEY in file.metadata()


def spell(name, style):
    """A factor's key as older programs wrote it."""
    layer, factor = name.split(".lora_")
    part = "down" if factor.startswith("A") else "up"
    if style == "peft":  # PeftModel.save_pretrained of the UNet alone
        return f"base_model.model.{layer.removeprefix('unet.')}.lora_{factor}"
    if style == "linear_layer":
        return f"{layer}.lora_linear_layer.{part}.weight"
    if style == "processor" and ".attn" in layer:
        head, projection = layer.rsplit(".to_", 1)
        return f"{head}.processor.to_{projection.removesuffix('.0')}_lora.{part}.weight"
    return f"{layer}.lora.{part}.weight"


@pytest.mark.parametrize("style", ["peft", "linear_layer", "processor"])
def test_older_spellings_without_settings_count_alpha_as_rank(tmp_path, style):
    pipeline = load_pipeline(BASE)
    add_random_adapters(pipeline, text=style != "peft")
    factors = {name: factor.detach().clone() for name, factor in named_factors(pipeline).items()}
    save_file({spell(name, style): factor for name, factor in factors.items()}, tmp_path / "old.safetensors")
    tool("rewrite", BASE, tmp_path / "old.safetensors", tmp_path / "new.safetensors", "kohya")
    tool("rewrite", BASE, tmp_path / "new.safetensors", tmp_path / "again.safetensors", "diffusers")
    written = load_file(tmp_path / "again.safetensors")
    assert set(written) == set(factors)
    assert all(torch.equal(written[name], factor) for name, factor in factors.items())
    alphas = {name: value.item() for name, value in load_file(tmp_path / "new.safetensors").items() if name.endswith(".alpha")}
    assert {value for name, value in alphas.items() if name.endswith("attn2_to_k.alpha")} == {5.0}
    assert set(alphas.values()) == {3.0, 5.0}


def test_merging_equals_fusing(base, adapted, tmp_path):
    file = save_by_diffusers(adapted, tmp_path)
    inputs = random_inputs(adapted)
    del inputs["cotangent"]
    save_file(inputs, tmp_path / "inputs.safetensors")
    words = (tmp_path / "inputs.safetensors", tmp_path / "merged.safetensors")

    def hashes(merge):
        return re.findall(r"\b[0-9a-f]{64}\b", tool("merged", base, merge, *words))

    before, after = hashes(f"{file}:{STRENGTH}")
    ours = load_file(tmp_path / "merged.safetensors")
    fused = load_pipeline(base)
    fused.load_lora_weights(file.parent, weight_name=file.name)
    fused.fuse_lora(lora_scale=STRENGTH)
    fused.unload_lora_weights()
    with torch.no_grad():
        context, output = run_pipeline(fused, inputs)
    assert error(ours["context"], context) < TOLERANCE
    assert error(ours["sample"], output) < TOLERANCE
    # The hash is of factors and strength, whatever file they came in.
    tool("rewrite", base, file, tmp_path / "kohya.safetensors", "kohya")
    assert hashes(f"{tmp_path / 'kohya.safetensors'}:{STRENGTH}") == [before, after]
    others = [hashes(merge)[-1] for merge in (f"{file}:0.6", f"{file}, {file}:{STRENGTH}", "")]
    assert len({after, *others}) == 4 and others[-1] == before


def test_start_by_an_independent_philox(tmp_path):
    seed = 5
    tool("create", BASE, tmp_path / "lora.safetensors", 4, 0, "attn2.to_k, proj_in", "q_proj", seed)
    factors = load_file(tmp_path / "lora.safetensors")
    assert all("attn2.to_k" in name or "proj_in" in name or "q_proj" in name for name in factors)
    for name, factor in factors.items():
        if "lora_B" in name:
            assert not factor.any()
            continue
        stream = philox.Stream(philox.derive_seed(seed, name), "weight_init", 0, 0)
        uniform = stream.uniform(64)
        fan_in = factor.shape[1]
        assert np.abs(factor.flatten()[:64].numpy() - (2 * uniform - 1) / np.sqrt(fan_in)).max() < 1e-7
        # What PEFT's kaiming_uniform_ with a = sqrt(5) spans.
        drawn = torch.nn.init.kaiming_uniform_(torch.empty(4096, fan_in), a=5 ** 0.5)
        assert drawn.abs().max() == pytest.approx(fan_in ** -0.5, rel=1e-2)
        assert factor.abs().max() == pytest.approx(fan_in ** -0.5, rel=5e-2)


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_pictures_equal_diffusers(tmp_path, sampler):
    pipeline = load_pipeline(BASE)
    add_random_adapters(pipeline)
    with torch.no_grad():
        for name, factor in named_factors(pipeline).items():
            factor.mul_(0.3)
    original = save_by_diffusers(pipeline, tmp_path)
    tool("rewrite", BASE, original, tmp_path / "kohya.safetensors", "kohya")
    prompt = "rocket on a white background"
    trace = sample(tmp_path, "--prompt", prompt, "--num_inference_steps", 8, "--guidance_scale", 3, "--sampler", sampler,
                   "--lora", f"{tmp_path / 'kohya.safetensors'}:{STRENGTH}", "--strengths", "0,1")
    fresh = load_pipeline(BASE)
    noise = trace["initial_noise"][0]
    _, plain, _ = reference_picture(fresh, sampler, prompt, "", 8, 3.0, noise)
    fresh.load_lora_weights(original.parent, weight_name=original.name)
    fresh.set_adapters(fresh.get_active_adapters(), STRENGTH)
    context, latent, image = reference_picture(fresh, sampler, prompt, "", 8, 3.0, noise)
    assert error(latent, plain) > 1e-2, "far more than the tolerance: the factors count"
    assert error(trace["final_latent"][0], plain) < 1e-3
    assert error(trace["context"][1], context) < 1e-3
    assert error(trace["final_latent"][1], latent) < 1e-3
    assert (trace["image"][1].float() - image).abs().mean().item() < LEVELS
