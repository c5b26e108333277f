"""Hypernetworks equal an independent torch module, and A1111's .pt files pass between both."""

import itertools
import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from independent_hypernetwork import ACTIVATIONS, Hypernetwork, settings
from safetensors.torch import load_file, save_file

TOOL = Path(os.environ["LDMTUNE_BUILD"]) / "tests" / "adapt_hypernetwork_tool"
WIDTHS = (24, 16)
TOLERANCE = 1e-5

# Zip entries that A1111's own check of .pt files lets pass (modules/safe.py).
A1111_ENTRY = re.compile(r"[^/]+/(data/\d+|version|byteorder|\.data/serialization_id|data\.pkl)")


def call(*arguments):
    return subprocess.run([TOOL, *map(str, arguments)], capture_output=True, text=True)


def run_tool(*arguments):
    result = call(*arguments)
    assert result.returncode == 0, result.stderr


def error(a, b):
    """max |a - b| / max |b|; where all of b is rounding noise (gradients that vanish), against 1e-3."""
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item()


def site_names(hypernetwork):
    for width, pair in hypernetwork.networks.items():
        for role, network in zip("kv", pair, strict=True):
            yield f"{width}.{role}", width, network


def make_inputs(hypernetwork, strength=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = {"strength": torch.tensor(strength)}
    for site, width, _ in site_names(hypernetwork):
        inputs["x." + site] = torch.randn(2, 7, width, generator=generator)
        inputs["cotangent." + site] = torch.randn(2, 7, width, generator=generator)
    return inputs


def reference(hypernetwork, inputs):
    """What the tool should write."""
    outputs = {}
    for site, _, network in site_names(hypernetwork):
        network.float().zero_grad()
        x = inputs["x." + site].clone().requires_grad_()
        y = network(x, inputs["strength"].item())
        y.backward(inputs["cotangent." + site])
        outputs["y." + site] = y.detach()
        outputs["gradient.x." + site] = x.grad
        for name, parameter in network.named_parameters():
            outputs[f"gradient.{site}.{name}"] = parameter.grad
    return outputs


def largest_error(folder, name, hypernetwork, inputs):
    ours = load_file(folder / f"{name}.outputs.safetensors")
    theirs = reference(hypernetwork, inputs)
    assert set(ours) == set(theirs)
    return max((error(ours[key], theirs[key]), key) for key in theirs)


def compare(folder, hypernetworks, strength=1.0):
    """Runs the tool on the .pt files of the folder and compares it with these hypernetworks by file name."""
    inputs = {name: make_inputs(hypernetwork, strength) for name, hypernetwork in hypernetworks.items()}
    for name, tensors in inputs.items():
        save_file(tensors, folder / f"{name}.inputs.safetensors")
    run_tool("forward", folder)
    errors = {name: largest_error(folder, name, network, inputs[name]) for name, network in hypernetworks.items()}
    assert {name: found for name, found in errors.items() if not found[0] < TOLERANCE} == {}


# Layer structures, each with a dropout structure.
STRUCTURES = {
    (1, 1): (0, 0.3),
    (1, 2, 1): (0, 0.3, 0),
    (1, 1.3, 0.4, 1): (0, 0.3, 0, 0),
    (1, 2, 4, 2, 1): (0, 0.1, 0, 0.5, 0.2),
}


def test_outputs_and_gradients_over_all_options(tmp_path):
    hypernetworks = {}
    options = itertools.product(STRUCTURES, ["linear", "relu", "swish", "tanh"], *[[False, True]] * 3)
    for index, (structure, activation, norm, activate_output, dropout) in enumerate(options):
        chosen = settings(structure, activation, norm, activate_output, STRUCTURES[structure] if dropout else None)
        hypernetwork = Hypernetwork.random(WIDTHS, chosen, seed=index)
        torch.save(hypernetwork.content(), tmp_path / f"{index}.pt")
        hypernetworks[str(index)] = hypernetwork
    assert len(hypernetworks) == 128
    compare(tmp_path, hypernetworks)


def test_every_activation(tmp_path):
    hypernetworks = {}
    for name in ACTIVATIONS:
        hypernetworks[name] = Hypernetwork.random(WIDTHS, settings((1, 2, 2, 1), name, activate_output=True))
        torch.save(hypernetworks[name].content(), tmp_path / f"{name}.pt")
    compare(tmp_path, hypernetworks)


@pytest.mark.parametrize("strength", [0.0, 0.35, -2.0])
def test_strength(strength, tmp_path):
    hypernetwork = Hypernetwork.random(WIDTHS, settings((1, 2, 1), "relu", True))
    torch.save(hypernetwork.content(), tmp_path / "network.pt")
    compare(tmp_path, {"network": hypernetwork}, strength)


def create(folder, name="network", **changes):
    spec = {"layer_structure": [1, 2, 1], "activation": "relu", "weight_init": "KaimingNormal", "layer_norm": True,
            "layer_norm_init": "ones", "activate_output": False, "dropout_structure": [0, 0.3, 0], "widths": WIDTHS,
            "seed": 4, **changes}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(spec))
    run_tool("create", folder)
    return folder / f"{name}.pt"


