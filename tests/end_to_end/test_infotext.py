"""What A1111's "PNG info" reads from a picture, with A1111's hashes recomputed here; plots over strengths and files."""

import hashlib
import json
import re

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from support import BASE, run, sha256

# A1111's own pattern for a setting in the last line: a name, a colon, a quoted or plain value, a comma or the end.
SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def settings_of(text):
    """(prompt, settings) as A1111 takes an infotext apart."""
    *lines, last = text.strip().split("\n")
    found = SETTING.findall(last)
    return "\n".join(lines), {name: json.loads(value) if value.startswith('"') else value for name, value in found}


def data_hash(file):
    """A1111's hash of a LoRA: of what follows the header of a safetensors file."""
    content = file.read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little"):]).hexdigest()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    generator = torch.Generator().manual_seed(1)

    def random(*shape, scale=0.3):
        return torch.randn(*shape, generator=generator) * scale

    for name in ("soft", "hard"):
        state = {"linear.0.weight": random(160, 160, scale=0.02), "linear.0.bias": torch.zeros(160),
                 "linear.1.weight": random(160, 160, scale=0.02), "linear.1.bias": torch.zeros(160)}
        torch.save({160: (state, state), "name": name, "step": 1, "layer_structure": [1, 1, 1], "activate_output": False}, folder / f"{name}.pt")
    lora = {f"{LAYER}.lora_A.weight": random(2, 160), f"{LAYER}.lora_B.weight": random(192, 2)}
    save_file(lora, folder / "style.safetensors")
    save_file(lora, folder / "noted.safetensors", {"sshs_model_hash": "ab" * 32})
    for step in (1, 2):
        (folder / f"step-{step}").mkdir()
        torch.save({"string_to_param": {"*": random(2, 160)}, "name": "zorp"}, folder / f"step-{step}/zorp.pt")
    save_file({"emb_params": random(1, 160)}, folder / "blip.safetensors")
    return folder


def sample(tmp_path, *options, base=BASE, code=0):
    output = run(["sample", "--base", base, "--num_inference_steps", 2, "--guidance_scale", 3, "--trace", tmp_path / "t.h5",
                  "--output", tmp_path / "x.png", *options], code=code)
    if code:
        return output
    with h5py.File(tmp_path / "t.h5") as trace:
        return trace["image"][()], [settings_of(text) for text in json.loads(trace.attrs["parameters"])]


def test_hashes_are_a1111s(files, tmp_path):
    one = tmp_path / "my-base.safetensors"
    run(["export", BASE, "--format", "ldm", "--output", one])
    _, ((prompt, settings),) = sample(
        tmp_path, "--prompt", "a zorp", "--negative_prompt", "blip", "--base.tokenizer", BASE, "--hypernetwork", f"{files / 'soft.pt'}:0.5",
        "--lora", f"{files / 'style.safetensors'}:0.8", "--lora", files / "noted.safetensors", "--embedding", files / "step-1/zorp.pt",
        "--embedding", files / "blip.safetensors", base=one)
    assert prompt == "a zorp<lora:style:0.8><lora:noted:1>\nNegative prompt: blip"
    assert settings["Model"] == "my-base" and settings["Model hash"] == sha256(one)[:10]
    assert settings["Hypernet"] == "soft" and settings["Hypernet strength"] == "0.5"
    assert settings["Hypernet hash"] == sha256(files / "soft.pt")[:10]
    assert settings["Lora hashes"] == f"style: {data_hash(files / 'style.safetensors')[:12]}, noted: abababababab"
    assert settings["TI hashes"] == f"zorp: {sha256(files / 'step-1/zorp.pt')[:12]}, blip: {sha256(files / 'blip.safetensors')[:12]}"
    with Image.open(tmp_path / "x.png") as image:
        assert settings_of(image.text["parameters"]) == (prompt, settings)


def test_several_hypernetworks_are_tags_and_words_count_where_they_stand(files, tmp_path):
    _, ((prompt, settings),) = sample(tmp_path, "--prompt", "a rocket", "--hypernetwork", f"{files / 'soft.pt'}:0.5",
                                      "--hypernetwork", files / "hard.pt", "--embedding", files / "step-1/zorp.pt")
    assert prompt == "a rocket<hypernet:soft:0.5><hypernet:hard:1>"
    assert "Hypernet" not in settings and "TI hashes" not in settings
    assert len(settings["Model hash"]) == 10


def test_a_plot_over_the_strengths_of_each_kind(files, tmp_path):
    images, settings = sample(
        tmp_path, "--prompt", "a zorp", "--hypernetwork", files / "soft.pt", "--lora", files / "style.safetensors", "--embedding",
        files / "step-1/zorp.pt", "--x", "lora_strength=0,1", "--y", "hypernetwork_strength=0,0.5", "--z", "embedding_strength=0.5,1")
    assert len({image.tobytes() for image in images}) == 8
    wanted = [(word, network, lora) for word in ("(zorp:0.5)", "zorp") for network in (None, "0.5") for lora in ("", "<lora:style:1>")]
    assert [(text.split("<")[0].removeprefix("a "), settings.get("Hypernet strength"), text[text.find("<lora"):] if "<lora" in text else "")
            for text, settings in settings] == wanted
    # "strength" is that of networks, or where there are none, of words: the same pictures.
    common, _ = sample(tmp_path, "--prompt", "a zorp", "--hypernetwork", files / "soft.pt", "--lora", files / "style.safetensors",
                       "--embedding", files / "step-1/zorp.pt", "--x", "strength=0,1")
    assert np.array_equal(common[0], images[4])
    words, _ = sample(tmp_path, "--prompt", "a zorp", "--embedding", files / "step-1/zorp.pt", "--x", "strength=0.5,1")
    assert np.array_equal(words[0], images[0]) and np.array_equal(words[1], images[4])


def test_a_plot_over_an_embeddings_checkpoints(files, tmp_path):
    both = f"checkpoint={files / 'step-1/zorp.pt'},{files / 'step-2/zorp.pt'}"
    images, settings = sample(tmp_path, "--prompt", "a zorp", "--embedding", files / "step-1/zorp.pt", "--x", both)
    for step, image, (_, found) in zip((1, 2), images, settings):
        alone, _ = sample(tmp_path, "--prompt", "a zorp", "--embedding", files / f"step-{step}/zorp.pt")
        assert np.array_equal(image, alone[0])
        assert found["TI hashes"] == f"zorp: {sha256(files / f'step-{step}/zorp.pt')[:12]}"
    torch.save({"string_to_param": {"*": torch.ones(3, 160)}, "name": "zorp"}, tmp_path / "more.pt")
    output = sample(tmp_path, "--prompt", "a zorp", "--x", f"embedding={files / 'step-1/zorp.pt'},{tmp_path / 'more.pt'}", code=2)
    assert "zorp" in output and "2 vectors" in output
