"""Dreambooth's checkpoints as whole models: SD 1, SD 2 and SDXL, over a base in a folder or in one file, in every type.

Every tensor that diffusers loads must be the trained one, or the base's, exactly: fp32 as it was, fp16 and bf16 as torch
rounds. What the pictures look like is compared elsewhere.
"""

import json
import pathlib
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from random_bases import pipeline_of
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "end_to_end"))
from support import run, small_image_folder  # noqa: E402

FAMILIES = ["sd1", "sd2", "sdxl"]
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(family, base folder, its pipeline, dataset)."""
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = pipeline_of(request.param, folder / "base")
    images = small_image_folder(folder / "images", 4)
    run(["prepare", "--base", folder / "base", "--images", images, "--output", folder / "set", "--resolution", 64,
         "--validation_images", 1, "--test_images", 0])
    return request.param, folder / "base", pipeline, folder / "set"


def train(base, dataset, output, *more):
    run(["train", "--method", "dreambooth", "--base", base, "--data", dataset, "--output", output, "--train.max_train_steps", 1,
         "--train.global_batch_size", 2, "--optim.learning_rate", "1e-2", "--validation.steps", 0, *more])
    return {name: value for file in output.glob("checkpoints/*/parameters.safetensors") for name, value in load_file(file).items()}


def components(kind):
    return ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if kind == "sdxl" else [])


def state_of(module, component):
    """Under the published keys, which transformers 5 shortens."""
    state = {key: value for key, value in module.state_dict().items() if not key.endswith("position_ids")}
    if component.startswith("text"):
        state = {key if key.startswith(("text_model.", "text_projection")) else f"text_model.{key}": value for key, value in state.items()}
    return state


def expected_states(kind, pipeline, trained):
    states = {component: state_of(getattr(pipeline, component), component) for component in components(kind)}
    for name, value in trained.items():
        component, key = name.split(".", 1)
        assert key in states[component], name
        states[component][key] = value
    return states


def assert_loads(pipeline, expected, dtype):
    for component, state in expected.items():
        found = state_of(getattr(pipeline, component), component)
        assert found.keys() == state.keys(), component
        for key, value in state.items():
            assert found[key].dtype == dtype and torch.equal(found[key], value.to(dtype)), f"{component}.{key}"


def pipeline_class(kind):
    return StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_base_in_a_folder(family, tmp_path, text_encoder):
    kind, base, pipeline, dataset = family
    trained = train(base, dataset, tmp_path / "run", *(["--dreambooth.train_text_encoder"] if text_encoder else []))
    assert {name.split(".")[0] for name in trained} == {"unet", *(components(kind)[2:] if text_encoder else [])}
    expected = expected_states(kind, pipeline, trained)
    assert any(not torch.equal(expected["unet"][key], value) for key, value in pipeline.unet.state_dict().items())
    for name in ["fp32", "fp16", "bf16"] if text_encoder else ["fp32"]:
        run(["export", tmp_path / "run", "--format", "diffusers", "--dtype", name, "--output", tmp_path / name])
        run(["export", tmp_path / "run", "--format", "ldm", "--dtype", name, "--output", tmp_path / f"{name}.safetensors"])
        loaded = pipeline_class(kind).from_pretrained(tmp_path / name, torch_dtype=TYPES[name], local_files_only=True)
        assert_loads(loaded, expected, TYPES[name])
        single = pipeline_class(kind).from_single_file(tmp_path / f"{name}.safetensors", config=str(base), torch_dtype=TYPES[name],
                                                       local_files_only=True)
        assert_loads(single, expected, TYPES[name])
        # One form made of the other has the same bits.
        run(["import", tmp_path / f"{name}.safetensors", "--base.tokenizer", base, "--output", tmp_path / f"{name}.again"])
        for component in components(kind):
            file = f"{component}/{'model' if component.startswith('text') else 'diffusion_pytorch_model'}.safetensors"
            a, b = load_file(tmp_path / name / file), load_file(tmp_path / f"{name}.again" / file)
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), file
    assert json.loads((tmp_path / "fp32/scheduler/scheduler_config.json").read_text())["prediction_type"] == \
        pipeline.scheduler.config.prediction_type


def test_a_base_in_one_file(family, tmp_path):
    kind, base, pipeline, dataset = family
    run(["export", base, "--format", "ldm", "--output", tmp_path / "base.safetensors"])
    trained = train(tmp_path / "base.safetensors", dataset, tmp_path / "run", "--base.tokenizer", base, "--dreambooth.train_unet",
                    "attention")
    expected = expected_states(kind, pipeline, trained)
    for place in ([], ["--base", tmp_path / "base.safetensors", "--base.tokenizer", base]):
        output = tmp_path / f"model{len(place)}"
        run(["export", tmp_path / "run", "--format", "diffusers", "--output", output, *place])
        loaded = pipeline_class(kind).from_pretrained(output, torch_dtype=torch.float32, local_files_only=True)
        assert_loads(loaded, expected, torch.float32)
    run(["export", tmp_path / "run", "--format", "ldm", "--output", tmp_path / "model.safetensors"])
    single = pipeline_class(kind).from_single_file(tmp_path / "model.safetensors", config=str(base), local_files_only=True)
    assert_loads(single, expected, torch.float32)


def test_a_merged_base_and_its_changed_schedule(family, tmp_path):
    kind, base, pipeline, dataset = family
    if kind != "sd2":
        more = []
    else:  # the one that predicts v
        more = ["--noise.rescale_betas_zero_snr"]
    run(["train", "--method", "lora", "--base", base, "--data", dataset, "--output", tmp_path / "lora", "--lora.rank", 2,
         "--lora.text_encoder_target_modules", "q_proj", "--train.max_train_steps", 1, "--train.global_batch_size", 2,
         "--optim.learning_rate", "0.1", "--validation.steps", 0])
    lora = tmp_path / "lora/checkpoints/step-00000001/lora.safetensors"
    trained = train(base, dataset, tmp_path / "run", "--base.merge", f"{lora}:0.5", "--dreambooth.train_unet", "attention", *more)
    run(["export", tmp_path / "run", "--format", "diffusers", "--output", tmp_path / "model"])
    loaded = pipeline_class(kind).from_pretrained(tmp_path / "model", torch_dtype=torch.float32, local_files_only=True)
    factors = load_file(lora)
    merged = dict(trained)
    for component in components(kind):
        for key, value in state_of(getattr(pipeline, component), component).items():
            down = factors.get(f"{component}.{key.removesuffix('.weight')}.lora_A.weight")
            if down is None or f"{component}.{key}" in merged:
                continue
            up = factors[f"{component}.{key.removesuffix('.weight')}.lora_B.weight"]
            change = 0.5 * up.flatten(1).double() @ down.flatten(1).double()
            merged[f"{component}.{key}"] = value.double() + change.reshape(value.shape)
    names = [name for name in merged if name not in trained]
    assert any(name.startswith("text_encoder.") for name in names)
    for component in components(kind):
        found = state_of(getattr(loaded, component), component)
        for key, value in found.items():
            name = f"{component}.{key}"
            if name in trained:
                assert torch.equal(value, trained[name]), name
            elif name in merged:  # added in fp32
                assert (value.double() - merged[name]).abs().max() < 1e-6 * merged[name].abs().max(), name
    written = json.loads((tmp_path / "model/scheduler/scheduler_config.json").read_text())
    assert written.get("rescale_betas_zero_snr", False) is (kind == "sd2")
    run(["sample", "--base", tmp_path / "model", "--prompt", "a cat", "--num_inference_steps", 2, "--output", tmp_path / "x.png"])
