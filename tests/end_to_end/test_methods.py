"""Methods against each other: budgets in counted operations, sweeps over the method, strengths of what was trained."""

import csv
import json
import os
import subprocess
import sys

import pytest
from support import BASE, SOURCE, prepare, run

METHODS = {
    "hypernetwork": ["--hypernetwork.layer_structure", "1,1,1"],
    "lora": ["--lora.rank", "2"],
    "textual_inversion": ["--textual_inversion.placeholder_token", "skribble", "--textual_inversion.num_vectors", "2",
                          "--textual_inversion.initializer_text", "pencil"],
    "dreambooth": ["--dreambooth.train_text_encoder", "true"],
}
TRAINING = ["--train.max_train_steps", "3", "--train.global_batch_size", "2", "--train.micro_batch_size", "2",
            "--optim.learning_rate", "1e-2", "--validation.steps", "0", "--train.checkpointing_steps", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve drawings whose captions end with the new word; two of them are held out, two for the test."""
    folder = tmp_path_factory.mktemp("data") / "set"
    prepare(folder, 12, "--validation_images", "2", "--test_images", "2")
    return folder


def options_of(method, data, output):
    template = ["--caption.template", "[filewords], skribble"]
    adjacent = ["--validation.adjacent", data, "--validation.adjacent_trigger", "skribble"]
    return ["train", "--method", method, "--base", BASE, "--data", data, "--output", output, *template, *adjacent,
            *TRAINING, *METHODS[method]]


def losses(file, **chosen):
    """kind, sample -> loss and drift of the rows with these values."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if all(float(row[key]) == value for key, value in chosen.items())]
    return {(row["kind"], row["sample_id"]): (float(row["loss"]), float(row["drift"] or 0)) for row in rows}


@pytest.mark.parametrize("method", METHODS)
def test_strengths_lead_from_the_base_to_what_was_trained(tmp_path, data, method):
    folder = tmp_path / method
    run(options_of(method, data, folder))
    said = run(["evaluate", folder, "--strengths", "0,0.5,1"], ranks=2 if method == "dreambooth" else 1)
    assert "adjacent_trigger" in said and str(folder / "strengths.csv") in said
    measured = folder / "strengths.csv"
    end = losses(folder / "validation_images.csv", step=3)
    at_end = losses(measured, strength=1)
    assert at_end.keys() == end.keys() and {kind for kind, _ in end} == {"heldout", "train", "test", "adjacent", "adjacent_trigger"}
    for key, value in end.items():
        assert at_end[key] == pytest.approx(value, rel=1e-6, abs=1e-9)
    half = losses(measured, strength=0.5)
    assert all(half[key][0] != end[key][0] for key in end if key[0] == "heldout")
    start, at_start = losses(folder / "validation_images.csv", step=0), losses(measured, strength=0)
    # The base reads the new word as text; textual inversion begins at its initial vectors.
    kinds = {"adjacent"} if method == "textual_inversion" else {"heldout", "train", "test", "adjacent", "adjacent_trigger"}
    for key in (key for key in start if key[0] in kinds):
        assert at_start[key] == pytest.approx(start[key], rel=1e-5, abs=1e-8)


def test_what_evaluate_refuses(tmp_path, data):
    folder = tmp_path / "run"
    run(options_of("lora", data, folder))
    assert "twice" in run(["evaluate", folder, "--strengths", "1,1.0"], code=2)
    assert "numbers" in run(["evaluate", folder, "--strengths", "much"], code=2)
    assert "expected one RUN" in run(["evaluate"], code=2)
    assert "no complete checkpoint" in run(["evaluate", data], code=2) and "none" in run(["evaluate", tmp_path / "x"], code=2)
    assert "validation.adjacent" in run(["evaluate", folder, "--validation.adjacnt", "x"], code=2)
    assert not (folder / "strengths.csv").exists()
    output = tmp_path / "other.csv"
    run(["evaluate", folder, "--strengths", "1", "--validation.max_images", "1", "--output", output])
    assert len(losses(output, strength=1)) == 5


def test_a_budget_decides_the_updates_and_is_echoed(tmp_path, data):
    common = ["--train.max_tflops", "0.05"]
    updates = {}
    for method in ("lora", "dreambooth"):
        folder = tmp_path / method
        run([*options_of(method, data, folder), *common])
        result = json.loads((folder / "result.json").read_text())
        updates[method] = result["steps"]
        echo = (folder / "config.cfg").read_text()
        assert f"max_train_steps = {result['steps']}" in echo and "max_tflops = 0.05" in echo
        assert 0.05 * (1 - 1 / result["steps"]) < result["training_tflops"] <= 0.05
        assert result["export_bytes"] == (folder / result["export"]).stat().st_size
    assert updates["lora"] > updates["dreambooth"] > 3
    refused = tmp_path / "refused"
    assert "less than one update" in run([*options_of("lora", data, refused), "--train.max_tflops", "1e-6"], code=2)
    assert "num_train_epochs" in run([*options_of("lora", data, refused), *common, "--train.num_train_epochs", "1"], code=2)
    assert not refused.exists()


def test_a_sweep_over_methods_is_compared(tmp_path, data):
    config = tmp_path / "methods.sweep.cfg"
    config.write_text(f"""
method = hypernetwork | lora
base = {BASE}
data = {data}
[caption]
template = [filewords], skribble
[hypernetwork]
layer_structure = 1,1,1
[lora]
rank = 2
[optim]
learning_rate = (1e-3 | 1e-2) if method = hypernetwork | 3e-3 if method = lora
[train]
max_tflops = 0.02 | 0
max_train_steps = 2 if train.max_tflops = 0
global_batch_size = 2
micro_batch_size = 2
checkpointing_steps = 0
[validation]
steps = 0
adjacent = {data}
[sweep]
output = {tmp_path / "sweep"}
strengths = 0,1
pictures = 0
""")
    plan = run(["sweep", "--config", config, "plan"])
    assert plan.count("hypernetwork") == 4 and "6 trials" in plan
    run(["sweep", "--config", config, "run", "--pack", "2"])
    sweep = tmp_path / "sweep"
    with open(sweep / "results.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["optim.learning_rate"] for row in rows if row["method"] == "lora"] == ["3e-3"] * 2
    budgeted = [row for row in rows if row["train.max_tflops"] == "0.02"]
    planned = {entry["trial"]: entry["length"] for entry in json.loads((sweep / "sweep.json").read_text())["trials"]}
    assert all(planned[int(row["trial"])] == row["steps"] for row in rows)
    assert {row["train.max_train_steps"] for row in budgeted} == {""} and min(int(row["steps"]) for row in budgeted) > 2
    with open(sweep / "strengths.csv", newline="", encoding="utf-8") as stream:
        strengths = list(csv.DictReader(stream))
    assert len({row["trial"] for row in strengths}) == 4, "the best rate of each method and budget"
    best = {row["trial"]: row for row in rows}
    for row in strengths:
        if row["strength"] == "1" and row["kind"] == "test":
            assert float(row["loss"]) == pytest.approx(float(best[row["trial"]]["test_loss"]), rel=1e-6)
    before = {file: file.stat().st_mtime_ns for file in sweep.glob("trials/*/strengths.csv")}
    run(["sweep", "--config", config, "collect"])
    assert {file: file.stat().st_mtime_ns for file in before} == before
    command = [sys.executable, "-m", "ldmtune_analysis", "report", str(sweep)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SOURCE / "analysis")}, check=True, capture_output=True)
    page = (sweep / "report.html").read_text(encoding="utf-8")
    assert "<h2>Methods</h2>" in page and "Equal operations: 0.02 TFLOP" in page and "Equal samples: 4 each" in page
