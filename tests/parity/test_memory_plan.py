"""What `train --plan` counts as activations, against what autograd saves when diffusers' networks make the same forward, but
for what src/model/frugal_layers.h computes again in backward."""

import contextlib
import re
import sys
from pathlib import Path

import pytest
import torch
from diffusers.models.activations import GEGLU
from peft import LoraConfig
from random_bases import TOKENS, pipeline_of

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
from support import run, small_image_folder  # noqa: E402

ROWS, WIDTH = 6, 16  # samples, latents' height and width


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Pipelines and datasets of all families."""
    folder, made = tmp_path_factory.mktemp("plans"), {}

    def make(family):
        if family not in made:
            pipeline = pipeline_of(family, folder / family)
            size = WIDTH * pipeline.vae_scale_factor
            images = small_image_folder(folder / (family + ".images"), 4)
            run(["prepare", "--base", folder / family, "--images", images, "--output", folder / (family + ".data"), "--resolution", size])
            made[family] = pipeline, folder / family, folder / (family + ".data")
        return made[family]

    return make


def planned(base, data, method, **options):
    """Bytes of the activations that --plan prints."""
    settings = {"method": method, "base": base, "data": data, "output": data / "no-run", "train.micro_batch_size": ROWS,
                "train.global_batch_size": ROWS, **options}
    text = run(["train", "--plan", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))])
    return float(re.search(r"activations +([\d,.]+) MiB", text)[1].replace(",", "")) * 2**20


def is_made_again(module, tensor):
    """Whether the module's own operations would not keep the tensor here."""
    if isinstance(module, torch.nn.Conv2d):
        return not module.weight.requires_grad
    if isinstance(module, torch.nn.SiLU):
        return tensor.dim() == 4  # after a norm; the time's embeddings have two dimensions
    return isinstance(module, GEGLU) and not tensor._is_view()  # gelu of one half; both halves are views


@contextlib.contextmanager
def running_modules(network):
    """A stack of the modules whose forward runs, the innermost last."""
    stack, handles = [], []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(lambda m, inputs: stack.append(m), prepend=True))
        handles.append(module.register_forward_hook(lambda m, inputs, output: stack.pop() and None))
    yield stack
    for handle in handles:
        handle.remove()


def saved_bytes(unet, text_encoder=None):
    """Bytes of the storages that a forward saves, without parameters and what would be made again."""
    modules = [unet, *([text_encoder] if text_encoder is not None else [])]
    own = {parameter.untyped_storage().data_ptr() for module in modules for parameter in module.parameters()}
    saved, held = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        again = bool(running) and is_made_again(running[-1], tensor)
        if storage.data_ptr() not in own and tensor.is_floating_point() and not again:
            saved[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # so that no other takes its place in memory
        return tensor

    is_xl = unet.config.addition_embed_type == "text_time"
    added = {"text_embeds": torch.randn(ROWS, 24), "time_ids": torch.zeros(ROWS, 6)} if is_xl else None
    sample, text = torch.randn(ROWS, 4, WIDTH, WIDTH), torch.randn(ROWS, TOKENS, unet.config.cross_attention_dim)
    with running_modules(unet) as running, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if text_encoder is not None:
            text = text_encoder(torch.randint(0, 50, (ROWS, TOKENS))).last_hidden_state
        unet(sample, torch.arange(ROWS), text, added_cond_kwargs=added)
    return sum(saved.values())


def hypernetworks(unet, structure=(1, 2, 1)):
    """Networks at every context width, the text's evaluated once: linear, ReLU, layer norm."""
    networks, read = torch.nn.ModuleDict(), {}

    def bend(role, reads_text, inputs):
        context = inputs[0]
        width = context.shape[-1]
        key = f"{width}{role}"
        if key not in networks:
            sizes = [int(width * factor) for factor in structure]
            layers = []
            for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
                layers += [torch.nn.Linear(a, b), *([torch.nn.ReLU()] if i + 2 < len(sizes) else []), torch.nn.LayerNorm(b)]
            networks[key] = torch.nn.Sequential(*layers)
        if not reads_text:
            return (context + networks[key](context),)
        if key not in read:
            read[key] = context + networks[key](context)
        return (read[key],)

    for name, module in unet.named_modules():
        role = name.rpartition(".")[2]
        if role in ("to_k", "to_v"):
            module.register_forward_pre_hook(lambda m, inputs, role=role, reads_text=".attn2." in name: bend(role, reads_text, inputs))
    unet(torch.randn(1, 4, 8, 8), torch.zeros(1), torch.randn(1, TOKENS, unet.config.cross_attention_dim),
         added_cond_kwargs={"text_embeds": torch.randn(1, 24), "time_ids": torch.zeros(1, 6)})
    read.clear()
    unet.networks = networks


def frozen(pipeline):
    pipeline.unet.requires_grad_(False)
    pipeline.text_encoder.requires_grad_(False)
    return pipeline.unet


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_dreambooth_keeps_what_autograd_saves(workshop, family):
    pipeline, base, data = workshop(family)
    unet = frozen(pipeline).requires_grad_(True)
    assert planned(base, data, "dreambooth") == pytest.approx(saved_bytes(unet), rel=0.03)


def test_dreambooth_of_attention_keeps_what_autograd_saves(workshop):
    pipeline, base, data = workshop("sd2")
    unet = frozen(pipeline)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(".attn1." in name or ".attn2." in name)
    assert planned(base, data, "dreambooth", **{"dreambooth.train_unet": "attention"}) == pytest.approx(saved_bytes(unet), rel=0.03)


def test_textual_inversion_keeps_what_autograd_saves(workshop):
    pipeline, base, data = workshop("sd2")
    unet = frozen(pipeline)
    pipeline.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    ours = planned(base, data, "textual_inversion", **{"textual_inversion.placeholder_token": "zorp", "caption.template": "[name]"})
    assert ours == pytest.approx(saved_bytes(unet, pipeline.text_encoder), rel=0.03)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_lora_keeps_what_autograd_saves(workshop, family):
    pipeline, base, data = workshop(family)
    unet = frozen(pipeline)
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]))
    ours = planned(base, data, "lora", **{"lora.rank": "4", "lora.target_modules": "to_q, to_k, to_v, to_out.0, ff.net.2"})
    theirs = saved_bytes(unet)
    unet.delete_adapters("default")
    assert ours == pytest.approx(theirs, rel=0.03)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_hypernetworks_keep_what_autograd_saves(workshop, family):
    pipeline, base, data = workshop(family)
    unet = frozen(pipeline)
    hypernetworks(unet)
    ours = planned(base, data, "hypernetwork", **{"hypernetwork.activation": "relu", "hypernetwork.layer_norm": "true"})
    assert ours == pytest.approx(saved_bytes(unet), rel=0.03)
