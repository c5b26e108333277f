"""`train --plan`: what would train and the memory it takes, said before anything is loaded and without writing anything."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from support import BASE, prepare, run

METHODS = {
    "hypernetwork": {"hypernetwork.layer_structure": "1,2,1"},
    "lora": {"lora.target_modules": "all"},
    "textual_inversion": {"textual_inversion.placeholder_token": "zorp", "caption.template": "a [name]"},
    "dreambooth": {},
    "dreambooth-checkpointing": {"train.gradient_checkpointing": "true"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


def options(dataset, output, **changes):
    settings = {"base": BASE, "data": dataset, "output": output, "train.global_batch_size": "4", "train.micro_batch_size": "1", **changes}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def items(text):
    """MiB by line."""
    return {name.strip(): float(value.replace(",", "")) for name, value in re.findall(r"^  (.+?) {2,}([\d,.]+) MiB", text, re.MULTILINE)}


def test_prints_items_and_writes_nothing(dataset, tmp_path):
    before = sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*"))
    text = run(["train", "--plan", *options(dataset, tmp_path / "run", **{"optim.use_ema": "true", "sample.steps": "10"})])
    found = items(text)
    assert re.search(r"^hypernetwork trains \d+ parameters$", text, re.MULTILINE)
    parameters = int(re.search(r"trains (\d+)", text)[1])
    assert found["weights that train"] == pytest.approx(parameters * 4 / 2**20, abs=0.06)
    assert found["gradients, 3 buffer(s)"] == pytest.approx(3 * parameters * 4 / 2**20, abs=0.06)  # 1 + log2(4 leaves)
    assert found["moments of adamw"] == pytest.approx(2 * parameters * 4 / 2**20, abs=0.06)
    for name in ("program and libraries", "UNet, frozen", "text encoder, frozen", "VAE", "average of the weights",
                 "contexts of captions", "or: validation", "or: preview", "total at the peak"):
        assert found[name] > 0, name
    assert "It fits." in text
    assert not list(tmp_path.iterdir())
    assert sorted((path, path.stat().st_mtime_ns) for path in dataset.rglob("*")) == before


def test_ranks_share_the_moments(dataset, tmp_path):
    alone = items(run(["train", "--plan", *options(dataset, tmp_path / "run")]))
    text = run(["train", "--plan", *options(dataset, tmp_path / "run")], ranks=2)
    assert text.count("trains") == 1 and "each of 2 ranks" in text
    two, four = items(text), items(run(["train", "--plan_ranks", "4", *options(dataset, tmp_path / "run")]))
    assert two["moments of adamw, this rank's slice"] == pytest.approx(alone["moments of adamw"] / 2, abs=0.1)
    assert four["moments of adamw, this rank's slice"] == pytest.approx(alone["moments of adamw"] / 4, abs=0.1)
    assert "gradients, 2 buffer(s)" in two and "gradients, 1 buffer(s)" in four
    assert four["all 4 ranks"] == pytest.approx(4 * four["total at the peak"], rel=1e-3)


def test_groups_and_mixed_precision(dataset, tmp_path):
    changes = {"method": "dreambooth", "dreambooth.train_text_encoder": "true", "train.mixed_precision": "bf16"}
    text = run(["train", "--plan", *options(dataset, tmp_path / "run", **changes)])
    groups = {name: int(value) for name, value in re.findall(r"^  (\w+): (\d+)$", text, re.MULTILINE)}
    assert set(groups) == {"unet", "text_encoder"} and sum(groups.values()) == int(re.search(r"trains (\d+)", text)[1])
    found = items(text)
    assert found["rounded copies of what trains"] == pytest.approx(found["weights that train"] / 2, abs=0.1)


def test_what_is_far_too_large_does_not_fit(dataset, tmp_path):
    changes = {"train.global_batch_size": 65536, "train.micro_batch_size": 65536}
    text = run(["train", "--plan", *options(dataset, tmp_path / "run", **changes)])
    assert "does not fit" in text and "gradient_checkpointing" in text


@pytest.fixture(scope="module")
def single_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("file") / "emoji.safetensors"
    run(["export", BASE, "--format", "ldm", "--output", file])
    return file


@pytest.mark.parametrize("method", ["hypernetwork", "lora", "textual_inversion", "dreambooth"])
def test_a_single_file_is_planned_as_its_folder_is(dataset, single_file, tmp_path, method):
    changes = {"method": method, "sample.steps": 10, **METHODS[method]}
    folder = run(["train", "--plan", *options(dataset, tmp_path / "run", **changes)])
    file = run(["train", "--plan", *options(dataset, tmp_path / "run", **{**changes, "base": single_file, "base.tokenizer": BASE})])
    assert items(file) == items(folder) and len(items(file)) > 8
    assert file.splitlines()[0] == folder.splitlines()[0]


def test_a_single_file_of_torch_is_planned_from_its_shapes(dataset, single_file, tmp_path):
    checkpoint = tmp_path / "emoji.ckpt"
    torch.save({"state_dict": load_file(single_file)}, checkpoint)
    changes = {"method": "lora", **METHODS["lora"], "base.tokenizer": BASE}
    plans = [run(["train", "--plan", *options(dataset, tmp_path / "run", **changes, base=base)]) for base in (single_file, checkpoint)]
    assert plans[0].splitlines()[0] == plans[1].splitlines()[0]
    for name in ("UNet, frozen", "VAE", "weights that train"):
        assert items(plans[0])[name] == items(plans[1])[name] > 0


def test_a_single_file_needs_a_tokenizer(dataset, single_file, tmp_path):
    assert "base.tokenizer" in run(["train", "--plan", *options(dataset, tmp_path / "run", base=single_file)], code=2)


@pytest.mark.parametrize("changes, names", [
    ({"data": "nowhere"}, "nowhere"), ({"base": "nowhere"}, "nowhere"), ({"method": "magic"}, "method"),
    ({"plan_ranks": "0"}, "plan_ranks"), ({"plan_ranks": "many"}, "plan_ranks"), ({"plan_ranks": "8"}, "leaves"),
    ({"hypernetwork.layer_structure": "2,1"}, "layer_structure"), ({"train.micro_batchsize": "1"}, "micro_batch_size"),
])
def test_bad_input_is_said(dataset, tmp_path, changes, names):
    assert names in run(["train", "--plan", *options(dataset, tmp_path / "run", **changes)], code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_total_is_within_15_percent_of_what_a_step_takes(dataset, tmp_path, method):
    changes = {"method": method.split("-")[0], "train.global_batch_size": 64, "train.micro_batch_size": 64, **METHODS[method]}
    planned = items(run(["train", "--plan", *options(dataset, tmp_path / "run", **changes)]))["total at the peak"]
    run(["bench", "--steps", "1", "--warmup", "1", "--json", tmp_path / "step.json", *options(dataset, tmp_path / "run", **changes)])
    measured = json.loads((tmp_path / "step.json").read_text())["peak_host_bytes"] / 2**20
    assert planned == pytest.approx(measured, rel=0.15)
