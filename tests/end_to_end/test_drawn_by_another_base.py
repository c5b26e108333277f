"""Pictures that a base drew, kept in a folder, are not taken for what another base would have drawn."""

import json

import pytest
from support import BASE, prepare, run

ANOTHER = ["--base.prediction_type", "v_prediction"]  # the same files, read as another base


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data") / "set", 4)


def train(data, output, *options, code=0):
    return run(["train", "--base", BASE, "--data", data, "--output", output, "--train.max_train_steps", 1, "--validation.steps", 0,
                "--train.global_batch_size", 2, "--optim.learning_rate", "1e-4", "--sample.num_inference_steps", 2, *options], code=code)


@pytest.mark.parametrize("folder_option, prompts_option, options", [
    ("dreambooth.class_data", "dreambooth.class_prompt",
     ["--method", "dreambooth", "--dreambooth.train_unet", "attention", "--dreambooth.with_prior_preservation", "true",
      "--dreambooth.num_class_images", 2]),
    ("validation.adjacent", "validation.adjacent_prompts", ["--method", "lora", "--validation.num_adjacent_images", 2]),
])
def test_what_another_base_drew_is_refused(tmp_path, data, folder_option, prompts_option, options):
    kept = [*options, f"--{folder_option}", tmp_path / "drawn"]
    prompted = [*kept, f"--{prompts_option}", "rocket"]
    train(data, tmp_path / "first", *prompted)
    drawer = json.loads((tmp_path / "drawn/index.json").read_text())["base_sha256"]
    assert drawer == json.loads((data / "index.json").read_text())["base_sha256"]
    said = train(data, tmp_path / "second", *prompted, *ANOTHER, code=2)
    for part in (folder_option, str(tmp_path / "drawn"), f"another base ({drawer[:12]})", "give another folder", f"leave {prompts_option} empty"):
        assert part in said
    assert not (tmp_path / "second").exists()
    train(data, tmp_path / "second", *kept, *ANOTHER)
    if "lora" in options:  # a base with something merged is the same base, as for prepared datasets
        train(data, tmp_path / "third", *prompted, "--base.merge", next(tmp_path.glob("first/checkpoints/*/first.safetensors")))
