"""Random networks of diffusers and transformers, and ldmtune's outputs for the same weights and inputs."""

import os
import subprocess
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

UNETS = {
    # Stable Diffusion 1: 1x1 convolutions as projections; attention_head_dim is the number of heads.
    "sd1": dict(block_out_channels=(32, 48, 64, 64), attention_head_dim=8, cross_attention_dim=40, norm_num_groups=8),
    # Stable Diffusion 2: matrices as projections, heads listed by level.
    "sd2": dict(block_out_channels=(32, 48, 64, 64), attention_head_dim=(2, 3, 4, 4), cross_attention_dim=56,
                norm_num_groups=8, use_linear_projection=True, upcast_attention=True),
    # SDXL: depths by level, pooled text and six time ids added to the time embedding.
    "sdxl": dict(block_out_channels=(32, 48, 64), attention_head_dim=(2, 3, 4), cross_attention_dim=112,
                 norm_num_groups=8, use_linear_projection=True, transformer_layers_per_block=(1, 2, 3),
                 down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN), up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP),
                 addition_embed_type="text_time", addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=6 * 8 + 24),
    # The embedded base: three levels, the finest without attention.
    "emoji": dict(block_out_channels=(32, 64, 96), attention_head_dim=4, cross_attention_dim=40, norm_num_groups=16,
                  layers_per_block=1, down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
                  up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP)),
    # Keys that SD leaves at their defaults.
    "unusual": dict(block_out_channels=(24, 40), attention_head_dim=(3, 7), cross_attention_dim=(20, 20),
                    norm_num_groups=4, layers_per_block=(1, 2), transformer_layers_per_block=(2, 1), in_channels=5,
                    out_channels=3, only_cross_attention=(True, False), down_block_types=(CROSS_DOWN, CROSS_DOWN),
                    up_block_types=(CROSS_UP, CROSS_UP), mid_block_scale_factor=1.5, downsample_padding=0,
                    flip_sin_to_cos=False, freq_shift=1, act_fn="gelu", center_input_sample=True, norm_eps=1e-4,
                    time_embedding_dim=50, conv_in_kernel=5, conv_out_kernel=1),
}

VAES = {
    "sd": dict(block_out_channels=(16, 24, 32, 32), layers_per_block=2, norm_num_groups=8),
    "emoji": dict(block_out_channels=(16, 32, 32), layers_per_block=1, norm_num_groups=16, scaling_factor=0.4),
    "unusual": dict(block_out_channels=(12, 20), layers_per_block=1, norm_num_groups=4, latent_channels=7,
                    act_fn="mish", use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False),
}

TEXTS = {
    "sd1": dict(hidden_size=48, intermediate_size=192, num_hidden_layers=5, num_attention_heads=4,
                hidden_act="quick_gelu", max_position_embeddings=24, vocab_size=99),
    "sd2": dict(hidden_size=64, intermediate_size=256, num_hidden_layers=23, num_attention_heads=4, hidden_act="gelu",
                max_position_embeddings=24, vocab_size=99),
    # SDXL's second, which projects; as published, its configuration has 2 as eos_token_id.
    "sdxl_2": dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, hidden_act="gelu",
                   max_position_embeddings=24, vocab_size=99, projection_dim=24, eos_token_id=2),
}


def randomized(model, seed=1):
    """The model in evaluation mode, its norms and biases drawn at random too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                offset = 1.0 if name.endswith("weight") else 0.0
                parameter.copy_(offset + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build_unet(name, **changes):
    torch.manual_seed(0)
    config = UNETS[name] | changes
    levels = len(config["block_out_channels"])
    if levels == 4:
        config.setdefault("down_block_types", (CROSS_DOWN,) * 3 + (PLAIN_DOWN,))
        config.setdefault("up_block_types", (PLAIN_UP,) + (CROSS_UP,) * 3)
    return randomized(UNet2DConditionModel(**config))


def build_vae(name):
    torch.manual_seed(0)
    levels = len(VAES[name]["block_out_channels"])
    return randomized(AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * levels,
                                    up_block_types=("UpDecoderBlock2D",) * levels, **VAES[name]))


def build_text(name):
    config = CLIPTextConfig(**(dict(bos_token_id=97, eos_token_id=98, pad_token_id=98) | TEXTS[name]))
    return random_text_encoder(config, CLIPTextModelWithProjection if name == "sdxl_2" else CLIPTextModel)


def random_text_encoder(config, kind=CLIPTextModel):
    """As transformers draws it, attention is all but uniform, and the gradients of q and k drown in rounding."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "proj" in key and parameter.dim() == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return randomized(model)


def run_ldmtune(network, folder, inputs, dtype="float"):
    """Outputs of ldmtune's `network` ("unet", "vae", "text") for the model saved in `folder`."""
    folder = Path(folder)
    save_file({key: value.contiguous() for key, value in inputs.items()}, folder / "inputs.safetensors")
    tool = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "model_networks_tool"
    command = [tool, network, folder, folder / "inputs.safetensors", folder / "outputs.safetensors", dtype]
    subprocess.run(command, check=True)
    return load_file(folder / "outputs.safetensors")


def published(key):
    """A text encoder's key as published files have it; transformers 5 leaves the prefix out."""
    return key if key.startswith(("text_model.", "text_projection.")) else "text_model." + key


def error(ours, theirs):
    """max|a-b| / max|b|."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    assert torch.isfinite(ours).all()
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()
