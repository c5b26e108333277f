"""Dreambooth as users run it: class images, the same bits with them on any ranks and after a resume, exports, errors."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support import BASE, checkpoints, prepare, run, sha256

STEPS = 4
PROMPTS = ["rocket on a white background", "cat face on a white background"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "six", 6, "--validation_images", "1", "--test_images", "0")


@pytest.fixture(scope="module")
def class_data(tmp_path_factory):
    """Where the first run draws its class images and later runs find them."""
    return tmp_path_factory.mktemp("class") / "images"


def options(dataset, output, **changes):
    settings = {
        "method": "dreambooth", "base": BASE, "data": dataset, "output": output, "optim.learning_rate": "1e-4",
        "train.global_batch_size": "4", "train.micro_batch_size": "1", "train.max_train_steps": STEPS,
        "train.checkpointing_steps": "2", "train.checkpoints_total_limit": "0", "train.seed": "7",
        "data.latent_sampling": "random", "validation.steps": "2",
    }
    settings.update(changes)
    return ["train", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def prior(class_data, **changes):
    return {"dreambooth.with_prior_preservation": "true", "dreambooth.class_data": class_data,
            "dreambooth.class_prompt": " | ".join(PROMPTS), "dreambooth.num_class_images": "6",
            "sample.num_inference_steps": "2", **changes}


@pytest.fixture(scope="module")
def reference(dataset, class_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    run(options(dataset, folder, **prior(class_data), **{"dreambooth.train_text_encoder": "true"}))
    assert len(set(checkpoints(folder).values())) == 2
    return folder


def assert_same_run(folder, reference):
    assert checkpoints(folder) == checkpoints(reference)
    for file in ("validation.csv", "validation_images.csv"):
        assert (folder / file).read_text() == (reference / file).read_text(), file


def test_the_base_draws_the_class_images_whatever_the_ranks(dataset, class_data, reference, tmp_path):
    rows = [json.loads(line) for line in (class_data / "captions.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == PROMPTS * 3
    assert len(list(class_data.with_name("images.images").glob("*.png"))) == 6
    other = tmp_path / "images"
    run(options(dataset, tmp_path / "run", **prior(other), **{"dreambooth.train_text_encoder": "true"}), 2)
    assert sha256(other / "part-00000.h5") == sha256(class_data / "part-00000.h5")
    assert_same_run(tmp_path / "run", reference)


def test_resumed_on_more_ranks_while_being_watched(dataset, class_data, reference, tmp_path):
    settings = {**prior(class_data), "dreambooth.train_text_encoder": "true", "sample.steps": "2", "sample.heldout_prompts": "1"}
    before = os.stat(class_data / "index.json").st_mtime_ns
    run(options(dataset, tmp_path / "run", **settings, **{"train.stop_after": "2"}), 1, code=85)
    run(options(dataset, tmp_path / "run", **settings, **{"train.resume_from_checkpoint": "latest"}), 4)
    assert os.stat(class_data / "index.json").st_mtime_ns == before, "the class images are found, not drawn again"
    assert_same_run(tmp_path / "run", reference)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["base_heldout_loss"] == json.loads((reference / "result.json").read_text())["base_heldout_loss"]


def test_prior_preservation_changes_what_is_learned(dataset, class_data, reference, tmp_path):
    run(options(dataset, tmp_path / "run", **{"dreambooth.train_text_encoder": "true"}))
    assert set(checkpoints(tmp_path / "run").values()).isdisjoint(checkpoints(reference).values())


def test_trials_of_a_pack_start_from_the_base_each(dataset, tmp_path):
    sweep = tmp_path / "two.sweep.cfg"
    sweep.write_text(
        f'method = dreambooth\nbase = "{BASE}"\ndata = "{dataset}"\n'
        f"[sweep]\noutput = {tmp_path}/sweep\n[dreambooth]\ntrain_unet = attention\n[optim]\nlearning_rate = 1e-4\n"
        "[train]\nmax_train_steps = 2\nglobal_batch_size = 2\nseed = 3 | 4\n")
    run(["sweep", "run", "--config", sweep, "--pack", "2"])
    alone = tmp_path / "alone"
    run(options(dataset, alone, **{"dreambooth.train_unet": "attention", "train.max_train_steps": "2", "train.global_batch_size": "2",
                                   "train.seed": "4", "data.latent_sampling": "once", "validation.steps": "0"}))
    packed = sorted((tmp_path / "sweep").glob("**/step-00000002/parameters.safetensors"))
    assert len(packed) == 2
    assert sha256(alone / "checkpoints/step-00000002/parameters.safetensors") in [sha256(file) for file in packed]


def test_a_checkpoint_holds_what_trained_once(dataset, reference, tmp_path):
    checkpoint = reference / f"checkpoints/step-{STEPS:08d}"
    weights = sum(value.nbytes for value in load_file(checkpoint / "parameters.safetensors").values())
    files = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
    assert set(files) == {"parameters.safetensors", "optimizer-00000-of-00001.safetensors", "state.json", "MANIFEST.json"}
    assert sum(files.values()) < 3.2 * weights, "the weights and their two moments"
    result = json.loads((reference / "result.json").read_text())
    assert result["export"] == f"checkpoints/step-{STEPS:08d}/parameters.safetensors"
    described = run(["inspect", checkpoint / "parameters.safetensors"])
    assert "dreambooth" in described and result["base_sha256"] in described
    run(options(dataset, tmp_path / "run", **{"optim.use_ema": "true", "dreambooth.train_unet": "attention", "train.max_train_steps": "1"}))
    assert json.loads((tmp_path / "run/result.json").read_text())["export"] == "checkpoints/step-00000001/ema.safetensors"


def as_older_versions_wrote_it(checkpoint, name):
    """The exchange file beside parameters.safetensors, which had no metadata."""
    tensors = load_file(checkpoint / "parameters.safetensors")
    save_file(tensors, checkpoint / "parameters.safetensors")
    save_file(tensors, checkpoint / f"{name}.safetensors", {"format": "pt", "ldmtune.method": "dreambooth"})
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    for file in ("parameters.safetensors", f"{name}.safetensors"):
        manifest["sha256"][file] = sha256(checkpoint / file)
    (checkpoint / "MANIFEST.json").write_text(json.dumps(manifest))


def test_older_checkpoints_are_resumed_and_exported(dataset, tmp_path):
    settings = {"dreambooth.train_unet": "attention", "validation.steps": "0"}
    run(options(dataset, tmp_path / "new", **settings))
    run(options(dataset, tmp_path / "old", **settings, **{"train.stop_after": "2"}), code=85)
    as_older_versions_wrote_it(tmp_path / "old/checkpoints/step-00000002", "old")
    run(["export", tmp_path / "old", "--format", "diffusers", "--output", tmp_path / "model"])
    assert "all checksums hold" in run(["inspect", tmp_path / "old"])
    run(options(dataset, tmp_path / "old", **settings, **{"train.resume_from_checkpoint": "latest"}))
    last = f"step-{STEPS:08d}"
    assert checkpoints(tmp_path / "old")[last] == checkpoints(tmp_path / "new")[last]


def base_weights(component, file):
    return {name: value.astype(np.float32) for name, value in load_file(BASE / component / file).items()}


def test_a_diffusers_folder_holds_trained_and_untouched_parts(dataset, tmp_path):
    run(options(dataset, tmp_path / "run", **{"dreambooth.train_unet": "attention"}))
    run(["export", tmp_path / "run", "--format", "diffusers", "--output", tmp_path / "model"])
    exported = load_file(tmp_path / "model/unet/diffusion_pytorch_model.safetensors")
    base = base_weights("unet", "diffusion_pytorch_model.safetensors")
    trained = load_file(tmp_path / f"run/checkpoints/step-{STEPS:08d}/parameters.safetensors")
    assert set(exported) == set(base)
    changed = {f"unet.{name}" for name, value in exported.items() if not np.array_equal(value, base[name])}
    assert changed == set(trained) and all(".attn" in name for name in changed)
    assert all(np.array_equal(exported[name.removeprefix("unet.")], value) for name, value in trained.items())
    # What did not train is the base's, in the one type that the whole folder has.
    for component, file in (("text_encoder", "model.safetensors"), ("vae", "diffusion_pytorch_model.safetensors")):
        written, untouched = load_file(tmp_path / "model" / component / file), base_weights(component, file)
        assert all(written[name].dtype == np.float32 and np.array_equal(written[name], untouched[name]) for name in untouched)
    # transformers goes by the configuration's type.
    assert json.loads((tmp_path / "model/text_encoder/config.json").read_text())["dtype"] == "float32"
    assert sha256(tmp_path / "model/tokenizer/vocab.json") == sha256(BASE / "tokenizer/vocab.json")

    run(["sample", "--base", tmp_path / "model", "--prompt", "rocket", "--num_inference_steps", "2", "--output", tmp_path / "x.png"])
    run(["export", tmp_path / "run", "--format", "diffusers", "--dtype", "fp16", "--output", tmp_path / "half"])
    half = load_file(tmp_path / "half/unet/diffusion_pytorch_model.safetensors")
    assert all(np.array_equal(value, exported[name].astype(np.float16)) for name, value in half.items())


def test_exports_refuse_another_base_and_other_formats(dataset, tmp_path):
    run(options(dataset, tmp_path / "run", **{"dreambooth.train_unet": "attention", "train.max_train_steps": "1"}))
    run(["export", tmp_path / "run", "--format", "diffusers", "--output", tmp_path / "model"])
    assert "is another" in run(["export", tmp_path / "run", "--format", "diffusers", "--base", tmp_path / "model",
                                "--output", tmp_path / "again"], code=2)
    assert "give --base" in run(["export", tmp_path / "run", "--format", "diffusers", "--base", tmp_path / "gone",
                                 "--output", tmp_path / "again"], code=2)
    assert "option format" in run(["export", tmp_path / "run", "--format", "kohya", "--output", tmp_path / "again"], code=2)
    assert "option dtype" in run(["export", tmp_path / "run", "--format", "diffusers", "--dtype", "fp8", "--output", tmp_path / "again"], code=2)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("settings, expected", [
    ({"dreambooth.train_unet": "some"}, "option dreambooth.train_unet"),
    ({"dreambooth.train_unet": "none"}, "neither leaves anything to train"),
    ({"dreambooth.prior_loss_weight": "-1"}, "option dreambooth.prior_loss_weight"),
    ({"dreambooth.text_encoder_learning_rate": "fast"}, "dreambooth.text_encoder_learning_rate"),
    ({"dreambooth.instance_prompt": "a sks dog", "caption.template": "[filewords]"}, "dreambooth.instance_prompt"),
    ({"dreambooth.with_prior_preservation": "true"}, "option dreambooth.class_data"),
    ({"dreambooth.with_prior_preservation": "true", "dreambooth.class_data": "nowhere"}, "dreambooth.class_prompt"),
])
def test_bad_options_are_named(dataset, tmp_path, settings, expected):
    assert expected in run(options(dataset, tmp_path / "run", **settings), code=2)
    assert not (tmp_path / "run").exists()


def test_class_images_that_do_not_fit_are_refused(dataset, class_data, reference, tmp_path):
    few = prior(class_data, **{"dreambooth.num_class_images": "7"})
    assert "expected at least 7 images" in run(options(dataset, tmp_path / "run", **few), code=2)
    other = prior(class_data, **{"dreambooth.class_prompt": "rocket"})
    assert "option dreambooth.class_prompt" in run(options(dataset, tmp_path / "run", **other), code=2)
