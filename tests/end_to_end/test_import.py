"""import makes of other programs' files what ldmtune trains on from; with export every format's round trip is exact."""

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support import BASE, prepare, run, sha256

WIDTHS = (128, 160, 192)  # the small base's contexts


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


def metadata_of(file):
    with safe_open(file, "pt") as content:
        return content.metadata()


def assert_same(first, second):
    """Tensors of two safetensors files, types and all."""
    a, b = load_file(first), load_file(second)
    assert a.keys() == b.keys()
    assert all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def job_of(output):
    """The job that import printed, as a config file's text."""
    return "\n".join(re.findall(r"^(?:\[\w+\]|[a-z_]+ = .*)$", output, re.M)) + "\n"


def train(job, dataset, folder, tmp_path):
    (tmp_path / "job.cfg").write_text(job)
    run(["train", "--config", tmp_path / "job.cfg", "--base", BASE, "--data", dataset, "--output", folder,
         "--train.max_train_steps", 1, "--train.global_batch_size", 1, "--validation.steps", 0])


def peers_hypernetwork(file, **settings):
    """As A1111 writes one, at an age that did not know every key."""
    generator = torch.Generator().manual_seed(1)

    def state(width):
        shapes = {"linear.0": (2 * width, width), "linear.2": (width, 2 * width)}
        return {f"{name}.{kind}": torch.randn(shape if kind == "weight" else shape[:1], generator=generator) * 0.05
                for name, shape in shapes.items() for kind in ("weight", "bias")}

    torch.save({**{width: (state(width), state(width)) for width in WIDTHS}, "step": 1200, "name": "theirs",
                "layer_structure": [1, 2, 1], "activation_func": "relu", "activate_output": False, "sd_checkpoint": "abc",
                "sd_checkpoint_name": "their-base", **settings}, file)
    return file


def states_of(file):
    content = torch.load(file, weights_only=True)
    return {f"{width}.{role}.{key}": value for width in WIDTHS for role, state in zip("kv", content[width])
            for key, value in state.items()}, {key: value for key, value in content.items() if isinstance(key, str)}


def test_a_hypernetwork(dataset, tmp_path):
    theirs = peers_hypernetwork(tmp_path / "theirs.pt")
    output = run(["import", theirs, "--output", tmp_path / "ours.safetensors"])
    assert "is a hypernetwork" in output
    run(["export", tmp_path / "ours.safetensors", "--output", tmp_path / "back.pt"])
    tensors, settings = states_of(theirs)
    found, kept = states_of(tmp_path / "back.pt")
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in tensors)
    for key in ("step", "name", "activation_func", "activate_output", "sd_checkpoint", "sd_checkpoint_name"):
        assert kept[key] == settings[key], key
    run(["import", tmp_path / "back.pt", "--output", tmp_path / "again.safetensors"])
    assert_same(tmp_path / "ours.safetensors", tmp_path / "again.safetensors")
    train(job_of(output), dataset, tmp_path / "run", tmp_path)
    assert json.loads((tmp_path / "run/run.json").read_text())["init_from_sha256"] == sha256(tmp_path / "ours.safetensors")


def test_a_hypernetworks_settings_and_its_inference_form(dataset, tmp_path):
    run(["train", "--base", BASE, "--data", dataset, "--output", tmp_path / "run", "--train.max_train_steps", 1,
         "--train.global_batch_size", 1, "--validation.steps", 0, "--hypernetwork.layer_norm", "--hypernetwork.layer_norm_init",
         "zero_last", "--hypernetwork.activation", "swish", "--hypernetwork.dropout_structure", "0,0.25,0"])
    pt, safe = tmp_path / "run.pt", tmp_path / "run.safetensors"
    run(["export", tmp_path / "run", "--output", pt])
    assert torch.load(pt, weights_only=True)["layer_norm_init"] == "zero_last"
    run(["export", pt, "--output", safe])
    run(["export", safe, "--output", tmp_path / "back.pt", "--name", "run"])
    a, b = torch.load(pt, weights_only=True), torch.load(tmp_path / "back.pt", weights_only=True)
    assert {key: value for key, value in a.items() if isinstance(key, str)} == {key: value for key, value in b.items() if isinstance(key, str)}
    assert all(torch.equal(a[w][i][key], b[w][i][key]) for w in WIDTHS for i in (0, 1) for key in a[w][i])
    assert "layer norm init: zero_last" in run(["inspect", safe]) and "swish" in run(["inspect", pt])
    run(["export", pt, "--inference", "--output", tmp_path / "inference.pt"])
    run(["export", safe, "--inference", "--output", tmp_path / "inference.safetensors"])
    c = torch.load(tmp_path / "inference.pt", weights_only=True)
    assert c["use_dropout"] is False and c["layer_norm_init"] == "zero_last"
    assert list(a[128][0])[-1] == "linear.5.bias" and list(c[128][0])[-1] == "linear.4.bias"
    assert torch.equal(a[128][0]["linear.5.bias"], c[128][0]["linear.4.bias"])
    assert torch.equal(load_file(tmp_path / "inference.safetensors")["128.k.linear.4.bias"], c[128][0]["linear.4.bias"])


