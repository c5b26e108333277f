"""Several datasets with weights in one run: order recomputed from the trace, same bits, sweeps, class images, errors."""

import csv
import json
import pathlib
import shutil
import sys
from collections import Counter

import h5py
import numpy as np
import pytest

from support import BASE, IMAGES, checkpoints, run
from sweeps import sweep, write_sweep

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "parity"))
import philox  # noqa: E402

SEED, DATA_SEED = 7, 3
ROWS = sorted(map(json.loads, (IMAGES / "metadata.jsonl").read_text().splitlines()), key=lambda row: row["file_name"])


def dataset(folder, rows, subfolder="", split=None):
    """The drawings of these rows, each with its caption in a text file or, in a kohya folder, with that folder's."""
    images = folder.with_name(folder.name + ".images")
    (images / subfolder).mkdir(parents=True)
    for row in rows:
        shutil.copy(IMAGES / row["file_name"], images / subfolder)
        if not subfolder:
            (images / row["file_name"]).with_suffix(".txt").write_text(row["text"])
    held_out = ["--validation_images", "1", "--test_images", "0"] if split is None else split
    run(["prepare", "--base", BASE, "--images", images, "--output", folder, *held_out])
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Six training images; three that a kohya folder repeats twice, which makes six rows of them too."""
    folder = tmp_path_factory.mktemp("data")
    return [dataset(folder / "a", ROWS[:7]), dataset(folder / "b", ROWS[7:11], "2_sks drawing")]


def options(datasets, output, **changes):
    settings = {
        "base": BASE, "data": ", ".join(map(str, datasets)), "data.weights": "1,0.5", "data.seed": DATA_SEED, "train.seed": SEED,
        "output": output, "hypernetwork.layer_structure": "1,1", "hypernetwork.weight_init": "XavierNormal", "hypernetwork.name": "mix",
        "train.global_batch_size": 8, "train.micro_batch_size": 2, "train.max_train_steps": 4, "train.checkpointing_steps": 2,
        "train.checkpoints_total_limit": 0, "optim.learning_rate": "1e-2", "validation.steps": 2, "caption.dropout": 0.2,
    }  # fmt: skip
    settings.update(changes)
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def reference(datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(options(datasets, folder, **{"train.trace": folder.with_suffix(".h5"), "train.trace_steps": 4}))
    return folder


def training_rows(folder):
    """(sample_id, mean, std) of the training split in order of sample_id, each as often as it is repeated."""
    repeats = {row["sample_id"]: row.get("repeats", 1) for row in map(json.loads, (folder / "captions.jsonl").open())}
    rows = []
    with h5py.File(folder / "part-00000.h5") as file:
        for bucket in file.values():
            for i, sample in enumerate(map(int, bucket["sample_id"])):
                if bucket["split"][i] == 0:
                    latent = (bucket["latent_mean"][i].astype(np.float32), bucket["latent_std"][i].astype(np.float32))
                    rows += [(sample, *latent)] * repeats[sample]
    return sorted(rows, key=lambda row: row[0])


def test_order_noise_and_latents_by_an_independent_philox(datasets, reference):
    rows = [(place, *row) for place, folder in enumerate(datasets) for row in training_rows(folder)]
    shares = [len(training_rows(folder)) for folder in datasets]
    assert shares == [6, 6], "a kohya folder's repeats"
    scaling = json.loads((datasets[0] / "index.json").read_text())["scaling_factor"]
    stream = philox.SampleStream([shares], DATA_SEED, SEED, 0, 2, weights=[1, 0.5])
    mixed = 0
    with h5py.File(reference.with_suffix(".h5")) as trace:
        for m in range(4 * 4):
            micro = trace[f"step_{m // 4 + 1:06d}/micro_{m % 4:04d}"]
            draws = stream.micro_batch(m)
            assert [tuple(pair) for pair in zip(micro["dataset"], micro["sample_id"])] == [rows[draw.row][:2] for draw in draws]
            mixed += len(set(micro["dataset"])) == 2
            for i, draw in enumerate(draws):
                place, sample, mean, std = rows[draw.row]
                noise = philox.Stream(SEED, "noise", 0, draw.draw).normal(mean.shape)
                posterior = philox.Stream(DATA_SEED, "posterior", place, sample).normal(mean.shape)
                assert np.abs(micro["noise"][i] - noise).max() < 1e-6
                assert np.abs(micro["latent"][i] - (mean + std * posterior) * scaling).max() < 1e-5
                assert micro["timestep"][i] == philox.Stream(SEED, "timestep", 0, draw.draw).integer(0, 1000)
    assert mixed > 0, "no micro-batch held both datasets"


def test_a_pass_takes_each_sample_by_its_datasets_weight(datasets, tmp_path):
    # 6 + 6 / 2 samples a pass: two passes are nine updates of two.
    run(options(datasets, tmp_path / "run", **{"train.num_train_epochs": 2, "train.global_batch_size": 2, "train.micro_batch_size": 1,
        "train.trace": tmp_path / "trace.h5", "train.trace_steps": 9, "validation.steps": 0}))  # fmt: skip
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["steps"] == 9
    taken = Counter()
    with h5py.File(tmp_path / "trace.h5") as trace:
        for step in range(1, 10):
            for leaf in range(2):
                micro = trace[f"step_{step:06d}/micro_{leaf:04d}"]
                taken[int(micro["dataset"][0]), int(micro["sample_id"][0])] += 1
    assert sorted(taken.values()) == [2] * 9, "six images twice at weight 1; three of two repeats twice at weight 0.5"
    assert Counter(place for place, _ in taken) == {0: 6, 1: 3}
    epochs = [row["epoch"] for row in csv.DictReader((tmp_path / "run/metrics.csv").open())]
    assert float(epochs[-1]) == 2.0


def test_four_ranks_have_the_same_bits(datasets, reference, tmp_path):
    run(options(datasets, tmp_path / "run"), 4)
    assert checkpoints(tmp_path / "run") == checkpoints(reference)
    for file in ("validation.csv", "validation_images.csv"):
        assert (tmp_path / "run" / file).read_text() == (reference / file).read_text()


def test_a_resumed_run_has_the_same_bits_and_keeps_its_weights(datasets, reference, tmp_path):
    run(options(datasets, tmp_path / "run", **{"train.stop_after": 2}), code=85)
    resume = {"train.resume_from_checkpoint": "latest"}
    assert "data.weights" in run(options(datasets, tmp_path / "run", **resume, **{"data.weights": "1,1"}), code=2)
    assert "another dataset" in run(options(datasets[::-1], tmp_path / "run", **resume, **{"data.weights": "1,0.5"}), code=2)
    run(options(datasets, tmp_path / "run", **resume), 2)
    assert checkpoints(tmp_path / "run") == checkpoints(reference)


def test_what_the_run_folder_says(datasets, reference):
    described = json.loads((reference / "run.json").read_text())
    found = [(entry["path"], entry["weight"], entry["training_samples"]) for entry in described["datasets"]]
    assert found == [(str(datasets[0]), 1.0, 6), (str(datasets[1]), 0.5, 6)]
    assert len({entry["sha256"] for entry in described["datasets"]} | {described["dataset_sha256"]}) == 3
    measured = {row["sample_id"]: row for row in csv.DictReader((reference / "validation_images.csv").open()) if row["kind"] == "heldout"}
    assert len(measured) == 2, "one held-out image of each"
    assert sum(int(sample) >= 10**12 for sample in measured) == 1, "an id says which dataset"
    config = (reference / "config.cfg").read_text()
    assert f"data = {datasets[0]}, {datasets[1]}\n" in config and "weights = 1,0.5\n" in config


def test_two_datasets_of_weight_one_are_one_of_all_images(datasets, tmp_path):
    whole = dataset(tmp_path / "whole", ROWS[11:17], split=["--validation_images", "0", "--test_images", "0"])
    halves = [dataset(tmp_path / name, rows, split=["--validation_images", "0", "--test_images", "0"])
              for name, rows in (("x", ROWS[11:14]), ("y", ROWS[14:17]))]  # fmt: skip
    mean = {"data.weights": "", "data.latent_sampling": "deterministic", "validation.steps": 0}
    run(options([whole], tmp_path / "one", **mean))
    run(options(halves, tmp_path / "two", **mean))
    assert checkpoints(tmp_path / "one") == checkpoints(tmp_path / "two")


def test_class_images_come_behind_the_concepts_datasets(datasets, tmp_path):
    classes = dataset(tmp_path / "class", ROWS[11:14], split=["--validation_images", "0", "--test_images", "0"])
    run(options(datasets, tmp_path / "run", **{
        "method": "dreambooth", "dreambooth.with_prior_preservation": "true", "dreambooth.class_data": classes,
        "dreambooth.num_class_images": 3, "optim.learning_rate": "1e-5", "train.max_train_steps": 1, "validation.steps": 0,
        "train.trace": tmp_path / "trace.h5"}))  # fmt: skip
    with h5py.File(tmp_path / "trace.h5") as trace:
        for leaf in range(8):
            found = set(map(int, trace[f"step_000001/micro_{leaf:04d}/dataset"]))
            assert found == {2} if leaf % 2 else found <= {0, 1}


def test_a_sweep_may_vary_the_list(datasets, tmp_path):
    file = write_sweep(tmp_path, datasets[0], **{
        "data": f"{datasets[0]}, {datasets[1]} | {datasets[0]}", "hypernetwork.layer_structure": "1,1", "train.max_train_steps": 2})  # fmt: skip
    sweep(file, "plan")
    sweep(file, "run")
    rows = list(csv.DictReader((tmp_path / "sweep/results.csv").open()))
    assert [row["status"] for row in rows] == ["done", "done"]
    assert [row["data"] for row in rows] == [f"{datasets[0]}, {datasets[1]}", str(datasets[0])]
    assert "done" in sweep(file, "run"), "finished trials are recognized by all their datasets"


def test_bad_lists_and_weights(datasets, tmp_path):
    a, b = datasets
    # The image that b holds out trains here.
    leaking = dataset(tmp_path / "leak", ROWS[7:11], split=["--validation_images", "0", "--test_images", "0"])
    for changes, expected in [
        ({"data": f"{a}, {a}"}, ["each dataset once", "data.weights"]),
        ({"data": f"{a},, {b}"}, ["option data", "separated by commas"]),
        ({"data": f"{a}, {tmp_path}/none"}, [f"{tmp_path}/none", "index.json"]),
        ({"data": f"{b}, {leaking}"}, ["leak", "train split", "validation split", "Prepare one of them anew"]),
        ({"data.weights": "1"}, ["data.weights", "each of the 2", "found 1"]),
        ({"data.weights": "1,-0.5"}, ["data.weights", "-0.5"]),
        ({"data.weights": "0,0"}, ["nothing to train on", "data.weights"]),
        ({"data.weights": "1,x"}, ["data.weights", "numbers separated by commas"]),
        ({"data.subset": "10"}, ["data.subset", "at most the 9"]),
    ]:  # fmt: skip
        output = run(options(datasets, tmp_path / "run", **changes), code=2)
        assert all(text in output for text in expected), (changes, output)
        assert not (tmp_path / "run").exists()
