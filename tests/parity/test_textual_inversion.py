"""Textual inversion against transformers and diffusers: a traced run recomputed, and files that the others read and write.

The embedding's gradient goes through the UNet and the text encoder. Tolerances are of the largest value: 1e-4 for the
gradient, 2e-4 for what else is recomputed (fp32 sums in another order; measured differences are some 1e-6), 1e-3 for
latents after a dozen sampler steps.
"""

import collections
import json
import pathlib
import sys

import h5py
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import BASE, SOURCE, run  # noqa: E402

TOLERANCE, GRADIENT_TOLERANCE, SAMPLED_TOLERANCE = 2e-4, 1e-4, 1e-3
STEPS, LEAVES, MICRO = 3, 4, 2
WORDS = {"zorp": (3, "blue monster face"), "<ground>": (1, "background")}
TEMPLATE = "[filewords] <ground>"


def error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mascot"
    run(["prepare", "--base", BASE, "--images", SOURCE / "datasets/mascot", "--output", folder])
    return folder


def options(dataset, folder, **changes):
    settings = {
        "method": "textual_inversion", "base": BASE, "data": dataset, "output": folder,
        "textual_inversion.placeholder_token": " | ".join(WORDS),
        "textual_inversion.num_vectors": ",".join(str(count) for count, _ in WORDS.values()),
        "textual_inversion.initializer_text": " | ".join(text for _, text in WORDS.values()),
        "caption.template": TEMPLATE, "caption.dropout": "0.2", "train.max_train_steps": 4, "train.checkpointing_steps": 2,
        "train.checkpoints_total_limit": 0, "train.global_batch_size": LEAVES * MICRO, "train.micro_batch_size": MICRO,
        "train.seed": 5, "train.max_grad_norm": 0.05, "validation.steps": 2,
    }  # fmt: skip
    settings.update(changes)
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(options(dataset, folder, **{"train.trace": folder.with_suffix(".h5"), "train.trace_steps": STEPS}), 2)
    return folder


@pytest.fixture(scope="module")
def trace(reference):
    with h5py.File(reference.with_suffix(".h5")) as file:
        yield file


class Networks:
    """transformers' text encoder with the words added as diffusers adds them, and diffusers' UNet."""

    def __init__(self):
        self.tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
        self.text = CLIPTextModel.from_pretrained(BASE / "text_encoder", torch_dtype=torch.float32).eval().requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(BASE / "unet", torch_dtype=torch.float32).eval().requires_grad_(False)
        self.table = self.text.get_input_embeddings().weight.detach().clone()
        self.ids = {}
        for word, (count, _) in WORDS.items():
            tokens = [word] + [f"{word}_{i}" for i in range(1, count)]
            assert self.tokenizer.add_tokens(tokens) == count
            self.ids[word] = self.tokenizer.convert_tokens_to_ids(tokens)
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)

    def context(self, input_ids, embeddings):
        """With gradient to the embeddings, by replacing the whole table."""
        rows = torch.cat([self.table, *(embeddings[word] for word in WORDS)])
        embedder = self.text.get_input_embeddings()
        del embedder.weight
        embedder.weight = rows
        return self.text(input_ids).last_hidden_state


@pytest.fixture(scope="module")
def networks():
    return Networks()


def embeddings_at(trace, step):
    return {word: torch.tensor(trace[f"step_{step:06d}/parameter/embedding.{word}"][()], requires_grad=True) for word in WORDS}