def kohya_lora(file):
    """One rank everywhere, as kohya's scripts train; fp16."""
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for layer, (out, width) in {
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (128, 160),
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (192, 160),
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (160, 160)}.items():
        tensors[layer + ".lora_down.weight"] = torch.randn(4, width, generator=generator).half()
        tensors[layer + ".lora_up.weight"] = torch.randn(out, 4, generator=generator).half()
        tensors[layer + ".alpha"] = torch.tensor(2.0)
    save_file(tensors, file, {"ss_output_name": "theirs", "ss_steps": "77", "ss_network_dim": "4"})
    return tensors


def test_a_lora(dataset, tmp_path):
    tensors = kohya_lora(tmp_path / "theirs.safetensors")
    assert "option base is missing" in run(["import", tmp_path / "theirs.safetensors", "--output", tmp_path / "x.safetensors"], code=2)
    output = run(["import", tmp_path / "theirs.safetensors", "--base", BASE, "--output", tmp_path / "ours.safetensors"])
    assert "is a LoRA" in output and "rank = 4" in output and "alpha = 2" in output
    run(["export", tmp_path / "ours.safetensors", "--format", "kohya", "--base", BASE, "--output", tmp_path / "back.safetensors"])
    found = load_file(tmp_path / "back.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key].float()) for key in tensors)
    run(["import", tmp_path / "back.safetensors", "--base", BASE, "--output", tmp_path / "again.safetensors"])
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()
    kept = metadata_of(tmp_path / "ours.safetensors")
    assert kept["ldmtune_name"] == "theirs" and kept["ldmtune_step"] == "77"
    train(job_of(output), dataset, tmp_path / "run", tmp_path)
    # A base in one file names the layers as well.
    run(["export", BASE, "--format", "ldm", "--output", tmp_path / "base.safetensors"])
    run(["import", tmp_path / "theirs.safetensors", "--base", tmp_path / "base.safetensors", "--output", tmp_path / "same.safetensors"])
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


def embedding_file(layout, file, vectors):
    contents = {"a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "zorp", "step": 30,
                          "sd_checkpoint": "abc", "sd_checkpoint_name": "their-base"},
                "kohya": {"emb_params": vectors}, "onetrainer": {"emp_params": vectors}, "diffusers": {"<zorp>": vectors}}[layout]
    if layout in ("a1111", "kohya"):
        torch.save(contents, file.with_suffix(".pt"))
        return file.with_suffix(".pt")
    save_file(contents, file.with_suffix(".safetensors"))
    return file.with_suffix(".safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", ["a1111", "kohya", "onetrainer", "diffusers"])
def test_embeddings(tmp_path, layout, dtype):
    vectors = torch.randn(3, 160, generator=torch.Generator().manual_seed(3)).to(dtype)
    theirs = embedding_file(layout, tmp_path / "zorp", vectors)
    token = "<zorp>" if layout == "diffusers" else "zorp"
    output = run(["import", theirs, "--output", tmp_path / "ours.pt"])
    assert "is a textual inversion embedding" in output and f"placeholder_token = {token}" in output
    run(["export", tmp_path / "ours.pt", "--format", "kohya", "--output", tmp_path / "k.safetensors"])
    run(["export", tmp_path / "k.safetensors", "--format", "diffusers", "--output", tmp_path / "d.safetensors"])
    run(["import", tmp_path / "d.safetensors", "--output", tmp_path / "back.pt"])
    assert torch.equal(load_file(tmp_path / "k.safetensors")["emb_params"], vectors)
    assert torch.equal(load_file(tmp_path / "d.safetensors")[token], vectors)
    first, last = (torch.load(tmp_path / name, weights_only=True) for name in ("ours.pt", "back.pt"))
    assert last["string_to_param"]["*"].dtype == dtype and torch.equal(last["string_to_param"]["*"], vectors)
    assert {key: value for key, value in first.items() if key != "string_to_param"} == \
           {key: value for key, value in last.items() if key != "string_to_param"}
    assert last["name"] == token and last["step"] == (30 if layout == "a1111" else 0)


