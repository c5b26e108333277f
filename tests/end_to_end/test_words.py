"""Textual inversions whose template says [name], and words that start from a run of several."""

import json

import pytest
from safetensors.torch import load_file
from support import BASE, prepare, run
from sweeps import sweep, write_sweep

TRAINING = ["--train.max_train_steps", 1, "--train.global_batch_size", 2, "--validation.steps", 0, "--optim.learning_rate", "1e-2"]
TEMPLATE = "a drawing of [name], [filewords]"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "set", 6, "--validation_images", "1", "--test_images", "1")


def words(data, output, placeholders, template, *options, code=0):
    return run(["train", "--method", "textual_inversion", "--base", BASE, "--data", data, "--output", output, *TRAINING,
                "--textual_inversion.placeholder_token", placeholders, "--caption.template", template, *options], code=code)


def test_a_sweep_draws_with_the_template_that_it_trained(tmp_path, data):
    file = write_sweep(tmp_path, data, **{
        "method": "textual_inversion", "textual_inversion.placeholder_token": "<zorp>", "caption.template": TEMPLATE,
        "optim.learning_rate": "1e-3 | 1e-2", "train.max_train_steps": 1, "train.global_batch_size": 2,
        "sweep.pictures": 1, "sample.num_inference_steps": 2})
    sweep(file, "run")
    pictures = tmp_path / "sweep/pictures"
    images = json.loads((pictures / "index.json").read_text())["images"]
    assert len(images) == 2, "one of each held-out split"
    for image in images:
        assert image["prompt"] == f"a drawing of <zorp>, {image['caption']}"
        drawn = {path.read_bytes() for path in pictures.glob(f"*/{image['sample_id']}.png")}
        assert len(drawn) == 5, "base, two trials, real image, round trip, none like another"
    echo = next(tmp_path.glob("sweep/trials/*/config.cfg")).read_text()
    assert "name = <zorp>" in echo


def test_name_is_refused_where_it_could_be_any_of_several_words(tmp_path, data):
    said = words(data, tmp_path / "run", "<zorp> | <gleep>", TEMPLATE, code=2)
    assert "caption.name" in said and "several words" in said and "<zorp>, <gleep>" in said
    assert "write the words into caption.template" in said
    assert not (tmp_path / "run").exists()
    without = words(data, tmp_path / "run", "<zorp> | <gleep>", "[filewords], <zorp>", code=2)
    assert "holds <gleep>" in without and "one that holds the words" in without


def test_words_start_from_a_run_of_several(tmp_path, data):
    words(data, tmp_path / "two", "<zorp> | <gleep>", "<zorp> of <gleep>, [filewords]", "--textual_inversion.num_vectors", "2,1")
    file = next(tmp_path.glob("two/checkpoints/*/two.safetensors"))
    trained = load_file(file)
    assert {name: tuple(tensor.shape)[0] for name, tensor in trained.items()} == {"<zorp>": 2, "<gleep>": 1}
    start = ["--textual_inversion.initial_embedding", file, "--optim.learning_rate", 0]
    words(data, tmp_path / "one", "<gleep>", TEMPLATE, *start)
    found = load_file(next(tmp_path.glob("one/checkpoints/*/parameters.safetensors")))
    assert found["embedding"].equal(trained["<gleep>"])
    words(data, tmp_path / "both", "<gleep> | <zorp>", "<zorp> of <gleep>, [filewords]", *start)
    found = load_file(next(tmp_path.glob("both/checkpoints/*/parameters.safetensors")))
    assert all(found[f"embedding.{word}"].equal(trained[word]) for word in trained)
    said = words(data, tmp_path / "other", "<blip>", TEMPLATE, *start, code=2)
    assert f"{file} holds 2 words" in said and "none is <blip>" in said and "--token WORD" in said
    assert all(word in said for word in trained)
