"""Forgetting as users measure it: loss and drift on adjacent images that the base draws, with and without the trigger."""

import csv
import json

import pytest

from support import BASE, prepare, run, sha256

PROMPTS = ["rocket on a white background", "cat face on a white background"]
METHODS = {
    "hypernetwork": {"hypernetwork.activation": "relu"},
    "lora": {"lora.rank": "2"},
    "textual_inversion": {"textual_inversion.placeholder_token": "zorp", "caption.template": "a drawing of [name]"},
    "dreambooth": {"dreambooth.train_unet": "attention", "optim.learning_rate": "1e-3"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


@pytest.fixture(scope="module")
def adjacent(tmp_path_factory):
    """Drawn by the first run that names it."""
    return tmp_path_factory.mktemp("adjacent") / "drawn"


def options(dataset, adjacent, output, method, **changes):
    settings = {
        "method": method, "base": BASE, "data": dataset, "output": output, "optim.learning_rate": "1e-2",
        "train.global_batch_size": "4", "train.micro_batch_size": "1", "train.max_train_steps": "2", "train.seed": "7",
        "validation.steps": "1", "validation.adjacent": adjacent, "validation.adjacent_prompts": " | ".join(PROMPTS),
        "validation.num_adjacent_images": "3", "validation.adjacent_trigger": "zorp", "validation.batch_size": "4",
        "sample.num_inference_steps": "2", **METHODS[method], **changes,
    }
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def rows(folder, file="validation.csv"):
    with open(folder / file) as lines:
        return list(csv.DictReader(lines))


def assert_measured(folder, method):
    drifts = [float(row["adjacent_drift"]) for row in rows(folder)]
    triggered = [float(row["adjacent_trigger_drift"]) for row in rows(folder)]
    assert drifts[0] == triggered[0] == 0 and min(triggered[1:]) > 0
    # A new word changes nothing where it does not stand.
    assert drifts[1:] == [0, 0] if method == "textual_inversion" else min(drifts[1:]) > 0
    result = json.loads((folder / "result.json").read_text())
    assert result["adjacent_drift"] == drifts[-1] and result["adjacent_trigger_drift"] == triggered[-1]
    assert result["adjacent_trigger_loss"] == float(rows(folder)[-1]["adjacent_trigger"])
    assert result["base_adjacent_trigger_loss"] != result["base_adjacent_loss"]
    images = [row for row in rows(folder, "validation_images.csv") if row["step"] == "2"]
    of_kind = {kind: [float(row["drift"]) for row in images if row["kind"] == kind] for kind in ("adjacent", "adjacent_trigger")}
    assert sum(of_kind["adjacent"]) / 3 == pytest.approx(drifts[-1])
    assert len(of_kind["adjacent_trigger"]) == 3
    assert all(row["drift"] == "" for row in images if row["kind"] == "heldout")


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_drift_have_the_same_bits_on_any_ranks_and_after_a_resume(dataset, adjacent, tmp_path, method):
    run(options(dataset, adjacent, tmp_path / "one", method))
    assert_measured(tmp_path / "one", method)
    run(options(dataset, adjacent, tmp_path / "two", method), 2)
    # The base's predictions are made anew from the base, not from the weights that the checkpoint holds.
    run(options(dataset, adjacent, tmp_path / "resumed", method, **{"train.stop_after": "1"}), 2, code=85)
    run(options(dataset, adjacent, tmp_path / "resumed", method, **{"train.resume_from_checkpoint": "latest"}))
    for file in ("validation.csv", "validation_images.csv"):
        expected = (tmp_path / "one" / file).read_text()
        assert (tmp_path / "two" / file).read_text() == expected
        assert (tmp_path / "resumed" / file).read_text() == expected


def test_the_base_draws_the_adjacent_images_once(dataset, adjacent, tmp_path):
    run(options(dataset, tmp_path / "drawn", tmp_path / "run", "lora"), 2)
    if not adjacent.exists():
        run(options(dataset, adjacent, tmp_path / "first", "lora"))
    assert sha256(adjacent / "part-00000.h5") == sha256(tmp_path / "drawn/part-00000.h5")
    captions = [json.loads(line)["text"] for line in (adjacent / "captions.jsonl").read_text().splitlines()]
    assert captions == [PROMPTS[0], PROMPTS[1], PROMPTS[0]]
    many = options(dataset, adjacent, tmp_path / "many", "lora", **{"validation.num_adjacent_images": "4"})
    assert "validation.num_adjacent_images: expected at least 4" in run(many, code=2)
    other = options(dataset, adjacent, tmp_path / "other", "lora", **{"validation.adjacent_prompts": "rocket"})
    assert "option validation.adjacent_prompts" in run(other, code=2)


@pytest.mark.parametrize("changes, expected", [
    ({"validation.num_adjacent_images": "0"}, "option validation.num_adjacent_images"),
    ({"validation.adjacent": "", "validation.adjacent_prompts": ""}, "option validation.adjacent_trigger"),
    ({"validation.adjacent": ""}, "option validation.adjacent_prompts"),
])
def test_bad_options_are_named(dataset, adjacent, tmp_path, changes, expected):
    assert expected in run(options(dataset, adjacent, tmp_path / "run", "lora", **changes), code=2)
    assert not (tmp_path / "run").exists()


def test_a_sweep_draws_them_for_its_trials_and_lists_the_drift(dataset, tmp_path):
    sweep = tmp_path / "two.sweep.cfg"
    sweep.write_text(
        f'method = lora\nbase = "{BASE}"\ndata = "{dataset}"\n[sweep]\noutput = {tmp_path}/sweep\n[lora]\nrank = 1 | 2\n'
        f"[train]\nmax_train_steps = 1\nglobal_batch_size = 2\n[validation]\nadjacent = {tmp_path}/drawn\nsteps = 0\n"
        f"adjacent_prompts = {PROMPTS[0]}\nnum_adjacent_images = 2\n[sample]\nnum_inference_steps = 2\n")
    run(["sweep", "run", "--config", sweep, "--pack", "2"])
    with open(tmp_path / "sweep/results.csv") as lines:
        scores = list(csv.DictReader(lines))
    assert len(scores) == 2 and all(float(row["adjacent_drift"]) > 0 for row in scores)
    assert all(row["adjacent_trigger_drift"] == "" for row in scores)
