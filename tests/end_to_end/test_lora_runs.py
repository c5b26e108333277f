"""LoRA as users run it: pictures, merged bases, bad input."""

import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import BASE, prepare, run, sha256

STEPS = 4
FILE = f"checkpoints/step-{STEPS:08d}/lora.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "nine", 9, "--validation_images", "1", "--test_images", "1")


def options(dataset, output, *more):
    return ["train", "--method", "lora", "--base", BASE, "--data", dataset, "--output", output, "--lora.rank", "3",
            "--lora.alpha", "6", "--lora.target_modules", "to_q, to_k, to_v, to_out.0, ff.net.2, proj_in",
            "--lora.text_encoder_target_modules", "q_proj, v_proj", "--train.max_train_steps", STEPS,
            "--train.global_batch_size", "4", "--train.micro_batch_size", "1", "--train.checkpointing_steps", "2",
            "--caption.dropout", "0.2", "--optim.learning_rate", "1e-2", "--train.max_grad_norm", "0.02", *more]


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lora"
    run(options(dataset, folder))
    return folder


def test_a_resume_with_another_rank_is_refused(dataset, trained):
    output = run(options(dataset, trained, "--train.resume_from_checkpoint", "latest", "--lora.rank", "4"), code=2)
    assert "lora.rank" in output


def test_training_lowers_the_loss_and_leaves_the_base(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["heldout_loss"] != result["base_heldout_loss"]
    factors = load_file(trained / FILE)
    assert all(name.startswith(("unet.", "text_encoder.")) and ".lora_" in name for name in factors)
    assert "safetensors" in run(["inspect", trained / FILE])


def draw(folder, *more):
    run(["sample", "--base", BASE, "--prompt", "rocket", "--num_inference_steps", "3", "--trace", folder / "trace.h5", *more])
    with h5py.File(folder / "trace.h5") as file:
        return {name: file[name][()] for name in file}


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def test_pictures_by_hook_and_by_merging(trained, tmp_path):
    """A merged LoRA draws what a hooked one draws; two act together, in any spelling; strength 0 is the base."""
    file = trained / FILE
    plain = draw(tmp_path)["final_latent"][0]
    hooked = draw(tmp_path, "--lora", f"{file}:0.5", "--strengths", "0,1,2")["final_latent"]
    assert np.array_equal(hooked[0], plain)
    assert difference(hooked[1], plain) > 1e-3
    assert difference(draw(tmp_path, "--base.merge", f"{file}:0.5")["final_latent"][0], hooked[1]) < 1e-4
    assert difference(draw(tmp_path, "--lora", f"{file}:0.25, {file}:0.75")["final_latent"][0], hooked[2]) < 1e-4
    twice = draw(tmp_path, "--lora", f"{file}:0.25", "--lora", f"{file}:0.75", "--output", tmp_path / "grid.png")
    assert difference(twice["final_latent"][0], hooked[2]) < 1e-4
    assert b"<lora:" in (tmp_path / "grid.png").read_bytes()
    # Half by merging, half by hook.
    both = draw(tmp_path, "--base.merge", f"{file}:0.5", "--lora", f"{file}:0.5")["final_latent"][0]
    assert difference(both, hooked[2]) < 1e-4


def test_beside_a_hypernetwork(dataset, trained, tmp_path):
    run(["train", "--base", BASE, "--data", dataset, "--output", tmp_path / "net", "--hypernetwork.activation", "relu",
         "--train.max_train_steps", "2", "--train.global_batch_size", "2", "--validation.steps", "0", "--optim.learning_rate", "0.02"])
    network = tmp_path / "net/checkpoints/step-00000002/net.pt"
    lora, net = f"{trained / FILE}:0.5", f"{network}:1"
    together = draw(tmp_path, "--lora", lora, "--hypernetwork", net)["final_latent"][0]
    alone = [draw(tmp_path, *words)["final_latent"][0] for words in (["--lora", lora], ["--hypernetwork", net])]
    assert all(difference(together, other) > 1e-4 for other in alone)
    # The hypernetwork over a base into which the LoRA is merged is the same pair.
    merged = draw(tmp_path, "--base.merge", lora, "--hypernetwork", net)["final_latent"][0]
    assert difference(together, merged) < 1e-4


def test_training_over_a_merged_base(dataset, trained, tmp_path):
    more = ["--base.merge", f"{trained / FILE}:0.8", "--train.max_train_steps", "1", "--validation.steps", "0"]
    run(options(dataset, tmp_path / "lora", *more))
    merged, plain = (json.loads((folder / "run.json").read_text())["base_sha256"] for folder in (tmp_path / "lora", trained))
    assert merged != plain
    losses = [json.loads((folder / "result.json").read_text())["base_heldout_loss"] for folder in (tmp_path / "lora", trained)]
    assert losses[0] != losses[1]
    more[1] = f"{trained / FILE}:0.7"
    output = run(options(dataset, tmp_path / "lora", *more, "--train.resume_from_checkpoint", "latest"), code=2)
    assert "base" in output


@pytest.mark.parametrize("more, expected", [
    (["--lora.rank", "0"], ["lora.rank", "1"]),
    (["--lora.alpha", "-1"], ["lora.alpha"]),
    (["--lora.alpha", "nan"], ["lora.alpha"]),
    (["--lora.target_modules", "to_q, to_w"], ["lora.target_modules", "to_w", "to_out.0", "proj_in"]),
    (["--lora.text_encoder_target_modules", "to_q"], ["lora.text_encoder_target_modules", "q_proj"]),
    (["--lora.target_modules", "", "--lora.text_encoder_target_modules", ""], ["nothing would train"]),
    (["--base.merge", "/no/such.safetensors:0.5"], ["/no/such.safetensors"]),
    (["--base.merge", "x.safetensors:inf"], ["base.merge", "finite"]),
    (["--network_dim", "4"], ["lora.rank"]),
    (["--network_alpha", "4"], ["lora.alpha"]),
])
def test_bad_options(dataset, tmp_path, more, expected):
    output = run(options(dataset, tmp_path / "lora", *more), code=2)
    for text in expected:
        assert text in output, output
    assert not (tmp_path / "lora").exists()


def attention(width=128, context=160, rank=2):
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{layer}.lora_A.weight": np.ones((rank, context), np.float32),
            f"{layer}.lora_B.weight": np.ones((width, rank), np.float32)}


