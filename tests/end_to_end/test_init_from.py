"""init_from: a training of each method starts at another file's weights, which must be what the run trains."""

import json
import shutil

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import BASE, checkpoints, prepare, run, sha256

STEPS = 2
NETWORK = {"hypernetwork.layer_structure": "1,2,1", "hypernetwork.activation": "relu", "hypernetwork.layer_norm": "true",
           "hypernetwork.layer_norm_init": "ones"}
LORA = {"lora.rank": "3", "lora.alpha": "6", "lora.target_modules": "to_q, proj_in", "lora.text_encoder_target_modules": "q_proj"}
DREAMBOOTH = {"dreambooth.train_unet": "attention"}
OWN = {"hypernetwork": NETWORK, "lora": LORA, "dreambooth": DREAMBOOTH}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


def options(dataset, method, output, **changes):
    settings = {"method": method, "base": BASE, "data": dataset, "output": output, "optim.learning_rate": "1e-3",
                "train.max_train_steps": STEPS, "train.global_batch_size": "2", "validation.steps": "0", **OWN[method], **changes}
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


@pytest.fixture(scope="module")
def first(dataset, tmp_path_factory):
    """A run of each method, for others to go on from."""
    folder = tmp_path_factory.mktemp("first")
    for method in OWN:
        run(options(dataset, method, folder / method))
    return folder


def checkpoint(folder, step=STEPS):
    return folder / f"checkpoints/step-{step:08d}"


def trained(folder):
    return load_file(checkpoint(folder) / "parameters.safetensors")


def started(trace):
    with h5py.File(trace) as file:
        return {name: value[()] for name, value in file["step_000000/parameter"].items()}