def test_starts_at_the_texts_embeddings(trace, networks):
    for word, (count, text) in WORDS.items():
        tokens = networks.tokenizer(text, add_special_tokens=False).input_ids
        rows = [tokens[i * len(tokens) // count] for i in range(count)]
        assert np.array_equal(trace[f"step_000000/parameter/embedding.{word}"][()], networks.table[rows].numpy())


def test_tokens_as_diffusers_spreads_them(dataset, trace, networks):
    captions = {row["sample_id"]: row["text"] for row in map(json.loads, (dataset / "captions.jsonl").read_text().splitlines())}
    dropped = 0
    for step in range(1, STEPS + 1):
        for leaf in range(LEAVES):
            micro = trace[f"step_{step:06d}/micro_{leaf:04d}"]
            for row, sample_id in enumerate(micro["sample_id"]):
                text = TEMPLATE.replace("[filewords]", captions[int(sample_id)]).replace("zorp", "zorp zorp_1 zorp_2")
                expected, empty = (
                    networks.tokenizer(t, padding="max_length", max_length=micro["input_ids"].shape[1], truncation=True).input_ids
                    for t in (text, ""))  # fmt: skip
                found = list(micro["input_ids"][row])
                assert found in (expected, empty)
                dropped += found == empty
    assert 0 < dropped < STEPS * LEAVES * MICRO


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_loss_and_gradient_by_transformers_and_diffusers(trace, networks, step):
    embeddings = embeddings_at(trace, step - 1)
    total = 0
    for leaf in range(LEAVES):
        micro = {name: torch.tensor(value[()]) for name, value in trace[f"step_{step:06d}/micro_{leaf:04d}"].items()}
        context = networks.context(micro["input_ids"], embeddings)
        assert error(micro["context"], context.detach()) < TOLERANCE
        prediction = networks.unet(micro["noisy"], micro["timestep"], context).sample
        assert error(micro["prediction"], prediction.detach()) < TOLERANCE
        loss = ((prediction - micro["target"]) ** 2).mean(dim=(1, 2, 3))
        assert error(micro["loss"], loss.detach()) < TOLERANCE
        part = (loss * micro["weight"]).sum() / (LEAVES * MICRO)
        part.backward()
        total += part.item()
    group = trace[f"step_{step:06d}"]
    assert abs(group.attrs["loss"] - total) < TOLERANCE * total
    assert set(group["gradient"]) == {f"embedding.{word}" for word in WORDS}
    for word, embedding in embeddings.items():
        assert error(group[f"gradient/embedding.{word}"], embedding.grad) < GRADIENT_TOLERANCE


def test_adamw_steps_with_the_methods_own_defaults(trace):
    parameters = {word: torch.nn.Parameter(value.detach()) for word, value in embeddings_at(trace, 0).items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=5e-3, weight_decay=0)
    for step in range(1, STEPS + 1):
        group = trace[f"step_{step:06d}"]
        assert list(group.attrs["learning_rate"]) == [5e-3]
        for word, parameter in parameters.items():
            parameter.grad = torch.tensor(group[f"gradient/embedding.{word}"][()])
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.05)
        optimizer.step()
        for word, parameter in parameters.items():
            assert error(group[f"parameter/embedding.{word}"], parameter.detach()) < TOLERANCE


def test_the_checkpoint_holds_nothing_but_the_new_rows(reference):
    tensors = load_file(reference / "checkpoints/step-00000004/parameters.safetensors")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        f"embedding.{word}": (count, 160) for word, (count, _) in WORDS.items()}  # fmt: skip
    both = load_file(reference / "checkpoints/step-00000004/run.safetensors")
    assert set(both) == set(WORDS)


# Files.


def sample(folder, prompt, *more):
    folder.mkdir(exist_ok=True)
    run(["sample", "--base", BASE, "--prompt", prompt, "--num_inference_steps", 12, "--guidance_scale", 3, "--negative_prompt",
         "zorp", "--trace", folder / "trace.h5", "--output", folder / "grid.png", *more])  # fmt: skip
    with h5py.File(folder / "trace.h5") as file:
        return {name: torch.from_numpy(file[name][()]) for name in file}


@pytest.fixture(scope="module")
def files(reference, tmp_path_factory):
    """zorp's embedding in every format that `export` writes."""
    folder = tmp_path_factory.mktemp("files")
    wanted = {"a1111": "zorp.pt", "diffusers": "learned_embeds.safetensors", "kohya": "zorp.safetensors"}
    for kind, name in wanted.items():
        (folder / kind).mkdir()
        run(["export", reference, "--format", kind, "--token", "zorp", "--output", folder / kind / name])
    run(["export", reference, "--format", "kohya", "--token", "zorp", "--output", folder / "kohya" / "zorp.pt"])
    return folder


