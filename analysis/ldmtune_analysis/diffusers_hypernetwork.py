"""Hypernetworks in diffusers, which loads none itself: load_hypernetwork(pipe, "pencil.pt", strength=0.8).

Reads AUTOMATIC1111's `.pt` (any writer's) and ldmtune's `.safetensors`, for pipelines of Stable Diffusion 1, 2 and XL.
Every attention layer of the UNet then reads context + strength * network(context) for its keys and values, with one pair
of networks for each width of context. Dropout is training's and left out. Several may be loaded; they act in the order of
loading.
"""

import json
from pathlib import Path

ACTIVATIONS = {"swish": "Hardswish", "relu": "ReLU", "leakyrelu": "LeakyReLU", "elu": "ELU", "tanh": "Tanh", "sigmoid": "Sigmoid"}


class LoadedHypernetwork:
    """What load_hypernetwork returns: `strength` may be set at any time; `remove()` takes it out again."""

    def __init__(self, name, networks, strength):
        self.name, self.networks, self.strength = name, networks, strength
        self.handles = []

    def remove(self):
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


def load_hypernetwork(pipe, file, strength=1.0):
    """Makes the pipeline's UNet read through the hypernetwork in `file`. Returns a LoadedHypernetwork.

    Raises ValueError if the file is no hypernetwork, one of MonkeyPatch's other kinds, or none of its widths is one of the
    UNet's contexts.
    """
    settings, states = read_hypernetwork(file)
    for other in ("skip_connection", "upsample_linear"):
        if settings.get(other):
            raise ValueError(f"{file}: made with MonkeyPatch's {other}, which is another kind of network")
    networks = {width: tuple(build_network(state, settings) for state in pair) for width, pair in states.items()}
    loaded = LoadedHypernetwork(settings.get("name") or Path(file).stem, networks, strength)
    for name, module in pipe.unet.named_modules():
        role = {"to_k": 0, "to_v": 1}.get(name.rpartition(".")[2])
        if role is None or getattr(module, "in_features", None) not in networks:
            continue
        network = networks[module.in_features][role].to(module.weight.device)
        loaded.handles.append(module.register_forward_pre_hook(bend(loaded, network)))
    if not loaded.handles:
        raise ValueError(f"{file}: its networks are for contexts of width {sorted(networks)}, which this UNet has not")
    return loaded


def bend(loaded, network):
    """A hook that changes what a layer reads; computed in float32, whatever the pipeline runs in."""

    def hook(_, inputs):
        context = inputs[0]
        return (context + (loaded.strength * network(context.float())).to(context.dtype), *inputs[1:])

    return hook


def read_hypernetwork(file):
    """(settings by A1111's names, {width: (state dict of k, state dict of v)})."""
    if str(file).endswith(".safetensors"):
        settings, states = read_safetensors(file)
    else:
        import torch

        content = torch.load(file, map_location="cpu", weights_only=True)
        states = {key: value for key, value in content.items() if isinstance(key, int)}
        settings = {key: value for key, value in content.items() if isinstance(key, str)}
    if not states:
        raise ValueError(f"{file}: no hypernetwork: expected networks by width of context (320, 768 ...)")
    return settings, states


def read_safetensors(file):
    from safetensors import safe_open

    states = {}
    with safe_open(file, framework="pt") as content:
        settings = {key: json.loads(value) for key, value in (content.metadata() or {}).items() if key != "format"}
        for name in content.keys():
            width, role, key = (name.split(".", 2) + ["", ""])[:3]
            if not width.isdigit() or role not in ("k", "v"):
                raise ValueError(f"{file}: no hypernetwork: expected tensors such as 768.k.linear.0.weight, found {name}")
            states.setdefault(int(width), ({}, {}))["kv".index(role)][key] = content.get_tensor(name)
    return settings, states


def build_network(state, settings):
    """A torch module for one state dict, without dropout: modules without weights keep the numbers between the others."""
    import torch

    renamed = {key.replace("linear1.", "linear.0.").replace("linear2.", "linear.1."): value for key, value in state.items()}
    weights = {int(key.split(".")[1]): value for key, value in renamed.items() if key.endswith(".weight")}
    linears = [index for index in sorted(weights) if weights[index].dim() == 2]
    activation = settings.get("activation_func") or "linear"
    modules = []
    for index in sorted(weights):
        weight, bias = weights[index].float(), renamed[f"linear.{index}.bias"].float()
        if weight.dim() == 2:
            module = torch.nn.Linear(weight.shape[1], weight.shape[0])
        else:
            module = torch.nn.LayerNorm(weight.shape[0])
        module.load_state_dict({"weight": weight, "bias": bias})
        modules.append(module)
        is_activated = index != linears[-1] or settings.get("activate_output", True)
        if weight.dim() == 2 and activation != "linear" and is_activated:
            modules.append(make_activation(activation))
    return torch.nn.Sequential(*modules).requires_grad_(False).eval()


def make_activation(name):
    import torch

    known = {cls.lower(): cls for cls in dir(torch.nn) if isinstance(getattr(torch.nn, cls), type)}
    found = ACTIVATIONS.get(name) or known.get(name)
    if found is None:
        raise ValueError(f"unknown activation {name!r}")
    return getattr(torch.nn, found)()
