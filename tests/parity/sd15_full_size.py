"""The networks at Stable Diffusion 1.5's full size on random weights, against diffusers and transformers.

Not part of ctest: it needs about 12 GiB of memory and of disk, and a few minutes. Run it by hand:

    LDMTUNE_BUILD=build python tests/parity/sd15_full_size.py [--folder WHERE_TO_PUT_8_GIB]

Prints max|a-b| / max|b| of each output and of the worst gradient; exits 1 where one is above 1e-4.
"""

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from networks import (
    CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, error, published, random_text_encoder, randomized, run_ldmtune)
from transformers import CLIPTextConfig

TOLERANCE = 1e-4


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def unet_errors(folder):
    """Forward at 512 pixels; gradients of inputs and all parameters at 256, where they fit into memory."""
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768, sample_size=64,
        down_block_types=(CROSS_DOWN,) * 3 + (PLAIN_DOWN,), up_block_types=(PLAIN_UP,) + (CROSS_UP,) * 3)
    randomized(unet).save_pretrained(folder)
    text = normal(1, 77, 768)
    wide = {"sample": normal(1, 4, 64, 64), "timestep": torch.tensor([321]), "encoder_hidden_states": text}
    with torch.no_grad():
        prediction = unet(*wide.values()).sample
    narrow = {**wide, "sample": normal(1, 4, 32, 32), "cotangent": normal(1, 4, 32, 32)}
    for key in ("sample", "encoder_hidden_states"):
        narrow[key] = narrow[key].requires_grad_()
    unet(narrow["sample"], narrow["timestep"], narrow["encoder_hidden_states"]).sample.backward(narrow["cotangent"])
    gradients = {key: narrow[key].grad for key in ("sample", "encoder_hidden_states")}
    gradients.update({key: parameter.grad for key, parameter in unet.named_parameters()})
    del unet
    gc.collect()

    yield "UNet, 512 pixels", error(run_ldmtune("unet", folder, wide)["sample"], prediction)
    ours = run_ldmtune("unet", folder, {key: value.detach() for key, value in narrow.items()})
    errors = {key: error(ours["gradient." + key], gradient) for key, gradient in gradients.items()}
    worst = max(errors, key=errors.get)
    yield f"UNet, {len(errors)} gradients at 256 pixels, worst {worst}", errors[worst]


def vae_errors(folder):
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    randomized(vae).save_pretrained(folder)
    inputs = {"image": normal(1, 3, 256, 256).clamp(-1, 1), "latent": normal(1, 4, 32, 32)}
    with torch.no_grad():
        posterior, image = vae.encode(inputs["image"]).latent_dist, vae.decode(inputs["latent"]).sample
    del vae
    ours = run_ldmtune("vae", folder, inputs)
    yield "VAE, posterior mean at 256 pixels", error(ours["mean"], posterior.mean)
    yield "VAE, posterior standard deviation", error(ours["stddev"], posterior.std)
    yield "VAE, decoded image", error(ours["image"], image)


def text_errors(folder):
    encoder = random_text_encoder(CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu"))
    encoder.save_pretrained(folder)
    input_ids = torch.randint(0, 49408, (2, 77), generator=torch.Generator().manual_seed(4))
    cotangent = normal(2, 77, 768)
    hidden = encoder(input_ids).last_hidden_state
    hidden.backward(cotangent)
    gradients = {published(key): parameter.grad for key, parameter in encoder.named_parameters()}
    ours = run_ldmtune("text", folder, {"input_ids": input_ids, "cotangent": cotangent})
    yield "text encoder", error(ours["last_hidden_state"], hidden.detach())
    # Without the key biases: their gradients are rounding error around 0 (the softmax does not see them).
    errors = {key: error(ours["gradient." + key], gradient)
              for key, gradient in gradients.items() if not key.endswith("k_proj.bias")}
    worst = max(errors, key=errors.get)
    yield f"text encoder, {len(errors)} gradients, worst {worst}", errors[worst]


NETWORKS = {"text": text_errors, "vae": vae_errors, "unet": unet_errors}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where temporary files go (about 8 GiB)")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    failed = False
    for name in [arguments.only] if arguments.only else NETWORKS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for what, value in NETWORKS[name](folder):
                failed = failed or not value <= TOLERANCE
                print(f"{value:.2e}  {what}", flush=True)
        print(f"          ({time.monotonic() - start:.0f} s)", flush=True)
        gc.collect()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