@pytest.fixture(scope="module")
def vectors(reference):
    return load_file(reference / "checkpoints/step-00000004/parameters.safetensors")["embedding.zorp"]


def test_files_hold_what_the_peers_look_for(files, vectors):
    a1111 = torch.load(files / "a1111/zorp.pt", weights_only=True)
    assert a1111["string_to_token"] == {"*": 265} and a1111["name"] == "zorp" and a1111["step"] == 4
    assert list(a1111["string_to_param"]) == ["*"] and torch.equal(a1111["string_to_param"]["*"], vectors)
    assert torch.equal(load_file(files / "diffusers/learned_embeds.safetensors")["zorp"], vectors)
    assert torch.equal(load_file(files / "kohya/zorp.safetensors")["emb_params"], vectors)
    assert torch.equal(torch.load(files / "kohya/zorp.pt", weights_only=True)["emb_params"], vectors)


@pytest.mark.parametrize("kind", ["a1111/zorp.pt", "diffusers/learned_embeds.safetensors"])
def test_diffusers_draws_the_same_with_our_file(files, tmp_path, kind):
    prompt = "zorp on a green background"
    trace = sample(tmp_path / "ours", prompt, "--embedding", files / kind)
    pipeline = StableDiffusionPipeline.from_pretrained(BASE, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.load_textual_inversion(str((files / kind).parent), weight_name=pathlib.Path(kind).name)
    noise = trace["initial_noise"]
    with torch.no_grad():
        latent = pipeline(prompt, negative_prompt="zorp", num_inference_steps=12, guidance_scale=3.0, latents=noise.clone(),
                          output_type="latent").images  # fmt: skip
        image = pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample
        image = pipeline.image_processor.postprocess(image, output_type="np")[0] * 255
    assert error(trace["final_latent"], latent) < SAMPLED_TOLERANCE
    assert np.abs(trace["image"][0].numpy() - image).mean() < 2
    plain = sample(tmp_path / "plain", prompt)
    assert error(plain["final_latent"], latent) > 0.1, "the embedding changes the picture"


def torch_file(file, value):
    torch.save(value, file)
    return file


class Embeddings(torch.nn.Module):
    """How the paper's program keeps them."""

    def __init__(self, vectors):
        super().__init__()
        self.words = torch.nn.ParameterDict({"zorp": torch.nn.Parameter(vectors)})


LAYOUTS = {
    "a1111 parameter": ("x.pt", lambda v: {
        "string_to_token": {"*": 265}, "string_to_param": {"*": torch.nn.Parameter(v)}, "name": "zorp", "step": 3,
        "sd_checkpoint": None, "sd_checkpoint_name": None}),
    "paper": ("zorp.pt", lambda v: {"string_to_token": {"zorp": torch.tensor(265)}, "string_to_param": Embeddings(v).words}),
    "diffusers bin": ("learned_embeds.bin", lambda v: {"zorp": v}),
    "ordered": ("x.bin", lambda v: collections.OrderedDict(zorp=v)),
    "kohya": ("zorp.pt", lambda v: {"emb_params": v}),
    "onetrainer": ("zorp.safetensors", lambda v: {"emp_params": v, "emp_params_out": v * 0}),
    "bare": ("zorp.pt", lambda v: v),
}  # fmt: skip


# A module in a legacy file carries its source code, which is refused; the paper's program wrote zip files.
@pytest.mark.parametrize("layout, legacy", [(layout, legacy) for layout in LAYOUTS for legacy in (False, True)
                                            if not legacy or layout not in ("paper", "onetrainer")])
def test_reads_what_others_write(files, vectors, tmp_path, layout, legacy):
    name, make = LAYOUTS[layout]
    if name.endswith(".safetensors"):
        save_file(make(vectors), tmp_path / name)
    else:
        torch.save(make(vectors), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    few = ["--num_inference_steps", 1]
    expected = sample(tmp_path / "a", "zorp", "--embedding", files / "a1111/zorp.pt", *few)
    found = sample(tmp_path / "b", "zorp", "--embedding", tmp_path / name, *few)
    assert torch.equal(found["context"], expected["context"])


def test_another_word_and_two_files_at_once(files, vectors, tmp_path):
    few = ["--num_inference_steps", 1]
    expected = sample(tmp_path / "a", "zorp", "--embedding", files / "a1111/zorp.pt", *few)
    other = torch_file(tmp_path / "gleep.pt", {"*": torch.randn(2, 160)})
    found = sample(tmp_path / "b", "<New>", "--embedding", f"{files / 'kohya/zorp.pt'}=<new>", "--embedding", other, *few)
    assert torch.equal(found["context"][:, 1], expected["context"][:, 1])
    both = sample(tmp_path / "c", "<New> gleep", "--embedding", f"{files / 'kohya/zorp.pt'}=<new>, {other}", *few)
    assert not torch.equal(both["context"][:, 1], expected["context"][:, 1])


def test_prompts_without_the_word_are_bitwise_the_bases(files, tmp_path):
    few = ["--num_inference_steps", 2, "--negative_prompt", "monster"]
    plain = sample(tmp_path / "a", "a cat", *few)
    found = sample(tmp_path / "b", "a cat", "--embedding", files / "a1111/zorp.pt", *few)
    assert error(found["context"], plain["context"]) < 1e-6
    assert error(found["final_latent"], plain["final_latent"]) < 1e-5


# Bad input: exit code 2, naming the file or option, what was expected and what was found.


@pytest.mark.parametrize("changes, words", [
    ({"textual_inversion.placeholder_token": ""}, ["placeholder_token", "not given"]),
    ({"textual_inversion.placeholder_token": "monster | <ground>"}, ["'monster'", "vocabulary already"]),
    ({"textual_inversion.placeholder_token": "<absent> | <ground>"}, ["none of the 6 training captions", "<absent>", "caption.template"]),
    ({"textual_inversion.num_vectors": "40,1"}, ["num_vectors", "from 1 to 22", "found 40"]),
    ({"textual_inversion.initializer_token": "blue monster"}, ["initializer_t", "one of them only"]),
])
def test_bad_options(dataset, tmp_path, changes, words):
    output = run(options(dataset, tmp_path / "run", **changes), code=2)
    assert all(word in output for word in words), output
    assert not (tmp_path / "run").exists()


def test_a_resume_with_another_word_is_refused(dataset, tmp_path):
    run(options(dataset, tmp_path / "run", **{"train.stop_after": 1}), code=85)
    output = run(options(dataset, tmp_path / "run", **{"train.resume_from_checkpoint": "latest",
                                                       "textual_inversion.num_vectors": "2,1"}), code=2)  # fmt: skip
    assert "num_vectors" in output and "3,1" in output


def refused(file, *words):
    output = run(["sample", "--base", BASE, "--prompt", "zorp", "--embedding", file, "--output", file.parent / "x.png"], code=2)
    assert all(word in output for word in words), output
    assert not (file.parent / "x.png").exists()


def test_bad_files(files, dataset, tmp_path):
    refused(torch_file(tmp_path / "sd15.pt", {"emb_params": torch.randn(3, 768)}), "768 wide", "160 wide", "emoji-base")
    refused(torch_file(tmp_path / "zorp.pt", {"monster": torch.randn(2, 160)}), "'monster'", "vocabulary already")
    pair = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    save_file(pair, tmp_path / "xl.safetensors")
    refused(tmp_path / "xl.safetensors", "SDXL", "768 wide", "1280 wide", "160 wide")
    save_file({"a": torch.randn(3, 4), "b": torch.randn(4, 3)}, tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", "no textual inversion embedding")
    for kind in ("a1111/zorp.pt", "diffusers/learned_embeds.safetensors"):
        cut = tmp_path / f"cut{pathlib.Path(kind).suffix}"
        cut.write_bytes((files / kind).read_bytes()[:-50])
        refused(cut, str(cut))
    output = run(options(dataset, tmp_path / "run", **{"textual_inversion.initializer_text": "",
                                                       "textual_inversion.initial_embedding": tmp_path / "sd15.pt"}), code=2)  # fmt: skip
    assert "768 wide" in output and "160 wide" in output