def renamed(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


GOOD = attention(width=192)
BAD_FILES = {
    "matches nothing": (renamed(GOOD, "mid_block", "side_block"), ["match nothing", "side_block", "base"]),
    "another width": (attention(width=1280, context=768), ["another base", "(2, 768)", "(192, 160)"]),
    "one factor": ({name: value for name, value in GOOD.items() if "lora_A" in name}, ["up (lora_B)", "missing"]),
    "no LoRA": ({"unet.conv_in.weight": np.ones((4, 4), np.float32)}, ["no LoRA", "unet.conv_in.weight"]),
    "LoHa": ({"lora_unet_x.hada_w1_a": np.ones((4, 4), np.float32)}, ["LoHa", "not supported"]),
    "DoRA": (GOOD | {"unet.mid.lora_magnitude_vector": np.ones(4, np.float32)}, ["DoRA"]),
    "not finite": (GOOD | {next(iter(GOOD)): np.full((2, 160), np.nan, np.float32)}, ["lora_A", "nan"]),
    "integers": (GOOD | {next(iter(GOOD)): np.ones((2, 160), np.int32)}, ["floating-point"]),
    "empty": ({}, ["no LoRA"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("option", ["--lora", "--base.merge"])
def test_bad_files(tmp_path, name, option):
    tensors, expected = BAD_FILES[name]
    file = tmp_path / "bad.safetensors"
    save_file(tensors, file)
    words = ["sample", "--base", BASE, "--prompt", "rocket", "--output", tmp_path / "grid.png", option, file]
    output = run(words, code=2).lower().replace("[", "(").replace("]", ")")
    for text in ["bad.safetensors", *expected]:
        assert text.lower() in output, output
    assert not (tmp_path / "grid.png").exists()


def test_a_convolution_can_only_be_merged(tmp_path):
    """LoCon's 3x3 factors have no hook: the error says how to use them, and merging does."""
    layer = "lora_unet_mid_block_resnets_0_conv1"
    tensors = {f"{layer}.lora_down.weight": np.full((2, 192, 3, 3), 0.05, np.float32),
               f"{layer}.lora_up.weight": np.full((192, 2, 1, 1), 0.05, np.float32), f"{layer}.alpha": np.float32(1)}
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, tmp_path / "locon.safetensors")
    words = ["sample", "--base", BASE, "--prompt", "rocket", "--output", tmp_path / "grid.png"]
    assert "--base.merge" in run([*words, "--lora", tmp_path / "locon.safetensors"], code=2)
    merged = draw(tmp_path, "--base.merge", tmp_path / "locon.safetensors")["final_latent"]
    assert difference(merged, draw(tmp_path)["final_latent"]) > 1e-3


def test_settings_of_a_damaged_file(tmp_path):
    file = tmp_path / "bad.safetensors"
    for settings, expected in (("{", "no JSON object"), ('{"unet.use_dora": true}', "DoRA"),
                               ('{"unet.lora_alpha": "four"}', "number")):
        save_file(GOOD, file, metadata={"lora_adapter_metadata": settings})
        output = run(["sample", "--base", BASE, "--prompt", "x", "--output", tmp_path / "g.png", "--lora", file], code=2)
        assert expected in output, output
    file.write_bytes(file.read_bytes()[:-7])
    assert "bad.safetensors" in run(["sample", "--base", BASE, "--prompt", "x", "--output", tmp_path / "g.png", "--lora", file], code=2)


def test_export_in_both_layouts(trained, tmp_path):
    run(["export", trained, "--format", "diffusers", "--output", tmp_path / "d.safetensors", "--name", "lora"])
    assert sha256(tmp_path / "d.safetensors") == sha256(trained / FILE)
    run(["export", trained, "--format", "kohya", "--output", tmp_path / "k.safetensors"])
    kohya, diffusers = load_file(tmp_path / "k.safetensors"), load_file(trained / FILE)
    assert {float(value) for name, value in kohya.items() if name.endswith(".alpha")} == {6.0}
    for name, value in diffusers.items():
        layer, factor = name.split(".lora_")
        prefix = "lora_unet_" if layer.startswith("unet.") else "lora_te_"
        ours = f"{prefix}{layer.split('.', 1)[1].replace('.', '_')}.lora_{'down' if factor[0] == 'A' else 'up'}.weight"
        assert np.array_equal(kohya[ours], value), ours
    hooked = [draw(tmp_path, "--lora", tmp_path / name)["final_latent"] for name in ("d.safetensors", "k.safetensors")]
    assert np.array_equal(*hooked)
    assert "a1111" in run(["export", trained, "--format", "a1111", "--output", tmp_path / "x.safetensors"], code=2)
    assert ".safetensors" in run(["export", trained, "--format", "kohya", "--output", tmp_path / "x.pt"], code=2)
