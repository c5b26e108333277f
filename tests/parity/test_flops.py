"""The operations that training is budgeted with against torch's own counter over diffusers, PEFT and transformers.

Tolerance 1%: what is counted for the layers before the first attention and around it is not told apart to the last
matrix (the first to_q needs no gradient of its input, nor conv_in where all weights train)."""

import os
import pathlib
import subprocess

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextModel

BASE = pathlib.Path(os.environ["LDMTUNE_SOURCE"]) / "datasets" / "emoji-base"
TOOL = pathlib.Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "train_flops_tool"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def counted(*options, size=16):
    done = subprocess.run([TOOL, BASE, str(size), str(size), *options], capture_output=True, text=True, check=True)
    loaded, planned = map(float, done.stdout.split())
    assert loaded == planned, "what a sweep plans is what a run counts"
    return loaded


@pytest.fixture()
def unet():
    net = UNet2DConditionModel.from_pretrained(BASE / "unet")
    net.set_attn_processor(AttnProcessor())  # as matrix products, which torch counts on CPUs too
    return net.requires_grad_(False)


@pytest.fixture()
def text_encoder():
    encoder = CLIPTextModel.from_pretrained(BASE / "text_encoder", attn_implementation="eager")
    return encoder.float().requires_grad_(False)


def flops_of(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def unet_step(net, context, size=16):
    net(torch.randn(1, 4, size, size), torch.ones(1), context).sample.sum().backward()


def test_all_weights(unet):
    unet.requires_grad_(True)
    expected = flops_of(lambda: unet_step(unet, torch.randn(1, 24, 160)))
    assert counted("--method", "dreambooth") == pytest.approx(expected, rel=0.01)


def test_all_weights_and_the_text_encoder_with_class_images(unet, text_encoder):
    unet.requires_grad_(True)
    text_encoder.requires_grad_(True)
    ids = torch.ones(1, 24, dtype=torch.long)
    expected = flops_of(lambda: unet_step(unet, text_encoder(ids).last_hidden_state))
    options = ["--method", "dreambooth", "--dreambooth.train_text_encoder", "true"]
    assert counted(*options) == pytest.approx(expected, rel=0.01)
    with_class_images = [*options, "--dreambooth.with_prior_preservation", "true"]
    assert counted(*with_class_images) == 2 * counted(*options)


def test_attention_weights_alone(unet):
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".attn1." in name or ".attn2." in name)
    expected = flops_of(lambda: unet_step(unet, torch.randn(1, 24, 160)))
    options = ["--method", "dreambooth", "--dreambooth.train_unet", "attention"]
    assert counted(*options) == pytest.approx(expected, rel=0.01)


def test_new_words(unet, text_encoder):
    text_encoder.get_input_embeddings().weight.requires_grad_(True)
    ids = torch.ones(1, 24, dtype=torch.long)
    expected = flops_of(lambda: unet_step(unet, text_encoder(ids).last_hidden_state))
    assert counted("--method", "textual_inversion") == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("size", [16, 20])
def test_lora(unet, size):
    unet.add_adapter(LoraConfig(r=8, target_modules=TARGETS))
    expected = flops_of(lambda: unet_step(unet, torch.randn(1, 24, 160), size))
    assert counted("--method", "lora", size=size) == pytest.approx(expected, rel=0.01)


def test_hypernetwork(unet):
    """Two networks 1,2,1 for each width, evaluated once for the text and for every layer's own hidden state."""
    networks, seen = torch.nn.ModuleDict(), {}

    def changed(name, width, x):
        key = f"{width}_{name}"
        if key not in networks:
            networks[key] = torch.nn.Sequential(torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width))
        if width == 160:  # the text: the same for all layers
            if key not in seen:
                seen[key] = x + networks[key](x)
            return seen[key]
        return x + networks[key](x)

    for name, module in unet.named_modules():
        for role in ("to_k", "to_v"):
            if name.endswith("." + role):
                module.register_forward_pre_hook(lambda m, args, role=role: (changed(role, m.in_features, args[0]),))
    expected = flops_of(lambda: unet_step(unet, torch.randn(1, 24, 160)))
    assert counted("--method", "hypernetwork", "--hypernetwork.layer_structure", "1,2,1") == pytest.approx(expected, rel=0.01)
