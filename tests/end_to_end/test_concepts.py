"""Several concepts in one dreambooth run: each with images, prompt and class images of its own."""

import csv
import json
import re

import h5py
import pytest
from transformers import CLIPTokenizer

from support import BASE, IMAGES, checkpoints, run

SUBJECTS = ["zorp robot", "sks cat"]
CLASSES = ["rocket", "cat face"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A dataset of four drawings for each subject, captioned by their file names; two of them train."""
    folder = tmp_path_factory.mktemp("concepts")
    rows = [json.loads(line) for line in (IMAGES / "metadata.jsonl").read_text().splitlines()]
    found = []
    for place in range(len(SUBJECTS)):
        images = folder / f"images{place}"
        images.mkdir()
        for row in rows[4 * place : 4 * place + 4]:
            (images / f"drawing {row['file_name']}").write_bytes((IMAGES / row["file_name"]).read_bytes())
        found.append(folder / f"set{place}")
        run(["prepare", "--base", BASE, "--images", images, "--output", found[-1], "--validation_images", "2", "--test_images", "0"])
    return found


@pytest.fixture(scope="module")
def class_data(tmp_path_factory):
    return tmp_path_factory.mktemp("class") / "images"


def options(datasets, class_data, output, **changes):
    settings = {
        "method": "dreambooth", "base": BASE, "data": ", ".join(map(str, datasets)), "output": output, "optim.learning_rate": "2e-4",
        "train.global_batch_size": "4", "train.micro_batch_size": "1", "train.max_train_steps": "3", "train.seed": "7",
        "dreambooth.instance_prompt": " | ".join(f"a {subject}" for subject in SUBJECTS), "validation.steps": "0",
        "validation.max_images": "4", "dreambooth.train_text_encoder": "true", "dreambooth.with_prior_preservation": "true",
        "dreambooth.class_data": class_data, "dreambooth.class_prompt": " | ".join(CLASSES), "dreambooth.num_class_images": "4",
        "sample.num_inference_steps": "2", **changes,
    }
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def texts_by_dataset(file):
    """Place of the dataset -> what the text encoder read."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)
    found = {}
    with h5py.File(file) as trace:
        for step in trace:
            for leaf in [name for name in trace[step] if name.startswith("micro_")]:
                micro = trace[step][leaf]
                for place, ids in zip(micro["dataset"][()], micro["input_ids"][()]):
                    found.setdefault(int(place), set()).add(tokenizer.decode(ids, skip_special_tokens=True).strip())
    return found


def test_each_concept_has_its_prompt_and_its_class(datasets, class_data, tmp_path):
    trace = {"train.trace": tmp_path / "trace.h5", "train.trace_steps": "3"}
    run(options(datasets, class_data, tmp_path / "one", **trace))
    texts = texts_by_dataset(tmp_path / "trace.h5")
    assert texts[0] == {"a zorp robot"} and texts[1] == {"a sks cat"}
    assert texts[2] == set(CLASSES), "class images keep their own prompts"
    run(options(datasets, class_data, tmp_path / "two"), 2)
    assert checkpoints(tmp_path / "two") == checkpoints(tmp_path / "one")


def test_both_are_learned(datasets, class_data, tmp_path):
    run(options(datasets, class_data, tmp_path / "run", **{"train.max_train_steps": "16", "optim.learning_rate": "5e-4",
                                                                     "dreambooth.train_text_encoder": "false"}))
    with open(tmp_path / "run/validation_images.csv") as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"] == "train"]
    before = {row["sample_id"]: float(row["loss"]) for row in rows if row["step"] == "0"}
    after = {row["sample_id"]: float(row["loss"]) for row in rows if row["step"] == "16"}
    for place in range(2):
        own = [sample for sample in before if int(sample) // 10**12 == place]
        assert len(own) == 2 and all(after[sample] < 0.8 * before[sample] for sample in own), place


def test_prompts_and_datasets_must_fit(datasets, class_data, tmp_path):
    three = options(datasets, class_data, tmp_path / "run", **{"dreambooth.instance_prompt": "a | b | c"})
    assert "option dreambooth.instance_prompt: expected one prompt, or one for each of the 2" in run(three, code=2)
    one_dataset = options(datasets[:1], class_data, tmp_path / "run")
    assert "option dreambooth.instance_prompt" in run(one_dataset, code=2)
    assert not (tmp_path / "run").exists()


def test_pictures_of_a_sweep_are_drawn_from_each_concepts_prompt(datasets, tmp_path):
    sweep = tmp_path / "one.sweep.cfg"
    sweep.write_text(
        f'method = dreambooth\nbase = "{BASE}"\ndata = {", ".join(map(str, datasets))}\n[sweep]\noutput = {tmp_path}/sweep\npictures = 2\n'
        '[dreambooth]\ntrain_unet = attention\ninstance_prompt = "a zorp robot | a sks cat"\n[sample]\nnum_inference_steps = 2\n'
        "[train]\nmax_train_steps = 1\nglobal_batch_size = 2\nseed = 3\n[validation]\nsteps = 0\n")
    run(["sweep", "run", "--config", sweep])
    images = json.loads((tmp_path / "sweep/pictures/index.json").read_text())["images"]
    assert {image["prompt"] for image in images} <= {"a zorp robot", "a sks cat"} and len(images) == 2
    run(["sweep", "best", "--config", sweep])
    command = re.search(r"`ldmtune (export .* --format diffusers --output) MODEL`", (tmp_path / "sweep/best.md").read_text())[1]
    run([*command.split(), tmp_path / "model"])
    assert (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").exists() and (tmp_path / "sweep/best.safetensors").exists()
