"""Hypernetworks by AUTOMATIC1111's recipe in plain torch, written apart from ldmtune to compare it with.

Per stage a linear, then activation, layer norm and dropout as the settings say, all in one Sequential named "linear".
"""

import torch
from torch import nn

ACTIVATIONS = {
    "celu": nn.CELU, "elu": nn.ELU, "gelu": nn.GELU, "hardshrink": nn.Hardshrink, "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh, "leakyrelu": nn.LeakyReLU, "linear": None,
    "logsigmoid": nn.LogSigmoid, "mish": nn.Mish, "relu": nn.ReLU, "relu6": nn.ReLU6, "rrelu": nn.RReLU,
    "selu": nn.SELU, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "softplus": nn.Softplus, "softshrink": nn.Softshrink,
    "softsign": nn.Softsign, "swish": nn.Hardswish, "tanh": nn.Tanh, "tanhshrink": nn.Tanhshrink,
}  # fmt: skip


class Network(nn.Module):
    """x + linear(x) * strength on (..., width)."""

    def __init__(self, width, settings):
        super().__init__()
        sizes = [int(width * multiplier) for multiplier in settings["layer_structure"]]
        activation = ACTIVATIONS[settings["activation_func"] or "linear"]
        modules = []
        for stage, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:]), start=1):
            modules.append(nn.Linear(fan_in, fan_out))
            if activation and (stage < len(sizes) - 1 or settings["activate_output"]):
                modules.append(activation())
            if settings["is_layer_norm"]:
                modules.append(nn.LayerNorm(fan_out))
            if settings["dropout_structure"][stage] > 0:
                modules.append(nn.Dropout(settings["dropout_structure"][stage]))
        self.linear = nn.Sequential(*modules)
        self.eval()

    def forward(self, x, strength=1.0):
        return x + self.linear(x) * strength


class Hypernetwork:
    """One Network for k and one for v per width."""

    def __init__(self, widths, settings):
        self.settings = settings
        self.networks = {width: (Network(width, settings), Network(width, settings)) for width in widths}

    @classmethod
    def random(cls, widths, settings, seed=0, scale=0.3):
        """Every parameter drawn, norms and biases too."""
        hypernetwork = cls(widths, settings)
        generator = torch.Generator().manual_seed(seed)
        for pair in hypernetwork.networks.values():
            for network in pair:
                for parameter in network.parameters():
                    parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        return hypernetwork

    @classmethod
    def load(cls, file):
        """From a .pt that has all its metadata."""
        content = torch.load(file, weights_only=True)
        hypernetwork = cls([key for key in content if isinstance(key, int)], content)
        for width, pair in hypernetwork.networks.items():
            for network, state in zip(pair, content[width], strict=True):
                network.load_state_dict(state)
        return hypernetwork

    def content(self, dtype=None, **metadata):
        """What A1111 saves; state dicts are OrderedDicts with their _metadata, as nn.Module gives them."""
        content = {}
        for width, pair in self.networks.items():
            content[width] = tuple((network.to(dtype) if dtype else network).state_dict() for network in pair)
        return {**content, "step": 3, "name": "independent", **self.settings, "weight_initialization": "Normal",
                "sd_checkpoint": None, "sd_checkpoint_name": None, "optional_info": None, **metadata}  # fmt: skip


def settings(structure=(1, 2, 1), activation="linear", layer_norm=False, activate_output=False, dropout=None):
    dropout = list(dropout or [0] * len(structure))
    return {
        "layer_structure": [float(multiplier) for multiplier in structure],
        "activation_func": activation,
        "is_layer_norm": layer_norm,
        "activate_output": activate_output,
        "use_dropout": any(dropout),
        "dropout_structure": dropout,
        "last_layer_dropout": dropout[-2] != 0,
    }
