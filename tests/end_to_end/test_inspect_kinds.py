"""inspect of the files that programs exchange: format, method, base family, size, origin, hashes; damage exits with 2."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import BASE, run, sha256

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(width=768, rank=4):
    return {f"{LAYER}.lora_A.weight": torch.ones(rank, width), f"{LAYER}.lora_B.weight": torch.ones(64, rank)}


def kohya(width=2048):
    layer = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    return {f"{layer}.lora_down.weight": torch.ones(8, width), f"{layer}.lora_up.weight": torch.ones(64, 8), f"{layer}.alpha": torch.tensor(4.0),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(8, 1280),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(64, 8)}


def network(width=768):
    state = {"linear.0.weight": torch.ones(width, width), "linear.0.bias": torch.ones(width)}
    return {width: (state, state), "name": "n", "step": 3, "layer_structure": [1, 1], "activation_func": "relu",
            "activate_output": False, "sd_checkpoint_name": "their-base"}


def described(tmp_path, tensors, *words, name="x.safetensors", metadata=None):
    file = tmp_path / name
    torch.save(tensors, file) if name.endswith(".pt") else save_file(tensors, file, metadata)
    output = run(["inspect", file])
    for word in words:
        assert word in output, output
    assert f"sha256: {sha256(file)}" in output
    return file, output


def test_loras(tmp_path):
    settings = {"lora_adapter_metadata": '{"unet.lora_alpha": 2}', "ldmtune_base_name": "sd15", "ldmtune_step": "9"}
    file, output = described(tmp_path, lora(), "LoRA (diffusers' layout)", "for: Stable Diffusion 1", "unet: 1 layers", "rank: 4",
                             "alpha: unet 2", "trained on: sd15", "step: 9", metadata=settings)
    content = file.read_bytes()
    data = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little"):]).hexdigest()
    assert f"AUTOMATIC1111's hash: {data[:12]}" in output
    described(tmp_path, kohya(), "LoRA (kohya's layout)", "XL", "text_encoder_2: 1 layers", "unet: 1 layers", "rank: 8", "alpha: 4",
              "name: theirs", metadata={"ss_output_name": "theirs"})
    described(tmp_path, {"lora_unet_x.hada_w1_a": torch.ones(2, 2)}, "LoHa (not supported)")


def test_embeddings_and_hypernetworks(tmp_path):
    file, output = described(tmp_path, {"string_to_param": {"*": torch.ones(3, 1024)}, "name": "zorp", "step": 5, "sd_checkpoint_name": "b"},
                             "textual inversion embedding", "for: Stable Diffusion 2", "token zorp: 3 vectors 1024 wide", "step: 5",
                             "trained on: b", name="z.pt")
    assert f"AUTOMATIC1111's hash: {sha256(file)[:12]}" in output
    described(tmp_path, {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, "XL", "2 vectors 768 wide and 1280 wide")
    file, output = described(tmp_path, network(), "hypernetwork (AUTOMATIC1111 .pt)", "for: Stable Diffusion 1", "layer structure: 1, 1",
                             "activation: relu", "trained on: their-base", name="n.pt")
    assert f"AUTOMATIC1111's hash: {sha256(file)[:10]}" in output
    run(["export", file, "--output", tmp_path / "n.safetensors"])
    assert "hypernetwork (.safetensors of ldmtune)" in run(["inspect", tmp_path / "n.safetensors"])


def test_models(tmp_path):
    run(["export", BASE, "--format", "ldm", "--dtype", "fp16", "--output", tmp_path / "one.safetensors"])
    output = run(["inspect", tmp_path / "one.safetensors", BASE])
    for word in ("base model in one file (LDM layout)", "for: Stable Diffusion 1", "prediction: epsilon", "parameters, Half",
                 f"AUTOMATIC1111's hash: {sha256(tmp_path / 'one.safetensors')[:10]}", "base model (diffusers folder)"):
        assert word in output, output
    assert "VAE" in run(["inspect", BASE / "vae/diffusion_pytorch_model.safetensors"])
    described(tmp_path, {"unet.conv_in.weight": torch.ones(4), "text_encoder.x": torch.ones(2)}, "weights that dreambooth trained",
              "unet: 1 tensors, 4 parameters", "step: 8", metadata={"ldmtune.step": "8"})


@pytest.mark.parametrize("name, tensors, expected", [
    ("x.safetensors", {f"{LAYER}.lora_A.weight": torch.ones(4, 8)}, "up (lora_B) factor is missing"),
    ("x.safetensors", {**lora(), f"{LAYER}.lora_B.weight": torch.ones(64, 5)}, "expected (rank, in) and (out, rank)"),
    ("x.safetensors", {**lora(), f"{LAYER}.lora_A.weight": torch.full((4, 768), float("nan"))}, "lora_A"),
    ("x.safetensors", {"clip_l": torch.ones(2, 768)}, "found only clip_l"),
    ("x.safetensors", {"emb_params": torch.full((2, 768), float("inf"))}, "emb_params"),
    ("x.safetensors", {"unet.conv_in.weight": torch.full((4,), float("nan"))}, "unet.conv_in.weight"),
    ("x.safetensors", {"model.diffusion_model.joint_blocks.0.x": torch.ones(2)}, "Stable Diffusion 3"),
    ("x.pt", {**network(8), "layer_structure": [1, 2, 1]}, "layer_structure"),
])
def test_what_does_not_hold_together_exits_with_2(tmp_path, name, tensors, expected):
    torch.save(tensors, tmp_path / name) if name.endswith(".pt") else save_file(tensors, tmp_path / name)
    output = run(["inspect", tmp_path / name], code=2)
    assert expected in output and name in output, output


@pytest.mark.parametrize("name, tensors", [("x.safetensors", lora()), ("x.pt", network(8)), ("x.safetensors", {"emb_params": torch.ones(2, 8)})])
def test_cut_files_exit_with_2(tmp_path, name, tensors):
    torch.save(tensors, tmp_path / name) if name.endswith(".pt") else save_file(tensors, tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-7])
    assert name in run(["inspect", tmp_path / name], code=2)


def test_a_hypernetworks_bare_parameters_are_no_damage(tmp_path):
    """A checkpoint's parameters.safetensors says nothing of its structure."""
    save_file({"768.k.linear.0.weight": torch.ones(4, 4)}, tmp_path / "parameters.safetensors")
    assert "768.k.linear.0.weight" in run(["inspect", tmp_path / "parameters.safetensors"])
    assert load_file(tmp_path / "parameters.safetensors")