def test_embeddings_of_sdxl_keep_both_and_a_word_may_be_chosen(tmp_path):
    pair = {"clip_l": torch.randn(2, 768).half(), "clip_g": torch.randn(2, 1280).half()}
    save_file(pair, tmp_path / "xl.safetensors")
    for source, form, target in (("xl.safetensors", "kohya", "a.pt"), ("a.pt", "diffusers", "b.safetensors"),
                                 ("b.safetensors", "a1111", "c.pt")):
        run(["export", tmp_path / source, "--format", form, "--output", tmp_path / target, "--token", "word"])
    found = torch.load(tmp_path / "c.pt", weights_only=True)
    assert found.keys() == pair.keys() and all(torch.equal(found[key], pair[key]) for key in pair)
    assert "token word" in run(["inspect", tmp_path / "b.safetensors"])
    save_file({"<a>": torch.ones(1, 8), "<b>": torch.zeros(2, 8)}, tmp_path / "two.safetensors")
    run(["import", tmp_path / "two.safetensors", "--token", "<b>", "--output", tmp_path / "b.pt"])
    assert torch.load(tmp_path / "b.pt", weights_only=True)["string_to_param"]["*"].shape == (2, 8)
    assert "holds <a>, <b>" in run(["import", tmp_path / "two.safetensors", "--token", "c", "--output", tmp_path / "c2.pt"], code=2)


def test_a_whole_model(tmp_path):
    run(["export", BASE, "--format", "ldm", "--output", tmp_path / "one.safetensors"])
    output = run(["import", tmp_path / "one.safetensors", "--base.tokenizer", BASE, "--output", tmp_path / "folder"])
    assert "is a whole model in one file" in output and f"base = {tmp_path / 'folder'}" in output
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        assert_same(tmp_path / "folder" / f"{name}.safetensors", BASE / f"{name}.safetensors")
    run(["export", tmp_path / "folder", "--format", "ldm", "--output", tmp_path / "again.safetensors"])
    assert sha256(tmp_path / "again.safetensors") == sha256(tmp_path / "one.safetensors")
    # A folder imports as well, here into another type; what it holds besides comes along.
    shutil.copytree(BASE, tmp_path / "more")
    index = json.loads((tmp_path / "more/model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]  # named, but not there
    (tmp_path / "more/model_index.json").write_text(json.dumps(index))
    (tmp_path / "more/safety_checker").mkdir()
    (tmp_path / "more/safety_checker/config.json").write_text("{}")
    run(["import", tmp_path / "more", "--dtype", "bf16", "--output", tmp_path / "half"])
    assert {value.dtype for value in load_file(tmp_path / "half/unet/diffusion_pytorch_model.safetensors").values()} == {torch.bfloat16}
    assert (tmp_path / "half/safety_checker/config.json").read_text() == "{}"
    written = json.loads((tmp_path / "half/model_index.json").read_text())
    assert written["image_encoder"] == [None, None] and written["safety_checker"] == index["safety_checker"]


def test_what_is_refused(tmp_path):
    def refused(file, *more, target="x.safetensors"):
        output = run(["import", file, "--output", tmp_path / target, *more], code=2)
        assert not (tmp_path / target).exists()
        return output

    assert "expected one FILE" in run(["import", "--output", tmp_path / "x.pt"], code=2)
    assert "give it as base.vae" in refused(BASE / "vae/diffusion_pytorch_model.safetensors")
    assert "expected a hypernetwork" in refused(BASE / "unet/diffusion_pytorch_model.safetensors")
    save_file({"unet.conv_in.weight": torch.ones(1)}, tmp_path / "weights.safetensors")
    assert "dreambooth.init_from" in refused(tmp_path / "weights.safetensors")
    kohya_lora(tmp_path / "lora.safetensors")
    assert "option base: " in refused(tmp_path / "lora.safetensors", "--base", tmp_path / "none")
    assert "ending in .safetensors" in refused(tmp_path / "lora.safetensors", "--base", BASE, target="x.pt")
    assert "expected diffusers or kohya" in run(["export", tmp_path / "lora.safetensors", "--base", BASE, "--output",
                                                 tmp_path / "x.safetensors"], code=2)
    theirs = peers_hypernetwork(tmp_path / "theirs.pt", skip_connection=True)
    assert "skip_connection" in refused(theirs)
    cut = tmp_path / "cut.pt"
    cut.write_bytes(theirs.read_bytes()[:-100])
    assert "cut.pt" in refused(cut) and "cut.pt" in run(["inspect", cut], code=2)
    (tmp_path / "there.pt").write_bytes(b"")
    assert "is there already" in run(["import", theirs, "--output", tmp_path / "there.pt"], code=2)
