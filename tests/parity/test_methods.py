"""Traces of all four methods on random bases of Stable Diffusion 1's, 2's and XL's shape, recomputed by diffusers,
transformers, PEFT and torch: from options, base, dataset and initial parameters alone, through several updates and a
resume on another number of ranks (recompute.py). Nothing but what trains may change.

Tolerance 2e-4 of the largest value: fp32 sums in another order over a UNet and a text encoder; what is measured is some
1e-6, and 1e-5 for gradients.
"""

import collections
import json

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from method_runs import CASES, DECAY, EPSILON, STOP_AFTER, UPDATES, WORD, hashes, workshop  # noqa: F401
from networks import published
from peer_pictures import draw, sample, with_trained
from recompute import Lion, Prodigy, compare_by_kind, compare_parameters, of_largest, run_step
from recomputed_models import load_pipeline
from run_inputs import Inputs, Samples
from safetensors.numpy import load_file
from support import run

TOLERANCE, SAMPLED_TOLERANCE = 2e-4, 1e-3


def tree(group):
    return {name: group[name][()] for name in group}


def optimizer_of(case, parameters):
    if case.optimizer == "lion":
        return Lion(parameters, case.rate_of(""), DECAY)
    if case.optimizer == "prodigy":
        return Prodigy(parameters, DECAY, d_coef=100)
    groups = [{"params": [value], "lr": case.rate_of(name)} for name, value in parameters.items()]
    return torch.optim.AdamW(groups, eps=EPSILON, weight_decay=DECAY)


def moments_of(optimizer, parameters, key):
    return {name: optimizer.state[value][key].numpy() for name, value in parameters.items()}