def assert_starts_at(dataset, method, start, expected, tmp_path, **changes):
    """Trains a step from `start` and returns the run folder."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    run(options(dataset, method, folder, **{f"{method}.init_from": start, "train.max_train_steps": 1,
                                            "train.trace": tmp_path / "trace.h5", **changes}))
    found = started(tmp_path / "trace.h5")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    return folder


@pytest.mark.parametrize("method, file", [("hypernetwork", "hypernetwork.pt"), ("lora", "lora.safetensors"),
                                          ("dreambooth", "parameters.safetensors")])
def test_a_file_a_checkpoint_and_a_run(dataset, first, tmp_path, method, file):
    source = checkpoint(first / method) / file
    for start in (source, checkpoint(first / method), first / method):
        folder = assert_starts_at(dataset, method, start, trained(first / method), tmp_path)
        description = json.loads((folder / "run.json").read_text())
        assert description["init_from_sha256"] == sha256(source) and description["init_from"] == str(start)
    # What is untrained stays the base: the loss at step 0 is the base's, which the first run measured too.
    losses = [json.loads((run_folder / "result.json").read_text())["base_heldout_loss"] for run_folder in (folder, first / method)]
    assert losses[0] == losses[1]


def test_the_other_formats_of_files(dataset, first, tmp_path):
    run(["export", first / "hypernetwork", "--output", tmp_path / "n.safetensors"])
    expected = trained(first / "hypernetwork")
    assert_starts_at(dataset, "hypernetwork", tmp_path / "n.safetensors", expected, tmp_path)
    run(["export", first / "lora", "--format", "kohya", "--output", tmp_path / "k.safetensors"])
    assert_starts_at(dataset, "lora", tmp_path / "k.safetensors", trained(first / "lora"), tmp_path)
    # Another dropout numbers the modules anew: the same weights in the same order.
    dropout = {"hypernetwork.dropout_structure": "0,0.5,0"}
    folder = tmp_path / "dropout"
    run(options(dataset, "hypernetwork", folder, **{"hypernetwork.init_from": tmp_path / "n.safetensors", "train.max_train_steps": 1,
                                                    "train.trace": tmp_path / "d.h5", **dropout}))
    found = started(tmp_path / "d.h5")
    assert "128.k.linear.4.weight" in found and np.array_equal(found["128.k.linear.4.weight"], expected["128.k.linear.3.weight"])


@pytest.mark.parametrize("form", ["diffusers", "ldm"])
def test_dreambooth_from_a_whole_model(dataset, first, tmp_path, form):
    model = tmp_path / ("model.safetensors" if form == "ldm" else "model")
    run(["export", first / "dreambooth", "--format", form, "--output", model])
    assert_starts_at(dataset, "dreambooth", model, trained(first / "dreambooth"), tmp_path)
    # All its weights may train as well; those that the first run left alone are the base's.
    expected = {f"unet.{key}": value.astype(np.float32)
                for key, value in load_file(BASE / "unet/diffusion_pytorch_model.safetensors").items()}
    expected |= trained(first / "dreambooth")
    assert_starts_at(dataset, "dreambooth", model, expected, tmp_path, **{"dreambooth.train_unet": "all"})


def test_same_bits_on_two_ranks_and_after_a_resume_without_the_file(dataset, first, tmp_path):
    start = shutil.copy(checkpoint(first / "lora") / "lora.safetensors", tmp_path / "start.safetensors")
    more = {"lora.init_from": start, "train.max_train_steps": 4, "train.checkpointing_steps": 2, "train.checkpoints_total_limit": 0,
            "optim.use_ema": "true", "optim.optimizer": "prodigy", "optim.learning_rate": "1"}
    run(options(dataset, "lora", tmp_path / "whole", **more))
    run(options(dataset, "lora", tmp_path / "cut", **more, **{"train.stop_after": 2}), ranks=2, code=85)
    start.unlink()
    run(options(dataset, "lora", tmp_path / "cut", **more, **{"train.resume_from_checkpoint": "latest"}))
    assert checkpoints(tmp_path / "cut") == checkpoints(tmp_path / "whole") and len(checkpoints(tmp_path / "whole")) == 2
    recorded = [json.loads((tmp_path / name / "run.json").read_text())["init_from_sha256"] for name in ("whole", "cut")]
    assert recorded[0] == recorded[1] == sha256(checkpoint(first / "lora") / "lora.safetensors")
    # The average begins at the file's weights, not at factors of zero.
    average = load_file(checkpoint(tmp_path / "whole", 4) / "ema.safetensors")
    name = "unet.mid_block.attentions.0.proj_in.lora_B.weight"
    assert np.abs(average[name] - trained(first / "lora")[name]).max() < np.abs(trained(first / "lora")[name]).max()


@pytest.mark.parametrize("method, changes, expected", [
    ("hypernetwork", {"hypernetwork.layer_structure": "1,2,2,1"}, "layer_structure = 1,2,1, this run's 1,2,2,1; train on with"),
    ("hypernetwork", {"hypernetwork.activation": "tanh"}, "activation = relu, this run's tanh"),
    ("hypernetwork", {"hypernetwork.layer_norm": "false"}, "layer_norm = true, this run's false"),
    ("hypernetwork", {"hypernetwork.activate_output": "true"}, "activate_output = false, this run's true"),
    ("hypernetwork", {"hypernetwork.widths": "128"}, "give --hypernetwork.widths 128,160,192"),
    ("lora", {"lora.rank": "4"}, "give --lora.rank 3 --lora.alpha 6"),
    ("lora", {"lora.alpha": "3"}, "has rank 3 and alpha 6, this run 3 and 3"),
    ("lora", {"lora.target_modules": "to_k, proj_in"}, '--lora.target_modules "proj_in, to_q"'),
    ("lora", {"lora.text_encoder_target_modules": ""}, "has 4 layers that this run does not train"),
    ("dreambooth", {"dreambooth.train_unet": "none", "dreambooth.train_text_encoder": "true"}, "does not train here"),
])
def test_what_does_not_fit_is_refused_with_the_options_that_do(dataset, first, tmp_path, method, changes, expected):
    output = run(options(dataset, method, tmp_path / "run", **{f"{method}.init_from": first / method, **changes}), code=2)
    assert f"option {method}.init_from" in output and expected in output, output
    assert not (tmp_path / "run").exists()


def test_files_of_another_kind_are_refused(dataset, first, tmp_path):
    def refused(method, start):
        return run(options(dataset, method, tmp_path / "run", **{f"{method}.init_from": start}), code=2)

    assert "was trained with method lora, expected hypernetwork" in refused("hypernetwork", first / "lora")
    assert "none.safetensors" in refused("lora", tmp_path / "none.safetensors")
    assert "has no weight " in refused("dreambooth", checkpoint(first / "lora") / "lora.safetensors")
    assert "no LoRA" in refused("lora", checkpoint(first / "dreambooth") / "parameters.safetensors")
    assert "no hypernetwork" in refused("hypernetwork", checkpoint(first / "lora") / "lora.safetensors")
    weights = trained(first / "dreambooth")
    name = sorted(weights)[0]
    save_file({**weights, name: np.full_like(weights[name], np.nan)}, tmp_path / "nan.safetensors")
    assert name in refused("dreambooth", tmp_path / "nan.safetensors")
    assert not (tmp_path / "run").exists()
