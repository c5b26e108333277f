"""Whole bases in every form they have on disk: the same hashes, and outputs equal to diffusers' and transformers'."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from networks import build_text, build_unet, build_vae, error, randomized
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

TOOL = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "model_base_tool"
TOKENS = 24
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
# What networks.py builds as text encoder has 99 tokens.
VOCABULARY = [chr(c) + end for end in ("", "</w>") for c in range(ord("a"), ord("z") + 1)]
VOCABULARY += [chr(c) for c in range(ord("0"), ord("9") + 1)] + ["!", "<|startoftext|>", "<|endoftext|>"]


def save_tokenizer(folder: Path, pad_token: str) -> None:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"model_max_length": 77, "pad_token": pad_token, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build_pipeline(name: str, folder: Path) -> StableDiffusionPipeline:
    save_tokenizer(folder, "<|endoftext|>" if name == "sd1" else "!")
    text_encoder, unet = build_text(name), build_unet(name)
    if text_encoder.config.hidden_size != unet.config.cross_attention_dim:
        context = text_encoder.config.hidden_size
        unet = randomized(type(unet).from_config(unet.config, cross_attention_dim=context))
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    scheduler = PNDMScheduler(**schedule) if name == "sd1" else DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, **schedule
    )
    # Rounded to fp16 once, so that every form holds the same numbers.
    for model in (text_encoder, unet, vae := build_vae("sd")):
        model.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    optional = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, **optional)


def rename_tensors(file: Path, rename) -> None:
    tensors = {}
    for key, value in load_file(file).items():
        name, tensor = rename(key, value)
        tensors[name] = tensor.contiguous()
    save_file(tensors, file, metadata={"format": "pt"})


def as_published_vae(key: str, value: torch.Tensor, convolution: bool):
    if ".mid_block.attentions." in key:
        for newer, older in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{newer}." in key:
                return key.replace(newer, older), value[:, :, None, None] if convolution and value.dim() == 2 else value
    return key, value


def drop_keys(file: Path, *keys: str) -> None:
    config = json.loads(file.read_text())
    for key in keys:
        config.pop(key, None)
    file.write_text(json.dumps(config))


def make_published(folder: Path, convolution: bool) -> None:
    """Key names and configurations as the bases of 2022 have them."""
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rename_tensors(vae, lambda key, value: as_published_vae(key, value, convolution))
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in load_file(vae)
    text = folder / "text_encoder" / "model.safetensors"
    rename_tensors(text, lambda key, value: ("text_model." + key.removeprefix("text_model."), value))
    save_file(load_file(text) | {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}, text)
    drop_keys(folder / "vae" / "config.json", "scaling_factor", "use_quant_conv", "mid_block_add_attention")
    drop_keys(folder / "unet" / "config.json", "num_attention_heads", "dropout", "transformer_layers_per_block")


def make_snapshot(source: Path, cache: Path) -> Path:
    """A Hugging Face cache: blobs, and a snapshot of relative symlinks to them."""
    snapshot = cache / "snapshots" / "0123456789abcdef"
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        relative = file.relative_to(source)
        blob = cache / "blobs" / str(relative).replace("/", "_")
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = snapshot / relative
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def base(request, tmp_path_factory):
    """The pipeline, its inputs and outputs, and a folder for each form with the variant to ask for."""
    root = tmp_path_factory.mktemp(request.param)
    pipeline = build_pipeline(request.param, root / "tokenizer")
    forms = {}

    def save(form: str, variant: str = "", **options) -> Path:
        pipeline.save_pretrained(root / form, safe_serialization=True, variant=variant or None, **options)
        forms[form] = (root / form, variant)
        return root / form

    plain = save("plain")
    save("sharded", max_shard_size="200KB")
    assert len(list((root / "sharded/unet").glob("*.safetensors"))) > 2
    for form, convolution in (("older_linear", False), ("older_convolution", True)):
        make_published(save(form), convolution)
    forms["snapshot"] = (make_snapshot(plain, root / "cache"), "")
    forms["variant_that_is_not_there"] = (plain, "fp16")
    pipeline.to(dtype=torch.float16)
    save("fp16", "fp16")
    save("fp16_sharded", "fp16", max_shard_size="200KB")
    forms["only_fp16_there"] = (root / "fp16", "")
    pipeline.to(dtype=torch.bfloat16)
    pipeline.to(dtype=torch.float32)  # bfloat16 rounded: another base, of which only the plain form is kept
    save("bfloat16_values")
    bfloat16_outputs = outputs_of(pipeline)
    outputs = outputs_of(StableDiffusionPipeline.from_pretrained(plain))
    return {"forms": forms, "outputs": outputs, "bfloat16_outputs": bfloat16_outputs}


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "input_ids": torch.randint(0, len(VOCABULARY), (2, TOKENS), generator=generator),
        "sample": torch.randn(2, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([7, 905]),
        "image": torch.rand(1, 3, 32, 48, generator=generator) * 2 - 1,
    }


@torch.no_grad()
def outputs_of(pipeline) -> dict[str, torch.Tensor]:
    x = inputs()
    context = pipeline.text_encoder(x["input_ids"])[0]
    posterior = pipeline.vae.encode(x["image"]).latent_dist
    return {
        "context": context,
        "prediction": pipeline.unet(x["sample"], x["timestep"], context).sample,
        "mean": posterior.mean,
        "stddev": posterior.std,
        "decoded": pipeline.vae.decode(posterior.mean).sample,
    }


def run_tool(folder: Path, variant: str, dtype: str, tmp_path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    save_file(inputs(), tmp_path / "inputs.safetensors")
    command = [TOOL, folder, variant or "-", dtype, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return summary, load_file(tmp_path / "outputs.safetensors")


def largest_error(ours: dict, theirs: dict) -> float:
    assert ours.keys() == theirs.keys()
    return max(error(ours[key], theirs[key]) for key in theirs)


def test_every_form_gives_the_same_base(base, tmp_path):
    expected, _ = run_tool(*base["forms"]["plain"], "float32", tmp_path)
    assert expected["model_max_length"] == TOKENS  # the encoder's positions, fewer than the tokenizer's 77
    assert expected["scaling_factor"] == 0.18215
    same = [form for form in base["forms"] if form not in ("plain", "bfloat16_values")]
    assert len(same) == 8
    for form in same:
        summary, outputs = run_tool(*base["forms"][form], "float32", tmp_path)
        assert summary == expected, form
        assert largest_error(outputs, base["outputs"]) < TOLERANCE["float32"], form


def test_other_weights_hash_differently(base, tmp_path):
    expected, _ = run_tool(*base["forms"]["plain"], "float32", tmp_path)
    summary, outputs = run_tool(*base["forms"]["bfloat16_values"], "float32", tmp_path)
    for hashed in ("sha256", "unet", "text_encoder", "vae"):
        assert summary[hashed] != expected[hashed]
    assert summary["tokenizer"] == expected["tokenizer"]
    assert largest_error(outputs, base["bfloat16_outputs"]) < TOLERANCE["float32"]


def test_half_precision_runs(base, tmp_path):
    summary, outputs = run_tool(*base["forms"]["fp16"], "bfloat16", tmp_path)
    expected, _ = run_tool(*base["forms"]["plain"], "float32", tmp_path)
    assert summary == expected
    assert largest_error(outputs, base["outputs"]) < TOLERANCE["bfloat16"]


def test_torch_format_alone_is_refused(base, tmp_path):
    folder = shutil.copytree(base["forms"]["plain"][0], tmp_path / "base")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    done = subprocess.run([TOOL, folder, "-", "float32"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "convert it to safetensors" in done.stderr