def recompute(workshop, case):  # noqa: F811
    """Largest errors by quantity."""
    before, resumed = workshop.traces(case)
    model = workshop.model(case)
    start = tree(before["step_000000/parameter"])
    assert model.starts_at(start)
    model.start_at(start)
    optimizer = optimizer_of(case, model.parameters)
    average = EMAModel(list(model.parameters.values()), decay=0.5)
    datasets = ["set", "class"] if case.method == "dreambooth" else ["set"]
    sources = [Inputs(Samples(workshop.dataset(name)), i, case.settings(), workshop.scheduler_config(case)) for i, name in enumerate(datasets)]
    errors = collections.defaultdict(float)
    for step in range(1, UPDATES + 1):
        trace = before if step <= STOP_AFTER else resumed
        group = trace[f"step_{step:06d}"]
        coefficient = run_step(errors, model, group, step, sources, optimizer, case.max_norm, case.optimizer != "adamw")
        assert coefficient < 1, "clipping is active"
        compare_parameters(errors, model, tree(group["parameter"]), start)
        average.step(model.parameters.values())
        if case.optimizer == "prodigy":
            errors["d"] = max(errors["d"], abs(group.attrs["optimizer_d"] - optimizer.d) / optimizer.d)
        if step == STOP_AFTER and case.optimizer == "adamw":
            for ours, theirs in (("moment1", "exp_avg"), ("moment2", "exp_avg_sq")):
                errors[ours] = compare_by_kind(tree(resumed[f"step_000000/{ours}"]), moments_of(optimizer, model.parameters, theirs))
    assert resumed["step_000000"].attrs["step"] == STOP_AFTER
    if case.use_ema:
        kept = load_file(workshop.trained(case) / f"checkpoints/step-{UPDATES:08d}/ema.safetensors")
        errors["average"] = compare_by_kind(kept, {name: value.numpy() for name, value in zip(model.parameters, average.shadow_params)})
    return errors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_run_is_recomputed(workshop, case):  # noqa: F811
    errors = recompute(workshop, case)
    wrong = {name: value for name, value in errors.items() if not value < TOLERANCE}
    assert not wrong, wrong
    validated = (workshop.trained(case) / "validation.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in validated] == [0, STOP_AFTER, UPDATES]


def by_method(method):
    return [case for case in CASES if case.method == method and case.is_plain]


def differs_by(ours, theirs):
    assert np.abs(ours["image"].numpy().astype(float) - theirs["image"].numpy()).mean() < 2
    return max(of_largest(ours[name], theirs[name]) for name in ("context", "final_latent"))


def files_of(case):
    """Layout -> name of the file in it. SDXL's pairs of vectors have one layout in use."""
    if case.method == "hypernetwork":
        return {"a1111": "zorp.pt"}
    if case.method == "lora":
        return {"diffusers": "zorp.safetensors", "kohya": "zorp.safetensors"}
    one_encoder = {"a1111": "zorp.pt", "diffusers": "learned_embeds.safetensors"} if case.family != "sdxl" else {}
    return one_encoder | {"kohya": "zorp.safetensors"}


OPTION = {"hypernetwork": "hypernetwork", "lora": "lora", "textual_inversion": "embedding"}


@pytest.mark.parametrize("case", [case for method in OPTION for case in by_method(method)], ids=lambda case: case.id)
def test_diffusers_draws_the_same_with_our_files(workshop, case, tmp_path):  # noqa: F811
    prompt, strength, base, is_xl = f"{WORD} a cat", 2.0, workshop.base(case.family), case.family == "sdxl"
    plain, drawn = sample(tmp_path, base, prompt), []
    for layout, name in files_of(case).items():
        file = tmp_path / layout / name
        file.parent.mkdir()
        run(["export", workshop.trained(case), "--format", layout, "--output", file])
        spelled = f"{file}={WORD}" if case.method == "textual_inversion" else f"{file}:{strength}"
        ours = sample(tmp_path, base, prompt, f"--{OPTION[case.method]}", spelled)
        drawn.append(ours["final_latent"])
        theirs = draw(with_trained(base, is_xl, case.method, file, WORD, strength), prompt, ours["initial_noise"])
        assert differs_by(ours, theirs) < SAMPLED_TOLERANCE, layout
        assert of_largest(plain["final_latent"], ours["final_latent"]) > 10 * SAMPLED_TOLERANCE, "the file changes the picture"
    assert all(torch.equal(latent, drawn[0]) for latent in drawn), "every layout holds the same numbers"


def tensors_of(folder, component):
    """Under the published keys, which transformers leaves the beginning of out."""
    tensors = load_file(next((folder / component).glob("*.safetensors")))
    return {published(key) if component.startswith("text_") else key: value for key, value in tensors.items()}


def settings_of(folder):
    """What files other than weights say, a JSON file's keys that are null aside."""
    found = {}
    for file in folder.rglob("*"):
        if file.suffix == ".json" and file.name != "vocab.json":
            found[file.relative_to(folder)] = {key: value for key, value in json.loads(file.read_text()).items() if value is not None}
        elif file.is_file() and file.suffix != ".safetensors":
            found[file.relative_to(folder)] = file.read_bytes()
    return found


@pytest.mark.parametrize("case", by_method("dreambooth"), ids=lambda case: case.id)
def test_diffusers_draws_the_same_from_our_model(workshop, case, tmp_path):  # noqa: F811
    """from_pretrained and from_single_file; what did not train has the base's bytes."""
    base, is_xl, model = workshop.base(case.family), case.family == "sdxl", tmp_path / "model"
    run(["export", workshop.trained(case), "--format", "diffusers", "--output", model])
    run(["export", workshop.trained(case), "--format", "ldm", "--output", tmp_path / "model.safetensors"])
    trained = tree(workshop.traces(case)[1][f"step_{UPDATES:06d}/parameter"])
    components = ["unet", "vae", "text_encoder"] + (["text_encoder_2"] if is_xl else [])
    for component in components:
        found, before = tensors_of(model, component), tensors_of(base, component)
        assert set(found) == set(before)
        for key, value in found.items():
            expected = trained.pop(f"{component}.{key}", None)
            assert expected is None or expected.tobytes() != before[key].tobytes(), key
            expected = before[key] if expected is None else expected
            assert value.tobytes() == expected.tobytes() and value.dtype == expected.dtype, key
    assert not trained
    assert settings_of(model) == settings_of(base)

    ours = sample(tmp_path, model, "a cat")
    loaded = load_pipeline(model, is_xl)
    assert differs_by(ours, draw(loaded, "a cat", ours["initial_noise"])) < SAMPLED_TOLERANCE
    assert of_largest(sample(tmp_path, base, "a cat")["final_latent"], ours["final_latent"]) > 10 * SAMPLED_TOLERANCE
    single = type(loaded).from_single_file(tmp_path / "model.safetensors", config=str(model), local_files_only=True)
    for component in components:
        theirs = getattr(single, component).state_dict()
        assert all(torch.equal(theirs[key], value) for key, value in getattr(loaded, component).state_dict().items()), component


def test_no_run_changes_its_base(workshop):  # noqa: F811
    for family, files in workshop.base_files.items():
        assert hashes(workshop.base(family)) == files