def test_our_files_are_what_a1111_writes(tmp_path):
    content = torch.load(create(tmp_path), weights_only=True)
    assert [key for key in content if isinstance(key, int)] == sorted(WIDTHS)
    for width in WIDTHS:
        assert isinstance(content[width], tuple) and len(content[width]) == 2
        for state in content[width]:
            # Linear, activation, norm, dropout; linear, norm. ComfyUI relies on the order.
            assert list(state) == [f"linear.{n}.{kind}" for n in (0, 2, 4, 5) for kind in ("weight", "bias")]
            assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    metadata = {key: value for key, value in content.items() if not isinstance(key, int)}
    # Ours alone, where it is not A1111's: A1111 and ComfyUI read the keys they know and the widths, and no others.
    assert metadata.pop("layer_norm_init") == "ones"
    assert metadata == {
        "step": 17, "name": "created", "layer_structure": [1.0, 2.0, 1.0], "activation_func": "relu",
        "is_layer_norm": True, "weight_initialization": "KaimingNormal", "sd_checkpoint": "abc123",
        "sd_checkpoint_name": "the base", "activate_output": False, "use_dropout": True,
        "dropout_structure": [0.0, 0.3, 0.0], "last_layer_dropout": True, "optional_info": None,
    }  # fmt: skip
    assert {type(value) for value in metadata["layer_structure"]} == {float}


def test_our_files_pass_a1111s_check_of_zip_entries(tmp_path):
    with zipfile.ZipFile(create(tmp_path)) as archive:
        assert [name for name in archive.namelist() if not A1111_ENTRY.fullmatch(name)] == []


def test_our_files_give_the_same_outputs_in_torch(tmp_path):
    variants = {
        "plain": {"layer_norm": False, "activation": "linear", "dropout_structure": []},
        "deep": {"layer_structure": [1, 2, 4, 2, 1], "dropout_structure": [0, 0.1, 0.2, 0.3, 0], "activation": "mish"},
        "xavier": {"weight_init": "XavierUniform", "activate_output": True},
        "normed": {"layer_norm_init": "a1111"},
    }
    files = {name: create(tmp_path, name, **changes) for name, changes in variants.items()}
    compare(tmp_path, {name: Hypernetwork.load(file) for name, file in files.items()})


def test_zero_last_starts_as_the_identity(tmp_path):
    hypernetwork = Hypernetwork.load(create(tmp_path, layer_norm_init="zero_last", weight_init="Normal"))
    inputs = make_inputs(hypernetwork)
    save_file(inputs, tmp_path / "network.inputs.safetensors")
    run_tool("forward", tmp_path)
    ours = load_file(tmp_path / "network.outputs.safetensors")
    for site, _, network in site_names(hypernetwork):
        assert torch.equal(ours["y." + site], inputs["x." + site])
        assert torch.equal(network(inputs["x." + site]), inputs["x." + site])


def test_inference_export_has_no_dropout_and_the_same_outputs(tmp_path):
    original = create(tmp_path)
    (tmp_path / "out").mkdir()
    exported = tmp_path / "out" / "network.pt"
    run_tool("rewrite", original, exported, "inference")
    content = torch.load(exported, weights_only=True)
    assert not content["use_dropout"] and not any(content["dropout_structure"])
    assert "linear.3.weight" in content[WIDTHS[0]][0]
    with_dropout, without = Hypernetwork.load(original), Hypernetwork.load(exported)
    compare(tmp_path / "out", {"network": without})
    inputs = make_inputs(with_dropout)
    for (site, _, one), (_, _, other) in zip(site_names(with_dropout), site_names(without), strict=True):
        assert torch.equal(one(inputs["x." + site]), other(inputs["x." + site]))


