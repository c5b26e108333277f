"""ldmtune sweep on the embedded base and eight drawn images: plan, run, interruption, failure, pictures, best."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

LDMTUNE = Path(os.environ["LDMTUNE_BUILD"]) / "ldmtune"
SOURCE = Path(os.environ["LDMTUNE_SOURCE"])
BASE = SOURCE / "datasets" / "emoji-base"
CONFIG = """
base = {base}
data = {data}
[train]
max_train_steps = 4
global_batch_size = 2
checkpointing_steps = 0
[optim]
learning_rate = 1e-3
[hypernetwork]
layer_structure = 1,0.5,1 | 1,1,1
widths = 160
[validation]
steps = 0
[sample]
num_inference_steps = 2
[sweep]
output = {output}
pictures = 1
"""


def ldmtune(*arguments, ranks=0, code=0):
    command = [str(LDMTUNE), *map(str, arguments)]
    if ranks:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), *command]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == code, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight drawings, four to train on, two to validate and two to test."""
    images = tmp_path_factory.mktemp("images")
    lines = []
    for number in range(8):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse(
            [8 + number, 12, 52, 60 - 2 * number], fill=(90 + 10 * number,) * 3, outline="black"
        )
        picture.save(images / f"{number}.png")
        split = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
        lines.append(
            json.dumps({"file_name": f"{number}.png", "text": f"ball number {number}", "split": split[number]})
        )
    (images / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    folder = tmp_path_factory.mktemp("data") / "set"
    ldmtune("prepare", "--base", BASE, "--images", images, "--output", folder)
    return folder


def write_config(folder: Path, data: Path, **replaced) -> Path:
    file = folder / "x.sweep.cfg"
    text = CONFIG.format(base=BASE, data=data, output=folder / "sweep")
    for before, after in replaced.items():
        lines = [f"{before} = {after}" if line.startswith(before + " = ") else line for line in text.splitlines()]
        text = "\n".join(lines)
    file.write_text(text)
    return file


def results(sweep: Path) -> list:
    with open(sweep / "results.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data) -> Path:
    """A sweep that was interrupted, resumed and finished."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, data)
    said = ldmtune("sweep", "--config", config, "run", "--train.stop_after", "2", code=85)
    assert "Stopped after update 2" in said
    assert not list((folder / "sweep" / "trials").glob("*/result.json"))
    said = ldmtune("sweep", "--config", config, "run")
    assert "Resuming" in said
    ldmtune("sweep", "--config", config, "best")
    return folder


def test_plan_lists_trials_and_writes_nothing(tmp_path, data):
    said = ldmtune("sweep", "--config", write_config(tmp_path, data), "plan", "--sweep.seeds", "0,1")
    rows = [line.split() for line in said.splitlines()[2:6]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert [row[2] for row in rows] == ["1,0.5,1", "1,0.5,1", "1,1,1", "1,1,1"]
    parameters = 2 * (160 * 80 + 80 + 80 * 160 + 160)
    assert rows[0][4] == f"{parameters:,}"
    assert not (tmp_path / "sweep").exists()


def test_a_plan_refuses_a_number_of_ranks_that_a_trial_cannot_use(tmp_path, data):
    plan = ["sweep", "--config", write_config(tmp_path, data), "plan", "--train.micro_batch_size", "1"]
    assert "trainable parameters" in ldmtune(*plan, "--ranks", "2")
    said = ldmtune(*plan, "--ranks", "4", code=2)
    assert "trial 0: number of MPI ranks: expected one of 1, 2 " in said and "found 4" in said


def test_results_have_a_row_a_trial_with_what_the_plan_said(finished):
    rows = results(finished / "sweep")
    assert [row["status"] for row in rows] == ["done", "done"]
    assert [row["hypernetwork.layer_structure"] for row in rows] == ["1,0.5,1", "1,1,1"]
    assert rows[0]["trainable_parameters"] == str(2 * (160 * 80 + 80 + 80 * 160 + 160))
    assert all(0 < float(row["heldout_loss"]) < 10 and row["steps"] == "4" for row in rows)
    assert rows[0]["base_heldout_loss"] == rows[1]["base_heldout_loss"]
    assert rows[0]["adjacent_loss"] == ""
    plan = json.loads((finished / "sweep" / "sweep.json").read_text())
    assert [trial["folder"] for trial in plan["trials"]] == [row["folder"] for row in rows]


def test_finished_trials_are_not_run_again(finished):
    results_before = {file: file.stat().st_mtime_ns for file in finished.glob("sweep/trials/*/result.json")}
    pictures_before = {file: file.stat().st_mtime_ns for file in finished.glob("sweep/pictures/*/*.png")}
    assert "is done already" in ldmtune("sweep", "--config", finished / "x.sweep.cfg", "run")
    assert {file: file.stat().st_mtime_ns for file in results_before} == results_before
    assert {file: file.stat().st_mtime_ns for file in pictures_before} == pictures_before


def test_best_is_the_lowest_heldout_loss_and_opens(finished):
    rows = results(finished / "sweep")
    winner = min(rows, key=lambda row: float(row["heldout_loss"]))
    card = json.loads((finished / "sweep" / "best.json").read_text())
    assert str(card["trial"]) == winner["trial"]
    assert card["sha256"] == sha256(finished / "sweep" / "best.pt")
    content = torch.load(finished / "sweep" / "best.pt", weights_only=True)
    assert ",".join(f"{size:g}" for size in content["layer_structure"]) == winner["hypernetwork.layer_structure"]
    assert content["step"] == 4 and isinstance(content[160], tuple)


def test_best_has_a_picture_and_a_card(finished):
    card = json.loads((finished / "sweep" / "best.json").read_text())
    assert card["picture"] == "best.png"
    with Image.open(finished / "sweep" / "best.png") as picture:
        assert picture.width >= 2 * 128
    text = (finished / "sweep" / "best.md").read_text()
    assert card["sha256"] in text and "best.png" in text and "heldout_loss" in text


def test_a_plan_says_what_it_would_cost_and_follows_conditions(tmp_path, data):
    config = write_config(tmp_path, data, layer_structure="1,1,1 | 1,2,1")
    options = ["--hypernetwork.layer_norm", "false | true", "--hypernetwork.layer_norm_init", "ones | zero_last"]
    condition = ["--sweep.conditions", "hypernetwork.layer_norm_init if hypernetwork.layer_norm = true"]
    said = ldmtune("sweep", "--config", config, "plan", *options, *condition, "--optim.learning_rate", "uniform(1, 2)",
                   "--sweep.draws", "2", "--sweep.subset_seeds", "0,1", "--sweep.tflops_per_s", "1")
    assert "24 trials" in said and "TFLOP" in said and "GB of memory" in said and "–" in said
    assert not (tmp_path / "sweep").exists()


def test_an_interrupted_trial_equals_one_on_two_ranks_that_ran_through(tmp_path, data, finished):
    ldmtune("sweep", "--config", write_config(tmp_path, data), "trial", "1", ranks=2)
    (through,) = (tmp_path / "sweep" / "trials").glob("*/checkpoints/step-00000004/parameters.safetensors")
    assert through.parents[2].name.startswith("001-")
    resumed = finished / "sweep" / through.relative_to(tmp_path / "sweep")
    assert sha256(through) == sha256(resumed)
    assert not (tmp_path / "sweep" / "pictures").exists(), "one trial of an array draws nothing"


def test_pictures_of_both_splits_in_all_columns(finished):
    folder = finished / "sweep" / "pictures"
    index = json.loads((folder / "index.json").read_text())
    assert [column["kind"] for column in index["columns"]] == ["base", "trial", "trial", "real", "roundtrip"]
    assert [image["split"] for image in index["images"]] == ["validation", "test"]
    assert index["images"][0]["caption"] == "ball number 4"
    for column in index["columns"]:
        for image in index["images"]:
            with Image.open(folder / column["name"] / f"{image['sample_id']}.png") as picture:
                assert picture.size == (64, 64)
    drawn = {
        (folder / column["name"] / f"{index['images'][0]['sample_id']}.png").read_bytes() for column in index["columns"]
    }
    assert len(drawn) == 5, "no two columns are the same"


def test_pictures_with_the_best_trial_alone(finished):
    config, index = finished / "x.sweep.cfg", finished / "sweep/pictures/index.json"
    said = ldmtune("sweep", "--config", config, "collect", "--sweep.picture_trials", "1")
    assert "pictures [" not in said, "all of them are there"
    columns = json.loads(index.read_text())["columns"]
    assert [column["kind"] for column in columns] == ["base", "trial", "real", "roundtrip"]
    with open(finished / "sweep/results.csv") as rows:
        best = min(csv.DictReader(rows), key=lambda row: float(row["heldout_loss"]))
    assert columns[1]["trial"] == int(best["trial"])
    ldmtune("sweep", "--config", config, "collect")
    assert len(json.loads(index.read_text())["columns"]) == 5


def test_a_missing_picture_is_drawn_again_the_same_on_two_ranks(finished):
    config = finished / "x.sweep.cfg"
    pictures = sorted(finished.glob("sweep/pictures/*/*.png"))
    before = {file: Image.open(file).tobytes() for file in pictures}
    for file in pictures[1:6]:
        file.unlink()
    ldmtune("sweep", "--config", config, "collect", ranks=2)
    assert {file: Image.open(file).tobytes() for file in pictures} == before


def test_pictures_of_a_changed_dataset_are_drawn_anew(tmp_path, data, finished):
    """stamps.json says what was drawn; a column with another stamp is drawn again."""
    folder = finished / "sweep" / "pictures"
    stamps = json.loads((folder / "stamps.json").read_text())
    kept, redrawn = folder / "real", folder / "roundtrip"
    before = {file: file.stat().st_mtime_ns for file in (*kept.iterdir(), *redrawn.iterdir())}
    (folder / "stamps.json").write_text(json.dumps({**stamps, "roundtrip": "other"}))
    ldmtune("sweep", "--config", finished / "x.sweep.cfg", "collect")
    assert all(file.stat().st_mtime_ns == before[file] for file in kept.iterdir())
    assert all(file.stat().st_mtime_ns != before[file] for file in redrawn.iterdir())
    assert json.loads((folder / "stamps.json").read_text()) == stamps


def test_a_failing_trial_is_recorded_and_the_others_go_on(tmp_path, data):
    config = write_config(tmp_path, data, learning_rate="1e30 | 1e-3", layer_structure="1,1,1", pictures="0")
    ldmtune("sweep", "--config", config, "run", ranks=2, code=1)
    failed, done = results(tmp_path / "sweep")
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "not finite" in failed["reason"]
    said = ldmtune("sweep", "--config", config, "run", "--optim.learning_rate", "1e-3")
    assert "is done already" in said


def test_a_single_file_base_has_the_bits_of_its_folder(tmp_path, data):
    file = tmp_path / "emoji.safetensors"
    ldmtune("export", BASE, "--format", "ldm", "--output", file)
    folder_base = ["sweep", "--config", write_config(tmp_path, data, pictures="0"), "--train.max_train_steps", "2"]
    file_base = [*folder_base, "--base", file, "--sweep.output", tmp_path / "file"]
    assert "base.tokenizer" in ldmtune(*file_base, "run", code=2)
    assert not (tmp_path / "file").exists()
    file_base += ["--base.tokenizer", BASE]
    plans = [ldmtune(*words, "plan").splitlines()[2:4] for words in (folder_base, file_base)]
    columns = [[row.split()[2:9] for row in plan] for plan in plans]  # options, seed, parameters, steps, TFLOP, memory
    assert columns[0] == columns[1] and columns[0][0][-1] == "GB"
    ldmtune(*folder_base, "run")
    ldmtune(*file_base, "run", "--sweep.pictures", "1")
    trained = "*/checkpoints/step-00000002/parameters.safetensors"
    from_folder, from_file = (
        [sha256(found) for found in sorted((tmp_path / name / "trials").glob(trained))] for name in ("sweep", "file")
    )
    assert from_folder == from_file and len(set(from_file)) == 2
    assert len(list((tmp_path / "file" / "pictures").glob("00*/*.png"))) == 4


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["run", "--hypernetwork.layer_structure", "1,2,3 | 1,1,1"], "trial 0"),
        (["run", "--hypernetwork.layer_strukture", "1,1,1"], "hypernetwork.layer_structure"),
        (["run", "--data", "nowhere"], "nowhere"),
        (["run", "--base", "nowhere"], "nowhere"),
        (["run", "--train.global_batch_size", "3", "--train.micro_batch_size", "2"], "global_batch_size"),
        (["run", "--train.stop_after", "1 | 2"], "stop_after"),
        (["run", "--sweep.seeds", "a"], "sweep.seeds"),
        (["plan", "--ranks", "0"], "option ranks"),
        (["run", "--ranks", "2"], "option ranks"),
        (["trial", "9"], "from 0 to 1"),
        (["trial", "x"], "number"),
        (["trial"], "number"),
        (["march"], "march"),
        ([], "plan, run, trial N, pack N, collect or best"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, data, arguments, expected):
    said = ldmtune("sweep", "--config", write_config(tmp_path, data), *arguments, code=2)
    assert expected in said
    assert not (tmp_path / "sweep").exists()


def test_best_without_results_says_what_to_do(tmp_path, data):
    said = ldmtune("sweep", "--config", write_config(tmp_path, data), "best", code=1)
    assert "no trial is done" in said


def test_the_report_of_a_real_sweep(finished):
    command = [sys.executable, "-m", "ldmtune_analysis", "report", str(finished / "sweep")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(SOURCE / "analysis")}, check=True, capture_output=True)
    page = (finished / "sweep" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 10
    assert "1,0.5,1" in page and "ball number 4" in page and "VAE round trip" in page


def test_help_shows_an_example():
    said = ldmtune("sweep", "--help")
    assert "layer_structure = 1,2,1 | 1,2,4,2,1" in said and "--sweep.seeds" in said