def test_files_of_any_age_and_precision_are_read(tmp_path):
    plain = settings((1, 2, 1), "linear", activate_output=True)
    hypernetworks = {name: Hypernetwork.random(WIDTHS, plain) for name in ("half", "bfloat16", "legacy", "old", "bare")}
    torch.save(hypernetworks["half"].content(torch.float16), tmp_path / "half.pt")
    torch.save(hypernetworks["bfloat16"].content(torch.bfloat16), tmp_path / "bfloat16.pt")
    content = hypernetworks["legacy"].content()
    torch.save(content, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    states = {width: content[width] for width in WIDTHS}
    torch.save(states, tmp_path / "bare.pt")
    old = {"linear.0": "linear1", "linear.1": "linear2"}
    renamed = {
        width: tuple({old[key[:8]] + key[8:]: tensor for key, tensor in state.items()} for state in pair)
        for width, pair in states.items()
    }
    torch.save({**renamed, "step": 10, "name": "old"}, tmp_path / "old.pt")
    compare(tmp_path, hypernetworks)


@pytest.mark.parametrize("last", [False, True])
def test_old_dropout_flags(last, tmp_path):
    chosen = settings((1, 2, 4, 2, 1), "relu", dropout=(0, 0.3, 0.3, 0.3 if last else 0, 0))
    hypernetwork = Hypernetwork.random(WIDTHS, chosen)
    content = hypernetwork.content()
    del content["dropout_structure"]
    torch.save(content, tmp_path / "network.pt")
    compare(tmp_path, {"network": hypernetwork})
    run_tool("rewrite", tmp_path / "network.pt", tmp_path / "again.pt")
    assert torch.load(tmp_path / "again.pt", weights_only=True)["dropout_structure"] == chosen["dropout_structure"]


def refused(file, *parts):
    """Exit code 2, a message that names the file and holds the parts, nothing written."""
    out = file.with_name("out.pt")
    result = call("rewrite", file, out)
    assert result.returncode == 2, result.stderr
    assert all(part in result.stderr for part in (str(file), *parts)), result.stderr
    assert not out.exists()


class Command:
    """Unpickling it would run a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(zip_format, tmp_path):
    marker = tmp_path / "marker"
    content = Hypernetwork.random(WIDTHS, settings()).content(optional_info=Command(f"touch {marker}"))
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zip_format)
    refused(tmp_path / "evil.pt", "system")
    assert not marker.exists()


def test_weights_that_diverged_are_named(tmp_path):
    hypernetwork = Hypernetwork.random(WIDTHS, settings())
    hypernetwork.networks[16][1].linear[1].weight.data[3, 5] = float("nan")
    torch.save(hypernetwork.content(), tmp_path / "nan.pt")
    refused(tmp_path / "nan.pt", "16.v.linear.1.weight", "NaN")


def test_odd_files_are_refused(tmp_path):
    hypernetwork = Hypernetwork.random(WIDTHS, settings((1, 2, 1), "relu"))
    cases = {
        "layer_structure": [1.0, 2.0],
        "activation_func": "__import__",
        "is_layer_norm": True,
        "dropout_structure": [0, 0.3],
    }
    for key, value in cases.items():
        torch.save(hypernetwork.content(**{key: value}), tmp_path / f"{key}.pt")
        refused(tmp_path / f"{key}.pt")
    torch.save({"string_to_param": {"*": torch.zeros(2, 768)}}, tmp_path / "embedding.pt")
    refused(tmp_path / "embedding.pt", "textual inversion")
    row = torch.zeros(64 * 64)
    state = {f"linear.{n}.{k}": row[: 64 * 64 if k == "weight" else 64] for n in range(40) for k in ("weight", "bias")}
    shared = {name: tensor.view(64, 64) if name.endswith("weight") else tensor for name, tensor in state.items()}
    torch.save({64: (shared, shared), "layer_structure": [1] * 41}, tmp_path / "shared.pt")
    refused(tmp_path / "shared.pt", "share storage")
